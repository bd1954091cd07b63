# Every target does its own set-up in .venv: python3 and make are all that must be there.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Installed once per content of pyproject.toml.
STAMP  := $(VENV)/.installed-$(shell cksum < pyproject.toml | cut -d' ' -f1)

.DEFAULT_GOAL := help
.PHONY: help setup demo test gpu bench golden errors grammar clean

help:
	@echo "make demo    compile Mixtral 8x7B, then train a small variant beside a dense model (about 4 minutes)"
	@echo "make test    lint, types and every test"
	@echo "make setup   only the environment, in $(VENV)"
	@echo "make bench   timings of the compiler and of printed code on this machine"
	@echo "make gpu     print packages, then check and measure them on this machine's GPU"
	@echo "make golden  rewrite tests/golden from what the compiler prints now"
	@echo "make errors  measure anew how far systems are from their oracles (docs/systems)"
	@echo "make grammar make the parser's tables anew, after an edit of grammar/moe.lark"
	@echo "make clean   remove what the other targets made"

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "moedsl needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	rm -f $(VENV)/.installed-*
	touch $@

demo: $(STAMP)
	$(BIN)/moedsl compile specs/mixtral_8x7b.moe -o demo/compiled
	$(BIN)/moedsl info specs/mixtral_8x7b.moe
	$(BIN)/moedsl try specs/mixtral_8x7b.moe $(DEMO) --seconds 120 --threads 2 -o demo

# The same spec, small enough for two cores: bytes for tokens, three layers, eight experts of which two serve each token.
# The loss balances each mixture by itself: Mixtral's own pools all layers, which leaves single ones uneven at this size.
DEMO := --set vocab=256 --set width=128 --set context=256 --set depth=3 \
        --set gqa.heads=4 --set gqa.kv_heads=2 \
        --set "sparse.experts=8 * swiglu(128)" --set "sparse.loss=balance(2e-2)"

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

# Where python3 itself has torch and sees a GPU nothing is installed: such a machine may have no network.
gpu:
	if $(PYTHON) -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; \
	then $(PYTHON) bench/gpu.py build/gpu; \
	else $(MAKE) setup && $(BIN)/python bench/gpu.py build/gpu; fi

bench: $(STAMP)
	for name in block cli experts routing scale; do $(BIN)/python bench/$$name.py || exit 1; done

golden: $(STAMP)
	$(BIN)/python -m pytest -q --update-golden -m "not slow and not gpu"

errors: $(STAMP)
	rm -f build/errors.jsonl && mkdir -p build
	$(BIN)/python -m pytest -q tests/systems tests/parity --errors build/errors.jsonl
	$(BIN)/python -m tests.agree build/errors.jsonl
	$(BIN)/python -m pytest -q -n0 tests/systems/test_page.py --update-golden

grammar: $(STAMP)
	$(BIN)/python -m moedsl.syntax.tables grammar/moe.tables.json

clean:
	rm -rf build demo dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
