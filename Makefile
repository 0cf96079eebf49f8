# make demo   the learning rate of a small model on real data, end to end
# make unit   the tests that need no server, in about a minute: for while you edit
# make test   all tests
# make check  formatting, lint, types, Dockerfile and compose file
# make mutate small changes to the code, each of which a test must notice
# make chaos  faults at random points for ROUNDS rounds, every loss compared with a run without
.PHONY: demo unit test check mutate chaos clean

PYTHON ?= python3
ROUNDS ?= 10
SEED ?= 0
FAULTS ?= 5
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

demo: $(VENV)/local.done
	$(BIN)/justright tune examples/digits.py:Digits --trials 30 --seed 0

unit: $(VENV)/dev.done
	$(BIN)/python -m pytest -n 2 --dist worksteal --hypothesis-profile quick tests/unit

test: $(VENV)/dev.done
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/dev.done
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m deploy.lint

mutate: $(VENV)/dev.done
	$(BIN)/python -m tests.mutate

chaos: $(VENV)/dev.done
	$(BIN)/python -m tests.chaos --rounds $(ROUNDS) --seed $(SEED) --faults $(FAULTS)

clean:
	rm -rf $(VENV) build *.egg-info

# One step for each set of packages, done again when its versions change.
$(VENV)/local.done: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable '.[local,examples]'
	touch $@

$(VENV)/dev.done: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable '.[test,check]'
	touch $@
