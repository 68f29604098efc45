# From python3, git and make alone:  make demo  |  make test
SHELL  := bash
PYTHON ?= python3
CORES  ?= all
VENV   := .venv
BIN    := $(VENV)/bin
# uv does not read pip's find-links: pass them on, so that a machine with its own wheels uses them.
export UV_FIND_LINKS ?= $(or $(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup demo review monusac paper paper-phantom search record test test-slurm test-faults lint format docs lock clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(VENV)/.ready  ## the environment in .venv, from requirements.lock

# Byte code is compiled at once: each job of the workflow is a process, and would compile what it imports again
# where Python is told to write none.
$(VENV)/.ready: pyproject.toml requirements.lock
	@echo "Setting up $(VENV) (about a minute) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv 2>/dev/null
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint requirements.lock --editable . --group dev
	@$(BIN)/python -m compileall -q -j 0 -x '/(tests?|testing|_inductor|onnx|triton|nvidia)/' $(VENV)/lib >/dev/null || true
	@touch $@

demo: setup  ## every stage on the phantom cohort, CPU only: tables, figures, claims, report
	@snakemake --cores $(CORES) --configfile config/demo.yaml
	@stedm headline config/demo.yaml

review: setup  ## do the recorded results hold? Minutes, CPU only: every cell, against what, and what was not checked
	@snakemake --cores $(CORES) --configfile config/demo.yaml -- reviewer

DATA ?= data/monusac
monusac: setup  ## the same on real images, in three folds of patients: make monusac DATA=/path/to/monusac
	@snakemake --cores $(CORES) --configfile config/monusac.yaml --config cohort='{"options": {"path": "$(DATA)"}}'
	@stedm headline results/monusac/config.yaml

paper: setup  ## every experiment of the paper on its three cohorts, for GPUs: make paper PROFILE=DIR
	@snakemake $(if $(PROFILE),--profile $(PROFILE),--cores $(CORES)) --configfile config/paper.yaml

paper-phantom: setup  ## the same experiments on the phantom cohort, two CPU cores (stedm plan says how long)
	@snakemake --cores $(CORES) --configfile config/paper-phantom.yaml
	@stedm headline config/paper-phantom.yaml

search: setup  ## choose the strength of colour augmentation on training patients of the demo
	@snakemake --cores $(CORES) --configfile config/demo.yaml -- search

record: setup  ## copy the demo's numbers to results/reference/demo
	@stedm record config/demo.yaml

test: setup  ## the tests
	@pytest -n 2 --dist worksteal

test-slurm: setup  ## the workflow on a real Slurm of two nodes (as root; Debian: apt-get install slurm-wlm munge)
	@pytest -m "slurm and not faults" tests/test_slurm.py

test-faults: setup  ## all faults on the real Slurm, recorded in results/reference/faults.json
	@STEDM_FAULTS=results/reference/faults.json pytest -v -m slurm tests/test_slurm.py

lint: setup  ## ruff, snakefmt, snakemake --lint
	@ruff check . && ruff format --check . && snakefmt --check Snakefile workflow && snakemake --lint

format: setup  ## format the code
	@ruff check --fix . && ruff format . && snakefmt Snakefile workflow

docs: setup  ## what is generated of docs/ and config/, and every number that a page shows
	@stedm docs

lock: setup  ## requirements.lock, from pyproject.toml
	@UV_FIND_LINKS= uv pip compile --universal --quiet --no-header --no-annotate --group dev pyproject.toml -o requirements.lock

clean:  ## results, and the drawn phantom, that can be made again (not the environment, not fetched data)
	@rm -rf results/runs results/logs results/benchmarks results/demo results/monusac* results/review results/verification.* data/phantom .stedm/phantom.* .snakemake
