#!/usr/bin/env bash
# Collect the wheels that a machine with a GPU, Python 3.12 and torch 2.11 (CUDA 13), but without a package index, needs
# to run halberd. Run it where there is an index; carry the folder over, and there:
#
#   bash tests/gpu/run.sh [MODEL.model]
set -euo pipefail
target=${1:-.whl}
mkdir -p "$target"
platforms=()
for tag in manylinux_2_34 manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
  platforms+=(--platform "${tag}_x86_64")
done
python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp "${platforms[@]}" \
  -d "$target" openmm==8.5.2 OpenMM-CUDA-13==8.5.2 acellera-openmmtorch-cu13==1.10 vesin==0.6.2 vesin-torch==0.6.2 \
  sphericart==2.0.4 sphericart-torch==2.0.4 mace-torch==0.3.16 e3nn==0.4.4 matscipy ase torch-ema opt-einsum-fx \
  prettytable lmdb orjson typer rich pyyaml ruamel.yaml pydantic annotated-types typing-inspection mdtraj
# The one that fits this pydantic, which pins it to the digit.
python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp "${platforms[@]}" \
  -d "$target" "$(unzip -p "$target"/pydantic-*.whl '*/METADATA' | sed -n 's/^Requires-Dist: \(pydantic-core==[0-9.]*\).*/\1/p')"
# Comes as source only.
python3 -m pip wheel --no-deps --no-binary openmmml -w "$target" openmmml==1.7
du -sh "$target"
