#!/usr/bin/env bash
# Install halberd into the active environment of a machine with a GPU, Python 3.12 and a CUDA build of torch, run the
# tests that need a GPU and print a table of times. With wheels in .whl (tests/benchmarks/fetch_gpu_wheels.sh) nothing is fetched.
#
#   bash tests/gpu/run.sh [MODEL.model]
#
# TESTS chooses tests (an expression of pytest -k), JOBS how many run at once, BENCH=0 leaves out the table.
set -euo pipefail
cd "$(dirname "$0")/../.."
if compgen -G '.whl/*.whl' >/dev/null; then
  # Into the folder that torch is in: OpenMM's plugins look for its libraries beside themselves, and what they find
  # elsewhere is another copy (seen: crashes in every step).
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --root-user-action=ignore --upgrade .whl/*.whl
  python3 -m pip install -q --no-index --no-deps --no-build-isolation --root-user-action=ignore -e .
else
  python3 -m pip install -q -e '.[cuda13,test]'
fi
status=0
python3 -m pytest tests/gpu -q -p no:cacheprovider -p no:benchmark -n "${JOBS:-4}" --durations=8 ${TESTS:+-k "$TESTS"} || status=$?
if [ "${BENCH:-1}" = 1 ]; then
  python3 tests/benchmarks/bench_gpu.py "$@" || status=$?
fi
exit "$status"
