# Everything here makes its own virtual environment first; Python 3.11+ is the only thing needed before.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where torch comes from, if not the default index: TORCH_INDEX=https://download.pytorch.org/whl/cpu saves gigabytes.
TORCH_INDEX ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
DATA ?=
# A checkout of nanoGPT and its text, to be trained beside.
NANOGPT ?=
TEXT ?=

.PHONY: help install demo test check format format-check lint types pytest bench bench-bandit bench-loader bench-reward faults clean

help:
	@echo "make demo     install, then train, sample, stop, resume and report on text found on this machine (minutes)"
	@echo "make test     install, then format check, lint, types and tests: what CI runs"
	@echo "make check    the same without installing anew"
	@echo "make format   rewrite the code in the project's format"
	@echo "make bench    overhead and memory figures; DATA=folder of NAME/train.jsonl adds a run on real text,"
	@echo "              NANOGPT=checkout TEXT=input.txt one beside nanoGPT"
	@echo "make bench-reward DATA=folder  what each reward ranks and buys on real text: half an hour"
	@echo "make bench-bandit  the bandit beside its peers from PyPI: speed, then regret (hours; goes on where it stopped)"
	@echo "make bench-loader  the loader beside its peers from PyPI: speed, state, resume, edits of a mixture: a quarter of an hour"
	@echo "make faults   every fault at every file system call, and power cuts: over an hour, best as root"
	@echo "make clean    remove the virtual environment and caches"

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "firehose needs Python 3.11 or newer; say which: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "this Python has no venv; on Debian or Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) --editable '.[dev]'
	@touch $@

install: $(VENV)/.installed

demo: install
	$(BIN)/firehose demo

test: install
	$(MAKE) check

check: format-check lint types pytest

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only .

format-check: install
	$(BIN)/ruff format --check .

lint: install
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

pytest: install
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

bench: install
	$(BIN)/python bench/overhead.py
	$(BIN)/python bench/memory.py
	$(BIN)/python bench/threads.py
	$(BIN)/python bench/state.py
	$(if $(DATA),$(BIN)/python bench/twelve.py $(DATA))
	$(if $(NANOGPT),$(BIN)/python bench/train.py --nanogpt $(NANOGPT) --text $(TEXT))

bench-reward: install
	$(BIN)/python bench/reward.py $(DATA)
	$(BIN)/python bench/goal.py $(DATA)

bench-bandit: install
	$(BIN)/python bench/bandit.py --resume

bench-loader: install
	$(BIN)/python bench/loader.py

# One after the other: its forks want a quiet machine. As root it gets strace and xfsprogs where they are missing.
faults: install
	FAULTS_INSTALL=1 nice $(BIN)/python -m tests.faults
	nice $(BIN)/python -m tests.faults.signals --count 500 --real 50
	FIREHOSE_FAULTS=1 nice $(BIN)/python -m pytest tests/e2e/test_live.py tests/e2e/test_pivoted.py tests/e2e/test_fork.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
