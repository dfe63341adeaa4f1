# `make` builds the virtual environment that plugin.py finds by itself. There are no other set-up steps.
# What is broken is made anew: its interpreter is gone, or is another one by now and finds no libraries.
VENV := .venv
BIN := $(VENV)/bin
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	if $$python -c '$(NEW_ENOUGH)' 2>/dev/null; then echo $$python; break; fi; done)
BROKEN := $(if $(wildcard $(VENV)),$(shell $(BIN)/python -c 'import nacl, pyln.client' 2>/dev/null || echo broken))
PYTEST := $(BIN)/python -m pytest
FUZZ_RUNS ?= 1000000
# Simulated and real nodes wait more than they compute: more at once than there are processors.
WORKERS ?= 3
TOGETHER := -n $(WORKERS) --dist worksteal
# How often what failed on nodes is run again before it has failed: they live in real time, and on a machine that is
# busy with other things a test can lose a race. What passed only then is named at the end.
RERUNS ?= 0

.PHONY: all broken demo test soak check lint types integration bench fuzz mutation manifest fmt clean

# lightningd's user may not be allowed to write here: it would compile everything anew at each start.
all: $(VENV)/runtime
	$(BIN)/python -m compileall -q peerstorage

broken:
	rm -rf $(VENV)

$(VENV)/runtime: requirements.txt $(BROKEN)
	@$(or $(PYTHON),false) -c '$(NEW_ENOUGH)' || \
		{ echo 'peerstorage needs Python 3.11 or later: make PYTHON=/path/to/python3.11'; exit 1; }
	umask 022; $(PYTHON) -m venv $(VENV)
	umask 022; $(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/tests: $(VENV)/runtime tests/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt
	touch $@

demo: $(VENV)/tests
	$(BIN)/python -m tests.demo

# Unit tests, the simulated network, and real nodes where bitcoind and lightningd are on PATH.
test: $(VENV)/tests
	$(PYTEST) $(TOGETHER) tests/unit
	$(PYTEST) $(TOGETHER) --reruns $(RERUNS) -rR tests/simnet tests/integration

# The long form of what `make test` runs in a short one: a hundred kills, two weeks of blocks,
# ten thousand channels that come and go, two hours in which nodes are lost (SOAK_MINUTES=120).
soak: $(VENV)/tests
	SOAK=1 $(PYTEST) -m soak tests/simnet tests/integration

check: lint types

lint: $(VENV)/tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/tests
	$(BIN)/mypy

integration: $(VENV)/tests
	$(PYTEST) $(TOGETHER) --reruns $(RERUNS) -rR tests/integration

$(VENV)/bench: $(VENV)/tests tests/bench/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r tests/bench/requirements.txt
	touch $@

bench: $(VENV)/bench all
	$(BIN)/python -m tests.bench

$(VENV)/fuzz: $(VENV)/tests tests/fuzz/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r tests/fuzz/requirements.txt
	touch $@

# Coverage-guided, one target after another; it ends at the first that fails, and names the file with the input.
fuzz: $(VENV)/fuzz
	for target in $(notdir $(wildcard tests/fuzz/corpus/*)); do \
		$(BIN)/python -m tests.fuzz $$target -runs=$(FUZZ_RUNS) -max_len=4096 -print_final_stats=1 || exit 1; \
	done

# `make mutation MODULE=formats/scb`: changes the module in place, one mutant after another, and puts it back;
# where it was interrupted, `git checkout` does.
mutation: $(VENV)/tests
	$(BIN)/pip install --quiet --disable-pip-version-check cosmic-ray==8.7.0
	sed 's|MODULE|$(MODULE)|; s|TESTS|$(dir $(MODULE))test_$(notdir $(MODULE))|' tests/mutation.toml > .mutation.toml
	$(BIN)/cosmic-ray baseline .mutation.toml && $(BIN)/cosmic-ray init --force .mutation.toml .mutation.sqlite
	$(BIN)/cosmic-ray exec .mutation.toml .mutation.sqlite && $(BIN)/cr-report --show-diff --surviving-only .mutation.sqlite

# After a change of options, hooks or methods: what plugin.py answers before it has loaded them.
manifest: $(VENV)/runtime
	$(BIN)/python -m peerstorage.plugin.main > .manifest.json && mv .manifest.json peerstorage/plugin/manifest.json

fmt: $(VENV)/tests
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz .mutation.*
