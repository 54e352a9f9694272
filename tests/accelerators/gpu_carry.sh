#!/usr/bin/env bash
# Makes .gpu/, which git ignores: what the GPU check needs beside the project. From its root:
#
#     bash tests/accelerators/gpu_carry.sh
#
# Copy the project with .gpu to the machine with the GPU, and run there, from the project's root:
#
#     bash tests/accelerators/gpu_check.sh
#
# The wheels are for a machine with Python 3.12, JAX and PyTorch that reaches no package registry;
# the other dependencies of the project, JAX among them, are that machine's own. Their versions are
# those of the project's environment (PYTHON, by default .venv/bin/python), but for Flax, the newest:
# each Flax needs a JAX of its time, and that machine's may be newer (0.12.8 fails with JAX 0.11).
set -euo pipefail
python=${PYTHON:-.venv/bin/python}
packages=(
    docstring-parser filelock lazy-loader optax orbax-checkpoint platformdirs tensorboardX typeguard
    tyro ucimlrepo
)

[[ -f pyproject.toml ]] || { echo "run it from the project's root" >&2; exit 2; }
[[ -x $(command -v "$python") ]] || { echo "no $python; set PYTHON" >&2; exit 2; }
rm -rf .gpu
mkdir .gpu
data=${DIGITS_JAX_DATA:-../shared/data/optdigits.csv}
if [[ -f $data ]]; then cp "$data" .gpu/optdigits.csv; fi
pinned=$("$python" -c '
import sys
from importlib.metadata import version
print(*(f"{name}=={version(name)}" for name in sys.argv[1:]))
' "${packages[@]}")
# shellcheck disable=SC2086 # one word a package
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 \
    --dest .gpu/wheels 'flax<0.14' $pinned
echo ".gpu: $(du -sm .gpu | cut -f1) MiB, $(ls .gpu/wheels | wc -l) wheels," \
    "$([[ -f .gpu/optdigits.csv ]] && echo 'all rows' || echo 'bundled rows: set DIGITS_JAX_DATA')"
