# make demo   install into .venv, then run the main job with all designs
# make test   install, then every check and every test
# make check  what every commit passes: format, lint, types
# make generated  write include/pvpmu.h and docs/generated anew
# make bench  the full measurement, ten runs as in the 2021 mail
# make results  measure all designs and write docs/results.md with its drawings and tables
# make screenshot  run four vCPUs for a minute, watch them, and write docs/images/top.svg
# make stress two million random operations on trap, page and oracle, every broken machine, and
#             pvpmu-guest under the kit's host
# make model  check the page protocol by machine, in full; needs spin and gcc (docs/model)
# make clean  remove what the above made

PYTHON ?= python3
# Tests of so many files at once: many wait for processes more than they compute. Every worker imports
# every test, so that more of them cost more than they bring.
JOBS ?= 3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Tests start hundreds of interpreters: what was compiled is kept, whatever the environment says.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

.PHONY: demo test tests collected check lint types generated bench results screenshot stress model clean

demo: $(INSTALLED)
	$(BIN)/pvpmu bench --scenario br_instr --transport process

test: lint collected
	$(MAKE) --no-print-directory -j 2 types tests

# Beside the types, which keep one CPU busy for a minute.
tests: $(INSTALLED)
	$(PYTEST) -n $(JOBS) --dist loadfile --no-loadscope-reorder

# Once before the workers, which would all compile the same at the same time.
collected: $(INSTALLED)
	@$(PYTEST) --collect-only --quiet | tail -n 1

check: lint types

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(INSTALLED)
	$(BIN)/mypy

generated: $(INSTALLED)
	$(BIN)/python -m pvpmu.abi

bench: $(INSTALLED)
	$(BIN)/pvpmu bench --scenario br_instr --transport process --runs 10 --json bench.json

results: $(INSTALLED)
	$(BIN)/pvpmu bench --scenario br_instr-trace --design all --runs 2 --report docs

screenshot: $(INSTALLED)
	$(BIN)/python docs/screenshot.py

stress: $(INSTALLED)
	$(BIN)/pvpmu conform selftest
	$(BIN)/pvpmu conform guest
	$(BIN)/pvpmu conform random --ops 2000000

model:
	$(PYTHON) docs/model/verify.py

clean:
	rm -rf $(VENV) build dist bench.json .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"pvpmu needs Python 3.11 or newer, $(PYTHON) is {v.major}.{v.minor}")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@
