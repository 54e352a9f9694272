#!/usr/bin/env bash
# Makes a second environment that has XLA's compilers for TPUs and NVIDIA GPUs, so that the
# project's own stays small. Neither needs a device. From the project's root:
#
#     bash tests/accelerators/make_environment.sh             # both compilers, to .aot
#     bash tests/accelerators/make_environment.sh .aot tpu    # one alone: tpu or cuda
#
# Versions are those of the project's own environment: PYTHON, by default .venv/bin/python.
set -euo pipefail
folder=${1:-.aot}
compilers=("${@:2}")
((${#compilers[@]})) || compilers=(tpu cuda)
python=${PYTHON:-.venv/bin/python}

[[ -f pyproject.toml ]] || { echo "run it from the project's root" >&2; exit 2; }
[[ -x $(command -v "$python") ]] || { echo "no $python; set PYTHON" >&2; exit 2; }
jax=$("$python" -c 'from importlib.metadata import version; print(version("jax"))')
constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT
"$python" -m pip freeze --exclude-editable | grep -- '==' >"$constraints"

"$python" -m venv "$folder"
install() { "$folder/bin/python" -m pip install --quiet --constraint "$constraints" "$@"; }
install --editable .
for compiler in "${compilers[@]}"; do
    case $compiler in
        tpu) install "jax[tpu]==$jax" ;;
        # Without NVIDIA's libraries, several gigabytes, which only a GPU's programs need.
        cuda) install --no-deps "jax-cuda12-pjrt==$jax" "jax-cuda12-plugin==$jax" ;;
        *) echo "no compiler $compiler; there are tpu and cuda" >&2; exit 2 ;;
    esac
done
echo "$folder: jax $jax, $(du -sm "$folder" | cut -f1) MB, compilers: ${compilers[*]}"
