"""Link two fragments, neither of which moves.

    python examples/simgen/link.py                                    # a phenyl ring and a pyridine, 5.5 angstrom apart
    python examples/simgen/link.py --first '*C1CC1' --second '*c1ccco1' --gap 4.5 --heavy-atoms 2

The gap is the distance between the atoms that get the new bonds. The pull is centred between the two marks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import fragments

from halberd.samplers import SamplerOptions, generate


def main() -> None:
    """Link."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", default="*c1ccccc1", help="SMILES with one *")
    parser.add_argument("--second", default="*c1ccncc1", help="SMILES with one *")
    parser.add_argument("--gap", type=float, default=5.0, help="angstrom")
    parser.add_argument("--heavy-atoms", default="3:4", help="atoms of the linker")
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--levels", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("link_out"))
    arguments = parser.parse_args()
    out = arguments.output
    # Each fragment has its atom at the origin and its open bond along x: the second one is turned around.
    first = fragments.fragment(arguments.first)
    second = fragments.moved(fragments.fragment(arguments.second), (arguments.gap, 0.0, 0.0), turned=True)
    scaffold = fragments.write(out / "fragments.sdf", first, second)
    made = generate(
        n=arguments.n,
        heavy_atoms=arguments.heavy_atoms,
        scaffold=str(scaffold),
        references="joined",
        shape="gaussian:3,1,1",
        seed=arguments.seed,
        max_attempts=6 * arguments.n,
        sampler=SamplerOptions(n_levels=arguments.levels),
        output=out / "molecules.sdf",
    )
    fragments.report(made, out)


if __name__ == "__main__":
    main()
