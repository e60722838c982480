# What a newcomer and CI type. Each target does the set-up that it needs; PYTHON=/path/to/python names the interpreter,
# TORCH_INDEX=URL a package index for torch only.
PYTHON ?= python3
TORCH_INDEX ?=
export PYTHON TORCH_INDEX

BIN := .venv/bin
CORPUS := data/python-stdlib

.PHONY: help train test test-full check bench docs clean

help:
	@echo "make train      train a GPT on the Python standard library's sources, on two processes"
	@echo "make test       every check and every test"
	@echo "make test-full  the same, with the long tests at full length"
	@echo "make check      format, lint and types only"
	@echo "make bench      throughput and memory beside plain PyTorch and megatron-core"
	@echo "make docs       docs/run-file.md anew, from the config classes"
	@echo "make clean      remove caches and builds; environments, corpora and runs stay"

train:
	@tools/setup.sh run
	@test -f $(CORPUS)/meta.json || $(BIN)/megalm data prepare python-stdlib --output $(CORPUS) --vocab-size 4096
	@$(BIN)/megalm train examples/quickstart.yaml

# Most tests keep one core busy, or wait, those of clusters for longer: three files at a time. What fails then has to pass
# by itself, since some wait only so long for processes that share two cores with those of other files.
PYTEST := $(BIN)/python -m pytest
ABREAST := --numprocesses=3 --dist=loadfile
AGAIN := --last-failed --last-failed-no-failures=none
test: check
	@failed=0; \
	$(PYTEST) $(ABREAST) --ignore=tests/cluster || \
	$(PYTEST) $(AGAIN) --ignore=tests/cluster || failed=1; \
	$(PYTEST) $(ABREAST) --no-loadscope-reorder tests/cluster || \
	$(PYTEST) $(AGAIN) tests/cluster || failed=1; \
	exit $$failed

test-full: export MEGALM_TEST_FULL=1
test-full: test

check:
	@tools/setup.sh test
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

bench:
	@tools/setup.sh test
	@$(BIN)/python -m benchmarks.throughput

docs:
	@tools/setup.sh test
	@$(BIN)/megalm schema --markdown >docs/run-file.md

clean:
	@rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find megalm tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +
