# Two commands on a fresh machine: `make demo` and `make test`. Each makes the environment first.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
MOTO := .moto/.ready

.PHONY: setup demo test lint-and-unit-tests ray-tests test-all lint fast clean

setup: $(STAMP)  ## the environment: a venv, pip, versions pinned by constraints.txt

# Byte code is written once, at the first import, whatever the environment says: every lane is a process of its own, and
# compiling torch and transformers again in each costs more than a small study.
unexport PYTHONDONTWRITEBYTECODE
IMPORTED := search.study.run, search.trial.work, search.results.report, ray.train.torch, ray.tune, wandb, datasets, \
	sklearn.linear_model, transformers.models.bert.modeling_bert, transformers.models.albert.modeling_albert

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -c "import $(IMPORTED)"
	touch $@

$(MOTO): tests/moto.txt  # an S3 server for tests, in an environment of its own
	$(PYTHON) -m venv .moto
	.moto/bin/python -m pip install --quiet --disable-pip-version-check -r tests/moto.txt
	touch $@

demo: setup  ## a real study on the embedded default, into runs/demo
	@begun=$$(date +%s); \
	$(BIN)/distilsearch run docstrings --output runs/demo && \
	echo "make demo took $$(( $$(date +%s) - begun )) seconds after setup"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup $(MOTO)  ## lint, types, import rules, and all tests but the slow ones; Ray's beside the others, since they wait much
	@$(MAKE) --no-print-directory -j2 --output-sync=line lint-and-unit-tests ray-tests

lint-and-unit-tests: lint
	$(BIN)/python -m pytest -n 2 -m "not ray and not slow and not gpu"

ray-tests: setup
	$(BIN)/python -m pytest -m "ray and not slow and not gpu"

test-all: lint $(MOTO)  ## the slow ones too: lanes killed, hung, of several workers
	$(BIN)/python -m pytest -m "not gpu"

fast: setup  ## the tests that need no Ray
	$(BIN)/python -m pytest -m "not ray and not slow"

clean:  ## results and caches of tools; never the environment
	rm -rf runs .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
