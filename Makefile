# `make demo` and `make test` need nothing but Python 3.11 and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
REQUIREMENTS := $(if $(shell command -v nvidia-smi),requirements.txt,requirements-cpu.txt)
DEMO := runs/demo

.PHONY: demo test lint docs install
.DELETE_ON_ERROR:

$(VENV)/installed: $(wildcard requirements*.txt)
	@$(PYTHON) -c 'import sys; sys.exit("cmbjax needs Python 3.11 or newer; name one with make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS) -r requirements-dev.txt
	touch $@

install: $(VENV)/installed

# A small network for two cores; the paper's sizes and schedule are train.py's without flags.
demo: install
	$(BIN)/python train.py --run_dir=$(DEMO) --side=64 --width=0.5 --num_steps=1500 \
		--learning_rate=2e-3 --schedule=cosine --r_switch_step=500 --validate_every=500
	$(BIN)/python evaluate.py --run_dir=$(DEMO) --metric=all

test: install
	$(BIN)/python -m pytest --numprocesses=2

lint: install
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
