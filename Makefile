# Every target sets up what it needs in .venv; nothing has to be installed or activated first.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
NEWEST := .venv-newest/bin
OLDEST := .venv-oldest/bin
# Byte-compiling on first import instead of for every file halves the set-up time.
PIP := @$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt
# A process for each core, a file of tests in one of them, in the order of tests/conftest.py; each takes about 2 GB.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
PYTEST := $(BIN)/python -m pytest $(PARALLEL)

# Without its caches Python compiles torch and transformers anew in every process: seconds each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help quickstart ablations test test-all test-newest test-oldest coverage lint docs format dist clean
.DEFAULT_GOAL := help

help:  ## List the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

quickstart: .venv/.core  ## Build a nano mBLIP end to end and open its report: runs/quickstart/report.html.
	$(BIN)/mblip quickstart

ablations: .venv/.core  ## The quickstart with every ablation.
	$(BIN)/mblip quickstart --ablations

test: lint docs  ## Everything a change must pass; minutes.
	$(PYTEST)

test-all: lint docs  ## The same with the slow tests.
	$(PYTEST) -m "slow or not slow"

test-newest: .venv-newest/.dev  ## The tests with the newest transformers and torch, torchvision present, in .venv-newest.
	@$(NEWEST)/python -c 'import torch, torchvision, transformers as t; print(*(m.__name__ + " " + m.__version__ for m in (t, torch, torchvision)))'
	$(NEWEST)/python -m pytest $(PARALLEL)

test-oldest: .venv-oldest/.dev  ## The tests with the oldest versions that pyproject.toml allows, in .venv-oldest.
	$(OLDEST)/python -m pytest $(PARALLEL)

coverage: .venv/.dev  ## The branches that the tests take, by file; installs pytest-cov.
	$(PIP) pytest-cov
	$(PYTEST) --cov=mblip --cov-branch --cov-report=term:skip-covered

lint: .venv/.dev  ## Style, types, layers.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: .venv/.dev  ## Build the documentation into site/.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: .venv/.dev  ## Format the code.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

dist: .venv/.dev  ## Build the sdist and the wheel into dist/ and try each in an environment of its own; TAG=v0.1.0 checks the tag.
	@rm -rf dist
	@test -z "$(TAG)" || test "$(TAG)" = "v$$($(BIN)/python -c 'import mblip; print(mblip.__version__)')" \
		|| { echo "the tag $(TAG) is not the version in src/mblip/__init__.py: change one of them"; exit 1; }
	@grep -qF "## [$$($(BIN)/python -c 'import mblip; print(mblip.__version__)')]" CHANGELOG.md \
		|| { echo "CHANGELOG.md has no section for this version: add it"; exit 1; }
	$(BIN)/python -m hatchling build --directory dist
	@set -e; for made in dist/*.whl dist/*.tar.gz; do \
		folder=$$(mktemp -d); $(PYTHON) -m venv "$$folder/venv"; \
		"$$folder/venv/bin/python" -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt torch; \
		"$$folder/venv/bin/python" -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt "$$made"; \
		(cd "$$folder" && venv/bin/mblip --version && venv/bin/mblip data plan nano_scenes >plan.txt && venv/bin/mblip plan mt0_xl_align >>plan.txt); \
		rm -rf "$$folder"; echo "$$made installs and runs"; done

clean:  ## Remove the environment and everything built; runs/ stays.
	rm -rf .venv .venv-newest .venv-oldest site dist .mypy_cache .ruff_cache .pytest_cache

.venv/.core: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "mblip needs Python 3.11 or newer: install it or name it with make PYTHON=..."; exit 1; }
	@echo "setting up .venv with $(PYTHON) (once; a minute or a few)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
# Alone and first, so that pip takes the CPU build where the machine's own index or find-links offers one.
	$(PIP) torch
	$(PIP) --editable .
	@touch $@

.venv/.dev: .venv/.core
	@echo "adding the tools and extras that the tests need (once)"
	$(PIP) --editable '.[translate,train,eval,serve,ray,heic,gguf,dev]'
	@touch $@

.venv-newest/.dev: pyproject.toml constraints.txt
	@echo "setting up .venv-newest: everything pinned but torch, torchvision and transformers (once; some gigabytes)"
	@test -x $(NEWEST)/python || $(PYTHON) -m venv .venv-newest
	@grep -vE '^(torch|transformers)==' constraints.txt > .venv-newest/constraints.txt
	@$(NEWEST)/python -m pip install -qq --no-compile --disable-pip-version-check -c .venv-newest/constraints.txt \
		--upgrade torch torchvision transformers
	@$(NEWEST)/python -m pip install -qq --no-compile --disable-pip-version-check -c .venv-newest/constraints.txt \
		--editable '.[translate,train,eval,serve,ray,heic,gguf,dev]'
	@touch $@

.venv-oldest/.dev: pyproject.toml constraints-oldest.txt
	@echo "setting up .venv-oldest: the oldest versions that pyproject.toml allows (once; some gigabytes)"
	@test -x $(OLDEST)/python || $(PYTHON) -m venv .venv-oldest
	@$(OLDEST)/python -m pip install -qq --no-compile --disable-pip-version-check -c constraints-oldest.txt \
		--editable '.[translate,train,eval,serve,ray,heic,gguf,dev]'
	@touch $@
