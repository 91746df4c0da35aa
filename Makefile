# Every target sets up its own virtual environment first; nothing else is needed on a machine with Python 3.11 to 3.13.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo test truth check format bench

help:            ## list the targets
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/ \t/'

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else "pcs_ext needs Python 3.11 to 3.13, this is %d.%d: run make PYTHON=python3.12" % v[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(READY)

setup: $(READY)  ## create the virtual environment

demo: $(READY)   ## learn a bundled toy and write demo/index.html
	$(BIN)/pcs-ext demo -o demo

test: $(READY)   ## run the tests that take minutes, not hours
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist worksteal -m "not slow and not gpu"

NAMES ?=
truth: $(READY)  ## run the slow tests and measure results/*.json again, hours; NAMES="svg_systems" takes some
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m benchmarks.truth $(NAMES)

check: $(READY)  ## lint, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(READY) ## rewrite the code in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## print speed and memory as JSON
	$(BIN)/python -m benchmarks.world
	$(BIN)/python -m benchmarks.dreambooth_lora_step
	$(BIN)/python -m benchmarks.cpu_attention
	$(BIN)/python -m benchmarks.motion_director_step
	$(BIN)/python -m benchmarks.guidance_step
	$(BIN)/python -m benchmarks.stitch_step
	$(BIN)/python -m benchmarks.field_rendering
