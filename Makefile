# `make demo` runs the whole pipeline, `make test` checks the project. Both set up .venv first; nothing is installed again until
# pyproject.toml changes.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
# If the default is too old or lacks venv, the next ones are tried. A PYTHON that was given is used as it is.
PYTHONS := $(PYTHON) $(if $(filter file,$(origin PYTHON)),python3.12 python3.11 python3.10)
PYTEST_ARGS ?=
# One process a core; modules stay together, because their fixtures train models. If a process dies, the run ends: with a new
# process in its place, pytest-xdist waits for the other forever.
PYTEST := -m pytest -n logical --dist loadfile --max-worker-restart 0

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := train,export,runtime,realsense,bench
CACHES := .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# An environment that was moved or copied still points to the old folder, and one whose Python is gone does not run.
USABLE := $(shell $(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
    && grep -F '$(CURDIR)/$(VENV)' $(BIN)/activate >/dev/null && echo yes)
ifneq ($(USABLE),yes)
.PHONY: $(STAMP)
endif

.PHONY: help setup libusb chromium demo test lint types layers format wheel gpu-report soak clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: setup ## set up, then render data, train, export, record and run live; results in demo/
	@$(BIN)/edgefuse demo --out demo --force

test: lint types layers chromium ## set up, then lint, types, layers and tests; PYTEST_ARGS='-k name' selects tests
	@echo "== tests"
	$(BIN)/python $(PYTEST) $(PYTEST_ARGS)

setup: libusb $(STAMP) ## create .venv and install everything (PyTorch: several GB on x86-64)

lint: setup ## ruff: rules and formatting
	@echo "== lint"
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check . || { echo "formatting differs: run 'make format'"; exit 1; }

types: setup ## mypy --strict
	@echo "== types"
	$(BIN)/mypy --no-error-summary

layers: setup ## import-linter: imports point downwards, and no PyTorch on the device
	@echo "== layers"
	report=$$($(BIN)/lint-imports 2>&1) || { echo "$$report"; exit 1; }

format: setup ## ruff: fix and format
	@$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: setup ## build the wheel into dist/, to install on a device
	@$(BIN)/python -m build --wheel --no-isolation --outdir dist

# No setup: that installs packages for CPUs, and a device has an environment of its own. BUNDLE=PATH tests the files of that bundle.
gpu-report: ## run the tests marked gpu and tensorrt on this GPU, time the fusion core and training; dated files in benchmarks/results/HARDWARE
	@python=$$([ -x $(BIN)/python ] && echo $(BIN)/python || echo $(PYTHON))
	export PYTHONPATH=.:export:runtime:benchmarks EDGEFUSE_GPU_BUNDLE="$(BUNDLE)"
	out=$$($$python -c 'from pathlib import Path; from edgefuse_benchmarks.machine import hardware_folder; print(hardware_folder(Path("benchmarks/results")))')
	code=0
	$$python -m edgefuse_benchmarks.gpu_report --out "$$out" || code=$$?
	if [ $$code != 2 ]; then
		$$python -m edgefuse_benchmarks.gpu_core --out "$$out" || [ $$? = 2 ] || code=1
		if $$python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
			[ -d build/gpu-data ] || $$python -m edgefuse data synth build/gpu-data
			$$python -m edgefuse bench train build/gpu-data --recipe mobilenet_rgbd --rgb-weights none --batch-size 16 --out "$$out" || code=1
		fi
	fi
	exit $$code

# MINUTES=1 SEED=7 BUNDLE=PATH choose the duration, the faults and the bundle; the default one is made by `make demo`.
soak: setup ## run live with faults at random for 10 minutes: what it survives, loses and leaves behind; results in bench-results/
	@bundle="$(or $(BUNDLE),demo/bundle)"
	[ -d "$$bundle" ] || $(MAKE) demo
	$(BIN)/edgefuse bench soak "$$bundle" --minutes "$(or $(MINUTES),10)" $(if $(SEED),--seed "$(SEED)")

clean: ## remove caches, build/ and dist/; keep .venv, demo/ and runs/
	@rm -rf build dist $(CACHES)
	find . -path ./$(VENV) -prune -o -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## remove .venv as well
	@rm -rf $(VENV)

# The wheel of pyrealsense2 contains librealsense but not the libusb that it links.
libusb:
	@if PATH="$$PATH:/usr/sbin:/sbin" ldconfig -p 2>/dev/null | grep -F libusb-1.0.so.0 >/dev/null; then exit 0; fi
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	    echo "== setup: installing the system library libusb-1.0"
	    report=$$( (apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes libusb-1.0-0) 2>&1 ) \
	        || { echo "$$report"; echo "apt-get could not install libusb-1.0-0"; exit 1; }
	else
	    echo "The system library libusb-1.0 is missing; pyrealsense2 does not load without it. Install it, then run make again:"
	    echo "    sudo apt-get install libusb-1.0-0     (Fedora: sudo dnf install libusb1)"
	    exit 1
	fi

# Only tests of pages need it; they are skipped without.
chromium:
	@for name in chromium chromium-browser google-chrome; do if command -v $$name >/dev/null; then exit 0; fi; done
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	    echo "== setup: installing chromium, to test pages"
	    report=$$( (apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends chromium) 2>&1 ) \
	        || { echo "$$report"; echo "apt-get could not install chromium"; exit 1; }
	else
	    echo "Chromium is missing: tests of pages are skipped (sudo apt-get install chromium)"
	fi

$(STAMP): pyproject.toml
	@if [ "$(USABLE)" != yes ]; then
	    for candidate in $(PYTHONS) none; do
	        if $$candidate -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then break; fi
	        [ $$candidate = none ] || echo "== setup: $$candidate is missing, older than Python 3.10, or lacks venv"
	    done
	    if [ $$candidate = none ]; then
	        echo "Python 3.10 or newer with venv is needed: sudo apt-get install python3-venv, or make PYTHON=/path/to/python3"
	        exit 1
	    fi
	    echo "== setup: creating $(VENV) with $$($$candidate --version)"
	    $$candidate -m venv --clear $(VENV)
	fi
	note=; if [ "$$(uname -sm)" = "Linux x86_64" ]; then note=" (PyTorch comes with CUDA here: several GB)"; fi
	echo "== setup: installing packages, the first time takes minutes$$note; log: $(VENV)/setup.log"
	report() { grep -v '^WARNING' $(VENV)/setup.log | tail -n 15; exit 1; }
	$(BIN)/python -m pip install --upgrade 'pip>=25.1' >$(VENV)/setup.log 2>&1 || report
	$(BIN)/python -m pip install --editable '.[$(EXTRAS)]' --group dev >>$(VENV)/setup.log 2>&1 || report
	touch $@
	echo "== setup: done in $$SECONDS s"
