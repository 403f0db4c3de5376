"""Energies that change as forces say, and those that do not, whatever is between the frames."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from halberd.plugins.hosts.ase_calculator import HalberdCalculator
from halberd.potentials import load
from halberd.potentials.frames.labelled import Frame
from halberd.potentials.frames.units import energy_over_forces, unit_problem
from tests.potentials.training.frames import molecules


def ethanol():
    """Conformers far from each other: no two are alike, as of a long run."""
    calculator = HalberdCalculator(load("gfn2-chnof@1"))
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(60):
        atoms = molecule("CH3CH2OH")
        atoms.set_dihedral(2, 0, 1, 5, rng.uniform(0, 360), indices=[2, 3])
        atoms.rotate(rng.uniform(0, 360), rng.normal(size=3))
        atoms.positions += rng.normal(scale=0.06, size=atoms.positions.shape)
        atoms.calc = calculator
        frames.append(Frame(atoms.copy(), atoms.get_potential_energy(), atoms.get_forces(), None, "hot"))
    return frames


def alloy():
    """Cells of several compositions, strains and sizes."""
    rng = np.random.default_rng(1)
    frames = []
    for number in range(40):
        atoms = bulk("Cu", cubic=True) * (1 + number % 2, 1, 1)
        atoms.numbers[: number % 3] = 28
        atoms.set_cell(atoms.cell * rng.uniform(0.94, 1.06), scale_atoms=True)
        atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
        atoms.calc = EMT()
        frames.append(Frame(atoms.copy(), atoms.get_potential_energy(), atoms.get_forces(), None, "cells"))
    return frames


SETS = {"waters": lambda: molecules(60), "ethanol": ethanol, "alloy": alloy}


@pytest.mark.parametrize("name", SETS)
def test_units_and_signs_are_told_from_each_other(name):
    frames = SETS[name]()
    good = energy_over_forces(frames)
    assert 0.4 < good < 2.5
    assert unit_problem(frames) is None
    for energy, forces in [(23.06, 1), (1, 23.06), (1, -1), (96.49, 1), (27.2, 51.42 / 51.42), (1, 51.42)]:
        wrong = [dataclasses.replace(f, energy=energy * f.energy, forces=forces * f.forces) for f in frames]
        assert energy_over_forces(wrong) == pytest.approx(good * energy / forces, rel=1e-6)
        assert f"Energies change about {good * energy / forces:.2g} times as much" in unit_problem(wrong)


def test_what_nothing_can_be_said_of():
    frames = molecules(60)
    rng = np.random.default_rng(0)
    unlike = [dataclasses.replace(frame, energy=float(rng.normal())) for frame in frames]
    still = [dataclasses.replace(frame, forces=np.zeros_like(frame.forces)) for frame in frames]
    bare = [dataclasses.replace(frame, forces=None) for frame in frames]
    for others in ([], frames[:4], unlike, still, bare, [frames[0]] * 50):
        assert energy_over_forces(others) is None
        assert unit_problem(others) is None
