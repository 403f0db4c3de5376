"""Molecules by a diffusion model: noise that is taken out level by level, by OpenMM integrators."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import openmm
from ase import Atoms
from numpy.typing import NDArray
from openmm import unit

from halberd.plugins.forces.diffusion import (
    DIFFUSION_SIGMA,
    diffusion_force,
    element_carriers,
    elements_in,
    n_element_carriers,
)
from halberd.plugins.forces.simgen import carriers
from halberd.potentials.constants import NM_IN_ANGSTROM
from halberd.potentials.diffusion.model import DiffusionModel
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.validation import Count, conform
from halberd.samplers.generation.integrators import NOISE, AnnealedLangevinIntegrator, StochasticHeunIntegrator
from halberd.samplers.generation.noise_schedules import Levels, geometric_schedule, karras_schedule
from halberd.samplers.runs.platforms import find_platform

#: First noise level of molecules from nothing, and of variations, angstrom.
FAR, NEAR = 5.0, 0.2


@dataclasses.dataclass(frozen=True)
class DenoisingOptions:
    """How noise is taken out.

    Attributes
    ----------
    integrator : {'heun', 'langevin'}
        Stochastic Heun steps along Karras' schedule, or Langevin steps at levels in a constant ratio.
    n_levels : int
    sigma_max, sigma_min : float, angstrom
        First and last noise level; the first one is 5, and 0.2 for variations, if omitted. What is left at the last one
        is taken out by the model at once.
    churn : float
        Heun: by what factor noise is raised before every step, with new noise; 1 for none, which makes the result a
        function of the first noise alone.
    churn_from : float
        Heun: levels below are not raised, angstrom.
    steps_per_level, step_size : int and float
        Langevin: see :class:`halberd.samplers.generation.integrators.AnnealedLangevinIntegrator`.
    platform : str, optional
        OpenMM's; the CPU if omitted.
    backend : {'torchforce', 'python', 'auto'}

    Raises
    ------
    ConfigurationError
        Names the option that makes no sense.
    """

    integrator: str = "heun"
    n_levels: Levels = 100
    sigma_max: float | None = None
    sigma_min: float = 0.005
    churn: float = 1.3
    churn_from: float = 0.02
    steps_per_level: Count = 4
    step_size: float = 0.1
    platform: str | None = "CPU"
    backend: str = "torchforce"

    def __post_init__(self) -> None:
        conform(self)
        if self.integrator not in ("heun", "langevin"):
            raise ConfigurationError(f"integrator is '{self.integrator}'; it must be 'heun' or 'langevin'.")
        self.make_integrator()

    def make_integrator(self) -> Any:
        """The integrator of one batch; noise comes from outside."""
        shared: dict[str, Any] = {"clip": None, "parameter": DIFFUSION_SIGMA, "external_noise": True}
        ends = (self.n_levels, FAR if self.sigma_max is None else self.sigma_max, self.sigma_min)
        if self.integrator == "heun":
            own: dict[str, Any] = {"churn": self.churn, "churn_from": self.churn_from, "s_noise": 1.0, "min_noise": 0.0}
            return StochasticHeunIntegrator(karras_schedule(*ends), **own, **shared)
        steps: dict[str, Any] = {"steps_per_level": self.steps_per_level, "step_size": self.step_size}
        return AnnealedLangevinIntegrator(geometric_schedule(*ends), **steps, **shared)


@dataclasses.dataclass(frozen=True)
class Denoised:
    """A molecule as the model made it, bonds unknown.

    Attributes
    ----------
    numbers : array of int, shape (n,)
    positions : array, shape (n, 3), angstrom
    certainty : array, shape (n,)
        How much more an atom is of its element than of any other; 1 if the model is sure.
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    certainty: NDArray[np.float64]


class DenoisingSampler:
    """Makes batches of molecules.

    Parameters
    ----------
    model : DiffusionModel
    options : DenoisingOptions, optional
    """

    def __init__(self, model: DiffusionModel, options: DenoisingOptions | None = None) -> None:
        self.model, self.options = model, options or DenoisingOptions()

    def run(
        self,
        sizes: Sequence[int],
        seeds: Sequence[Sequence[int]],
        progress: Callable[[float], None] | None = None,
        start: Sequence[Atoms] | None = None,
    ) -> list[Denoised | None]:
        """Make one batch.

        Parameters
        ----------
        sizes : sequence of int, length M
            Atoms of each molecule, hydrogens included.
        seeds : sequence of int sequences, length M
            Random streams, one per molecule: it comes out the same in whatever batch it is.
        progress : callable, optional
            Told the part of the steps that is done, 0 to 1.
        start : sequence of ase.Atoms, length M, optional
            Molecules that get the noise of the first level, in place of nothing but noise.

        Returns
        -------
        list of Denoised or None
            ``None`` where a number became infinite.

        Raises
        ------
        UnknownElementError
            If a molecule to start from has an element that the model does not know.
        """
        counts, n_elements = [int(size) for size in sizes], len(self.model.atomic_numbers)
        generators = [np.random.default_rng(list(seed)) for seed in seeds]
        n_atoms = sum(counts)

        def drawn() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            draws = [g.normal(size=(n, 3 + n_elements)) for g, n in zip(generators, counts, strict=True)]
            each = np.concatenate(draws)
            return each[:, :3], each[:, 3:]

        system = openmm.System()
        for _ in range(n_atoms + n_element_carriers(self.model, counts)):
            system.addParticle(1.0)
        system.addForce(diffusion_force(self.model, counts, 1, self.options.backend))
        integrator = self.options.make_integrator()
        context = openmm.Context(system, integrator, *find_platform(self.options.platform))
        first = float(integrator.levels[0])
        x, h = (first * each for each in drawn())
        if start is not None:
            x += np.concatenate([atoms.positions - atoms.positions.mean(axis=0) for atoms in start])
            known = self.model.elements_of(np.concatenate([atoms.numbers for atoms in start]))
            h += self.model.settings.element_scale * known
        context.setPositions(np.concatenate([x / NM_IN_ANGSTROM, element_carriers(h)]))
        for step in range(integrator.n_steps):
            x, h = drawn()
            integrator.setPerDofVariableByName(NOISE, np.concatenate([x, carriers(h.ravel())]))
            integrator.step(1)
            if progress is not None:
                progress((step + 1) / integrator.n_steps)
        state = context.getState(positions=True)
        found = np.asarray(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
        places, kinds = found[:n_atoms] * NM_IN_ANGSTROM, elements_in(found, n_atoms, n_elements)
        return self._finished(places, kinds / self.model.settings.element_scale, counts, float(integrator.levels[-1]))

    def _finished(
        self, positions: NDArray[np.float64], elements: NDArray[np.float64], sizes: list[int], sigma: float
    ) -> list[Denoised | None]:
        """Take out the noise that is left, and let atoms be of one element each."""
        numbers = np.array(self.model.atomic_numbers)
        cuts = np.cumsum(sizes)[:-1]
        results: list[Denoised | None] = []
        for x, h in zip(np.split(positions, cuts), np.split(elements, cuts), strict=True):
            if not (np.isfinite(x).all() and np.isfinite(h).all()):
                results.append(None)
                continue
            clean = self.model.evaluate(x, h, sigma)
            ordered = np.sort(clean.elements, axis=1)
            certainty = ordered[:, -1] - ordered[:, -2] if len(numbers) > 1 else np.ones(len(x))
            results.append(Denoised(numbers[clean.elements.argmax(axis=1)], clean.denoised, certainty))
        return results
