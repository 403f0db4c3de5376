"""Monte Carlo moves within a molecular-dynamics run: the shape or size of the cell, and swaps of unlike atoms.

Cell moves multiply cell and positions by ``F = exp(S)``, S symmetric (or a multiple of 1) and drawn from a normal
distribution centred on 0 that no direction is special to: cells are turned into a standard form after every move, and
the reverse of a move, which begins there, must be as likely. Such proposals are uniform in the invariant measure of
cells up to rotations, ``det(h)^-3 dh``; the isothermal-isobaric ensemble, with the measure ``det(h)^-2 dh`` of the
flexible cell, then accepts with ``min(1, exp(-(dE + P dV) / kT + (N + 1) ln(V'/V)))``. Momenta are untouched.

Swaps exchange the positions of two atoms; every atom keeps its own velocity, so that the kinetic energy stays and the
acceptance is ``min(1, exp(-dE / kT))``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openmm
import scipy.linalg
from ase.geometry import minkowski_reduce
from numpy.typing import NDArray

from halberd.potentials.constants import GAS_CONSTANT_KJ_PER_MOL_K, KJ_PER_MOL_NM3_IN_BAR

CELL_MOVES = ("none", "isotropic", "shape")


def log_cell_acceptance(
    energies: tuple[float, float], volumes: tuple[float, float], *, pressure: float, n_atoms: int, kT: float
) -> float:
    """Logarithm of the acceptance ratio of a cell move proposed uniformly in ``ln V``.

    Parameters
    ----------
    energies : pair of float, kJ/mol
        Before and after the move.
    volumes : pair of float, nm^3
    pressure : float, kJ/mol/nm^3
    n_atoms : int
    kT : float, kJ/mol
    """
    (energy, new_energy), (volume, new_volume) = energies, volumes
    work = new_energy - energy + pressure * (new_volume - volume)
    return float(-work / kT + (n_atoms + 1) * np.log(new_volume / volume))


def usual_amplitude(temperature: float, n_atoms: int) -> float:
    """Standard deviation of strain components that is accepted about half the time in a solid or melt.

    ``0.01 sqrt((T / 500 K) / (N / 40))``.
    """
    return float(0.01 * np.sqrt(max(temperature, 1.0) / 500.0 / (n_atoms / 40.0)))


def strain_factor(kind: str, amplitude: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw ``F = exp(S)``, shape (3, 3).

    Parameters
    ----------
    kind : {'isotropic', 'shape'}
    amplitude : float
        Standard deviation of the diagonal components of S; of the others, which are there twice, it is smaller by the
        square root of two.
    generator : numpy.random.Generator
    """
    if kind == "isotropic":
        return np.asarray(np.exp(amplitude * generator.standard_normal()) * np.eye(3))
    draw = amplitude * generator.standard_normal(6)
    strain = np.diag(draw[:3])
    strain[[0, 0, 1], [1, 2, 2]] = strain[[1, 2, 2], [0, 0, 1]] = draw[3:] / np.sqrt(2.0)
    return np.asarray(scipy.linalg.expm(strain))


def standard_cell(cell: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Turn a cell into the lower-triangular, reduced form that OpenMM asks for, by way of the shortest vectors.

    Under shape moves a cell wanders among the many descriptions of its lattice; the most compact one keeps the numbers
    sane. The lattice itself, and with it all that is periodic in it, stays the same.

    Parameters
    ----------
    cell : array, shape (3, 3)
        Rows are vectors of a right-handed cell.

    Returns
    -------
    cell : array, shape (3, 3)
    rotation : array, shape (3, 3)
        ``positions @ rotation`` turns positions along.
    """
    compact = minkowski_reduce(cell)[0]
    if np.linalg.det(compact) < 0:
        compact = -compact
    q, r = np.linalg.qr(compact.T)
    rotation = q * np.sign(np.diag(r))
    new = np.tril(compact @ rotation)
    for i, j in ((2, 1), (2, 0), (1, 0)):
        new[i] -= new[j] * np.round(new[i, j] / new[j, j])
    return new, rotation


def compactness(cell: NDArray[np.float64]) -> float:
    """Smallest distance between opposite faces over the cube root of the volume; 1 for a cube."""
    volume = float(np.linalg.det(cell))
    areas = [np.linalg.norm(np.cross(cell[i], cell[j])) for i, j in ((1, 2), (0, 2), (0, 1))]
    return float(abs(volume) / max(areas) / abs(volume) ** (1.0 / 3.0))


class MonteCarloMoves:
    """Moves of one Context.

    Energies are the Context's own, bias included, so that both sides of a comparison have the same ``hal_tau``.

    Parameters
    ----------
    context : openmm.Context
    atomic_numbers : sequence of int
        Of all particles.
    seed : int
    cell_move : {'none', 'isotropic', 'shape'}
    amplitude : float, optional
        See :func:`strain_factor`; :func:`usual_amplitude` if omitted.

    Attributes
    ----------
    counts : dict
        Move -> [accepted, tried].
    """

    def __init__(
        self,
        context: openmm.Context,
        atomic_numbers: NDArray[np.int64],
        seed: int,
        cell_move: str = "none",
        amplitude: float | None = None,
    ) -> None:
        self.context = context
        self.numbers = np.asarray(atomic_numbers)
        self.cell_move = cell_move
        self.amplitude = amplitude
        self.generator = np.random.default_rng(seed)
        self.counts = {"cell": [0, 0], "swap": [0, 0]}

    def _energy(self) -> float:
        return float(self.context.getState(energy=True).getPotentialEnergy()._value)

    def _accept(self, logarithm: float, move: str) -> bool:
        self.counts[move][1] += 1
        # One number is drawn whatever the outcome: the stream does not depend on it.
        accepted = bool(np.log(self.generator.random()) < logarithm)
        self.counts[move][0] += accepted
        return accepted

    def move_cell(self, temperature: float, pressure: float) -> bool:
        """Try one cell move.

        Parameters
        ----------
        temperature : float, K
        pressure : float, bar

        Returns
        -------
        bool
            Whether it was accepted.
        """
        amplitude = self.amplitude or usual_amplitude(temperature, len(self.numbers))
        factor = strain_factor(self.cell_move, amplitude, self.generator)
        state = self.context.getState(positions=True, velocities=True, energy=True)
        box = np.array(state.getPeriodicBoxVectors(asNumpy=True)._value)
        positions = np.array(state.getPositions(asNumpy=True)._value)
        velocities = np.array(state.getVelocities(asNumpy=True)._value)
        new_box, rotation = standard_cell(box @ factor)
        self.context.setPeriodicBoxVectors(*new_box)
        self.context.setPositions(positions @ factor @ rotation)
        volumes = np.linalg.det(box), np.linalg.det(new_box)
        logarithm = log_cell_acceptance(
            (state.getPotentialEnergy()._value, self._energy()),
            volumes,
            pressure=pressure / KJ_PER_MOL_NM3_IN_BAR,
            n_atoms=len(self.numbers),
            kT=GAS_CONSTANT_KJ_PER_MOL_K * temperature,
        )
        accepted = self._accept(logarithm, "cell")
        if accepted:
            self.context.setVelocities(velocities @ rotation)
        else:
            self.context.setPeriodicBoxVectors(*box)
            self.context.setPositions(positions)
        return accepted

    def swap(self, temperature: float) -> bool:
        """Try to exchange the positions of two atoms of different elements.

        Parameters
        ----------
        temperature : float, K

        Returns
        -------
        bool
            Whether it was accepted; false if there is one element only.
        """
        first = int(self.generator.integers(len(self.numbers)))
        others = np.flatnonzero(self.numbers != self.numbers[first])
        if not len(others):
            return False
        second = int(self.generator.choice(others))
        state = self.context.getState(positions=True, energy=True)
        positions = np.array(state.getPositions(asNumpy=True)._value)
        swapped = positions.copy()
        swapped[[first, second]] = positions[[second, first]]
        self.context.setPositions(swapped)
        work = self._energy() - state.getPotentialEnergy()._value
        accepted = self._accept(float(-work / (GAS_CONSTANT_KJ_PER_MOL_K * temperature)), "swap")
        if not accepted:
            self.context.setPositions(positions)
        return accepted

    def get_state(self) -> dict[str, Any]:
        """Random stream and counters; JSON-compatible."""
        return {"generator": self.generator.bit_generator.state, "counts": self.counts}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`get_state`."""
        self.generator.bit_generator.state = state["generator"]
        self.counts = {move: list(counts) for move, counts in state["counts"].items()}
