# make demo   set up, then show the degradation problem on two cores; needs no root and no system package
# make setup  the same without the demo; FFCV=1 adds FFCV and its system packages, TORCH=cuda|cpu chooses PyTorch's build
# make test   set up, then check and test
# make test-slow, make test-all   what takes minutes; everything, hours
# make wheel  a wheel for other Linux machines in dist/, with the compiled decoder and libjpeg-turbo inside
# make bundle  one tar for machines without a network; TORCH=none leaves PyTorch out
# make gpu-kit CIFAR=FOLDER  what a bare machine with a GPU needs for benchmarks/gpu/run.py, below 60 MB
# PYTHON=python3.12   another Python than the first on PATH that fits
BIN = .venv/bin
LEVEL = $(if $(FFCV),ffcv,train)
PYTEST = $(BIN)/pytest -n 2 # two processes, also on larger machines: tests start processes of their own

.PHONY: setup demo test test-slow test-all check wheel bundle gpu-kit pins

setup: .venv/$(LEVEL)

.venv/train .venv/ffcv .venv/dev: setup.sh requirements.txt requirements-dev.txt requirements-ffcv.txt pyproject.toml \
  lightning_resnet/data/beton/decode.c
	@PYTHON="$(PYTHON)" TORCH="$(TORCH)" ./setup.sh $(@F)

demo: setup
	$(BIN)/resnet-cli sweep configs/sweeps/digits_degradation.yaml --local -j 2
	$(BIN)/resnet-cli compare runs/digits_degradation

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

test: check
	$(PYTEST) -m "not slow and not all"

test-slow: .venv/dev
	$(PYTEST) -m "slow and not all"

# every test, the long proofs included: before a release
test-all: check
	$(PYTEST)

wheel: .venv/dev
	rm -rf build dist
	$(BIN)/uv build --quiet --wheel --no-build-isolation --python $(BIN)/python --out-dir build .
	PATH="$(CURDIR)/$(BIN):$$PATH" auditwheel repair build/*.whl --wheel-dir dist

bundle: .venv/dev
	TORCH=$(TORCH) slurm/bundle.sh

gpu-kit: .venv/dev
	benchmarks/gpu/pack.sh "$(CIFAR)"

# Resolve the pin files again. No addresses are written: they install from whatever index is configured.
# requirements.txt is what training needs, requirements-dev.txt the rest too, in the same versions.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-annotate --no-header --group proven pyproject.toml
ALL = --extra dev --extra ffcv --extra wandb --extra onnx --extra parquet --extra sweeps
pins: .venv/dev
	$(COMPILE) $(ALL) --no-emit-package ffcv -o requirements-dev.txt
	$(COMPILE) -c requirements-dev.txt -o requirements.txt
	$(COMPILE) $(ALL) | sed -n '/^ffcv==/,/[^\\]$$/p' > requirements-ffcv.txt
