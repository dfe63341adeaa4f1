"""Tests with a long form: `make test` runs the short one, `make soak` the long one."""

import os

SOAK = bool(os.environ.get("SOAK"))
