# Every target sets up what it needs, outside this folder: see tools/environment.py and tools/stack.py.
PYTHON ?= python3
IN_ENVIRONMENT = $(PYTHON) tools/environment.py
SUITES ?= default
# Many tests wait for real time to pass, as servers do: three at once keep two cores at work.
JOBS ?= 3
LOAD ?= 12
RUNS ?= 10

.DEFAULT_GOAL := help
.PHONY: help demo test versions soak lint format generate dashboards robustness campaign bench scale mutants tools helm slurm cluster images

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: tools ## train a small model with metrics, alerts and a printed page; ARGS="--fault nan" and others
	@$(IN_ENVIRONMENT) trainbeacon demo $(ARGS)

test: tools helm ## all tests, and the slowest of them; ARGS="tests/unit -k name" for some
	@$(IN_ENVIRONMENT) pytest -n $(JOBS) --dist loadfile --durations=30 --durations-min=1 $(ARGS)

versions: ## scenarios of the rules and queries of the dashboards on later versions of Prometheus
	@$(PYTHON) tools/stack.py default trixie sid
	@$(IN_ENVIRONMENT) pytest -n $(JOBS) --dist loadgroup --later-versions \
	  tests/rules/test_promtool.py tests/e2e/test_dashboard_data.py $(ARGS)

soak: tools helm ## all tests RUNS=10 times in a row beside LOAD=12 busy processes; takes hours
	@$(IN_ENVIRONMENT) python tools/load.py --processes $(LOAD) --runs $(RUNS) -- \
	  pytest -n $(JOBS) --dist loadfile $(ARGS)

lint: helm ## ruff, mypy, and whether generated files are up to date; ARGS=FILE for mypy of some files
	@$(IN_ENVIRONMENT) ruff check .
	@$(IN_ENVIRONMENT) ruff format --check .
	@$(IN_ENVIRONMENT) mypy $(ARGS)
	@$(IN_ENVIRONMENT) python tools/generate.py --check

format: ## let ruff format the code and fix what it can
	@$(IN_ENVIRONMENT) ruff check --fix .
	@$(IN_ENVIRONMENT) ruff format .

generate: helm ## write the generated files: METRICS.md, dashboards, the chart's files, manifests, golden scrape
	@$(IN_ENVIRONMENT) python tools/generate.py
	@$(IN_ENVIRONMENT) python -m tests.golden.rewrite

dashboards: ## write grafana/dashboards/*.json from their sources
	@$(IN_ENVIRONMENT) python -m grafana.build

robustness: ## attacks, scarce machines, long runs; writes the figures of docs/robustness.md
	@$(IN_ENVIRONMENT) python -m tests.robustness $(ARGS)

campaign: tools ## faults in real jobs, judged by the messages that arrive, and days of healthy history; two hours
	@$(IN_ENVIRONMENT) python -m tests.campaign $(ARGS)
	@$(IN_ENVIRONMENT) python -m tests.campaign.history $(HISTORY)
	@$(IN_ENVIRONMENT) python -m tests.campaign --report

bench: ## the figures of the README, measured here; PEERS=1 installs the other loggers to measure beside
	@if [ -n "$(PEERS)" ]; then \
	  $(IN_ENVIRONMENT) python -m pip install --quiet -c tools/constraints.txt --editable '.[test,bench]'; fi
	@$(IN_ENVIRONMENT) python -m benchmarks $(ARGS)

mutants: tools ## break every alert rule in every one way and see which no test finds; half an hour; writes docs/mutants.md
	@$(IN_ENVIRONMENT) python -m tools.mutants $(ARGS)

scale: tools ## what a fleet of up to 4,096 ranks costs Prometheus here; takes an hour and a half
	@$(IN_ENVIRONMENT) python -m benchmarks.scale $(ARGS)

tools: ## Prometheus and Alertmanager, from the PATH or unpacked; SUITES="default trixie sid" for later versions
	@$(PYTHON) tools/stack.py $(SUITES)

helm: ## helm and kubectl for the chart, unpacked outside this folder
	@$(IN_ENVIRONMENT) python tools/helm.py

slurm: ## train.sbatch, epilog and the rest on a real Slurm of three nodes; as root, with Debian's slurm-wlm; ARGS=--short
	@$(IN_ENVIRONMENT) python -m tests.slurm $(ARGS)

images: tools helm ## deploy/images built by podman, and run as the chart says; as root, with Debian's podman
	@$(IN_ENVIRONMENT) python -m tests.images $(ARGS)

cluster: tools ## faults that only a cluster has, on hosts of their own: OOM kills, lost and cut-off hosts; as root; ARGS=--short
	@$(IN_ENVIRONMENT) python -m tests.cluster $(ARGS)
