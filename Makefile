# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test faults regressions check bench install install-dev clean

demo: install
	$(BIN)/latents run mnist

test: install-dev
	$(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4

# The fault suite whole, with its table of promises; `make test` tries a part of it.
faults: install-dev
	FAULTS=whole $(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile tests/faults

# Planted regressions, each of which that suite must notice.
regressions: install-dev
	$(BIN)/python -m tests.faults.regressions

check: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("latent-features needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[fast]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[dev]'
	touch $@

# Peers run in an environment of their own, where they install.
PEERS := build/peers/bin/python
bench: install-dev
	$(BIN)/python -m tests.benchmarks.bounds
	-$(PYTHON) -m venv build/peers && $(PEERS) -m pip install -q torch==2.13.0 pythae pyro-ppl numpyro jax pyarrow pandas polars 'dask[distributed,dataframe]' 'ray[data]'
	$(BIN)/python -m tests.benchmarks.encoding 1000000 $$($(PEERS) -c 'import dask, polars, ray' >/dev/null 2>&1 && echo $(PEERS))
	$(BIN)/python -m tests.benchmarks.loading rates
	$(BIN)/python -m tests.benchmarks.loading training
	$(BIN)/python -m tests.benchmarks.training $$(test -x $(PEERS) && echo --peers $(PEERS))
	$(BIN)/python -m tests.benchmarks.marginal $$($(PEERS) -c 'import pythae' >/dev/null 2>&1 && echo --pythae $(PEERS))
	$(BIN)/python -m tests.benchmarks.growth
	$(BIN)/python -m tests.benchmarks.training_gpu
	$(BIN)/python -m tests.benchmarks.inference_gpu

clean:
	rm -rf $(VENV) build *.egg-info
