#!/usr/bin/env bash
# Install halberd on a machine with a GPU, Python 3.12 and a CUDA build of torch, run the tests that need a GPU and
# print a table of times. With wheels in .whl (tests/benchmarks/fetch_gpu_wheels.sh) nothing is fetched.
#
#   bash tests/gpu/run.sh [MODEL.model]
#
# TESTS chooses tests (an expression of pytest -k), JOBS how many run at once, BENCH=0 leaves out the table; what is
# installed stays in SITE, if that is set.
set -euo pipefail
cd "$(dirname "$0")/../.."
site=${SITE:-$(mktemp -d)}
[ -n "${SITE:-}" ] || trap 'rm -rf "$site"' EXIT
if compgen -G '.whl/*.whl' >/dev/null; then
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .whl/*.whl
  mkdir "$site/halberd"
  ln -s "$PWD"/{potentials,plugins,samplers} "$site/halberd/"
  export PYTHONPATH=$site:$PWD${PYTHONPATH:+:$PYTHONPATH}
  # The commands of an installed package, without its installation.
  mkdir "$site/halberd_md-0.dist-info"
  printf 'Metadata-Version: 2.1\nName: halberd-md\nVersion: 0\n' >"$site/halberd_md-0.dist-info/METADATA"
  python3 - >"$site/halberd_md-0.dist-info/entry_points.txt" <<'PY'
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
for group, names in {"console_scripts": project["scripts"], **project["entry-points"]}.items():
    print(f"[{group}]", *(f"{name} = {place}" for name, place in names.items()), sep="\n")
PY
else
  python3 -m pip install -q -e '.[cuda13,test]'
fi
status=0
python3 -m pytest tests/gpu -q -p no:cacheprovider -n "${JOBS:-4}" --durations=8 ${TESTS:+-k "$TESTS"} || status=$?
if [ "${BENCH:-1}" = 1 ]; then
  python3 tests/benchmarks/bench_gpu.py "$@" || status=$?
fi
exit "$status"
