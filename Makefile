# The one entry point. `make help` lists what there is.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps

.DEFAULT_GOAL := help
.PHONY: help install demo up lab test lint bench chaos prove soak properties hostile notebooks clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## create .venv and install everything, pinned and hashed by constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$$($(PYTHON) -V) is too old: Python 3.11 or newer is needed; try make PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -m venv --clear $(VENV) || \
	  { echo "$(PYTHON) cannot make a virtual environment; install its venv module (Debian: python3-venv)"; exit 2; }
	@echo "installing into $(VENV) …"
	@$(PIP) --require-hashes -r constraints.txt
	@$(PIP) --no-build-isolation -e .
	@touch $@

demo: install  ## start everything, load it, break it, judge it, write the report (under 3 minutes)
	@$(BIN)/python -m chaos demo

up: install  ## leave API, workers behind Toxiproxy, and the Locust UI running
	@$(BIN)/python -m chaos up

lab: install  ## the same, with JupyterLab
	@$(BIN)/python -m chaos up --lab

test: install lint  ## everything CI checks: lint, types, layers, all tests
	@$(BIN)/python -m pytest -q -n 3 --dist loadfile

lint: install  ## ruff, mypy strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

bench: install  ## rates beside the bare stores' limits, medians of 5
	@$(BIN)/python -m chaos bench

chaos: install  ## every scenario, one after the other
	@$(BIN)/python -m chaos run --all

prove: install  ## attack every promise many times, run every control, write docs/guarantees.yaml (40 minutes)
	@$(BIN)/python -m chaos prove --lanes 3

soak: install  ## 20 jobs a second for half an hour, without faults; every promise is judged
	@$(BIN)/python -m chaos run calm --jobs 36000 --duration 1800

properties: install  ## generated inputs, long and random
	@HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest -q -m properties --timeout 3600

hostile: install  ## 100,000 generated hostile requests, and those made by hand
	@HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest -q tests/hostile --timeout 3600

notebooks: install  ## write the notebooks from their paired text
	@$(BIN)/jupytext --sync notebooks/*.py

clean:  ## remove what running made; keeps runs/
	rm -rf $(VENV) .data .cache build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
