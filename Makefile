# The whole vocabulary: setup demo serve test test-all check bench docs (and demo-model, format, clean).
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Where the engine runs: cpu, or cuda.
ENGINE ?= cpu
# An index that holds PyTorch's CPU wheels, where pip does not find one by itself.
TORCH_INDEX_URL ?=
# For serve: a model directory or Hugging Face name, and a TOML file of settings.
MODEL ?=
CONFIG ?=
# Further arguments for demo, serve, demo-model, test and bench.
ARGS ?=

.PHONY: setup litellm demo demo-model serve test test-all check bench docs format clean help

help:  ## What can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready  ## Make the environment (ENGINE=cpu|cuda)

$(VENV)/.ready: pyproject.toml deploy/torch_cpu.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make setup PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
		|| { echo "Python's venv module is missing. On Debian: apt-get install -y python3-venv"; exit 1; }
	@command -v g++ >/dev/null \
		|| { echo "A C++ compiler is needed (vLLM compiles kernels). On Debian: apt-get install -y g++"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing torch and vLLM into $(VENV) (4.4 GB for ENGINE=cpu): some minutes, without a word in between."
ifeq ($(ENGINE),cpu)
	@$(BIN)/pip install --quiet $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) "torch==2.13.0+cpu" \
		|| { echo "No CPU wheel of torch 2.13.0 was found. Name the index of PyTorch's CPU wheels (its install page"; \
		     echo "shows it): make setup TORCH_INDEX_URL=...   With a GPU: make setup ENGINE=cuda"; exit 1; }
	$(BIN)/pip install --quiet -e ".[server,engine-cpu,learner,demo,dev]"
	$(BIN)/python deploy/torch_cpu.py
else
	$(BIN)/pip install --quiet -e ".[server,engine,learner,demo,dev]"
endif
	@touch $@

# LiteLLM wants an older `openai` than we do, so it has an environment of its own; one test runs it from there.
litellm: $(VENV)-litellm/.ready

$(VENV)-litellm/.ready: tests/e2e/litellm.txt
	$(PYTHON) -m venv $(VENV)-litellm
	$(VENV)-litellm/bin/pip install --quiet -r tests/e2e/litellm.txt
	@touch $@

demo: setup  ## The main job: users chat, a learner learns, adapters are gated and swapped in
	$(BIN)/python -m clients.demo $(ARGS)

demo-model: setup  ## Train the shapes model again (about an hour on two cores)
	$(BIN)/python -m clients.demo.train --out build/shapes_vlm $(ARGS)

serve: setup  ## Keep the service running (MODEL=directory or Hugging Face name, CONFIG=settings.toml)
	$(BIN)/plumbline up $(if $(MODEL),--model $(MODEL)) $(if $(CONFIG),--config $(CONFIG)) $(ARGS)

# Beside each other, for the tests of the engine mostly wait for it: the engine's and these directories, and all others.
BESIDE := tests/browser tests/clients tests/docs tests/exchange tests/faults tests/observability

test: setup litellm  ## Tests that hold the promises, real engine included (at most 12 minutes)
	@mkdir -p build
	@# Status 5: no test was chosen.
	@( $(BIN)/python -m pytest -m "engine and not slow" $(ARGS); engine=$$?; \
	   $(BIN)/python -m pytest -m "not engine and not slow" $(BESIDE) $(ARGS); others=$$?; \
	   test $$engine = 0 -o $$engine = 5 && test $$others = 0 -o $$others = 5 ) > build/test-beside.log 2>&1 & beside=$$!; \
	trap "kill $$beside" INT TERM; \
	$(BIN)/python -m pytest -m "not engine and not slow" $(BESIDE:%=--ignore=%) $(ARGS); others=$$?; \
	wait $$beside; beside=$$?; cat build/test-beside.log; \
	test $$beside = 0 && test $$others = 0 -o $$others = 5

test-all: setup litellm  ## All tests, crash loops and long runs included; wants PostgreSQL, Prometheus and Chromium
	PLUMBLINE_REQUIRE_POSTGRES=1 PLUMBLINE_REQUIRE_PROMETHEUS=1 PLUMBLINE_REQUIRE_BROWSER=1 $(BIN)/python -m pytest $(ARGS)

check: setup  ## Lint, format, types, layers, and that the product knows no world
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@! grep -rniE --include='*.py' '\b(circle|triangle)s?\b' reward server learner clients --exclude-dir=demo \
		|| { echo "Only clients/demo/ may know shapes."; exit 1; }

bench: setup  ## Every benchmark, quick; ARGS= for the full runs
	@set -e; for file in benchmarks/[a-z]*.py; do \
		$(BIN)/python -m benchmarks.$$(basename $$file .py) $(if $(ARGS),$(ARGS),--quick); done

docs: setup  ## The documentation's site, in build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

format: setup  ## Format and sort
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the environment and what was built
	rm -rf $(VENV) $(VENV)-litellm build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
