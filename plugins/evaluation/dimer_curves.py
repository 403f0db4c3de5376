"""Energy curves of two atoms alone, evaluated and drawn: the quickest look at what a potential does at short range."""

from __future__ import annotations

import os

import numpy as np

from halberd.plugins.evaluation.figures import dimer_plot
from halberd.plugins.hosts.ase_calculator import HalberdCalculator
from halberd.potentials.ace.dimers import dimer
from halberd.potentials.sites.elements import bond_length
from halberd.potentials.sites.site_model import SiteModel


def draw_dimers(model: SiteModel, closest: np.ndarray, path: str | os.PathLike[str], points: int = 200) -> None:
    """Draw the dimer curves of every pair of elements, one line per member.

    Parameters
    ----------
    model : SiteModel
    closest : array, shape (S, S), angstrom
        Closest distances of the training set, in the order of the model's elements; infinite where there are none.
    path : path-like
    points : int
        Distances per curve.

    Raises
    ------
    OutputError
        If the place cannot be written.
    """
    calculator = HalberdCalculator(model, energy="interaction")
    curves = {}
    numbers, symbols = model.atomic_numbers, model.symbols
    for a in range(len(numbers)):
        for b in range(a, len(numbers)):
            nearest = float(closest[a, b])
            usual = 0.35 * (bond_length(numbers[a]) + bond_length(numbers[b]))
            distances = np.linspace(0.6 * (nearest if np.isfinite(nearest) else usual), model.cutoff, points)
            energies = []
            for r in distances:
                results = calculator.evaluate(dimer(numbers[a], numbers[b], float(r)))
                energies.append(np.atleast_1d(results.get("energies_committee", results["energy"])))
            curves[f"{symbols[a]}-{symbols[b]}"] = (distances, np.array(energies), nearest)
    dimer_plot(curves, path, f"{model.name}: two atoms alone")
