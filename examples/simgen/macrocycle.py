"""Macrocycles: molecules on a circle.

    python examples/simgen/macrocycle.py                              # radius 3 angstrom
    python examples/simgen/macrocycle.py --radius 4 --n 5

1.3 heavy atoms per angstrom of the circumference, twice as many noise levels as usual, and a strong pull to the
nearest points: after the published experiment, with a stronger pull.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import fragments

from halberd.samplers import SamplerOptions, generate


def largest_ring(mol: object) -> int:
    """Atoms of the largest ring of the smallest set of rings."""
    return max((len(ring) for ring in mol.GetRingInfo().AtomRings()), default=0)  # type: ignore[attr-defined]


def main() -> None:
    """Close rings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--radius", type=float, default=3.0, help="angstrom")
    parser.add_argument("--density", type=float, default=1.3, help="heavy atoms per angstrom")
    parser.add_argument("--n", type=int, default=6)
    parser.add_argument("--levels", type=int, default=100)
    parser.add_argument("--particles", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("macrocycle_out"))
    arguments = parser.parse_args()
    out = arguments.output
    out.mkdir(parents=True, exist_ok=True)
    size = math.ceil(arguments.density * 2 * math.pi * arguments.radius)
    made = generate(
        n=arguments.n,
        heavy_atoms=str(size),
        shape=f"circle:{arguments.radius}",
        beta=8.0,
        references="joined",
        seed=arguments.seed,
        max_attempts=4 * arguments.n,
        sampler=SamplerOptions(n_levels=arguments.levels, particles=arguments.particles),
        output=out / "molecules.sdf",
    )
    fragments.report(made, out)
    print("largest ring of each:", [largest_ring(mol) for mol in made.molecules])


if __name__ == "__main__":
    main()
