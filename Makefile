# llm-proxy on one machine, from a clean clone: needs Python 3.11 to 3.14, make and git, nothing else.
# `make` alone lists the targets. Options of a command go in ARGS: make run ARGS="--port 8080".

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

BIN := .venv/bin
INSTALL := sh scripts/environment.sh
TEST_PROCESSES ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 2)
export UV_PYTHON_DOWNLOADS := never
# Certificates are verified as pip and git do: by the machine's own list, if it has one.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /System/Library/Keychains),)
export UV_SYSTEM_CERTS ?= true
endif
CA_BUNDLE := $(firstword $(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt))
ifneq ($(CA_BUNDLE),)
export NODE_EXTRA_CA_CERTS ?= $(CA_BUNDLE)
endif
unexport PYTHONDONTWRITEBYTECODE VIRTUAL_ENV

.PHONY: alarms alerts attack chart play-chart rotation help run secrets setup setup-dev setup-sidecar test test-fast check lint types mypy basedpyright chaos soak
.PHONY: clean conformance docs dashboard-picture examples reckoning screenshots snippets test-without trace-picture
.PHONY: litellm load-locust loop-traces release sbom bench bench-quick profile work test-pythons billing-audit

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' Makefile

run: setup ## Create missing environments, then start the whole stack; Ctrl-C stops it.
	@exec $(BIN)/llm-proxy up --with-parent $(ARGS)

setup: .venv/.stack .venv-sidecar/.sidecar ## Create both environments from the lock files; once, then instant.

test: setup-dev ## Run every test on the real stack, two processes more than cores, for tests wait; ARGS names some of them.
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) $(ARGS)

test-fast: setup-dev ## Run the tests that need neither LiteLLM nor Postgres nor Valkey.
	@$(BIN)/python -m pytest -n auto -m fast $(ARGS)

test-without: setup-dev ## Run the sidecar's tests and flows without each part that only speeds it up, and without all; ARGS="--only PARTS TESTS".
	@$(BIN)/python scripts/test_without.py $(ARGS)

test-pythons: setup-dev ## Run every test on each installed supported Python; writes docs/pythons.md. ARGS names some.
	@$(BIN)/python scripts/test_pythons.py $(ARGS)

conformance: setup-dev ## Run real clients of many kinds against the gateway; ARGS names some of them.
	@PYTHONPATH=tests $(BIN)/python -m conformance.run $(ARGS)

examples: setup-dev ## Run the programs of examples/clients, each with its client installed; ARGS names some of them.
	@PYTHONPATH=tests $(BIN)/python -m conformance.examples $(ARGS)

screenshots: setup-dev ## Take pictures of the console's pages, in a real browser; docs/console.md.
	@PYTHONPATH=tests $(BIN)/python -m screenshots

dashboard-picture: setup-dev ## Draw the Grafana dashboard's first panels from a real Prometheus; docs/observe.md.
	@PYTHONPATH=tests $(BIN)/python -m dashboard_picture

trace-picture: setup-dev ## Draw a trace of calls from the spans that the gateway exported; docs/observe.md.
	@PYTHONPATH=tests $(BIN)/python -m trace_picture

check: setup-dev ## Run linters, type checkers, import contracts, the docs' build, the alert rules' tests and every test.
	@$(MAKE) --no-print-directory -j 2 $(if $(filter output-sync,$(.FEATURES)),--output-sync) lint types alerts
	@sh scripts/docs.sh
	@$(MAKE) --no-print-directory test ARGS=--ignore=tests/test_shape.py # lint has run it

docs: setup-dev ## Build the site of the documentation into site/, strictly; check pages, links and snippets, and look at it in a browser.
	@sh scripts/docs.sh
	@$(BIN)/python -m pytest -q -n 2 tests/unit/docs tests/site/in_browser.py $(ARGS)

snippets: setup-dev ## Run the commands and programs that the documentation shows, page by page; CONTRIBUTING.md has the marks.
	@$(BIN)/python -m pytest -q -n 0 tests/snippets/run_pages.py $(ARGS)

alerts: ## Test the alert rules with Prometheus's promtool, if it is available.
	@sh scripts/promtool.sh test rules deploy/alerts_test.yml deploy/alerts_slow_test.yml
	@sh scripts/promtool.sh check config --syntax-only deploy/prometheus.yml

chart: setup-dev ## Test the Helm chart: rendered by the real Helm, checked against Kubernetes' schemas and our rules.
	@$(BIN)/python -m pytest -q tests/stages/stack/test_chart.py tests/stages/stack/test_chart_refusals.py tests/stages/stack/test_chart_network.py $(ARGS)

alarms: setup-dev ## Fire every alert on purpose at a real stack, and mend it by its page; ten minutes.
	@$(BIN)/python -m pytest -n 0 tests/alarms/fired_at_calls.py tests/alarms/fired_at_stores.py $(ARGS)

rotation: setup-dev ## Exchange every secret under load, in both orders; docs/rotation.md.
	@$(BIN)/python -m pytest -n 0 tests/flow/secrets_exchanged.py $(ARGS)

play-chart: setup-dev ## Play the rendered chart with podman, as root; docs/kubernetes.md. ARGS=--as-is builds no images.
	@$(BIN)/python scripts/play_chart.py $(ARGS)

lint: setup-dev ## Check style, imports, shape, Dockerfile and compose file.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_shape.py

types: mypy basedpyright ## Check types, twice: mypy and basedpyright.

mypy: setup-dev
	$(BIN)/mypy

basedpyright: setup-dev
	$(BIN)/basedpyright

attack: setup-dev ## Replay attacks of this class; report in docs/attack.md.
	$(BIN)/python -m bench.attack $(ARGS)

chaos: setup-dev ## Stop one component after the other under load; report in docs/chaos.md.
	$(BIN)/python -m bench.chaos $(ARGS)

soak: setup-dev ## Load one gateway and one sidecar steadily for MINUTES; report in docs/soak.md.
	$(BIN)/python -m bench.soak --minutes $(or $(MINUTES),60) $(ARGS)

loop-traces: setup-dev ## Judge the loop guard on generated runs of agents; the figures of docs/agents/loop_guard.md: ARGS=--held-out.
	PYTHONPATH=tests $(BIN)/python -m traces $(ARGS)

billing-audit: setup-dev ## Compare CALLS calls token by token with what the provider stated; docs/billing_audit.md.
	$(BIN)/python -m bench.billing_audit --calls $(or $(CALLS),5000) $(ARGS)

reckoning: billing-audit # its old name

bench-quick: setup-dev .bench/.others ## Measure every target in four minutes, beside bare relays, ferrogw and LiteLLM; ARGS="--only chain": a part.
	@$(BIN)/python -m bench.compare --quick $(ARGS)

bench: setup-dev .bench/.others ## Measure every target in several rounds, twenty minutes; docs/benchmarks.md, docs/sidecar_cpu.md.
	@$(BIN)/python -m bench.compare $(ARGS)
	@$(BIN)/python -m bench.sidecar_cpu

load-locust: setup-dev .bench/.others ## Put locust, a load tool of other people's, on LiteLLM and on gateway and sidecar.
	@$(BIN)/python -m bench.by_locust $(ARGS)

profile: setup-dev ## Draw a flame graph of the gateway under load; ARGS=sidecar: of the sidecar.
	@$(BIN)/python -m bench.profile $(ARGS)

work: setup-dev ## Count the bytecodes of a call and compare them with the stored counts; bench/work.json.
	@$(BIN)/python -m bench.work

litellm: setup-dev ## Try LiteLLM VERSION in a copy of this project; docs/litellm/VERSION.md says whether it may be taken.
	@$(BIN)/python scripts/litellm_release.py $(VERSION) $(ARGS)

sbom: setup ## Write both environments' packages to dist/sbom/ (CycloneDX); licences, known vulnerabilities.
	@sh scripts/sbom.sh

release: setup-dev ## Build a release of this commit into dist/ and tag it; pushes nothing; docs/release.md.
	@$(BIN)/python scripts/release.py $(ARGS)

secrets: ## Create the secrets docker compose needs, in .env.
	@sh scripts/secrets.sh

clean: ## Remove environments and caches; .env, .keys/ and the data in .local/ stay.
	rm -rf .venv .venv-sidecar .browser .helm .play .uv .sbom .promtool .candidate .pythons
	rm -rf site .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

setup-dev: .venv/.dev .venv-sidecar/.sidecar .browser/.ready .helm/.ready

setup-sidecar: .venv-sidecar/.sidecar

.bench/.others: locks/bench.txt scripts/bench_environment.sh
	@echo "→ the gateways of the comparison (.bench)"
	@sh scripts/bench_environment.sh
	@touch $@

# One stamp a lock file: a changed lock updates its environment, an unchanged one costs nothing.
# A process that compiles its imports at its start keeps 13 MB more as long as it runs.
.venv/.stack: locks/stack.txt pyproject.toml
	@echo "→ environment 1 of 2: the gateway and the local stack (.venv)"
	@$(INSTALL) .venv locks/stack.txt --compile-bytecode
	@touch $@

.venv/.dev: locks/dev.txt .venv/.stack
	@echo "→ what the tests and checks need (.venv)"
	@$(INSTALL) .venv locks/dev.txt
	@touch $@

.browser/.ready: locks/browser/package-lock.json scripts/browser.sh .venv/.dev
	@echo "→ the browser of the tests (.browser)"
	@sh scripts/browser.sh
	@touch $@

# Without a registry it stays missing, and the chart's tests are skipped.
.helm/.ready: locks/chart.txt scripts/chart_tools.sh .venv/.dev
	@echo "→ what tests the Helm chart (.helm)"
	@sh scripts/chart_tools.sh

# LiteLLM without bytecode compiles its failing imports anew on every request.
.venv-sidecar/.sidecar: locks/sidecar.txt pyproject.toml
	@echo "→ environment 2 of 2: LiteLLM's own (.venv-sidecar)"
	@$(INSTALL) .venv-sidecar locks/sidecar.txt --compile-bytecode
	@touch $@
