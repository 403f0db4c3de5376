"""The campaign against halberd, from a clone of the repository.

    OMP_NUM_THREADS=1 python tests/campaign inputs --count 10000 --out campaign    # the long form, hours
    OMP_NUM_THREADS=1 python tests/campaign inputs --count 300 --out campaign      # a short one, minutes
    OMP_NUM_THREADS=1 python tests/campaign corpus --out campaign                  # what once was broken, a minute
    OMP_NUM_THREADS=1 python tests/campaign kills --count 200 --out campaign       # some 1,000 kills, hours

``inputs`` tries bad inputs of every command, ``corpus`` those that once were broken. ``kills`` disturbs jobs that go on
where they were ended: SIGKILL and SIGTERM at random moments, files that may not grow, places that may not be written,
two processes at once; in the end, every file must be that of an undisturbed run. A campaign that was ended goes on.
What failed stays in a folder of its own, ``input-SEED``, ``case-N`` or ``kill-SEED``, with what was said.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

from corpus import try_corpus
from inputs import try_inputs
from kills import try_kills


def main() -> None:
    """Run what was asked for; exit code 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["inputs", "corpus", "kills"])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--seeds", type=int, nargs="+", help="these alone")
    parser.add_argument("--out", type=Path, default=Path("campaign"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    seeds = arguments.seeds or range(arguments.first, arguments.first + arguments.count)
    folder = arguments.out.absolute()
    if arguments.what == "corpus":
        counts = try_corpus(folder)
    else:
        counts = (try_inputs if arguments.what == "inputs" else try_kills)(seeds, folder)
    print(", ".join(f"{name}: {number}" for name, number in sorted(counts.items())))
    sys.exit(0 if set(counts) <= {"fine", "kills"} else 1)


if __name__ == "__main__":
    main()
