#!/bin/bash
# pack.sh CIFAR [KIT]: put what benchmarks/gpu/run.py needs on a bare machine into the folder KIT, below 60 MB.
# CIFAR is a folder of images, train/CLASS/* and val/CLASS/*. The machine needs Linux on x86-64, Python 3.11 or newer with
# torch, torchvision and PyTorch Lightning, and no network. There: . KIT/env.sh, then the command of run.py.
set -e
CIFAR=$(realpath "${1:?give a folder of images: train/CLASS/* and val/CLASS/*}")
KIT=$(realpath -m "${2:-gpu-kit}")
cd "$(dirname "$0")/../.."
BIN=.venv/bin
[ ! -e "$KIT" ] || [ -f "$KIT/env.sh" ] || { echo "$KIT is there and is no kit: name another folder"; exit 1; }
rm -rf "$KIT" && mkdir -p "$KIT"/{data,lib,site,project}
git ls-files -co --exclude-standard lightning_resnet configs benchmarks/gpu pyproject.toml | tar c -T - | tar x -C "$KIT/project"
cp lightning_resnet/data/beton/_decode*.so "$KIT/project/lightning_resnet/data/beton/"
git describe --always --dirty > "$KIT/code"
# What the decoder links: its name differs between Debian and Ubuntu.
ldd lightning_resnet/data/beton/_decode*.so | awk '/libjpeg/ {print $3}' | xargs -I{} cp -L {} "$KIT/lib/"
for name in jsonargparse docstring-parser typeshed-client; do
  grep -E "^$name==" requirements.txt | cut -d' ' -f1
done | xargs $BIN/uv pip install --quiet --no-deps --target "$KIT/site"
for split in train val; do
  $BIN/resnet-cli data write image_folder --root "$CIFAR" --split $split --out "$KIT/data/cifar_$split.beton"
done
# 60,000 small JPEGs have the same header 60,000 times: xz makes 19 MB of 85.
tar c -C "$KIT/data" . | xz -T2 -6 > "$KIT/data.txz" && rm -r "$KIT/data"
cat > "$KIT/env.sh" <<'S'
KIT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$KIT/data" && tar xJf "$KIT/data.txz" -C "$KIT/data"
export PYTHONPATH=$KIT/project:$KIT/site LD_LIBRARY_PATH=$KIT/lib:$LD_LIBRARY_PATH CODE=$(cat "$KIT/code")
echo "python3 $KIT/project/benchmarks/gpu/run.py --data $KIT/data --out $KIT/out --minutes 9"
S
du -sh "$KIT"
echo "there: . $(basename "$KIT")/env.sh"
