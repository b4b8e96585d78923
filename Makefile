# `make help` lists the targets. Set-up runs when a target needs it: if the stamp in an environment is older
# than pyproject.toml, the environment is updated; an interrupted set-up starts over.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
HOST ?= 127.0.0.1
PORT ?= 8000
JOBS ?= 4

TORCH := $(shell sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml | head -n 1)
INSTALL := -m pip install --disable-pip-version-check $(if $(CI),-qq)

# Tests of real services wait more than they compute, so there are more jobs than processors. Jobs take tests from
# each other only at the end, so that most modules start their services once.
PARALLEL := -n $(JOBS) --dist worksteal

# The tests start hundreds of processes, each of which would compile slimq's modules again.
unexport PYTHONDONTWRITEBYTECODE

define begin
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "slimq needs Python 3.11 or later: make PYTHON=/path/to/python3.11 ...")'
@echo "Setting up $(1) ..."
@if [ -e $(1)/.unfinished ]; then rm -rf $(1); fi
@mkdir -p $(1) && touch $(1)/.unfinished
$(PYTHON) -m venv $(1)
endef

define finish
@mv $(1)/.unfinished $(1)/.stamp
endef

.PHONY: help setup run test slow alone check format lock protocol clean

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

setup: .venv/.stamp ## Set up .venv with every extra and the development tools

run: .venv-serve/.stamp ## Serve policies/ at PORT (8000), from an environment without torch
	@exec .venv-serve/bin/slimq serve --policies policies --host $(HOST) --port $(PORT)

test: .venv/.stamp ## Run the tests that take seconds
	.venv/bin/pytest -m 'not slow' $(PARALLEL)

slow: .venv/.stamp .venv-clients/.stamp .venv-imports/.stamp ## Run the tests that take minutes, except those of `make alone`
	.venv/bin/pytest -m 'slow and not alone' $(PARALLEL)

alone: .venv/.stamp .venv-clients/.stamp ## Run the tests that measure speed, one after the other
	.venv/bin/pytest -m alone

check: .venv/.stamp ## Lint, formatting, types and layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	MYPYPATH=benchmarks .venv/bin/mypy benchmarks/*.py benchmarks/load/o*.py
	.venv/bin/mypy examples/*.py
	MYPYPATH=docker/grafana .venv/bin/mypy docker/grafana/*.py
	.venv/bin/lint-imports

format: .venv/.stamp ## Format the code and fix what ruff can
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

lock: .venv/.stamp ## Update the pins of the images; UPGRADE=1 takes the newest versions
	.venv/bin/python $(INSTALL) --group deploy
	.venv/bin/python docker/lock.py $(if $(UPGRADE),--upgrade)

protocol: .venv/.stamp ## Generate the messages of the Open Inference Protocol over gRPC
	.venv/bin/python -m grpc_tools.protoc --proto_path=service --python_out=service --pyi_out=service \
		slimq_service/grpc/open_inference.proto

clean: ## Remove environments, caches and builds; keep runs/ and policies/
	rm -rf .venv .venv-serve .venv-clients .venv-imports dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch is installed first, by itself, so that a CPU build from an extra index is chosen before the other
# packages are resolved, and satisfies their requirements.
.venv/.stamp: pyproject.toml
	$(call begin,.venv)
	.venv/bin/python $(INSTALL) 'pip>=25.1'
	.venv/bin/python $(INSTALL) '$(TORCH)'
	.venv/bin/python $(INSTALL) --group dev --editable '.[all,games,images,video,hub]'
	$(call finish,.venv)

.venv-serve/.stamp: pyproject.toml
	$(call begin,.venv-serve)
	.venv-serve/bin/python $(INSTALL) --editable '.[serve]'
	$(call finish,.venv-serve)

# Clients of the Open Inference Protocol and load generators for the tests of the service. They require older
# versions of packages that slimq uses, so they have their own environment.
.venv-clients/.stamp: pyproject.toml
	$(call begin,.venv-clients)
	.venv-clients/bin/python $(INSTALL) 'pip>=25.1'
	.venv-clients/bin/python $(INSTALL) --group clients
	$(call finish,.venv-clients)

# Programs whose files `slimq import` reads, for the tests that make such files.
.venv-imports/.stamp: pyproject.toml
	$(call begin,.venv-imports)
	.venv-imports/bin/python $(INSTALL) 'pip>=25.1'
	.venv-imports/bin/python $(INSTALL) '$(TORCH)'
	.venv-imports/bin/python $(INSTALL) --group imports
	$(call finish,.venv-imports)
