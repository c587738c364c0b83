# Each target does all of its own set-up in .venv and can be run again at any time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Thousands of small programs that run once: most of a test's time is their compilation, a quarter
# of which is saved. What XLA makes of them is the same; `make test-slow` runs machine code as usual.
UNOPTIMISED := --xla_backend_optimization_level=0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-slow check clean

help:
	@echo "make demo       the main job: model -> activations -> dictionary -> geometry -> report"
	@echo "make test       lint, types and the tests (about 12 minutes on 2 idle cores)"
	@echo "make test-slow  the tests that take longer"
	@echo "make clean      remove the environment and caches (runs/ stays)"

$(BIN)/python:
	@echo "== making the environment $(VENV)"
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "== installing jaxinterp"
	$(BIN)/pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	@echo "== installing jaxinterp with what its tests need"
	$(BIN)/pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	@echo "== the main job; results in runs/quickstart"
	$(BIN)/python experiments/quickstart.py

check: $(VENV)/.installed-test
	@echo "== lint and types"
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/ty check --quiet

test: check
	@echo "== tests"
	XLA_FLAGS="$$XLA_FLAGS $(UNOPTIMISED)" $(BIN)/python -m pytest -n 2 --dist loadfile \
		--no-loadscope-reorder -m "not slow"
	@echo "== all passed"

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
