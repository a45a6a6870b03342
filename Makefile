# One command each on a fresh machine: `make demo`, `make test`. Needs Python >= 3.11 and the network's package index.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-targets test-linux test-all soak check check-style clean

demo: .venv/installed
	$(BIN)/emu demo

test: .venv/installed
	$(BIN)/pytest -n auto -m "not linux and not soak and not every_target"

test-targets: .venv/installed
	$(BIN)/pytest -n auto -m "every_target and not soak"

test-linux: .venv/installed
	$(BIN)/pytest -m "linux and not soak"

test-all: test test-targets test-linux

soak: .venv/installed
	$(BIN)/pytest -rP -m soak

check-style: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: check-style test

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build .cache *.egg-info
