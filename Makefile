# Every target does its own set-up. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python
SEEDS ?= 20
RAFT_SEEDS ?= 1000
SEED ?=
ONLY ?=
COORDINATORS ?= 1

.PHONY: help demo demo-down test lint sim soak chaos bench docs proto clean setup-dev

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sort | awk -F':.*## ' '{printf "  \033[1m%-10s\033[0m %s\n", $$1, $$2}'

setup-dev:
	@scripts/setup --dev --system

demo: ## A working fabric on this machine: a coordinator, three agents, a running workload [COORDINATORS=3]
	@scripts/setup --system
	@$(PY) -m cloudless.dev.demo up --coordinators $(COORDINATORS)

demo-down: ## Remove everything that `make demo` made
	@scripts/setup
	@$(PY) -m cloudless.dev.demo down

test: setup-dev ## All tests, the containerd ones included (root); lint first
	@scripts/test

lint: setup-dev ## ruff, mypy, import contracts, buf, generated code, documentation
	@scripts/lint

sim: setup-dev ## Deterministic simulation: the replicated log, then the fabric [RAFT_SEEDS=n] [SEEDS=n] [SEED=x]
	@$(PY) -m cloudless.testing.sim_raft --jobs 2 --seeds $(RAFT_SEEDS) $(if $(SEED),--seed $(SEED))
	@$(PY) -m cloudless.testing.sim --jobs 2 --seeds $(SEEDS) $(if $(SEED),--seed $(SEED))

soak: setup-dev ## Simulation over many seeds: 20,000 of the replicated log, 5,000 of the fabric
	@$(PY) -m cloudless.testing.sim_raft --jobs 2 --seeds 20000
	@$(PY) -m cloudless.testing.sim --jobs 2 --first 200 --seeds 5000 --keep-going

chaos: setup-dev ## Real processes and containers: kill -9, full disks, broken logs, devices without power, cable or a third of their packets
	@CHAOS_ROUNDS=50 $(PY) -m pytest test/chaos -q --timeout 1200

bench: setup-dev ## Figures beside a peer or the raw limit, as ratios [ONLY=name]; JSON under build/bench
	@scripts/bench $(ONLY)

docs: setup-dev ## Regenerate what is derived from the code: CLI reference, settings, examples
	@scripts/docs

proto: setup-dev ## Regenerate the code of every .proto
	@scripts/proto

clean: ## Remove what was built (not a running demo)
	@rm -rf build dist node_modules .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .venv
