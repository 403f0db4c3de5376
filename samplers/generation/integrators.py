"""Integrators that follow a score while the noise level falls, as ordinary OpenMM integrators.

A score is a force that depends on a context parameter, the noise level sigma in angstrom. Its reduced energies count as
kJ/mol; positions, noise and levels are angstrom here and nm in the Context. Particles without mass do not move. Steps
beyond the end of the schedule do nothing.

Noise comes from OpenMM (``setRandomNumberSeed``), or, with ``external_noise=True``, from the per-degree-of-freedom
variable ``xi``, which is filled with standard normal numbers before every step: molecules of a batch can then have
random streams of their own, and come out as they would alone.
"""

from __future__ import annotations

import openmm
from numpy.typing import ArrayLike

from halberd.plugins.forces.simgen import SIMGEN_SIGMA
from halberd.potentials.constants import NM_IN_ANGSTROM
from halberd.potentials.errors import ConfigurationError
from halberd.samplers.generation.noise_schedules import checked_schedule

#: Per-degree-of-freedom variable with the noise of the next step.
NOISE = "xi"
#: From kJ/mol/nm to reduced energy per angstrom, and from angstrom to nm.
_DRIFT = 1.0 / NM_IN_ANGSTROM**2


class _AnnealedIntegrator(openmm.CustomIntegrator):
    """What both integrators share: the schedule, the noise and the clipped score."""

    steps_per_level = 1

    def __init__(
        self, levels: ArrayLike, parameter: str, clip: float | None, clip_group: int, external_noise: bool
    ) -> None:
        super().__init__(1.0)
        self.levels = checked_schedule(levels)
        if clip is not None and not clip > 0:
            raise ConfigurationError(f"clip is {clip}; it must be positive, or None for no limit.")
        if not 1 <= clip_group <= 31:
            raise ConfigurationError(f"clip_group is {clip_group}; it must be a force group from 1 to 31.")
        self._parameter, self._clip, self._clip_group = parameter, clip, clip_group
        self._external_noise = external_noise
        self.addTabulatedFunction("schedule", openmm.Discrete1DFunction([float(level) for level in self.levels]))
        self.addGlobalVariable("k", 0)
        for name in ("sigma", "sigma_hat", "sigma_next"):
            self.addGlobalVariable(name, 0.0)
        for name in (NOISE, "score", "total"):
            self.addPerDofVariable(name, 0.0)

    @property
    def n_steps(self) -> int:
        """Steps until the end of the schedule."""
        raise NotImplementedError

    def restart(self) -> None:
        """Go back to the first level."""
        self.setGlobalVariableByName("k", 0)

    def _draw(self) -> None:
        if not self._external_noise:
            self.addComputePerDof(NOISE, "gaussian")

    def _compute_score(self, sigma: str) -> None:
        """Fill ``total`` with the score at noise level ``sigma``: clipped group plus group 0."""
        self.addComputeGlobal(self._parameter, sigma)
        self.addComputePerDof("score", f"f{self._clip_group}")
        if self._clip is not None:
            # Force per nm: ten times that per angstrom.
            limit = self._clip * NM_IN_ANGSTROM
            self.addComputePerDof("score", f"score*min(1, {limit!r}/sqrt(dot(score, score) + 1e-24))")
        # What is not a number counts as no force: one molecule must not end the batch.
        self.addComputePerDof("total", "select(step(abs(score + f0)), score + f0, 0)")


class StochasticHeunIntegrator(_AnnealedIntegrator):
    """Stochastic Heun steps of the SiMGen release (after Karras et al., NeurIPS 2022, algorithm 2).

    One step from sigma to sigma', two evaluations of the forces::

        sigma^ = churn sigma                            (sigma below churn_from)
        x <- x + max(s_noise sqrt(sigma^^2 - sigma^2), min_noise) xi
        F1 = F(x, sigma^)
        F2 = F(x + (sigma^ - sigma') F1, sigma')
        x <- x + (sigma^ - sigma') (F1 + F2) / 2

    The force is the derivative of x with respect to -sigma. With a true score s(x, sigma) that is ``sigma s``.

    Parameters
    ----------
    levels : array
        Noise levels, angstrom, falling; N of them make N - 1 steps.
    churn : float
        Factor, not below 1, by which the noise is raised first. 1 adds none but ``min_noise``.
    s_noise : float
        Factor of the noise that belongs to that rise.
    min_noise : float
        Least noise of a step, angstrom.
    churn_from : float
        Levels below are not raised, angstrom.
    clip : float, optional
        Longest score of an atom from ``clip_group``, 1/angstrom; ``None`` for no limit.
    clip_group : int
        Force group that is clipped; group 0 is added as it is. Other groups are not looked at.
    parameter : str
        Context parameter that holds the noise level.
    external_noise : bool
        See above.

    Raises
    ------
    ConfigurationError
        If the schedule does not fall or an option is out of range.
    """

    def __init__(
        self,
        levels: ArrayLike,
        *,
        churn: float = 1.3,
        s_noise: float = 0.5,
        min_noise: float = 0.01,
        churn_from: float = 2e-3,
        clip: float | None = 3.0**0.5,
        clip_group: int = 1,
        parameter: str = SIMGEN_SIGMA,
        external_noise: bool = False,
    ) -> None:
        super().__init__(levels, parameter, clip, clip_group, external_noise)
        if churn < 1 or s_noise < 0 or min_noise < 0:
            raise ConfigurationError(
                f"churn must be at least 1, s_noise and min_noise 0 or more; got {churn}, {s_noise} and {min_noise}."
            )
        self.addPerDofVariable("start", 0.0)
        self.addPerDofVariable("first", 0.0)
        self.beginIfBlock(f"k < {self.n_steps}")
        self.addComputeGlobal("sigma", "schedule(k)")
        self.addComputeGlobal("sigma_next", "schedule(k + 1)")
        self.addComputeGlobal("sigma_hat", f"sigma*select(step(sigma - {churn_from!r}), {churn!r}, 1)")
        self._draw()
        noise = f"max({s_noise!r}*sqrt(max(0, sigma_hat^2 - sigma^2)), {min_noise!r})/{NM_IN_ANGSTROM}"
        self.addComputePerDof("x", f"x + {noise}*{NOISE}")
        self._compute_score("sigma_hat")
        self.addComputePerDof("start", "x")
        self.addComputePerDof("first", "total")
        self.addComputePerDof("x", f"x + (sigma_hat - sigma_next)*{_DRIFT!r}*total")
        self._compute_score("sigma_next")
        self.addComputePerDof("x", f"start + 0.5*(sigma_hat - sigma_next)*{_DRIFT!r}*(first + total)")
        self.addComputeGlobal("k", "k + 1")
        self.endBlock()

    @property
    def n_steps(self) -> int:
        """Steps until the end of the schedule: one less than levels."""
        return len(self.levels) - 1


class AnnealedLangevinIntegrator(_AnnealedIntegrator):
    """Annealed Langevin dynamics (Song and Ermon, NeurIPS 2019, algorithm 1).

    At every level sigma, ``steps_per_level`` times, with step ``a = step_size sigma^2``::

        x <- x + a s(x, sigma) + sqrt(2 a) noise_scale xi

    Parameters
    ----------
    levels : array
        Noise levels, angstrom, falling.
    steps_per_level : int
    step_size : float
        a / sigma^2. For a Gaussian of variance sigma^2, 1 goes to the minimum in one step and 2 is unstable.
    noise_scale : float
        1 samples the density whose score it is; less stays closer to its maxima.
    force_is_sigma_score : bool
        Whether the force is ``sigma s``, as SiMGen's is meant, instead of the score s.
    clip, clip_group, parameter, external_noise
        As in :class:`StochasticHeunIntegrator`.

    Raises
    ------
    ConfigurationError
        If the schedule does not fall or an option is out of range.
    """

    def __init__(
        self,
        levels: ArrayLike,
        *,
        steps_per_level: int = 4,
        step_size: float = 0.1,
        noise_scale: float = 1.0,
        force_is_sigma_score: bool = True,
        clip: float | None = 3.0**0.5,
        clip_group: int = 1,
        parameter: str = SIMGEN_SIGMA,
        external_noise: bool = False,
    ) -> None:
        super().__init__(levels, parameter, clip, clip_group, external_noise)
        if steps_per_level < 1 or not 0 < step_size < 2 or noise_scale < 0:
            raise ConfigurationError(
                "Annealed Langevin needs steps_per_level of 1 or more, step_size between 0 and 2, and noise_scale of 0 "
                f"or more; got {steps_per_level}, {step_size} and {noise_scale}."
            )
        self.steps_per_level = int(steps_per_level)
        self.addGlobalVariable("a", 0.0)
        self.beginIfBlock(f"k < {self.n_steps}")
        self.addComputeGlobal("sigma", f"schedule(floor((k + 0.5)/{self.steps_per_level}))")
        self.addComputeGlobal("a", f"{float(step_size)!r}*sigma^2")
        self._draw()
        self._compute_score("sigma")
        drift = f"a*{_DRIFT!r}*total" + ("/sigma" if force_is_sigma_score else "")
        self.addComputePerDof("x", f"x + {drift} + {float(noise_scale)!r}*sqrt(2*a)/{NM_IN_ANGSTROM}*{NOISE}")
        self.addComputeGlobal("k", "k + 1")
        self.endBlock()

    @property
    def n_steps(self) -> int:
        """Steps until the end of the schedule."""
        return len(self.levels) * self.steps_per_level
