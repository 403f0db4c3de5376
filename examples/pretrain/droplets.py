"""What holds a liquid together: droplets that are swollen, by GFN2-xTB and by models.

    python examples/pretrain/droplets.py data/test.xyz MODEL [MODEL ...]
    python examples/pretrain/droplets.py liquids_out/water/frames.extxyz MODEL --run water

Takes the clusters of one liquid out of frames that were not trained on, or cuts balls of molecules out of a run of
``liquids.py``, and moves the centres of their molecules apart by 2 %. Prints, by liquid, the pressure that GFN2-xTB has
for that, -dE/dV, and the energy per molecule of pulling the molecules all apart; and how far off every model is, with
the standard error of that. The null has no forces between molecules: it is off by what GFN2-xTB says.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import ase.io
import numpy as np
from ase import Atoms, units
from ase.data import atomic_masses
from liquids import ball
from make_data import calculator
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from structures import GRAMS, KEPT_ASIDE, LIQUIDS, bonds, plain, solvents

from halberd.plugins import HalberdCalculator

#: Of the distances between centres, on both sides.
STRETCH = 0.02
#: At which nothing is left between molecules.
APART = 20.0


def molecules_of(atoms: Atoms) -> np.ndarray:
    """Which molecule every atom belongs to."""
    rows, columns = np.array(bonds(atoms)).T
    shape = (len(atoms), len(atoms))
    return connected_components(csr_matrix((np.ones(len(rows)), (rows, columns)), shape), directed=False)[1]


def swollen(atoms: Atoms, owner: np.ndarray, factor: float) -> Atoms:
    """With the centres of its molecules farther from each other."""
    moved = plain(atoms)
    for each in range(owner.max() + 1):
        centre = moved.positions[owner == each].mean(axis=0)
        moved.positions[owner == each] += (factor - 1) * centre
    return moved


def droplets(file: str) -> dict[str, list[Atoms]]:
    """Clusters of one liquid, by its name."""
    formulas = {solvents()[name].get_chemical_formula(): name for name in LIQUIDS}
    found: dict[str, list[Atoms]] = defaultdict(list)
    for atoms in ase.io.read(file, ":"):
        if atoms.info["config_type"] != "cluster":
            continue
        owner = molecules_of(atoms)
        kinds = {atoms[owner == each].get_chemical_formula() for each in range(owner.max() + 1)}
        if len(kinds) == 1 and next(iter(kinds)) in formulas:
            found[formulas[next(iter(kinds))]].append(atoms)
    return found


def balls(file: str, name: str, count: int) -> list[Atoms]:
    """Molecules around one of them, of about 50 atoms, evenly spread over a run."""
    frames, size = ase.io.read(file, ":"), len(solvents()[name])
    generator = np.random.default_rng(0)
    chosen = [frames[k] for k in np.linspace(0, len(frames) - 1, count).astype(int)]
    return [ball(atoms, size, int(generator.integers(len(atoms) // size)), 50) for atoms in chosen]


def measured(energy, atoms: Atoms, density: float) -> tuple[float, float]:
    """Pressure, GPa, and energy per molecule of pulling molecules apart, meV; by a function of structures."""
    owner = molecules_of(atoms)
    volume = atomic_masses[atoms.numbers].sum() * GRAMS / density
    wide, narrow = (energy(swollen(atoms, owner, 1 + sign * STRETCH)) for sign in (1, -1))
    pressure = -(wide - narrow) / (2 * STRETCH) / (3 * volume) / units.GPa
    apart = energy(swollen(atoms, owner, APART)) - energy(plain(atoms))
    return pressure, 1e3 * apart / (owner.max() + 1)


def by_xtb(atoms: Atoms) -> float:
    """GFN2-xTB, eV."""
    atoms.calc = calculator()
    return float(atoms.get_potential_energy())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--most", type=int, default=20, help="Droplets of every liquid.")
    parser.add_argument("--run", choices=list(LIQUIDS | KEPT_ASIDE), help="The file is a run of this liquid.")
    arguments = parser.parse_args()
    models = {name: HalberdCalculator(name) for name in arguments.models}
    print(" | ".join(["liquid", "droplets", "GFN2-xTB: GPa, meV", *(f"{name}: off by" for name in models)]))
    if arguments.run:
        found_in = {arguments.run: balls(arguments.file, arguments.run, arguments.most)}
    else:
        found_in = droplets(arguments.file)
    densities = {name: density for name, (_, density) in (LIQUIDS | KEPT_ASIDE).items()}
    for name, frames in sorted(found_in.items()):
        chosen = frames[:: max(1, len(frames) // arguments.most)][: arguments.most]
        truth = np.array([measured(by_xtb, atoms, densities[name]) for atoms in chosen])
        row = [name, str(len(chosen)), "{:.2f}, {:.0f}".format(*truth.mean(axis=0))]
        for model in models.values():
            found = [measured(lambda a, m=model: m.evaluate(a)["energy"], atoms, densities[name]) for atoms in chosen]
            off = np.array(found) - truth
            error = off.std(axis=0, ddof=1) / np.sqrt(len(off))
            row.append(f"{off[:, 0].mean():+.2f} ± {error[0]:.2f}, {off[:, 1].mean():+.0f} ± {error[1]:.0f}")
        print(" | ".join(row), flush=True)


if __name__ == "__main__":
    main()
