# make demo | test | check | bench | figures | docs | faults | matrix | dist; each sets up what it needs in $(VENV)
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test check bench figures docs faults matrix dist clean

demo: $(VENV)/.run
	$(BIN)/mmdit-probe attention-budget

test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.start
	$(BIN)/python -m benchmarks.cost
	$(BIN)/python -m benchmarks.masks
	$(BIN)/python -m benchmarks.magnet

figures: $(VENV)/.run
	set -e; for script in analyses/fig*.py analyses/table*.py; do \
		echo "$$script"; HF_HUB_OFFLINE=1 $(BIN)/python "$$script"; done  # the embedded model needs no network

docs: $(VENV)/.docs
	$(BIN)/mkdocs build

faults: $(VENV)/.dev
	KILLS=20 $(BIN)/python -m pytest -m slow

matrix: $(VENV)/.dev
	$(BIN)/python tests/matrix.py oldest newest

dist: $(VENV)/.dist
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/python tests/try_wheel.py dist/*.whl --python $(PYTHON)  # outside of the checkout

clean:
	rm -rf $(VENV) .matrix results site dist

$(VENV)/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(VENV)/.run $@

$(VENV)/.docs: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	touch $(VENV)/.run $@

$(VENV)/.dist: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt build twine
	touch $@
