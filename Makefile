# `make quickstart` and `make test` do all the set-up themselves, in a virtual environment of their own.
# Variables: PYTHON (which interpreter makes the environment), VENV (where), OUT (where the model goes).

PYTHON ?= python3
VENV ?= .venv
OUT ?= out
RECIPE ?= recipes/quickstart.yaml
PYTEST_ARGS ?= -n auto --maxprocesses 4

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SPECIFICATION := pyproject.toml constraints.txt

.PHONY: help quickstart test lint types format wheel clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR: # an environment that was half made is made again

help: ## what each target does
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

quickstart: $(VENV)/.quickstart ## install, train three tasks, evaluate, answer an example of each
	$(BIN)/hf-mtl train $(RECIPE) --output_dir $(OUT)
	$(BIN)/hf-mtl evaluate $(OUT) $(RECIPE) --split test
	$(BIN)/hf-mtl predict $(OUT) --input recipes/data/examples.jsonl

# One thread a process: the tests are many and small. No network, as in CI.
test: $(VENV)/.dev ## install what developers need and run the tests
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.dev ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## check types
	$(BIN)/mypy

format: $(VENV)/.dev ## repair style and format where ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/.dev ## build the source distribution and the wheel into dist/
	$(BIN)/python -m build

clean: ## remove the environment, builds and caches; trained models stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The stamps' time says when an extra was last installed: again only after its specification changed.
# Editable, so that a change of the code needs no new install; `compat`, so that Python started beside a clone that is
# named like the package does not take the clone for it.
EDITABLE := --config-settings editable_mode=compat -e

$(VENV)/.quickstart: $(SPECIFICATION) | $(BIN)/python
	$(PIP) install -c constraints.txt $(EDITABLE) '.[quickstart]'
	@touch $@

$(VENV)/.dev: $(SPECIFICATION) | $(BIN)/python
	$(PIP) install -c constraints.txt $(EDITABLE) '.[dev]'
	@touch $@
