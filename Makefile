# `make serve` and `make test` are the main targets. Both first install the versions of constraints.txt into .venv.
PYTHON ?= python3

# Set with = so that the environment cannot change them: some shells and tools set HOST or PORT to something else.
# Without a value, the variables SANA_MODEL, SANA_HOST and SANA_PORT and then the defaults of `sana serve` apply.
MODEL =
HOST =
PORT =
ARGS =

# Without an NVIDIA driver, torch comes from PyTorch's index of CPU builds, a tenth of the size of the CUDA build. torch
# is installed alone from there: if the index is unreachable, this costs seconds and torch comes from the default index.
TORCH_INDEX ?= $(if $(shell command -v nvidia-smi 2> /dev/null),,https://download.pytorch.org/whl/cpu)

# Compiling all modules here doubles the CPU time of the installation (60 s against 28). Only those that a server imports
# are compiled, by importing them: where the environment forbids bytecode caches, each start would compile them again.
PIP := .venv/bin/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt

# Even where the environment forbids bytecode caches: without them every process compiles torch and transformers again,
# and an engine starts more slowly.
export PYTHONDONTWRITEBYTECODE =

.PHONY: install serve test test-newest lint images clean

install: .venv/installed

serve: .venv/installed
	.venv/bin/sana serve $(if $(MODEL),--model $(MODEL)) $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT)) $(ARGS)

# Two workers, each with its own servers: a third would share the cores that CI and small machines have.
test: lint
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# Every dependency as new as pyproject.toml allows, in an environment of its own. Only torch starts from the pin, for
# its CPU build. The tests of deployment are left out: they are about the pins.
test-newest:
	$(PYTHON) -m venv --clear .venv-newest
	$(if $(TORCH_INDEX),$(subst .venv/,.venv-newest/,$(PIP)) --no-deps --retries 1 --timeout 15 --extra-index-url $(TORCH_INDEX) torch)
	.venv-newest/bin/python -m pip install --no-compile --upgrade --upgrade-strategy eager --editable '.[s3,otel,postgres,test]'
	.venv-newest/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore tests/deploy $(ARGS)

lint: .venv/installed-test
	.venv/bin/python -m ruff check
	.venv/bin/python -m ruff format --check
	.venv/bin/python -m mypy

images: .venv/installed
	.venv/bin/python -m recipes.demo.contact_sheet docs/demo.png

clean:
	rm -rf .venv .venv-newest build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Python must be 3.11 or newer; choose one: make install PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || \
		{ echo '$(PYTHON) lacks venv; on Debian or Ubuntu: apt install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(PIP) --no-deps --retries 1 --timeout 15 --extra-index-url $(TORCH_INDEX) torch)
	$(PIP) --editable .
	.venv/bin/python -c 'import server.serving, engine.worker.core'
	touch $@

# Without npm the tests of the Node client are skipped, and without Chromium those of the playground.
.venv/installed-test: .venv/installed tests/clients/package-lock.json
	$(PIP) --editable '.[s3,otel,postgres,test]'
	$(if $(shell command -v npm 2> /dev/null),-npm ci --prefix tests/clients --no-audit --no-fund)
	touch $@
