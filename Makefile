# Works with GNU make 3.81, which is what macOS has.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup check test interop demo bench bench-compare bench-peers bench-budgets drill fuzz clean FORCE

# The versions that constraints.txt has wheels for. PYTHON=... overrides the choice.
PYTHON ?= $(shell for candidate in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' \
	2>/dev/null && echo "$$candidate" && break; done)
PYTEST_ARGS ?= -n 2
BENCH_ARGS ?=
# By how much a median may be above the one it is compared with.
BENCH_SLOWER ?= 50%
PEERS_ARGS ?=
BUDGETS_ARGS ?=
DRILL_ARGS ?= --seconds 600 --report build/drill.html
FUZZ_ARGS ?=

LAYERS := engine workers formats bench
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	--constraint constraints.txt --only-binary :all:
# Strict mode: Python finds the package through plain links. The other editable mode needs a hook
# that costs every start of Python, and so of every worker, more than 10 ms.
EDITABLE := --no-build-isolation --config-settings editable_mode=strict --editable

# Containers often tell Python not to write bytecode. Then every worker would compile the package
# anew at its start, which no user's installation does.
COMPILE = $(BIN)/python -m compileall -q build/__editable__.*/holdfast

BENCH = $(BIN)/python -m pytest bench/suites -o python_files='bench_*.py' -p no:xdist \
	--benchmark-storage=file://build/benchmarks --benchmark-columns=median,iqr,ops,rounds \
	--benchmark-group-by=fullfunc

# The original as it is published: a package that brings the binary of 0.2.2 for this platform.
ORIGINAL := build/interop
NPM_INSTALL := npm install --no-save --no-package-lock --no-audit --no-fund --ignore-scripts

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' \
		| while IFS='|' read -r target text; do printf '  make %-13s  %s\n' "$$target" "$$text"; done

setup: build/installed ## Make .venv with the project and its tools (the others do it when needed)

check: build/installed ## Check formatting, lint rules and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@# mypy does not know that engine/ is holdfast/, so it gets a folder where it is.
	@rm -rf build/typing && mkdir -p build/typing/holdfast
	@ln -s $(foreach entry,$(wildcard engine/*),../../../$(entry)) build/typing/holdfast/
	@ln -s ../../../workers ../../../formats ../../../bench build/typing/holdfast/
	set -o pipefail; MYPYPATH=build/typing $(BIN)/mypy build/typing/holdfast tests \
		| sed -E -e 's,^build/typing/holdfast/((workers|formats|bench)/),\1,' \
			-e 's,^build/typing/holdfast/,engine/,'

test: build/installed ## Run the tests; PYTEST_ARGS='-k name' to choose
	@$(COMPILE)
	$(BIN)/python -m pytest -p no:benchmark $(PYTEST_ARGS)

interop: build/installed ## Read and write in turn with the original's Node package (needs npm)
	@if ! command -v node > /dev/null || ! command -v npm > /dev/null; then \
		echo "skipped: Node.js with npm was not found, and the original needs it"; \
	else \
		$(COMPILE) && mkdir -p $(ORIGINAL) && \
		{ [ -e $(ORIGINAL)/node_modules/.package-lock.json ] || \
		$(NPM_INSTALL) --prefix $(ORIGINAL) @ruvector/rvf-node@0.2.3; } && \
		HOLDFAST_INTEROP=$(ORIGINAL) $(BIN)/python -m pytest $(PYTEST_ARGS) tests/interop; \
	fi

demo: build/installed ## Run the demonstration
	@$(COMPILE)
	$(BIN)/holdfast demo

bench: build/installed ## Run the micro-benchmarks and keep their figures; BENCH_ARGS='-k fold' to choose
	@$(COMPILE)
	$(BENCH) --benchmark-save=kept $(BENCH_ARGS)

bench-compare: build/installed ## Run them again, against the figures kept last; BASELINE=0001 to choose
	@$(COMPILE)
	$(BENCH) --benchmark-compare$(if $(BASELINE),=$(BASELINE)) \
		--benchmark-compare-fail=median:$(BENCH_SLOWER) $(BENCH_ARGS)

bench-peers: build/peers ## Measure side by side with other stores; PEERS_ARGS='--quick' to try
	@$(COMPILE)
	@mkdir -p build/beside-others && cp docs/benchmarks.md build/beside-others/
	$(BIN)/python -m holdfast.bench.peers --page build/beside-others/benchmarks.md $(PEERS_ARGS)

bench-budgets: build/peers ## Measure every budget; BUDGETS_ARGS='--resume --only fold' to choose
	@$(COMPILE)
	$(BIN)/python -m holdfast.bench.budgets $(BUDGETS_ARGS)

drill: build/installed ## Break every promise on purpose, and see each planted defect noticed
	@$(COMPILE)
	$(BIN)/holdfast drill $(DRILL_ARGS)
	HOLDFAST_DRILL=1 $(BIN)/python -m pytest $(PYTEST_ARGS) tests/bench/test_mutations.py

fuzz: build/fuzzer ## Fuzz every parser; FUZZ_ARGS='--runs 100000 --parsers fold_log' to choose
	@$(COMPILE)
	$(BIN)/python -m holdfast.bench.fuzz $(FUZZ_ARGS)
	HOLDFAST_FUZZ=1 $(BIN)/python -m pytest $(PYTEST_ARGS) tests/bench/test_fuzz.py

clean: ## Remove everything that make has made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(LAYERS) tests -type d -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "holdfast needs Python 3.11, 3.12, 3.13 or 3.14 with the venv module, and none was found" >&2; \
		echo "as python3 or python3.x. Install one, or name one: make setup PYTHON=/path/to/python" >&2; \
		exit 1; \
	fi
	$(PYTHON) -m venv $(VENV)

# The links of the strict mode are one for each file, so a module that comes or goes needs a new
# set, while an edited one does not. This file changes only when the list of modules does.
$(VENV)/modules: $(BIN)/python FORCE
	@find $(LAYERS) -name "*.py" -o -name py.typed -o -name "*.toml" | LC_ALL=C sort > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

# Lies beside the links, so that it goes when they go.
build/installed: pyproject.toml constraints.txt $(VENV)/modules
	@# A leftover of an earlier build would bring removed modules back.
	@rm -rf build/lib build/__editable__.*
	$(PIP_INSTALL) setuptools
	$(PIP_INSTALL) $(EDITABLE) '.[dev]'
	@mkdir -p build && touch $@

build/fuzzer: build/installed
	$(PIP_INSTALL) $(EDITABLE) '.[dev,fuzz]'
	@touch $@

# hnswlib is published as source alone, so there has to be a compiler; without it, it is left out.
build/peers: build/installed
	$(PIP_INSTALL) $(EDITABLE) '.[dev,peers]'
	@$(PIP_INSTALL) --no-binary hnswlib hnswlib > /dev/null 2>&1 \
		|| echo "hnswlib cannot be built here, so it is not compared with"
	@touch $@
