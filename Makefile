# Two commands: `make serve` and `make test`. Both set up .venv first, from the versions pinned in constraints.txt.
PYTHON ?= python3

# Not from the environment, where some shells and tools set HOST and PORT to something else.
MODEL = demo
HOST = 127.0.0.1
PORT = 8000
ARGS =

# Without an NVIDIA driver PyTorch's own index is asked for its CPU build, a tenth of the CUDA build's size. Its one
# package is looked up alone: where that index is out of reach this costs seconds, and the package index serves torch.
TORCH_INDEX ?= $(if $(shell command -v nvidia-smi 2> /dev/null),,https://download.pytorch.org/whl/cpu)

# Modules compile when first imported: compiling all of them ahead doubles the installation's CPU time (60 s against 28).
PIP := .venv/bin/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt

.PHONY: install serve test lint pictures clean

install: .venv/installed

serve: .venv/installed
	.venv/bin/sana serve --model $(MODEL) --host $(HOST) --port $(PORT) $(ARGS)

test: lint
	.venv/bin/python -m pytest $(ARGS)

lint: .venv/installed-test
	.venv/bin/python -m ruff check
	.venv/bin/python -m ruff format --check
	.venv/bin/python -m mypy

pictures: .venv/installed
	.venv/bin/python -m recipes.demo.contact_sheet docs/demo.png

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Python 3.11 or newer is needed; name it: make install PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || \
		{ echo '$(PYTHON) lacks venv; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(PIP) --no-deps --retries 1 --timeout 15 --extra-index-url $(TORCH_INDEX) torch)
	$(PIP) --editable .
	touch $@

# The tests of the Node client and of the page are skipped, visibly, where npm and Chromium are missing.
.venv/installed-test: .venv/installed tests/clients/package-lock.json
	$(PIP) --editable '.[s3,otel,test]'
	$(if $(shell command -v npm 2> /dev/null),-npm ci --prefix tests/clients --no-audit --no-fund)
	touch $@
