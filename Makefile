# Two commands do everything: `make demo` and `make test`. Both make .venv first if it isn't there.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test slow portability lint types docs format clean
.DEFAULT_GOAL := test

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

# --- the main job, on real records and on a synthetic cohort --------------------------------------------------

INGEST := $(BIN)/ecgstore ingest --resume --fs 100 --bandpass 0.5 40 --notch 50

demo: $(INSTALLED) demo/synthetic
	$(INGEST) tests/data/ptbxl_mini demo/ptbxl_mini.ecg
	$(INGEST) demo/synthetic demo/synthetic.ecg
	$(BIN)/ecgtrain run demo --set name=ptbxl_mini --set data.store=demo/ptbxl_mini.ecg --out demo/runs/ptbxl_mini --resume
	$(BIN)/ecgtrain run demo --set name=synthetic --set data.store=demo/synthetic.ecg --out demo/runs/synthetic --resume
	$(BIN)/ecgtrain report demo/runs/ptbxl_mini demo/runs/synthetic --out demo/report

demo/synthetic: | $(INSTALLED)
	$(BIN)/ecgstore simulate $@ --records 900 --seed 0

# --- checks ---------------------------------------------------------------------------------------------------

# Tests start many processes: compiled modules are kept, whatever the environment says, or each compiles all of them anew.
export PYTHONDONTWRITEBYTECODE :=

# Two processes on two cores, more on more; the tests of a file stay together.
TOGETHER := -n auto --maxprocesses 4 --dist loadfile

test: $(INSTALLED)
	$(BIN)/python -m pytest $(TOGETHER)

slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

portability: $(INSTALLED)
	$(BIN)/python tests/portability.py

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell

types: $(INSTALLED)
	$(BIN)/mypy

docs: $(INSTALLED)
	$(BIN)/python -m pytest tests/architecture/test_docs.py

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf demo build dist *.egg-info
