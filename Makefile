# Two commands do all the set-up: `make demo` and `make test`. Both make .venv and install when needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FAISS ?= cpu
STAMP := $(VENV)/.installed

.PHONY: demo test lint clean-runs

demo: $(STAMP)
	$(BIN)/python jobs/experiment.py --preset demo

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(TESTS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Not .PHONY: a folder of that name is there afterwards, but the stamp says whether it is complete.
.venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 13), f"xmrank needs Python 3.11 to 3.13, this is {sys.version.split()[0]}: make PYTHON=python3.12"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --constraint constraints.txt --editable '.[$(FAISS),test]'
	@# A run starts a dozen processes; where Python may write no bytecode, each would compile the package again.
	$(BIN)/python -m compileall -q xmrank
	touch $(STAMP)
