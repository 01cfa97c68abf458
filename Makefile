# `make help` lists the targets. Each installs what it needs into .venv first.
PYTHON ?= python3
HOST   ?= 127.0.0.1
PORT   ?= 8000
JOBS   ?= 3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: serve deploy test fuzz soak check format docs bench hostile clean help
.DEFAULT_GOAL := serve

# One stamp for each of serving, deploying, developing and the documentation. It is renewed when the requirements change.
$(VENV)/.serve: pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (once; torch is the large part)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --progress-bar on -c constraints.txt -e '.[imagegen]'
	@touch $@

$(VENV)/.deploy: $(VENV)/.serve
	$(BIN)/pip install --progress-bar on -c constraints.txt -e '.[imagegen,deploy]'
	@touch $@

$(VENV)/.dev: $(VENV)/.deploy
	$(BIN)/pip install --progress-bar on -c constraints.txt -e '.[imagegen,deploy,dev,docs]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/pip install --progress-bar on -c constraints.txt -e '.[imagegen,deploy,dev,bench]'
	@touch $@

$(VENV)/.docs: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --progress-bar on -c constraints.txt -e '.[docs]'
	@touch $@

serve: $(VENV)/.serve ## serve chutes_app:chute on HOST:PORT
	$(BIN)/chutes run chutes_app:chute --host $(HOST) --port $(PORT)

deploy: $(VENV)/.deploy ## deploy chutes_app:chute on a Ray cluster on this machine
	$(BIN)/chutes deploy chutes_app:chute

test: $(VENV)/.dev ## run every test that needs no GPU, in JOBS processes (3); soak and fuzz have their own targets
	$(BIN)/pytest -m "not gpu" -n $(JOBS) --no-loadscope-reorder

fuzz: $(VENV)/.dev ## send random JSON, HTTP and forms for FUZZ_SECONDS (600)
	$(BIN)/pytest -m fuzz tests/fuzz -s

soak: $(VENV)/.dev ## send mixed traffic to the image service for SOAK_MINUTES (30)
	$(BIN)/pytest -m soak tests/soak -s

check: $(VENV)/.dev ## check lint, format, types and import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## format the code and fix what ruff can fix
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.docs ## build the documentation into site/; warnings are errors
	$(BIN)/python -m docs._generate
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.bench ## measure the cost of the runtime per request, beside plain FastAPI and LitServe
	$(BIN)/python -m benchmarks.overhead

hostile: $(VENV)/.dev ## measure hostile input, overload and disconnects; write docs/reliability.md
	status=0; for what in inputs overload disconnects; do \
	  $(BIN)/python -m benchmarks.hostile $$what --write docs/reliability.md || status=1; done; exit $$status

clean: ## remove the virtual environment, caches and the site
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis site

help: ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1\t\2/p' Makefile | expand -t 16
