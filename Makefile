# Weir. `make demo` and `make test` set up .venv by themselves; `make help` lists the rest.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SHARED ?= ../shared
export PIP_NO_PYTHON_VERSION_WARNING = 1
# One thread a process: kernels are single-threaded, and BLAS threads only fight over small matrices.
export OMP_NUM_THREADS ?= 1
export NUMBA_NUM_THREADS ?= 1
# Some machines set it; then each of the hundreds of processes of the tests compiles all modules that it imports anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo test lint type bench bench-peers bench-protocols ci clean screenshots constraints format

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Weir needs Python 3.11 or newer, found $$($(PYTHON) --version); set PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Setting up $(VENV) from PyPI: some minutes, without a word ..."
	@$(PIP) install --quiet --no-compile --constraint constraints.txt --editable '.[cpu,serve]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Setting up $(VENV) from PyPI: some minutes, without a word ..."
	@$(PIP) install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	@touch $(VENV)/.runtime $@

install: $(VENV)/.dev ## Set up .venv with everything for development

demo: $(VENV)/.runtime ## Run the whole system on simulated streams for a minute
	$(BIN)/weir demo $(ARGS)

lint: $(VENV)/.dev ## ruff: lint and format check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(VENV)/.dev ## mypy --strict
	$(BIN)/mypy --num-workers 2

test: lint type ## Lint, types, doctests and tests
	$(BIN)/python -m pytest -n 2 --dist loadfile $(if $(CI),--durations=25)

format: $(VENV)/.dev ## Let ruff correct what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

screenshots: $(VENV)/.dev ## Pictures of every page of the console into build/screenshots
	$(BIN)/python -m tests.console.screenshots build/screenshots

bench: $(VENV)/.dev ## Every benchmark, each with its baseline and one JSON line
	@for b in benchmarks/bench_*.py; do echo "== $$b"; $(BIN)/python -m benchmarks.$$(basename $$b .py) || exit 1; done

bench-peers: $(VENV)/.dev ## Weir and its peers (SHARED=../shared) on the same work; ARGS=--setup makes their venvs
	$(BIN)/python -m benchmarks.run_peers --shared $(SHARED) $(ARGS)

bench-protocols: $(VENV)/.dev ## The published protocols on real data (SHARED=../shared), into benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks.run_protocols --shared $(SHARED)

ci: ## What continuous integration runs
	.ci/run

constraints: $(VENV)/.dev ## Write the installed versions to constraints.txt
	@{ head -n 1 constraints.txt; $(PIP) freeze --exclude-editable; } > constraints.new && mv constraints.new constraints.txt

clean: ## Remove compiled kernels and caches
	find online streams models tests benchmarks -name __pycache__ -type d -prune -exec rm -r {} +
	rm -rf .mypy_cache .ruff_cache .hypothesis .pytest_cache build
