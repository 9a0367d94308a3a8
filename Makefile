# `make demo` and `make test` are all a fresh machine needs: Python 3.11 or newer, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

# Tests run in WORKERS processes side by side, on 2 cores too: each waits a third of the time for
# files, sockets or other processes. Each starts its own Spark, about 2 GB.
WORKERS ?= 3
# TESTS are folders or files: make tests TESTS=tests/search
TESTS ?=
PYTEST := $(BIN)/python -m pytest -q --numprocesses=$(WORKERS) --dist=worksteal $(TESTS)

.PHONY: demo test test-all test-avx2 lint tests coverage docs dist bench weights clean

# Everything below waits for this once; afterwards it costs nothing.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lookalike needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)  ## all twelve steps, ending with pictures in demo/
	$(BIN)/lookalike demo

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tests: $(READY)  ## the quick ones
	$(PYTEST)

test: $(READY)  ## what has to pass before every commit: lint and tests, side by side
	$(MAKE) --no-print-directory --jobs=2 lint tests

docs: $(READY)  ## the site of the documentation, in site/; without network
	$(BIN)/python docs/make_reference.py --check
	$(BIN)/zensical build --strict

dist: $(READY)  ## wheel and source archive, checked, in dist/
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

coverage: $(READY)  ## the lines of src that the quick tests run
	$(PYTEST) --cov=lookalike --cov-report=term

test-all: lint  ## the long ones too
	$(PYTEST) -m ''

test-avx2: $(READY)  ## the tests as on a processor with AVX2 and without AVX-512, VNNI, AMX
	cc -shared -fPIC -o $(VENV)/cpuid.so tests/helpers/cpuid.c -ldl
	WITHOUT=avx512,vnni,amx LD_PRELOAD=$(abspath $(VENV)/cpuid.so) $(PYTEST)

bench: $(READY)  ## figures of the README, on drawn cars; IMAGES=folder for others
	$(BIN)/python benchmarks/road.py $(if $(IMAGES),--images $(IMAGES)) $(if $(LABELS),--labels $(LABELS)) --json

weights: $(READY)  ## the bundled weights once more: PHOTOS, LABELS; OTHERS, JUDGE, JUDGE_LABELS if there are
	$(if $(and $(PHOTOS),$(LABELS)),,$(error make weights PHOTOS=folder LABELS=file.csv: see recipes/README.md))
	$(BIN)/python recipes/recipe.py --photos $(PHOTOS) --labels $(LABELS) $(if $(OTHERS),--others $(OTHERS)) \
		$(if $(JUDGE),--judge $(JUDGE) --judge-labels $(JUDGE_LABELS)) $(RECIPE)

clean:
	rm -rf $(VENV) demo build dist site .mypy_cache .ruff_cache .pytest_cache
