"""One root, split by fault; an RPC's error carries its code."""

from __future__ import annotations

import inspect

import pytest

from peerstorage import errors
from peerstorage.errors import PeerstorageError, UsageError

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("kind", CLASSES)
def test_all_errors_have_one_root_and_say_whose_fault_it_is(kind: type[Exception]) -> None:
    assert issubclass(kind, PeerstorageError)
    assert kind.__doc__


def test_no_class_of_error_catches_another() -> None:
    leaves = [kind for kind in CLASSES if kind is not PeerstorageError]
    assert len(leaves) == 9
    assert all(kind.__bases__ == (PeerstorageError,) for kind in leaves)


def test_usage_error_has_code_and_message() -> None:
    error = UsageError(errors.STILL_RECOVERING, "not now")
    assert (error.code, str(error)) == (2100, "not now")


def test_codes_are_distinct_and_our_own() -> None:
    codes = {name: value for name, value in vars(errors).items() if name.isupper()}
    assert len(set(codes.values())) == len(codes)
    # lightningd's own codes end below 2100, JSON-RPC's are negative.
    assert {name for name, code in codes.items() if not 2100 <= code < 2200} == {"INVALID_PARAMS"}
