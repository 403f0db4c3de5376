"""Fill a pocket: molecules inside a host whose atoms are kept clear of.

    python examples/simgen/pocket.py                                  # inside a carbon nanotube
    python examples/simgen/pocket.py --host host.pdb --cavity ligand.sdf --heavy-atoms 10:14

The cavity is a cloud of points: here the axis of the tube, otherwise any shape file, such as a known ligand.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ase.io
import fragments
import numpy as np
from ase.build import nanotube

from halberd.samplers import SamplerOptions, generate


def main() -> None:
    """Fill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", help="file of the host; a (7, 7) nanotube if omitted")
    parser.add_argument("--cavity", help="shape of the cavity; the axis of the tube if omitted")
    parser.add_argument("--heavy-atoms", default="8:10")
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--levels", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("pocket_out"))
    arguments = parser.parse_args()
    out = arguments.output
    out.mkdir(parents=True, exist_ok=True)
    host, cavity = arguments.host, arguments.cavity
    if host is None:
        tube = nanotube(7, 7, length=6)
        tube.positions -= tube.positions.mean(axis=0)
        tube.pbc = False
        host = str(out / "host.xyz")
        ase.io.write(host, tube)
    if cavity is None:
        z = np.linspace(-4.0, 4.0, 40)
        cavity = str(out / "cavity.csv")
        np.savetxt(cavity, np.stack([0 * z, 0 * z, z], axis=1), delimiter=",")
    made = generate(
        n=arguments.n,
        heavy_atoms=arguments.heavy_atoms,
        host=host,
        shape=cavity,
        seed=arguments.seed,
        sampler=SamplerOptions(n_levels=arguments.levels),
        output=out / "molecules.sdf",
    )
    fragments.report(made, out)
    wall = ase.io.read(host).positions
    gaps = [np.linalg.norm(a.positions[:, None] - wall[None], axis=2).min() for a in made.atoms]
    if gaps:
        print(f"closest approach to the host: {min(gaps):.2f} angstrom, {np.mean(gaps):.2f} on average")


if __name__ == "__main__":
    main()
