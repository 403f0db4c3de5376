"""Grow molecules from a fragment that stays where it is to the last bit.

    python examples/simgen/grow.py                                    # on a phenyl ring
    python examples/simgen/grow.py --fragment 'O=C(N)c1ccc(*)cn1' --heavy-atoms 5:8 --n 20

``*`` marks where to grow; the pull of the prior is centred there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import fragments

from halberd.samplers import SamplerOptions, generate


def main() -> None:
    """Grow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fragment", default="*c1ccccc1", help="SMILES with one *")
    parser.add_argument("--heavy-atoms", default="4:6", help="atoms to add")
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--levels", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("grow_out"))
    arguments = parser.parse_args()
    out = arguments.output
    scaffold = fragments.write(out / "fragment.sdf", fragments.fragment(arguments.fragment))
    made = generate(
        n=arguments.n,
        heavy_atoms=arguments.heavy_atoms,
        scaffold=str(scaffold),
        references="joined",
        seed=arguments.seed,
        sampler=SamplerOptions(n_levels=arguments.levels),
        output=out / "molecules.sdf",
    )
    fragments.report(made, out)


if __name__ == "__main__":
    main()
