"""Small labelled frames that know their own answer: a pair potential."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from halberd.potentials.frames.labelled import Frame

#: eV, of hydrogen and oxygen alone.
E0S = {"H": -1.5, "O": -7.0}
_RANGE = 3.5


def pair_energy(r: float, strength: float) -> tuple[float, float]:
    """Energy and slope of a smooth well that ends at the range."""
    x = r / _RANGE
    window, slope = (1 - x) ** 3, -3 * (1 - x) ** 2 / _RANGE
    value, steep = 3.0 * np.exp(-2.0 * (r - 1.0)) - strength, -6.0 * np.exp(-2.0 * (r - 1.0))
    return value * window, value * slope + steep * window


def labelled(atoms: Atoms, config_type: str = "default") -> Frame:
    """A frame with the pair potential's labels."""
    energy = sum(E0S[symbol] for symbol in atoms.symbols)
    forces, virial = np.zeros((len(atoms), 3)), np.zeros((3, 3))
    shifts = [np.zeros(3)]
    if atoms.pbc.all():
        shifts = [np.array(n) @ np.array(atoms.cell) for n in np.ndindex(3, 3, 3)]
        shifts = [shift - np.ones(3) @ np.array(atoms.cell) for shift in shifts]
    for i in range(len(atoms)):
        for j in range(len(atoms)):
            for shift in shifts:
                vector = atoms.positions[j] + shift - atoms.positions[i]
                r = float(np.linalg.norm(vector))
                if not 0 < r < _RANGE:
                    continue
                value, slope = pair_energy(r, 1.0 if atoms.symbols[i] == atoms.symbols[j] else 2.0)
                energy += 0.5 * value
                forces[i] += slope * vector / r
                virial -= 0.5 * slope * np.outer(vector, vector) / r
    return Frame(atoms, float(energy), forces, virial if atoms.pbc.all() else None, config_type)


def molecules(count: int, seed: int = 0, periodic: bool = False, spread: float = 0.08) -> list[Frame]:
    """Water molecules, bent and stretched by ``spread`` angstrom; two in a box if periodic."""
    generator = np.random.default_rng(seed)
    frames = []
    for number in range(count):
        water = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
        positions = water + generator.normal(0, spread, water.shape)
        symbols = "OHH"
        if periodic:
            positions = np.concatenate(
                [positions, water + np.array([2.6, 1.0, 2.4]) + generator.normal(0, spread, water.shape)]
            )
            symbols = "OHHOHH"
        cell = np.diag(generator.uniform(4.8, 5.2, 3)) if periodic else None
        kind = "even" if number % 2 == 0 else "odd"
        frames.append(labelled(Atoms(symbols, positions, cell=cell, pbc=periodic), kind))
    return frames


def alone() -> list[Frame]:
    """Both atoms by themselves."""
    return [labelled(Atoms(symbol, [[0.0, 0.0, 0.0]]), "isolated_atom") for symbol in E0S]
