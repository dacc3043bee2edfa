PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt

# Two test workers on two cores: BLAS threads of their own would only fight for them. A file stays on one worker, since
# its tests share what they compile.
ONE_THREAD := OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PYTEST := $(ONE_THREAD) $(BIN)/pytest -n 2 --dist=loadfile

QUICK := ravine-auto,optax-adam,scipy-ssbroyden,torch-lbfgs

DEMO := $(if $(wildcard runs/demo),runs/demo-$(shell date +%Y%m%d-%H%M%S),runs/demo)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test lint types layers unit slow bench bench-quick bench-micro bench-check bench-kernels bench-profile scale clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

demo: $(VENV)/.installed-cli ## solve Burgers' equation in a minute; the run lands in runs/
	$(BIN)/ravine solve burgers --budget 60s --out $(DEMO)

test: lint types layers unit ## everything that must hold: lint, types, layers, unit

lint: $(VENV)/.installed ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed ## pyright on src and benchmarks
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

layers: $(VENV)/.installed ## import-linter: imports go down only
	$(BIN)/lint-imports

unit: $(VENV)/.installed ## the tests, without the slow ones
	$(PYTEST) -m "not slow" tests

slow: $(VENV)/.installed ## only the slow tests
	$(PYTEST) -m slow tests

# Peers live in environments of their own, benchmarks/.envs, which the harness makes (1.5 GB, most of it PyTorch).
bench: $(VENV)/.installed ## ravine against its peers: 5 problems, all methods, 3 seeds, 120 s each: about 8 hours; then the report
	$(BIN)/python -m benchmarks envs
	$(BIN)/python -m benchmarks run; $(BIN)/python -m benchmarks report

bench-quick: $(VENV)/.installed ## the same end to end in three minutes: 2 problems, 4 methods, 10 s; the report lands in runs/
	$(BIN)/python -m benchmarks run --problems burgers,poisson2d --methods $(QUICK) --seeds 1 --seconds 10 --results runs/bench-quick
	$(BIN)/python -m benchmarks report --results runs/bench-quick --out runs/bench-quick

bench-micro: $(VENV)/.installed ## ratios of kernels and steps to the peers', stored in benchmarks/history.jsonl (ten minutes)
	$(BIN)/python -m benchmarks micro

bench-check: $(VENV)/.installed ## measure those ratios again, and fail when one is 20 % worse than the stored median
	$(BIN)/python -m benchmarks check

bench-kernels: $(VENV)/.installed ## pytest-benchmark on the kernels, in the environment of the peers on JAX
	$(BIN)/python -m benchmarks kernels

bench-profile: $(VENV)/.installed ## where the time of a step goes, per method: docs/profile.md (three minutes)
	$(BIN)/python -m benchmarks profile

scale: $(VENV)/.installed ## memory and cost at 10⁶ parameters or rows against the forecast (three quarters of an hour; some of the forecasts fail today)
	$(BIN)/python scripts/scale.py

clean: ## remove caches and build products (.venv and runs/ stay)
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +

# A virtual environment, created once, by an interpreter that is new enough.
$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "ravine needs Python 3.11 or newer, and '$(PYTHON)' was not found. Try: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "ravine needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The development install contains the command line, so it satisfies both stamps.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[dev]'
	touch $@ $(VENV)/.installed-cli

$(VENV)/.installed-cli: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[cli]'
	touch $@
