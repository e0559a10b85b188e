#!/usr/bin/env bash
# Install lightning_resnet from this folder, which `make bundle` packed: needs no network, root or compiler.
#   ./install.sh ~/lightning_resnet     then PATH=~/lightning_resnet/bin:$PATH, best in slurm/site.env
# PYTHON=/path/to/python3.11 names another interpreter than the first on PATH.
set -euo pipefail
prefix=${1:?usage: ./install.sh PREFIX}
cd "$(dirname "$0")"
. ./needs

python=${PYTHON:-$(command -v python3.11)} || { echo "error: no python3.11 on PATH; set PYTHON" >&2; exit 2; }
have=$(getconf GNU_LIBC_VERSION | cut -d' ' -f2)
[ "$(printf '%s\n' "$GLIBC" "$have" | sort -V | head -n 1)" = "$GLIBC" ] \
  || { echo "error: glibc is $have here, the wheels need $GLIBC; make the bundle on a machine as old as this" >&2; exit 2; }

[ "$TORCH" = none ] && theirs=--system-site-packages || theirs=
"$python" -m venv --without-pip $theirs "$prefix"
pip=(wheels/pip-*.whl)
"$prefix/bin/python" "$pip/pip" install --quiet --no-index --no-deps wheels/*.whl
echo "installed in $prefix, from commit $SHA; resnet-cli recipes lists recipes and batch scripts, and prints them"
