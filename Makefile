# On a fresh machine with Python >= 3.11 and make, `make serve` and `make test` do everything: virtual environment,
# installation, run. They install again only when a pyproject.toml or constraints.txt has changed.
#
#   make serve PORT=9000 ARGS='--checkpoint_path my-run/final'
#   make test  ARGS='-k nelbo'
#   make test  WORKERS=0
#   make results-small DATA=DIR
#
# PYTHON         the interpreter that .venv is made from
# TORCH_BACKEND  which build of torch: empty takes the one that pip finds (on Linux usually CUDA, several GB);
#                cpu, cu130, auto, ... takes the build of that name, found by uv
# DATA           the folder of texts and molecules that docs/results.md names
# WORKERS        processes that share the tests, a file at a time: one a core and at most four, as each takes 1.5 GB; 0 for none
PYTHON ?= python3
TORCH_BACKEND ?=
WORKERS ?= logical
# Set on the command line only: some shells export HOST as the machine's name.
HOST =
PORT =
ARGS =
DATA =

python := .venv/bin/python
pip := $(python) -m pip install --disable-pip-version-check --constraint constraints.txt

.PHONY: serve test test-slow test-browser pictures results-small data-given lint format lock clean
.DELETE_ON_ERROR:

serve: .venv/.installed-server,clients
	$(python) -m server $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT)) $(ARGS)

test: .venv/.installed-dev
	$(python) -m pytest --numprocesses $(WORKERS) --maxprocesses 4 --dist loadfile $(ARGS)

test-slow: .venv/.installed-dev
	$(python) -m pytest -m slow $(ARGS)

# CHROMIUM=PROGRAM names a browser that is not on the path.
test-browser: .venv/.installed-dev
	$(python) -m pytest -m browser tests/browser $(ARGS)

pictures: .venv/.installed-dev
	$(python) -m benchmarks.page.pictures $(ARGS)

# ARGS='wikitext ablations' for some of the tables.
results-small: data-given .venv/.installed-trainer,molecules
	$(python) -m benchmarks.results --data '$(DATA)' $(ARGS)

data-given:
	@test -d '$(DATA)' || { echo 'make results-small must have DATA=DIR, a folder as docs/results.md tells, got "$(DATA)"' >&2; exit 2; }

lint: .venv/.installed-dev
	$(python) -m ruff check
	$(python) -m ruff format --check
	$(python) -m mypy

format: .venv/.installed-dev
	$(python) -m ruff check --fix
	$(python) -m ruff format

# What the images install, with hashes: to be made anew whenever pyproject.toml or constraints.txt has changed. As on macOS,
# because there torch's builds need no CUDA; nothing else that is needed depends on the system.
uv_lock = MACOSX_DEPLOYMENT_TARGET=14.0 $(python) -m uv pip compile --constraint constraints.txt --generate-hashes \
	--python-version 3.11 --python-platform macos --no-emit-package torch --no-annotate --no-header --quiet

lock: | $(python)
	$(pip) uv
	echo uv | $(uv_lock) --output-file requirements/tools.txt -
	$(uv_lock) --extra server --output-file requirements/server.txt pyproject.toml
	$(uv_lock) --extra trainer --output-file requirements/trainer.txt pyproject.toml

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build *.egg-info clients/build clients/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed-%: pyproject.toml clients/pyproject.toml constraints.txt | $(python)
ifneq ($(TORCH_BACKEND),)
	$(pip) uv
	$(python) -m uv pip install --constraint constraints.txt --torch-backend $(TORCH_BACKEND) --no-deps torch
endif
	$(pip) --editable '.[$*]' --editable clients
	touch $@

$(python):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + ": pass PYTHON=")'
	$(PYTHON) -m venv .venv
