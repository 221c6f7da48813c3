# The doors to the project. What they do is in tools/dev.py; ARGS is passed on: make test ARGS="--python 3.13 --only pytest"
DEV := sh tools/with-python tools/dev.py
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help test test-stdlib demo bench docs lint build format clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: ## set everything up, build for every CPython found, run all tests and checks
	@$(DEV) test $(ARGS)

test-stdlib: ## run CPython's own tests, plain and under Lissom, on every version and driver
	@$(DEV) test-stdlib $(ARGS)

demo: ## 10,000 keep-alive connections against the unmodified http.server
	@$(DEV) demo $(ARGS)

bench: ## measure against peers and write docs/benchmarks.rst
	@$(DEV) bench $(ARGS)

docs: ## build the documentation into docs/_build/html
	@$(DEV) docs $(ARGS)

lint: ## formatting, clippy, ruff, mypy, stubs
	@$(DEV) lint $(ARGS)

build: ## build and install into .venv/<version>, for the newest CPython found
	@$(DEV) build $(ARGS)

format: ## rewrite Rust and Python sources in the project's format
	@$(DEV) format $(ARGS)

clean: ## remove everything that was built
	rm -rf target .venv docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
