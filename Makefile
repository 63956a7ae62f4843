# All that a target needs is made first, by tools/bootstrap.py: only Python 3.11 or newer, make and git must be here.

PYTHON ?= python3

BOOTSTRAP = @command -v $(PYTHON) >/dev/null || { \
	echo "tollgate: $(PYTHON) is not on PATH; name a Python 3.11 or newer: make PYTHON=python3.12 $@" >&2; exit 1; }; \
	$(PYTHON) tools/bootstrap.py
IN = @.venv/bin/
SEEDED = @PYTHONHASHSEED=0 .venv/bin/
SAM = @SAM_CLI_TELEMETRY=0 .local/venv/sam/bin/sam

.PHONY: help run demo replay admin-key redrive retell recount rerate export-errors restore restore-drill openapi examples publish-openapi test test-store test-samlocal faults fuzz bench-ingest bench-entitlements bench-recovery bench-keys cost lint audit pins licences sbom validate format build clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-18s %s\n", $$1, $$2}' Makefile

run:  ## the whole stack on this machine with the demonstration loaded, until Ctrl-C (TOLLGATE_PORT=4566)
	$(BOOTSTRAP) dev ministack sam
	$(IN)python -m tools.local run

demo:  ## the same, but it ends when the demonstration has been shown
	$(BOOTSTRAP) dev ministack sam
	$(IN)python -m tools.local demo

replay:  ## all events of the demonstration once more into the running stack: 100% duplicates
	$(BOOTSTRAP) dev
	$(IN)python -m tools.demo

admin-key:  ## an API key with the scope admin, shown once (ARGS="--stack tollgate-prod": of a stack on AWS; --scope, --name)
	$(BOOTSTRAP) dev
	$(IN)python -m tools.keys $(ARGS)

redrive:  ## dead messages of events back to be counted, of alerts to be told (ARGS="--stack tollgate-prod": of a stack on AWS)
	$(BOOTSTRAP) dev
	$(IN)python -m tools.redrive $(ARGS)

retell:  ## changes that the outbox could not tell, read again from the streams within a day (ARGS="--stack tollgate-prod")
	$(BOOTSTRAP) dev
	$(IN)python -m tools.retell $(ARGS)

recount:  ## a counter added up from the archive: ARGS="--customer c --feature f [--period 2026-11-01T00:00:00Z]"
	$(BOOTSTRAP) dev
	$(IN)python -m tools.recount $(ARGS)

rerate:  ## its usage priced by another plan version: ARGS="--customer c --feature f --plan code [--version n]"
	$(BOOTSTRAP) dev
	$(IN)python -m tools.rerate $(ARGS)

export-errors:  ## the ledger of failed operations as JSON Lines (ARGS="--status manual --output errors.jsonl")
	$(BOOTSTRAP) dev
	$(IN)python -m tools.export_errors $(ARGS)

restore:  ## the four tables as they were at a second, as new ones: ARGS="--stack tollgate-prod --at 2026-11-01T12:00:00Z [--copy-back]"
	$(BOOTSTRAP) dev
	$(IN)python -m tools.restore $(ARGS)

restore-drill:  ## spoil what a customer of its own has, restore it, compare (ARGS="--stack tollgate-dev": on AWS)
	$(BOOTSTRAP) dev
	$(IN)python -m tools.restore_drill $(ARGS)

openapi:  ## write openapi.json from the routes
	$(BOOTSTRAP) dev
	$(IN)python -m tools.openapi

examples:  ## tell the story of docs/examples.json anew, and write openapi.json with it
	$(BOOTSTRAP) dev
	@PYTHONPATH=layers/common .venv/bin/python -m tests.fuzz.story
	$(IN)python -m tools.openapi

publish-openapi:  ## with a release: openapi.json is what later ones must not break (refused if it breaks the one before)
	$(BOOTSTRAP) dev
	$(IN)python -m tools.breaking --publish

test:  ## all tests; ARGS="tests/unit -k tiers" goes to pytest instead
	$(BOOTSTRAP) dev ministack sam
ifdef ARGS
	$(IN)pytest $(ARGS)
else
	$(SEEDED)pytest -n 2 -m "not stack and not samlocal"
	$(IN)pytest -m stack
endif

test-store: export TOLLGATE_DYNAMODB_ENDPOINT := $(or $(TOLLGATE_DYNAMODB_ENDPOINT),ministack)
test-store:  ## the stores on MiniStack, or on any DynamoDB: TOLLGATE_DYNAMODB_ENDPOINT=aws, or http://localhost:8000
	$(BOOTSTRAP) dev ministack
	$(IN)pytest -n 2 $(or $(ARGS),tests/store/test_engines.py $(wildcard tests/store/test_*_store.py))

test-samlocal:  ## every event of events/ and the README's first session in containers, by sam local; needs Docker, or root
	$(BOOTSTRAP) dev ministack sam
	$(IN)python -m tools.samlocal .venv/bin/pytest -n 2 --dist worksteal tests/samlocal $(ARGS)

faults:  ## counter and ledger under faults: SEEDS (a night: 10000) seeds from FIRST=1 on, each printed if it fails; SEED=n repeats one
	$(BOOTSTRAP) dev
ifdef SEED
	$(SEEDED)pytest tests/faults/test_random_faults.py tests/faults/test_recovery_stops.py tests/faults/test_recovery_weather.py -k "whatever or whenever or bad_weather"
else
	$(SEEDED)pytest -n 2 tests/faults
endif

fuzz:  ## every route, by openapi.json and by hand: CASES=20000 requests or more and RAW=4000 of them odd, from SEED=1 on
	$(BOOTSTRAP) dev
	@PYTHONPATH=layers/common .venv/bin/python -m tests.fuzz
	@RAW=$(or $(RAW),4000) .venv/bin/pytest -q tests/fuzz/test_raw.py

bench-ingest:  ## what counting an event costs, beside the usual designs (ARGS="units cpu": parts; ARGS=--profile)
	$(BOOTSTRAP) dev
	@PYTHONPATH=layers/common .venv/bin/python -m bench.ingest $(ARGS)

bench-entitlements:  ## what deciding costs: requests, units, CPU, cold start (ARGS="requests cold": parts)
	$(BOOTSTRAP) dev sam
	@PYTHONPATH=layers/common .venv/bin/python -m bench.entitlements $(ARGS)

bench-recovery:  ## what a failed operation costs: requests and units (ARGS="one sweeps": parts)
	$(BOOTSTRAP) dev
	@PYTHONPATH=layers/common .venv/bin/python -m bench.recovery $(ARGS)

bench-keys:  ## whether the time of an answer tells which key ids there are
	$(BOOTSTRAP) dev
	@PYTHONPATH=layers/common .venv/bin/python -m bench.keys $(ARGS)

cost:  ## what a month costs on AWS, for three sizes, or ARGS="--events 1000000 --batch 100 --checks 1000000"
	$(BOOTSTRAP) dev
	@PYTHONPATH=layers/common .venv/bin/python -m bench.cost $(ARGS)

lint:  ## ruff, mypy and sam validate: what CI refuses
	$(BOOTSTRAP) dev sam
	$(IN)ruff check
	$(IN)ruff format --check
	$(IN)mypy
	$(SAM) validate --lint

audit:  ## checkov on the template, known vulnerabilities of all that is pinned (ARGS=--allow-unanswered: where no service answers)
	$(BOOTSTRAP) dev checkov audit
	@.local/venv/checkov/bin/checkov --config-file .checkov.yaml
	$(IN)python -m tools.audit $(ARGS)

COMMON = layers/common/requirements
pins:  ## compile what each .in file asks for into pins with hashes (ARGS="--upgrade", or "--upgrade-package stripe")
	$(BOOTSTRAP) dev
	@for file in $(COMMON).in $(filter-out $(COMMON).in,$(wildcard layers/common/*.in)) $(wildcard tools/requirements/*.in); do \
		case $$file in \
			$(COMMON).in) more= ;; \
			layers/*) more=$$(sed -n 's/^\([^=]*\)==.*/--no-emit-package \1/p' $(COMMON).txt) ;; \
			*/dev.in) more="--override tools/requirements/overrides.txt" ;; \
			*) more= ;; \
		esac; \
		.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
			--no-header --no-annotate $$more $(ARGS) $$file --output-file $${file%.in}.txt || exit 1; \
	done

licences:  ## write docs/licences.md from what ships
	$(BOOTSTRAP) dev
	$(IN)python -m tools.licences

sbom:  ## what the layers ship, with versions and hashes, as CycloneDX: .local/sbom.json
	$(BOOTSTRAP) dev audit
	@cat layers/common/*.txt | PYTHONWARNINGS=ignore .local/venv/audit/bin/cyclonedx-py requirements \
		--pyproject pyproject.toml --output-reproducible --output-format JSON --output-file .local/sbom.json -
	@echo "the layers' packages are in .local/sbom.json"

validate:  ## the template alone
	$(BOOTSTRAP) dev sam
	$(SAM) validate --lint

format:  ## let ruff write what it can
	$(BOOTSTRAP) dev
	$(IN)ruff check --fix
	$(IN)ruff format

build:  ## for AWS: python3.13 on arm64 (ARGS="--python-version 3.12 --architecture x86_64"); then sam deploy
	$(BOOTSTRAP) dev sam
	$(IN)python -m tools.deploy $(ARGS)

clean:  ## remove all that was made: environments, builds, logs, caches
	rm -rf .venv .local .aws-sam .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
