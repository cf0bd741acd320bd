# `make` alone prints what there is. Every target that needs the environment builds it first.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help env sweep test rehearse lint format lock docs ui bench clean

VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.synced
PORT   ?= 5000
ARGS   ?=
# One thread per process: two one-thread trials (or test workers) beat one two-thread trial.
export OMP_NUM_THREADS ?= 1

help:  ## print this list
	@echo "usage: make TARGET [ARGS='...']"; echo
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1|\2/p' Makefile \
		| while IFS='|' read -r name what; do printf '  %-8s %s\n' "$$name" "$$what"; done

env: $(STAMP)  ## create .venv from requirements.lock (the other targets do it by themselves)

# Only uv installs torch: pip would take whatever local build it finds.
$(STAMP): requirements.lock pyproject.toml
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		python="$$(.ci/find_python)"; \
		echo "creating $(VENV) with $$("$$python" --version)"; \
		"$$python" -m venv $(VENV) || { rm -rf $(VENV); \
			echo "error: $$python cannot create a virtual environment;" \
				"install its venv module (Debian, Ubuntu: apt-get install python3-venv)" >&2; \
			exit 1; }; \
	fi
	@uv="$$(sed -n 's/^\(uv==[^ ;]*\).*/\1/p' requirements.lock)"; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$uv"
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --compile-bytecode requirements.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $(STAMP)

sweep: $(STAMP)  ## search, compare, retrain the finalists, register and promote the best
	$(BIN)/orchestrator sweep $(ARGS)

test: $(STAMP)  ## run all tests; ARGS='-k name' picks some
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

rehearse: $(STAMP)  ## try cluster.yaml on three pretend hosts on this machine (root, minutes)
	$(BIN)/python -m tests.rehearsal.rehearse

lint: $(STAMP)  ## ruff (rules and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)  ## write docs/methods.md and docs/settings.md from the source
	$(BIN)/python -m orchestrator.cli.catalog
	$(BIN)/python -m orchestrator.cli.settings_page

ui: $(STAMP)  ## MLflow in the browser, on this machine only (PORT=5000)
	$(BIN)/orchestrator ui --port $(PORT)

bench: $(STAMP)  ## measure this project beside its peers; rows go to runs/benchmarks
	$(BIN)/python -m benchmarks $(ARGS)

lock: $(STAMP)  ## write requirements.lock again: newest versions, exact pins, every supported Python
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip compile --universal --python-version 3.11 --extra dev --upgrade \
		--no-emit-index-url --no-header --quiet --output-file requirements.lock pyproject.toml

clean:  ## remove caches; keeps .venv, data and runs
	rm -rf .mypy_cache .ruff_cache .pytest_cache build ./*.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
