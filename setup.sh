#!/usr/bin/env bash
# Make or complete the virtual environment .venv; `make` calls this, and without make it stands alone.
#   ./setup.sh         what training needs, for `make demo`: no root, no system package
#   ./setup.sh ffcv    also FFCV, with the system packages that it and our decoder build with
#   ./setup.sh dev     also what the tests need
# PYTHON=python3.12    another Python than the first on PATH that fits
# TORCH=cuda|cpu       build of PyTorch; default: cpu on Linux without nvidia-smi
set -euo pipefail
cd "$(dirname "$0")"
LEVEL=${1:-train}
BIN=.venv/bin
DEBIAN="libopencv-dev libturbojpeg0-dev pkg-config g++ libjpeg-dev zlib1g-dev python3-dev"
WANTED="Python 3.11, 3.12 or 3.13"
CURE="make demo PYTHON=python3.12 names one; conda brings one (conda create -n resnet python=3.12 && conda activate resnet),\
 and so does uv, once it is on PATH (https://docs.astral.sh/uv)"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say() { echo "setup: $*"; }
fail() { echo "error: $*" >&2; exit 2; }
fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; }
pins() { awk -v name="$2" '/^[^ ]/ { keep = $0 ~ name } keep' "$1"; } # lines of FILE whose name is like REGEX
version() { sed -n "s/^$1==\([^ ]*\).*/\1/p" requirements.txt; }
install() { "$BIN/uv" pip install --python .venv "$@"; }

case $LEVEL in train | ffcv | dev) ;; *) fail "setup.sh $LEVEL: one of train, ffcv, dev" ;; esac
case ${TORCH:-} in "" | cpu | cuda) ;; *) fail "TORCH=$TORCH: cpu or cuda" ;; esac

# 1. Python, before anything is downloaded; an environment that fits is kept
if [ -n "${PYTHON:-}" ]; then
  command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON is not on PATH; $WANTED is needed: $CURE"
  fits "$PYTHON" || fail "PYTHON=$PYTHON is $("$PYTHON" --version 2>&1); $WANTED is needed: $CURE"
  cmp -s <("$PYTHON" --version) <("$BIN/python" --version 2>/dev/null) || rm -rf .venv
fi
fits "$BIN/python" || rm -rf .venv
if [ -z "${PYTHON:-}" ] && [ ! -e .venv ]; then
  for PYTHON in python3 python3.13 python3.12 python3.11 python ""; do
    [ -n "$PYTHON" ] && ! fits "$PYTHON" || break
  done
  found=$(python3 --version 2>&1) || found="no python3"
  if [ -z "$PYTHON" ]; then
    command -v uv >/dev/null || fail "$WANTED is needed, and here is $found: $CURE"
    say "here is $found; uv brings Python 3.12"
  elif [ "$PYTHON" != python3 ]; then
    say "$PYTHON, because here is $found"
  fi
fi

# 2. System packages of FFCV and of our decoder, only where these are asked for
if [ "$LEVEL" != train ] && command -v apt-get >/dev/null && ! dpkg -s $DEBIAN >/dev/null 2>&1; then
  root="sudo -n"
  [ "$(id -u)" != 0 ] || root=env
  say "FFCV's system packages by apt-get, some minutes: $DEBIAN"
  { $root apt-get update -q && $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $DEBIAN; } \
    || say "FFCV's system packages are missing; to have its loader: sudo apt-get install $DEBIAN"
fi

# 3. The virtual environment, with pip and the pinned uv
pins requirements-dev.txt '^uv==' > "$work/uv.txt"
make_environment() {
  if [ -n "$PYTHON" ] && "$PYTHON" -c "import ensurepip" 2>/dev/null; then
    "$PYTHON" -m venv .venv && "$BIN/python" -m pip install --require-hashes -r "$work/uv.txt"
  elif command -v uv >/dev/null; then
    uv venv --seed --python "${PYTHON:-3.12}" .venv && uv pip install --python .venv --require-hashes -r "$work/uv.txt"
  elif command -v virtualenv >/dev/null; then
    virtualenv --python "$PYTHON" .venv && "$BIN/python" -m pip install --require-hashes -r "$work/uv.txt"
  else # Debian's and Ubuntu's Python without python3-venv
    "$PYTHON" -m venv --without-pip .venv && borrow_pip && "$BIN/python" -m pip install --require-hashes -r "$work/uv.txt"
  fi
}
borrow_pip() {
  if "$PYTHON" -m pip --version >/dev/null 2>&1; then
    "$PYTHON" -m pip --python .venv/bin/python install pip
  else # the package with pip's wheel, unpacked and not installed: needs no root
    say "python3-venv is not installed; pip comes from Debian's package python3-pip-whl, unpacked without root"
    (cd "$work" && apt-get download python3-pip-whl && dpkg-deb -x python3-pip-whl*.deb .) || return 1
    local wheel=("$work"/usr/share/python-wheels/pip-*.whl)
    "$BIN/python" "${wheel[0]}/pip" install --no-index "${wheel[0]}"
  fi
}
if [ -e .venv ]; then
  [ -x "$BIN/uv" ] || "$BIN/python" -m pip install --require-hashes -r "$work/uv.txt" || rm -rf .venv
fi
if [ ! -e .venv ]; then
  make_environment || { rm -rf .venv; fail "no virtual environment could be made; one of these cures it: sudo apt-get update && \
sudo apt-get install python3-venv; pip install --user virtualenv; conda; uv (https://docs.astral.sh/uv)"; }
fi

# 4. PyTorch's CPU build where no GPU is seen; the pins hold hashes of the registry's builds only
cp requirements.txt "$work/train.txt"
[ "$LEVEL" != dev ] || cp requirements-dev.txt "$work/train.txt"
here=$("$BIN/python" -c 'import importlib.metadata as m; print(*[d.version for d in m.distributions(name="torch")])')
builds="torch==$(version torch) torchvision==$(version torchvision)"
again="--reinstall-package torch --reinstall-package torchvision"
if [ "$(uname -sm)" = "Linux x86_64" ] && [ "${TORCH:-}" != cuda ]; then
  if [ -z "${TORCH:-}" ] && command -v nvidia-smi >/dev/null; then
    say "PyTorch with CUDA, because nvidia-smi is here (TORCH=cpu takes the CPU build)"
  elif [ -n "$here" ] && { [ -z "${TORCH:-}" ] || [[ $here == *+cpu ]]; }; then
    say "PyTorch $here is here already"
  elif UV_HTTP_TIMEOUT=10 UV_HTTP_RETRIES=0 install --quiet --dry-run --no-deps --torch-backend cpu $again $builds 2>/dev/null; then
    say "PyTorch's CPU build, because no GPU is seen (TORCH=cuda takes the one with CUDA)"
    [ -z "$here" ] && install --no-deps --torch-backend cpu $builds || install --no-deps --torch-backend cpu $again $builds
  else
    say "PyTorch's CPU index cannot be reached: the registry's build with CUDA instead, which runs on CPUs too"
  fi
elif [ "${TORCH:-}" = cuda ] && [[ $here == *+cpu ]]; then
  "$BIN/uv" pip uninstall --python .venv torch torchvision
fi
here=$("$BIN/python" -c 'import importlib.metadata as m; print(*[d.version for d in m.distributions(name="torch")])')
if [[ $here == *+cpu ]]; then
  awk '/^[^ ]/ { keep = $0 !~ /^(torch|torchvision|triton|nvidia-.*|cuda-.*)==/ } keep' "$work/train.txt" > "$work/rest.txt"
  mv "$work/rest.txt" "$work/train.txt"
fi

# 5. The rest, from hashed pins, and this package
install --require-hashes -r "$work/train.txt"
install --quiet --no-deps --no-build-isolation -e .
if [ "$LEVEL" != train ]; then
  install --no-deps --require-hashes -r requirements-ffcv.txt || say "FFCV could not be built: training uses the torch loader"
fi
"$BIN/python" -c 'import sys; from lightning_resnet.data.beton.decode import library; sys.exit(not library())' \
  || say "no C compiler, or no headers of libjpeg-turbo, zlib or Python: .beton files are decoded by Pillow, more slowly"
say "compiling Python's modules to byte code, so that the first command need not"
env -u PYTHONDONTWRITEBYTECODE "$BIN/python" -c "import lightning_resnet.cli.fit, lightning_resnet.analysis.compare.figures"
for level in train ffcv dev; do
  touch ".venv/$level"
  [ "$level" != "$LEVEL" ] || break
done
