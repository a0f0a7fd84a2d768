# Two commands on a fresh machine: `make demo` and `make test`.
# Each makes the virtual environment .venv and installs all it needs; a repeat run is quick.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=

.PHONY: demo test bench docs lint clean

demo: $(VENV)/.demo
	$(BIN)/python examples/compare.py

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist worksteal

bench: $(VENV)/.demo
	$(BIN)/afterburner bench

docs: $(VENV)/.test
	$(BIN)/python docs/generate.py

lint: $(VENV)/.test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

clean:
	rm -rf $(VENV) build dist src/*.egg-info

# The first Python from 3.10 to 3.13 (what TensorFlow 2.18-2.21 supports) that can make an environment.
$(BIN)/python:
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.10 python; do \
	  if $$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; \
	  then echo "$$python -m venv $(VENV)"; $$python -m venv $(VENV) && exit 0; rm -rf $(VENV); fi; \
	done; \
	echo 'No Python from 3.10 to 3.13 with the venv module was found:' \
	  'install one (Debian and Ubuntu: apt install python3-venv), or name it: make PYTHON=/path/to/python' >&2; exit 1

$(VENV)/.%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install 'pip>=22'
	$(BIN)/python -m pip install --editable '.[$*]'
	@[ $* != test ] || $(BIN)/python -m pip install --editable '.[emulated-gpu]' || \
	  echo "MLX has no wheel for this machine (on Linux it needs glibc 2.35): the gpu target's tests will be skipped"
	@touch $@
