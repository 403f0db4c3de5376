"""Small diffusion models and the molecules that they see."""

from __future__ import annotations

import numpy as np
import torch
from ase.build import molecule

from halberd.potentials.diffusion.model import DiffusionModel
from halberd.potentials.diffusion.network import NoisyNetwork
from halberd.potentials.diffusion.settings import DiffusionSettings
from halberd.potentials.diffusion.training import denoising_trainer, trained_diffusion
from halberd.potentials.training.settings import ScheduleSettings, TrainingSettings
from halberd.potentials.training.training import train

SMALL = {
    "elements": ("H", "C", "O"),
    "hidden": "4x0e+4x1o",
    "n_radial": 4,
    "radial_widths": (8,),
    "readout_widths": (8,),
    "noise_functions": 4,
    "noise_width": 8,
    "correlation": 2,
    "sigma_data": 1.3,
    "element_scale": 1.5,
}
MOLECULES = [molecule(name) for name in ("H2O", "CH3OH", "H2CO", "CH4", "CH3CHO", "H2O2")]


def model(*, blank: bool = False, seed: int = 1, **changes) -> DiffusionModel:
    """One that says something at random, or nothing."""
    settings = DiffusionSettings(**{**SMALL, **changes})
    network = NoisyNetwork(settings, 5.0, seed)
    if not blank:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for readout in network.readouts:
                shape = readout.weights[-1].shape
                readout.weights[-1].copy_(torch.randn(shape, generator=generator, dtype=torch.float64))
    return DiffusionModel(network, settings, 5.0, {(2, 6): 1}, {"name": "small"})


def noisy(sigma: float = 0.4, seed: int = 2) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Positions, angstrom, elements, and sizes of two molecules with noise, away from the origin."""
    rng = np.random.default_rng(seed)
    sizes = [len(each) for each in MOLECULES[:2]]
    positions = np.concatenate([each.positions for each in MOLECULES[:2]])
    numbers = np.concatenate([each.numbers for each in MOLECULES[:2]])
    elements = np.equal.outer(numbers, (1, 6, 8)).astype(float)
    return (
        positions + 3.0 + sigma * rng.normal(size=positions.shape),
        elements + sigma * rng.normal(size=elements.shape),
        sizes,
    )


def trained_on_water() -> tuple[DiffusionModel, float, float]:
    """A model of one molecule, and its losses of validation before and after."""
    choices = {**SMALL, "sigma_data": None, "element_scale": 0.5, "hidden": "16x0e+16x1o", "radial_widths": (16, 16)}
    settings = DiffusionSettings(**{**choices, "n_radial": 8, "noise_functions": 16, "noise_width": 32})
    how = TrainingSettings(
        batch_size=16, epochs=80, learning_rate=0.01, schedule=ScheduleSettings("cosine", 0.01), validation=0.1
    )
    own = denoising_trainer([molecule("H2O")] * 256, settings, how)
    before, _ = own.validated()
    train(own)
    return trained_diffusion(own, "water"), before, own.history[-1].validation
