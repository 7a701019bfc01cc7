# Every target sets up what it needs: a virtual environment in .venv, once per change of the dependencies.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Its own bar where somebody looks, nothing else.
PIP := $(BIN)/pip install --quiet --progress-bar on --disable-pip-version-check
# The CPU build, from wherever pip looks or from PyTorch's own index; the CUDA build and its gigabytes only as a last resort.
TORCH := torch==2.13.0
CPU_BUILDS := https://download.pytorch.org/whl/cpu

.PHONY: demo test test-fast test-oldest check format bench wheel docs setup clean

demo: $(READY)
	@$(BIN)/python examples/demo.py

# A process for each core; the tests of a file stay together, so that what they share is made once.
test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadscope --no-loadscope-reorder

# Kernels, layers and model: what a change to the mathematics is likely to break.
test-fast: $(READY)
	$(BIN)/python -m pytest tests/ops tests/layers tests/model tests/test_architecture.py

# The oldest versions that pyproject.toml allows, in an environment of their own: what most depends on them.
OLDEST := build/oldest/bin
UV := $(OLDEST)/uv pip install --quiet --python $(OLDEST)/python --resolution lowest-direct -e '.[dev]'
test-oldest:
	$(PYTHON) -m venv build/oldest
	$(OLDEST)/pip install --quiet --disable-pip-version-check uv
	$(UV) --extra-index-url $(CPU_BUILDS) 2>/dev/null || $(UV)
	$(OLDEST)/python -m pytest -n auto --dist loadscope --no-loadscope-reorder \
	    tests/ops tests/layers tests/model tests/tokenization tests/inference tests/training

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# BENCH: parts and options, as in `make bench BENCH="forward --no-compile"`; all parts by default.
bench: $(READY)
	$(BIN)/python -m benchmarks $(BENCH)

# dist/: the source distribution, and a wheel for any Linux of this processor's kind; then tried in an empty environment.
wheel: $(READY)
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist dist/*-linux_*.whl
	rm dist/*-linux_*.whl
	$(BIN)/python -m pytest -m wheel tests/test_wheel.py

# build/docs/index.html, without a network; a broken link is an error.
docs: $(READY)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --conf-dir docs . build/docs

setup: $(READY)

$(READY): pyproject.toml constraints.txt $(wildcard src/convbert/ops/*.[ch] src/convbert/ops/*/*.c)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "convbert needs Python 3.11 or newer, not " + sys.version.split()[0])'
	@echo "Setting up .venv, once; this takes some minutes."
	@echo "1 of 3: a virtual environment"
	@$(PYTHON) -m venv .venv
	@echo "2 of 3: PyTorch, some 200 MB"
	@$(PIP) $(TORCH)+cpu 2>/dev/null || $(PIP) --index-url $(CPU_BUILDS) $(TORCH)+cpu 2>/dev/null || $(PIP) $(TORCH)
	@echo "3 of 3: the other packages, and convbert itself, which compiles its kernels"
	@$(PIP) -c constraints.txt -e '.[dev]'
	@touch $(READY)

clean:
	rm -rf .venv build src/convbert.egg-info
