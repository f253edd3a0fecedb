# Two commands matter: `make up` runs the appliance, `make test` passes the tests.
# Both do all of their set-up on a fresh machine.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := $(shell find appliance healthchecks -name '*.py')

.PHONY: up down status logs smoke test unit e2e faults faults-quick lint compose docs clean
.DEFAULT_GOAL := up

up: $(VENV)/.ready  ## Bring the appliance up and verify it
	@$(BIN)/appliance up --install-engine $(ARGS)

down status logs smoke: $(VENV)/.ready
	@$(BIN)/appliance $@ $(ARGS)

test: lint unit e2e faults-quick  ## Everything that CI runs

unit: $(VENV)/.dev
	$(BIN)/python -m pytest tests/unit --numprocesses 4

e2e: $(VENV)/.dev
	$(BIN)/python -m pytest tests/e2e --junit-xml=reports/e2e.xml

# Those that are quick enough for every run; `make faults` injects them all.
faults-quick: $(VENV)/.dev
	$(BIN)/python -m pytest tests/faults -m "not long" --saturation 20 --junit-xml=reports/faults.xml

faults: $(VENV)/.dev  ## Inject every fault into a real engine, and record what each cost
	$(BIN)/python -m pytest tests/faults --record reports/faults.json

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

compose: $(VENV)/.ready  ## Render the files in compose/ again
	$(BIN)/appliance render compose --portable --set platform=cpu --force -o compose/cpu.yaml
	for product in atlas-a2 atlas-a3; do $(BIN)/appliance render compose --portable --force \
		--snapshot tests/hosts/compose-$$product --set product=$$product -o compose/$$product.yaml || exit 1; done

docs: $(VENV)/.ready  ## Write the tables of both READMEs again
	$(BIN)/python scripts/docs.py

$(VENV)/.ready: requirements/launcher.txt requirements/build.txt pyproject.toml scripts/venv.sh $(SOURCES)
	@PYTHON=$(PYTHON) scripts/venv.sh $(VENV) launcher

$(VENV)/.dev: requirements/dev.txt $(VENV)/.ready
	@PYTHON=$(PYTHON) scripts/venv.sh $(VENV) dev

clean:
	rm -rf $(VENV) reports .mypy_cache .ruff_cache .pytest_cache
