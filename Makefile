# make demo, make test, make lint, make docs: each first makes .venv and installs into it what constraints.txt pins.

PYTHON ?= python3
CANDIDATES := $(PYTHON) $(if $(filter file,$(origin PYTHON)),python3.13 python3.12 python3.11)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CPP := $(wildcard kernels/cpu/*.hpp kernels/cpu/*.cpp examples/*.cpp)

.PHONY: demo test bench-check soak lint docs venv clean

demo: venv
	$(BIN)/glance-fast demo --output demo

# One thread per process: two processes whose threads spin for the same cores take many times as long.
test: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --benchmark-disable

# Ratios of things timed in turn on this machine, against the committed ones; not part of the tests.
bench-check: venv
	$(BIN)/python -m bench.check

# Half an hour of scores from 64 threads, each compared with the first; then a row per backend in bench/results.
soak: venv
	$(BIN)/python -m bench.soak

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy

# The site in site/, warnings are errors. -m: what the pages are generated from is imported from this checkout.
docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

venv: $(READY)

$(READY): setup.py constraints.txt
	@for python in $(CANDIDATES); do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "$$python -m venv $(VENV)"; \
	        exec $$python -m venv $(VENV); \
	    fi; \
	done; \
	echo "glance-fast needs Python 3.11 or newer, and none of these is: $(CANDIDATES)." >&2; \
	echo "Install one and name it, for example: make test PYTHON=/usr/bin/python3.12" >&2; \
	exit 1
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) demo site build dist .coverage *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
