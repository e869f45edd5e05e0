# Two commands are enough: `make demo` to see it, `make test` to trust it. Everything is installed into .venv.
.PHONY: help install install-dev demo docs test test-fast test-system lint check format small chaos fuzz sbom audit wheel upgrade-test clean

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
# Four for two cores: much of the tests' time is waiting for processes. The fast ones wait for nothing.
PROCESSES ?= 4
# Modules are compiled once, and not by each of the hundreds of processes that the tests start.
export PYTHONDONTWRITEBYTECODE :=
PYTEST := $(BIN)/python -m pytest --dist worksteal --durations 20 --durations-min 0.5
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

help:
	@echo "make demo      everything on this machine, with the sample pictures and their verdicts"
	@echo "make test      every test, on real servers, in four processes (PROCESSES=1 for one after another)"
	@echo "make test-fast those that start no server or browser and load no model: within a minute"
	@echo "make test-system the others"
	@echo "make check     nearly all that CI runs: format, lint, types, import contracts, tests"
	@echo "make docs      the documentation as a site, in build/docs/site: searched from a disk, links checked"
	@echo "make small     rebuild the shipped model from its data (DATA=folder)"
	@echo "make chaos     faults over a running system (N=cases)"
	@echo "make upgrade-test  from the release before to this one, under load (N=cases)"
	@echo "make fuzz      hostile files against decoding and the face finder (N=files of each kind)"
	@echo "make wheel     build the wheel into dist/, look at what is in it, and start it on its own"
	@echo "make sbom      sbom.json: every package that is installed, with its version and licence"
	@echo "make audit     the pinned packages against the databases of known vulnerabilities; needs the network"
	@echo "ARGS=--json and the like are passed on"

# A stamp per kind of install: the second run of a command installs nothing.
install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "Bona Fide needs Python 3.11 or later: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv is missing: install your system's python3-venv package"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "$(VENV) could not be made: is this folder writable, is the disk full?"; exit 1; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (about a minute, once)"
	@$(PIP) --editable '.[model,local]' || { echo "the installation failed: the last lines above say why"; exit 1; }
	@$(BIN)/bonafide bundles fetch || echo "the base of the model small is not here: mini serves until bonafide bundles fetch succeeds"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) with the tools of the tests (about two minutes, once)"
	@$(PIP) --editable '.[model,bench,local,dev]' || { echo "the installation failed: the last lines above say why"; exit 1; }
	@# The oldest transformers that is supported, beside the newest: the engine is tested on both.
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --upgrade --no-deps --target $(VENV)/oldest \
		'transformers==5.17.*' 'huggingface-hub>=1.5,<2'
	@$(BIN)/bonafide bundles fetch
	@touch $@ $(VENV)/.installed

demo: install
	@$(BIN)/bonafide demo $(ARGS)

test: install-dev
	@.ci/browser --check
	@$(PYTEST) --numprocesses $(PROCESSES) $(ARGS)

test-fast: install-dev
	@$(PYTEST) --numprocesses 2 -m fast $(ARGS)

test-system: install-dev
	@.ci/browser --check
	@$(PYTEST) --numprocesses $(PROCESSES) -m "not fast" $(ARGS)

lint: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --warnings
	$(BIN)/lint-imports

check: lint test

docs: install-dev
	@$(BIN)/python docs/build.py $(ARGS)

format: install-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

small: install-dev
	@test -n "$(DATA)" || { echo "say where the pictures are: make small DATA=folder (docs/models.md)"; exit 1; }
	$(BIN)/bonafide dfa train small --data $(DATA) $(ARGS)

N ?= 300
chaos: install-dev
	@$(BIN)/python -m tests.chaos --cases $(N) $(ARGS)

upgrade-test: install-dev
	@$(BIN)/python -m tests.upgrade --cases $(N) $(ARGS)

fuzz: install-dev
	@$(BIN)/python -m tests.fuzz --count $(N) $(ARGS)

sbom: install-dev
	@$(BIN)/cyclonedx-py environment $(VENV) --output-format JSON --output-file sbom.json $(ARGS)
	@echo "sbom.json: what is installed here, in CycloneDX's form"

wheel: install-dev
	@$(BIN)/python deploy/wheel.py $(ARGS)

# --strict: without it a database that does not answer looks like no vulnerability at all.
audit: install-dev
	@$(PIP) pip-audit
	@$(BIN)/pip-audit --strict --disable-pip --no-deps --requirement constraints.txt $(ARGS)

clean:
	rm -rf $(VENV) .bonafide .pytest_cache .ruff_cache
