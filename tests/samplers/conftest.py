"""A small alloy that is cheap to label and quick to learn."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from halberd.potentials.ace.fit import AceFit
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.frames.labelled import Frame

BASIS = {"order": 2, "degree": 6, "cutoff": 4.0, "pair_cutoff": 4.5}


def copper_gold(seed: int, scale: float = 0.08):
    """Eight atoms of copper and gold, whose EMT description is sound at any density."""
    atoms = bulk("Cu", cubic=True, a=3.85) * (2, 1, 1)
    atoms.numbers[[1, 6]] = 79
    generator = np.random.default_rng(seed)
    atoms.set_cell(atoms.cell.array * generator.uniform(0.98, 1.04), scale_atoms=True)
    atoms.positions += generator.normal(scale=scale, size=atoms.positions.shape)
    return atoms


def emt_frame(atoms) -> Frame:
    """Labelled by effective medium theory."""
    atoms = atoms.copy()
    atoms.calc = EMT()
    virial = -atoms.get_volume() * atoms.get_stress(voigt=False)
    frame = Frame(atoms, atoms.get_potential_energy(), atoms.get_forces(), virial, "default")
    atoms.calc = None
    return frame


@pytest.fixture(scope="module")
def small_fit():
    """A fit of eight frames, and its solution with a committee of five."""
    fit = AceFit(AceSettings(("Cu", "Au"), **BASIS))
    fit.add([emt_frame(copper_gold(seed)) for seed in range(8)])
    return fit, fit.solve(committee=5, seed=1)


@pytest.fixture(scope="session")
def initial_file(tmp_path_factory):
    """Eight unlabelled frames."""
    path = tmp_path_factory.mktemp("initial") / "initial.xyz"
    ase.io.write(path, [copper_gold(seed) for seed in range(8)])
    return path
