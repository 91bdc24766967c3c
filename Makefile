# make demo             set up, draw example images (or take IMAGES=path), segment them
# make test             set up, check style, types and layers, run all tests
# make fuzz             300 damaged files of every format (make test: 30 of each)
# make figures          docs/figures, docs/comparison.md and docs/networks.md from docs/results and docs/runs
# make lint             the checks alone        make clean             remove what these made

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$p; break; fi; done)
VENV := .venv
BIN := $(VENV)/bin
OUTPUT := output
SAVE := labels,outlines,overlay

.PHONY: demo test lint fuzz figures clean

demo: $(VENV)/.base
ifdef IMAGES
	@$(BIN)/cellbasin segment "$(IMAGES)" --out $(OUTPUT) --save $(SAVE)
	@echo "labels, outlines and overlay pictures are in $(CURDIR)/$(OUTPUT)"
else
	@$(BIN)/python scripts/demo.py $(OUTPUT) $(SAVE)
endif

test: lint
	@$(BIN)/python -m pytest

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fuzz: $(VENV)/.dev
	@CELLBASIN_FUZZ=300 $(BIN)/python -m pytest -q tests/test_io_fuzz.py tests/test_fuzz_cellpose.py

figures: $(VENV)/.dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt scikit-learn
	@$(BIN)/python benchmarks/figures.py
	@$(BIN)/python benchmarks/compare.py
	@$(BIN)/python benchmarks/networks.py page

clean:
	rm -rf $(VENV) $(OUTPUT) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache

$(VENV)/.base: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "found no Python from 3.11 on; install one, or say which: make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
