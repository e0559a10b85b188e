# make demo   set up, then show the degradation problem on two cores
# make test   set up, then check and test
# make test-slow, make test-all   what takes minutes; everything, hours
# make bundle  one tar for machines without a network; TORCH=none leaves PyTorch out
# make gpu-kit CIFAR=FOLDER  what a bare machine with a GPU needs for benchmarks/gpu/run.py, below 60 MB
# TORCH=cpu   PyTorch's CPU build instead of the registry's (versions pinned, hashes not)
PYTHON ?= python3
BIN = .venv/bin
INSTALL = $(BIN)/uv pip install --quiet --python .venv
# what FFCV and our decoder build with, and Debian's split-off parts of Python
DEBIAN = libopencv-dev libturbojpeg0-dev pkg-config g++ libjpeg-dev zlib1g-dev python3-dev python3-venv
PYTEST = $(BIN)/pytest -n 2 # two processes, also on larger machines: tests start processes of their own
ROOT = $(shell [ "$$(id -u)" = 0 ] && echo env || echo sudo -n)

.PHONY: setup demo test test-slow test-all check bundle gpu-kit pins

setup: .venv/done

.venv/done: requirements.txt requirements-ffcv.txt pyproject.toml lightning_resnet/data/beton/decode.c
	@command -v apt-get >/dev/null && { dpkg -s $(DEBIAN) >/dev/null 2>&1 \
	  || { $(ROOT) apt-get update -qq && $(ROOT) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(DEBIAN) >/dev/null; } \
	  || echo "FFCV's system packages are missing; to have its loader, run: sudo apt-get install $(DEBIAN)"; } || true
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet $$(sed -n 's/^\(uv==[^ ]*\).*/\1/p' requirements.txt)
ifeq ($(TORCH),cpu)
	sed -n 's/^\([^ ]*==[^ ]*\) \\$$/\1/p' requirements.txt | grep -Ev '^(nvidia|cuda|triton)' > .venv/pins
	$(INSTALL) --torch-backend cpu -c .venv/pins -e .[dev,wandb,onnx,parquet]
else
	$(INSTALL) --require-hashes -r requirements.txt
	$(INSTALL) --no-deps -e .
endif
	$(INSTALL) --no-deps --require-hashes -r requirements-ffcv.txt \
	  || echo "FFCV could not be built: training uses the torch loader"
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -c "import lightning_resnet.cli.fit, lightning_resnet.analysis.compare.figures" # byte code
	touch $@

demo: setup
	$(BIN)/resnet-cli sweep configs/sweeps/digits_degradation.yaml --local -j 2
	$(BIN)/resnet-cli compare runs/digits_degradation

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

test: check
	$(PYTEST) -m "not slow and not all"

test-slow: setup
	$(PYTEST) -m "slow and not all"

# every test, the long proofs included: before a release
test-all: check
	$(PYTEST)

bundle: setup
	TORCH=$(TORCH) slurm/bundle.sh

gpu-kit: setup
	benchmarks/gpu/pack.sh "$(CIFAR)"

# Resolve the pin files again. No addresses are written: they install from whatever index is configured.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-annotate --no-header --extra dev --extra ffcv --extra wandb \
  --extra onnx --extra parquet --group proven pyproject.toml
pins:
	$(COMPILE) --no-emit-package ffcv -o requirements.txt
	$(COMPILE) | sed -n '/^ffcv==/,/[^\\]$$/p' > requirements-ffcv.txt
