# `make` lists the targets. All it needs is Python 3.11 or newer.

PYTHON ?= python3
export DJANGO_DEBUG ?= 1
# uv uses the system's certificates, which may include a company's own.
export UV_SYSTEM_CERTS ?= 1
MAKEFLAGS += --jobs=2
.DEFAULT_GOAL := help

# --- Environments ---------------------------------------------------------------------
# A stamp file marks a complete environment. Its name is a checksum of the interpreter,
# the folder and the pins: an incomplete, moved or outdated environment is made again.

BASE := $(shell $(PYTHON) -c 'import sys; print(sys._base_executable)' 2>/dev/null)
made_of = $(shell { $(BASE) -VV; pwd; cat $(1) </dev/null; } 2>&1 | cksum | cut -d ' ' -f 1)
RUN := .venv/run-$(call made_of,requirements.txt)
DEV := .venv/dev-$(call made_of,requirements.txt requirements-dev.txt)
ENGINES := .venv-engines/run-$(call made_of,requirements-engines.txt)
PEERS := $(wildcard benchmarks/peers/*.txt)
BENCH := .venv-bench/run-$(call made_of,requirements.txt $(PEERS))

define check_python
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
{ echo "'$(PYTHON)' is not Python 3.11 or newer. Name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }; \
$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
{ echo "'$(PYTHON)' lacks venv. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
endef

$(RUN):
	@$(check_python)
	@echo "Making .venv ..."
	@rm -rf .venv && $(BASE) -m venv .venv
	@.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $@

$(DEV): $(RUN)
	@echo "Adding the test tools to .venv ..."
	@rm -f .venv/dev-*
	@.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

$(ENGINES):
	@$(check_python)
	@echo "Making .venv-engines ..."
	@rm -rf .venv-engines && $(BASE) -m venv .venv-engines
	@.venv-engines/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-engines.txt
	@touch $@

$(BENCH): $(DEV)
	@echo "Making .venv-bench, an environment for the project and for each peer ..."
	@rm -rf .venv-bench
	@for pins in requirements.txt $(PEERS); do \
		home=.venv-bench/$$(basename $$pins .txt) && \
		.venv/bin/uv venv --quiet --python $(BASE) $$home && \
		.venv/bin/uv pip install --quiet --compile-bytecode --python $$home/bin/python -r $$pins || exit 1; \
	done
	@touch $@

# --- Running --------------------------------------------------------------------------
# run-producer and run-consumer use the same KAFKA_PORT and DYNAMODB_PORT as the stack.
ifdef KAFKA_PORT
export KAFKA_BOOTSTRAP_SERVERS ?= 127.0.0.1:$(KAFKA_PORT)
endif
ifdef DYNAMODB_PORT
export DYNAMODB_ENDPOINT_URL ?= http://127.0.0.1:$(DYNAMODB_PORT)
endif
# A shell that points at production must not receive test data.
AT_HOME := env $(patsubst %,-u%,$(filter-out KAFKA_PORT DYNAMODB_PORT,$(filter KAFKA_% DYNAMODB_% AWS_%,$(.VARIABLES))))
RUN_LOCAL := $(AT_HOME) DJANGO_DEBUG=1 .venv/bin/python manage.py run_local
HAS_DOCKER = docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1

.PHONY: run local-dev-stack local-dev-stack-down run-producer run-consumer clean distclean
run: $(RUN) $(ENGINES) ## everything on this machine: engines, web on 3000, consumer
	@exec $(RUN_LOCAL)

local-dev-stack: $(RUN) $(ENGINES) ## Kafka, its UI and DynamoDB in the background, ready
	@if $(HAS_DOCKER); then exec docker compose up --detach --wait; fi; \
	echo "No Docker here: the embedded engines instead, and nothing on :8080."; \
	exec $(RUN_LOCAL) --detach

local-dev-stack-down: $(RUN) ## stop what local-dev-stack started
	@if $(HAS_DOCKER); then docker compose down; fi; exec $(RUN_LOCAL) --stop

run-producer: $(RUN) ## the web process (DJANGO_DEBUG=0: the production server)
	@.venv/bin/python manage.py migrate --verbosity 0
	@case $$DJANGO_DEBUG in 0|false|no|off) server=serve;; *) server=runserver;; esac; \
	exec .venv/bin/python manage.py $$server

run-consumer: $(RUN) ## the consumer
	@exec .venv/bin/python manage.py consume_profiles

clean: ## remove all state: tables, logs, the site's database
	@test ! -s var/run_local.pid || $(RUN_LOCAL) --stop
	@rm -rf var

distclean: clean ## remove the environments too
	@rm -rf .venv .venv-engines .venv-bench

# --- Checking -------------------------------------------------------------------------

.PHONY: test mutants test-real chaos outage bench check check-compose fix docs screenshots
test: $(DEV) $(ENGINES) ## every test that needs no JVM or Docker
	@# loadfile: one process runs all tests of a file, so that its engines start once.
	@# A crashed process ends the run: xdist gives its files to no other, and would hang.
	@rm -rf var/coverage
	@$(AT_HOME) .venv/bin/coverage run -m pytest --numprocesses 4 --dist loadfile \
	--no-loadscope-reorder --max-worker-restart 0
	@.venv/bin/coverage combine --quiet && .venv/bin/coverage report
	@command -v chromium >/dev/null || echo "Not run: the tests in a browser: apt install chromium, then make test"
	@echo "Not run: the tests against Apache Kafka and DynamoDB Local (Java 17): make test-real"

mutants: $(DEV) ## break the code on purpose: a fast test has to fail each time
	@exec $(AT_HOME) .venv/bin/python -m tests.mutants

test-real: $(DEV) ## the tests against Apache Kafka and DynamoDB Local, on Java 17
	@exec $(AT_HOME) .venv/bin/pytest -m "real or stack" --engines=real

chaos: $(DEV) ## faults under load, with a judge (CHAOS_SECONDS=300, CHAOS_SEED), on Java 17
	@exec $(AT_HOME) .venv/bin/python -m tests.chaos.run

outage: $(DEV) ## a long outage of the engines, and what it leaks (OUTAGE_SECONDS=900), on Java 17
	@exec $(AT_HOME) .venv/bin/python -m tests.chaos.outage

bench: $(DEV) $(ENGINES) $(BENCH) ## the benchmark with its peers (PARTS="single bulk"), on Java 17
	@exec $(AT_HOME) .venv/bin/python -m benchmarks $(PARTS)

check: $(DEV) check-compose docs ## format, lint, types, import rules, links, settings, migrations
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/djade --check --target-version 5.2 $$(find profiles patientsite -name '*.html')
	.venv/bin/python manage.py makemigrations --check --dry-run
	DJANGO_DEBUG=0 DJANGO_ALLOWED_HOSTS=profiles.example.org AWS_DEFAULT_REGION=eu-central-1 \
	DJANGO_SECRET_KEY=$$(.venv/bin/python -c 'import secrets; print(secrets.token_urlsafe(50))') \
	.venv/bin/python manage.py check --deploy --fail-level WARNING

check-compose: $(DEV)
	.venv/bin/python -m pytest -q -rs tests/check_compose.py tests/test_dockerfile.py

docs: $(DEV) ## build the documentation in var/docs; a broken link fails
	@.venv/bin/sphinx-build --quiet --fail-on-warning --fresh-env --conf-dir docs . var/docs
	@echo "Built: var/docs/index.html"

screenshots: $(DEV) $(ENGINES) ## take the README's screenshots again, in Chromium
	@exec $(AT_HOME) .venv/bin/python -m tests.browser.screenshots

fix: $(DEV) ## format, and fix what the linter can
	.venv/bin/ruff format
	.venv/bin/ruff check --fix

# --- Dependencies ---------------------------------------------------------------------

UV = var/uv/bin/uv
LOCK = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command 'make mod-tidy'

.PHONY: mod-tidy mod-dl help
mod-tidy: ## pin the dependencies of pyproject.toml, with hashes
	@# uv has an environment of its own: new pins may contradict those in .venv.
	@$(check_python)
	@$(BASE) -m venv var/uv && var/uv/bin/pip install --quiet --disable-pip-version-check "$$(grep -o 'uv==[0-9.]*' pyproject.toml)"
	@$(LOCK) pyproject.toml --all-extras --group dev --output-file requirements-dev.txt
	@$(LOCK) pyproject.toml --constraint requirements-dev.txt --output-file requirements.txt
	@$(LOCK) --group engines --output-file requirements-engines.txt

mod-dl: $(DEV) $(ENGINES) ## install all pinned dependencies
	@echo "Installed: .venv and .venv-engines"

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-22s %s\n", $$1, $$2 }' Makefile
