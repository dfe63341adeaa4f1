# `make` builds the virtual environment that plugin.py finds by itself. There are no other set-up steps.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
FUZZ_RUNS ?= 1000000

.PHONY: all demo test check lint types integration bench fuzz fmt clean

all: $(VENV)/runtime

$(VENV)/runtime: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/tests: $(VENV)/runtime tests/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt
	touch $@

demo: $(VENV)/tests
	$(BIN)/python -m tests.demo

# Unit tests, the simulated network, and real nodes where bitcoind and lightningd are on PATH.
test: $(VENV)/tests
	$(PYTEST) tests/unit tests/simnet tests/integration

check: lint types

lint: $(VENV)/tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/tests
	$(BIN)/mypy

integration: $(VENV)/tests
	$(PYTEST) tests/integration

bench: $(VENV)/tests
	$(BIN)/python -m tests.bench

$(VENV)/fuzz: $(VENV)/tests tests/fuzz/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r tests/fuzz/requirements.txt
	touch $@

# Coverage-guided, one target after another; it ends at the first that fails, and names the file with the input.
fuzz: $(VENV)/fuzz
	for target in $(notdir $(wildcard tests/fuzz/corpus/*)); do \
		$(BIN)/python -m tests.fuzz $$target -runs=$(FUZZ_RUNS) -max_len=4096 -print_final_stats=1 || exit 1; \
	done

fmt: $(VENV)/tests
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz
