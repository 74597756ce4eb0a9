# Two commands on a fresh machine: `make demo` and `make test`. Each makes the environment first.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
STAMP := $(VENV)/.ready
MOTO := .moto/.ready

.PHONY: setup demo faults soak test unit-tests ray-tests test-all test-gpu lint fast fuzz lock audit licences clean

setup: $(STAMP)  ## the environment: a venv, pip, versions pinned by constraints.txt; HASHED=1: every file but torch's by its hash

# Byte code is written once, at the first import, whatever the environment says: every lane is a process of its own, and
# compiling torch and transformers again in each costs more than a small study.
unexport PYTHONDONTWRITEBYTECODE
IMPORTED := search.study.run, search.trial.work, search.results.report, ray.train.torch, ray.tune, wandb, datasets, \
	sklearn.linear_model, transformers.models.bert.modeling_bert, transformers.models.albert.modeling_albert

$(STAMP): $(INSTALLED)
	$(BIN)/python -c "import $(IMPORTED)"
	touch $@

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile torch==2.13.0
ifdef HASHED
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --editable .
else
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable ".[dev]"
endif
	touch $@

$(MOTO): tests/moto.txt  # an S3 server for tests, in an environment of its own
	$(PYTHON) -m venv .moto
	.moto/bin/python -m pip install --quiet --disable-pip-version-check -r tests/moto.txt
	touch $@

demo: setup  ## a real study on the embedded default, into runs/demo
	@begun=$$(date +%s); \
	$(BIN)/distilsearch run docstrings --output runs/demo && \
	echo "make demo took $$(( $$(date +%s) - begun )) seconds after setup"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test:  ## lint, types, import rules, and all tests but the slow ones, side by side, since Ray's wait much
	@$(MAKE) --no-print-directory -j4 --output-sync=line lint unit-tests ray-tests

unit-tests: setup $(MOTO)
	$(BIN)/python -m pytest -n 2 --durations=10 -m "not ray and not slow and not gpu"

ray-tests: setup
	$(BIN)/python -m pytest --durations=15 -m "ray and not slow and not gpu"

test-all: setup lint $(MOTO)  ## the slow ones too: lanes killed, hung, of several workers
	$(BIN)/python -m pytest -m "not gpu"

test-gpu: setup  ## what only a CUDA device shows, where there is one
	$(BIN)/python -m pytest -m gpu

KILLS ?= 200
MINUTES ?= 600
faults: setup  ## studies whose processes are killed at random, many times; what came of it goes into build/faults.jsonl, which is continued
	mkdir -p build
	PYTHONPATH=tests:. $(BIN)/python -m faults.long build/faults.jsonl --kills $(KILLS) --minutes $(MINUTES)

TRIALS ?= 2000
soak: setup  ## thousands of tiny trials on two lanes: memory, open files and the record's size all along, in build/soak/lines.jsonl
	PYTHONPATH=tests:. $(BIN)/python -m faults.soak build/soak --trials $(TRIALS)

fast: setup  ## the tests that need no Ray
	$(BIN)/python -m pytest -m "not ray and not slow"

fuzz: setup  ## 100,000 hostile files, hours; stopped, it goes on where it was
	$(BIN)/python tests/fuzz/long.py runs/fuzz.json

# Neither is installed by `setup`. Torch has other bytes on every index (PyPI, PyTorch's own, a build for each CUDA), so its version is
# pinned and its hash is not: who wants that too gives pip's --hash for the index that is configured.
lock: setup  ## requirements.txt, from constraints.txt; needs uv
	{ sed -n '/^#/p' requirements.txt; $(BIN)/python tests/licences.py pins | \
	uv pip compile - --no-deps --generate-hashes --no-annotate --no-header --python-version 3.11 --universal --quiet; } > requirements.new
	mv requirements.new requirements.txt

audit:  ## known weaknesses of what is pinned; needs pip-audit, and the network beyond the package index
	pip-audit --strict --requirement requirements.txt --no-deps --disable-pip

licences: setup  ## docs/licences.md
	$(BIN)/python tests/licences.py

clean:  ## results and caches of tools; never the environment
	rm -rf runs .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
