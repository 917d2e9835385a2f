# Everything a contributor does.  Needs git, make and Python 3.11 or newer with venv; the rest comes by pip.

.DEFAULT_GOAL := help
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Three for two cores: some tests wait.
JOBS ?= 3
PYTEST_ARGS ?=

# Both names: pip before 25.3 takes constraints of build environments from the first, later from the second.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help
help: ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18

.PHONY: setup
setup: $(READY) ## make .venv with exactly the versions of constraints.txt

# A python that is found may still not run (a version manager's shim) or not make venvs (Debian without
# python3-venv), so each is tried.  PYTHON=... chooses another.
$(READY): pyproject.toml constraints.txt
	@set -eu; \
	if ! $(BIN)/python -c 'import pip' 2>/dev/null; then \
	  for python in $(PYTHON) python3.13 python3.12 python3.11 python3 /usr/bin/python3; do \
	    if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	      echo "setup: $(VENV) of $$($$python --version)"; $$python -m venv --clear $(VENV); break; \
	    fi; \
	  done; \
	fi; \
	$(BIN)/python -c 'import pip' 2>/dev/null || { \
	  echo "setup: needs Python 3.11 or newer with venv (Debian: apt-get install python3-venv)" >&2; exit 1; }; \
	echo "setup: installing, about a minute"; $(BIN)/python -m pip install --quiet --no-compile --editable '.[test,check]'; touch $@

.PHONY: demo
demo: $(READY) ## see it work: a provider, a daemon, a receiver (DEMO_FOR=20 make demo: for 20 seconds)
	@$(BIN)/tidings demo

# Not written, the byte code of every test and module would be made again by each process of a run.
.PHONY: test
test: $(READY) ## run the tests (PYTEST_ARGS='-k webhook', JOBS=0 for one process)
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

.PHONY: check
check: $(READY) ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: ci
ci: check test ## check and test

.PHONY: bench
bench: $(READY) ## measure deliveries and ingest on this machine
	@$(BIN)/python tests/bench/run.py $(BENCH_ARGS)

.PHONY: faults
faults: $(READY) ## break it in every way for half an hour and count (FAULTS_ARGS="--only kills --kills 50")
	@PYTHONPATH=tests $(BIN)/python -m faults --out build/faults.json $(FAULTS_ARGS)

.PHONY: clean
clean: ## remove what was made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find daemon tests -name __pycache__ -prune -exec rm -rf {} +
