"""The campaign against halberd, from a clone of the repository.

    OMP_NUM_THREADS=1 python tests/campaign inputs --count 10000 --out campaign    # the long form, hours
    OMP_NUM_THREADS=1 python tests/campaign inputs --count 300 --out campaign      # a short one, minutes

A run that was ended goes on. Inputs that failed stay in folders of their own: ``input-SEED``, with what was said.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

from inputs import try_inputs


def main() -> None:
    """Run what was asked for; exit code 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["inputs"])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--seeds", type=int, nargs="+", help="these alone")
    parser.add_argument("--out", type=Path, default=Path("campaign"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    seeds = arguments.seeds or range(arguments.first, arguments.first + arguments.count)
    counts = try_inputs(seeds, arguments.out.absolute())
    print(", ".join(f"{name}: {number}" for name, number in sorted(counts.items())))
    sys.exit(0 if set(counts) <= {"fine"} else 1)


if __name__ == "__main__":
    main()
