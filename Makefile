# make run    set up .venv and start everything
# make test   set up .venv and pass all tests
#
# Set-up takes minutes the first time and nothing after that.  PYTHON=/path/to/python3.11 chooses another Python;
# README, "Choosing torch", says which build of torch is taken and how to choose another.

PY := .venv/bin/python
PYTEST := $(PY) -m pytest
# Many tests wait for processes of their own. No more than four at once: each of them may start several.
SIDE_BY_SIDE := -n logical --maxprocesses 4 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup run test faults quick check bench bench-inference clean

help:
	@echo 'make run     set up .venv and start everything: Redis, ingress, inference, egress'
	@echo 'make test    set up .venv and pass all tests'
	@echo 'make faults  the longer fault tests, then 100,000 messages while everything is killed at random (FAULTS="--seed 7" …)'
	@echo 'make quick   the tests that take less than a minute together'
	@echo 'make bench   Cauce beside its peers, in one run, about half an hour (BENCH="--rounds 1 --messages 5000" for a quick look)'
	@echo 'make bench-inference  the engine beside transformers alone (BENCH="--systems one,slots --rounds 1" for a quick look)'
	@echo 'make check   ruff, mypy, and the tests of architecture and documentation'
	@echo 'make setup   only set up .venv'
	@echo 'make clean   delete .venv and caches (./data, your conversations, stays)'

setup:
	@deploy/venv.sh

run: setup
	@.venv/bin/cauce up

test: setup
	@$(PYTEST) $(SIDE_BY_SIDE) -m 'not long'

faults: setup
	@$(PYTEST) -m long
	@PYTHONPATH=tests $(PY) -m tests.faults $(FAULTS)

quick: setup
	@$(PYTEST) $(SIDE_BY_SIDE) -m 'not slow and not long'

check: setup
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check -q .
	@$(PY) -m mypy
	@$(PYTEST) -q tests/test_architecture.py tests/test_documentation.py

bench: setup .venv-bench/.made
	@$(PY) -m bench $(BENCH)

bench-inference: setup
	@$(PY) -m bench.inference $(BENCH)

# The peers live apart: their requirements are none of ours.
.venv-bench/.made: bench/peers/requirements.txt
	@echo "setting up the peers in .venv-bench"
	@$(PY) -m venv .venv-bench
	@.venv-bench/bin/python -m pip --disable-pip-version-check install -q -r bench/peers/requirements.txt
	@touch $@

clean:
	rm -rf .venv .venv-bench build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
