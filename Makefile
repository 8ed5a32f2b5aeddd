# make demo: install, start a server on the bundled model, ask it something under several alignments.
# make test: the tests, from the same fresh state.    make check: lint, types and tests, as CI runs them.
# make prove: the tests on a lesser processor, under load, and shuffled (docs/tests.md).

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
MODEL ?= smollm2-135m-instruct
SEED ?= 1

.PHONY: install browser demo serve test prove check lint types report bench-proxy bench-rain clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml .install/install.sh .install/cpu.txt
	.install/install.sh $(VENV) $(PYTHON)
	touch $@

demo: install
	$(BIN)/heedful demo --model $(MODEL)

serve: install
	$(BIN)/heedful serve $(MODEL)

# Debian's Chromium, for the tests of the page: installed where that can be done, else they are skipped and say so.
browser:
	@command -v chromium >/dev/null || .install/chromium.sh

# Two workers: one for all that uses an engine, one for the rest.
test: install browser
	$(BIN)/python -m pytest -n 2 --dist loadscope $(TESTS)

# That the tests' truth hangs on no processor, load or order: they pass as on a processor with less, under load, and
# shuffled. Half an hour on two quiet cores.
prove: install browser
	$(BIN)/python tests/lesser.py $(BIN)/python -m pytest -n 2 --dist loadscope
	$(BIN)/python tests/busy.py $(BIN)/python -m pytest -n 2 --dist loadscope
	PYTHONHASHSEED=$(SEED) $(BIN)/python -m pytest -n 2 --dist loadscope --random-order --random-order-seed=$(SEED)

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/deptry . tests
	$(BIN)/deptry . --extend-exclude tests --optional-dependencies-dev-groups dev

types: install
	$(BIN)/mypy

check: lint types test

# The report over all strategies on both bundled models (an hour on two cores). DATA: folder of the evaluation sets.
report: install
	$(BIN)/python benchmarks/scripts/report.py --data $(DATA)

# Beside peers: LiteLLM and optillm; plain decoding and a transformers loop.
bench-proxy: install
	$(BIN)/python benchmarks/scripts/proxy.py --install
	$(BIN)/python benchmarks/scripts/proxy.py

bench-rain: install
	$(BIN)/python benchmarks/scripts/rain.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
