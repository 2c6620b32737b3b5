# make help        lists the targets
# OPTIKIT_HOME=…   where everything is kept (default: .optikit in the repository)
# PYTHON=…         the Python 3.11 that the environments are made with
# PYTEST_ARGS=…    more arguments for pytest, e.g. a folder or -x
# DEV_ARGS=…       more arguments for optikit dev, e.g. --port 3001
# TEST_PROCESSES=…, WAITING_PROCESSES=…  test processes for tests that compute, and that wait
# DATA=…           folder with IFEval, GSM8K and Azure's trace for make demo-real; absent: from the hub
# FAST_PROCESSES=…         test processes of make test-fast

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory

export OPTIKIT_HOME ?= $(CURDIR)/.optikit
override OPTIKIT_HOME := $(abspath $(OPTIKIT_HOME))
export DAGSTER_HOME := $(OPTIKIT_HOME)/dagster
# Containers often switch bytecode off; then every server start compiles vLLM anew (about 20 s).
unexport PYTHONDONTWRITEBYTECODE

CONTROL_BIN := $(OPTIKIT_HOME)/envs/control/bin
OPTIKIT := $(CONTROL_BIN)/optikit
DEMO_JOB := recipes/jobs/demo.yaml
DATA ?= ../shared/data
PYTEST_ARGS ?=
TEST_PROCESSES ?= 3
FAST_PROCESSES ?= 3
WAITING_PROCESSES ?= 5

# Runs the tests that match $(1), in three parts: those that compute, file by file and the long ones
# first, in one process more than two cores have, for workers and servers are waited for now and then;
# those that mostly wait for real time; and one by one those that bear no other test beside them. Those
# that compute get a thread each: threads of two processes spin while they wait for one another. A part
# runs also if some of an earlier one failed. pytest says 5 where it finds no test, as it does when
# PYTEST_ARGS names a file. To collect all tests takes a process longer than many take to run, so the
# last parts read those files alone that have their mark (tests/conftest.py sees to it that all do).
MARKED = $(if $(PYTEST_ARGS),,$$(grep -rl --include='test_*.py' 'pytest\.mark\.$(1)\b' tests))
define RUN_TESTS
	@ended=(); \
	part() { \
		local code=0; "$(CONTROL_BIN)/python" -m pytest "$$@" $(PYTEST_ARGS) || code=$$?; \
		case $$code in 0 | 1 | 5) ended+=($$code) ;; *) exit $$code ;; esac; \
	}; \
	OMP_NUM_THREADS=1 part -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder \
		-m "($(1)) and not serial and not alone"; \
	part -n $(WAITING_PROCESSES) --dist load --maxschedchunk 1 -m "($(1)) and serial" $(call MARKED,serial); \
	part -m "($(1)) and alone" $(call MARKED,alone); \
	case "$${ended[*]}" in \
		*1* | "5 5 5") echo "tests: FAILED (the parts of pytest ended with $${ended[*]}:" \
			"0 passed, 1 failed, 5 found none)" >&2; exit 1 ;; \
		*) echo "tests: passed" ;; \
	esac
endef

# A name on PATH is not enough: version managers put shims there that only print an error. The
# interpreter itself is taken, not the shim, which costs a tenth of a second at every call.
IS_311 := import sys; sys.version_info[:2] == (3, 11) or sys.exit(1); print(sys.executable)
ifndef PYTHON
PYTHON := $(shell for p in python3.11 python3 python; do \
	"$$p" -c '$(IS_311)' 2>/dev/null && break; done; true)
endif

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: python
python:
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "error: Python 3.11 was not found; install it, or say where it is: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
		exit 1; }

.PHONY: setup
setup: python ## Create or update the three environments (nothing to do: well under a second)
	@"$(PYTHON)" -m optikit_assets.environments.setup

.PHONY: setup-ray
setup-ray: python ## The same with Ray in the control environment, which later set-ups keep
	@"$(PYTHON)" -m optikit_assets.environments.setup --extra ray

.PHONY: setup-clients
setup-clients: python ## The environment of other readers of published models and of a browser, for tests
	@"$(PYTHON)" -m optikit_assets.environments.setup clients

.PHONY: demo
demo: setup ## The whole pipeline on the demo model: quantize, evaluate, benchmark, tune, deploy
	@"$(OPTIKIT)" optimize --job $(DEMO_JOB)

.PHONY: demo-cluster
demo-cluster: setup-ray ## The demo job on a Ray cluster of two nodes on loopback
	@"$(CONTROL_BIN)/python" -m demo.cluster --job $(DEMO_JOB)

.PHONY: demo-real
demo-real: setup ## The pipeline on SmolLM2-135M-Instruct: hours on two cores, and goes on where it was stopped
	@"$(CONTROL_BIN)/python" -m demo.real $(if $(DATA),--data "$(DATA)")

.PHONY: test
test: setup-ray setup-clients check ## All checks, then the whole test suite
	$(call RUN_TESTS,not e2e)

.PHONY: test-fast
test-fast: setup ## In a minute on two cores: ruff, and the tests that take hardly a third of a second of a processor
	@"$(CONTROL_BIN)/ruff" check .
	@"$(CONTROL_BIN)/ruff" format --check .
	@"$(CONTROL_BIN)/python" -m pytest -n $(FAST_PROCESSES) --dist loadfile \
		-m "not slow and not serial and not alone and not integration and not e2e" $(PYTEST_ARGS)

.PHONY: test-all
test-all: setup-ray setup-clients check ## The same with the end-to-end test: the whole pipeline on real servers (about 15 minutes more)
	$(call RUN_TESTS,e2e or not e2e)

.PHONY: check
check: setup-ray ## ruff, pyright (the types of Ray too), import-linter, dg check
	@"$(CONTROL_BIN)/ruff" check .
	@"$(CONTROL_BIN)/ruff" format --check .
	@$(MAKE) --jobs=2 --output-sync=target check-types check-graph

# Beside each other: the types take a process longer than all else that is checked.
.PHONY: check-types check-graph
check-types:
	@"$(CONTROL_BIN)/pyright" --pythonpath "$(CONTROL_BIN)/python"
check-graph:
	@"$(CONTROL_BIN)/lint-imports"
	@"$(CONTROL_BIN)/dg" check defs

# A package that the database does not know makes it fail: that is no clean bill. Builds for a processor
# (`+cpu`) are known under the version that they are of.
.PHONY: audit
audit: setup ## Ask PyPI for known vulnerabilities of all pinned packages
	@failed=0; for set in requirements/*.txt; do \
		echo "$$set"; \
		sed 's/+[a-z0-9.]*//' "$$set" | "$(OPTIKIT_HOME)/bootstrap/bin/uv" tool run --quiet pip-audit==2.10.1 --strict \
			--disable-pip --no-deps --progress-spinner off --requirement /dev/stdin || failed=1; \
	done; exit $$failed

.PHONY: format
format: setup ## Format the code and fix what ruff can fix
	@"$(CONTROL_BIN)/ruff" check --fix-only --quiet .
	@"$(CONTROL_BIN)/ruff" format .

.PHONY: dev
dev: setup ## Start the Dagster UI and daemon, and serve reports, and metrics where OPTIKIT_METRICS is set
	@"$(OPTIKIT)" dev $(DEV_ARGS)

.PHONY: lock
lock: python ## Compile requirements/*.txt again (LOCK_ARGS=--upgrade for newer versions)
	@"$(PYTHON)" -m optikit_assets.environments.lock $(LOCK_ARGS)

.PHONY: clean
clean: ## Delete all state: environments, Dagster instance, artefacts, history
	@if [ "$(CLEAN)" != yes ]; then \
		echo "this deletes $(OPTIKIT_HOME) with every result in it; to go ahead: make clean CLEAN=yes" >&2; exit 1; fi
	rm -rf "$(OPTIKIT_HOME)"
