# `make demo` and `make test` do all the set-up they need, and are quick once it stands.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Another torch, by another version or from another index: make setup TORCH="torch==2.13.0 --index-url URL". The environment remembers it in .torch.
OTHER := $(shell cat $(VENV)/.torch 2>/dev/null)
TORCH ?= $(or $(OTHER),$(shell grep '^torch==' requirements.lock))
ASKED := $(filter-out file,$(origin TORCH))

export HF_HUB_OFFLINE ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help setup demo test test-long sync lint lessons tests notebooks export html docs lock audit clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       web text to dataset, student, scores and figures, offline (sets up what it needs)"
	@echo "make test       notebooks in sync, lint, lessons, tests (sets up what it needs)"
	@echo "make test-long  the tests that take minutes, beside those of make test"
	@echo "make setup      only the environment, in $(VENV)"
	@echo "make export     nbs/ -> finerweb/*.py and README.md"
	@echo "make html       the notebooks as pages, in _docs; those of a run: make html NOTEBOOKS='runs/demo/20_publish/notebook.ipynb'"
	@echo "make docs       a site of all notebooks, in _site, its links checked"
	@echo "make notebooks  run the notebooks, so that the outputs in them are this code's"
	@echo "make lock       write requirements.lock from the environment, and the hashes of its files"
	@echo "make audit      known vulnerabilities of the locked versions (asks PyPI)"
	@echo "make clean      remove caches and build output (not $(VENV), not runs/)"

setup: $(READY)

# torch comes first and alone: any later requirement would otherwise choose a build of its own.
$(READY): settings.ini setup.py pyproject.toml requirements.lock $(if $(ASKED),$(if $(filter-out $(OTHER),$(TORCH)),ask))
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there. Debian, Ubuntu: apt install python3 python3-venv; or name one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is $$($(PYTHON) -V); finerweb needs 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make environments. Debian, Ubuntu: apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@grep -v '^torch==' requirements.lock > $(VENV)/constraints.txt
	$(BIN)/python -m pip install -q -c $(VENV)/constraints.txt $(TORCH)
	$(BIN)/python -m pip install -q -c $(VENV)/constraints.txt -e '.[dev,onnx]'
	@$(if $(ASKED),echo '$(TORCH)' > $(VENV)/.torch)
	@touch $@

.PHONY: ask
ask:

demo: $(READY)
	$(BIN)/python -m finerweb run demo

# Every step runs, even after one failed; the tests come last.
test: $(READY)
	@$(MAKE) --no-print-directory --keep-going -j1 sync lint lessons tests

sync: $(READY)
	@echo "== in sync: headers of the notebooks, finerweb/*.py, README.md"
	@$(BIN)/python .ci/notebooks.py header --check
	@$(BIN)/python .ci/notebooks.py export --check

lint: $(READY)
	@echo "== lint"
	@$(BIN)/ruff check

lessons: $(READY)
	@echo "== lessons: every notebook, without its run cells"
	@PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers $(WORKERS)

tests: $(READY)
	@echo "== tests"
	@$(BIN)/python -m pytest -q -ra -n $(WORKERS) --dist loadfile -m "not long" tests

# What takes minutes: processes killed at twenty moments, full disks, notebooks alone in a fresh environment, ...
test-long: $(READY)
	@$(BIN)/python -m pytest -q -ra -n $(WORKERS) --dist loadfile -m long tests

export: $(READY)
	$(BIN)/python .ci/notebooks.py header
	$(BIN)/python .ci/notebooks.py export

notebooks: export
	FINERWEB_HOME="$${FINERWEB_HOME:-$(abspath runs)}" $(BIN)/python .ci/notebooks.py run
	$(BIN)/python .ci/notebooks.py export

html: $(READY)
	$(BIN)/python .ci/notebooks.py html $(NOTEBOOKS)

docs: $(READY)
	$(BIN)/python .ci/docs.py

lock: $(READY)
	$(BIN)/python .ci/lock.py

# In an environment of its own: what it brings along is not the package's.
audit: $(READY)
	@$(VENV)/audit/bin/python -m pip_audit --version >/dev/null 2>&1 || { $(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/python -m pip install -q pip-audit; }
	$(VENV)/audit/bin/python -m pip_audit --strict --no-deps --disable-pip -r requirements.lock

clean:
	rm -rf build dist finerweb.egg-info _proc _docs _site .pytest_cache .ruff_cache
	find finerweb nbs tests .ci -name __pycache__ -o -name .ipynb_checkpoints | xargs -r rm -rf
