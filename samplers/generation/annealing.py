"""Skeletons by annealing: many molecules, each as several particles, in one batch and one Context."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import openmm
import torch
from numpy.typing import NDArray
from openmm import unit
from scipy.sparse.csgraph import connected_components

from halberd.plugins.forces.simgen import carriers, guidance_force, n_carriers, similarity_force
from halberd.potentials.constants import NM_IN_ANGSTROM
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.simgen.guidance import REPULSION_CUTOFF, Guidance, HostWall, prior_strength
from halberd.potentials.simgen.score import SimilarityScore
from halberd.potentials.sites.block_list import BlockNeighbors
from halberd.potentials.sites.elements import atomic_number_of
from halberd.potentials.validation import conform
from halberd.samplers.generation.element_moves import ElementMoves
from halberd.samplers.generation.integrators import NOISE, AnnealedLangevinIntegrator, StochasticHeunIntegrator
from halberd.samplers.generation.noise_schedules import Levels, schedule
from halberd.samplers.runs.platforms import find_platform

#: Angstrom. A molecule that has lost an atom farther than this is given up.
_LOST = 100.0
#: Angstrom. Atoms are bonded below this distance when there is no noise.
_BONDED = 1.75


@dataclasses.dataclass(frozen=True)
class SamplerOptions:
    """How skeletons are annealed.

    Attributes
    ----------
    integrator : {'heun', 'langevin'}
    schedule : str or list of float
        ``simgen``, ``karras``, ``geometric``, or noise levels of your own, angstrom.
    n_levels : int
    particles : int
        Particles of every molecule; 1 switches element moves off.
    swap_interval : int
        Integration steps between element moves.
    elements : tuple of str
        Elements that are exchanged; the first is what every atom begins as.
    swap_fraction : float
        Part of the atoms that changes in a copy.
    fragment_penalty : float
        What every gap between pieces of a particle costs in the logarithm of its weight.
    strength : float or pair of float, optional
        Factor of the prior's strength, :func:`halberd.potentials.simgen.guidance.prior_strength`. Of a pair, every
        molecule draws its own from between (evenly in the logarithm): the weaker, the more open chains, and the more
        pieces; the stronger, the more rings. If omitted, the prior's ``usual_strength``: 0.45 to 0.8 for a Gaussian,
        1.6 to 2.4 for points.
    clip : float
        Longest similarity force on an atom, 1/angstrom.
    recentre : bool
        Whether the prior follows the molecule's centre.
    platform : str, optional
        OpenMM's; the CPU if omitted.
    backend : {'torchforce', 'python', 'auto'}
    """

    integrator: str = "heun"
    schedule: str | Sequence[float] = "simgen"
    n_levels: Levels = 50
    particles: int = 5
    swap_interval: int = 2
    elements: tuple[str, ...] = ("C", "N", "O")
    swap_fraction: float = 0.2
    fragment_penalty: float = 3.0
    strength: float | tuple[float, float] | None = None
    clip: float = 3.0**0.5
    recentre: bool = False
    platform: str | None = "CPU"
    backend: str = "torchforce"

    def __post_init__(self) -> None:
        conform(self)
        if self.integrator not in ("heun", "langevin"):
            raise ConfigurationError(f"integrator is '{self.integrator}'; it must be 'heun' or 'langevin'.")
        if self.particles < 1 or self.swap_interval < 1:
            raise ConfigurationError(
                f"particles and swap_interval must be at least 1, got {self.particles} and {self.swap_interval}."
            )
        low, high = self.strengths or (0.0, 0.0)
        if not 0 <= low <= high or (low == 0 < high):
            raise ConfigurationError(f"strength is {self.strength}; it must be 0 or more, or a rising positive pair.")
        if not self.elements:
            raise ConfigurationError("elements is empty; name at least one element to make molecules of.")

    @property
    def strengths(self) -> tuple[float, float] | None:
        """Weakest and strongest factor of the prior; ``None`` for its own."""
        if self.strength is None or isinstance(self.strength, tuple):
            return self.strength
        return (self.strength, self.strength)


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """Particles of one molecule at the end of the schedule, the most similar one first.

    Attributes
    ----------
    numbers : array of int, shape (P, n)
        Atomic numbers; generated atoms first, then those of the scaffold.
    positions : array, shape (P, n, 3), angstrom
    log_density : array, shape (P, n)
        Of every atom at the last noise level.
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    log_density: NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """One particle of every molecule of a batch, on its way.

    Attributes
    ----------
    sigma : float
        Noise level, angstrom.
    numbers : list of int arrays, shape (n,)
        Atomic numbers; generated atoms first, then those of the scaffold.
    positions : list of arrays, shape (n, 3), angstrom
    similarity : array, shape (M,)
        Mean log density of the generated atoms.
    """

    sigma: float
    numbers: list[NDArray[np.int64]]
    positions: list[NDArray[np.float64]]
    similarity: NDArray[np.float64]


class SimilaritySampler:
    """Anneals batches of skeletons.

    Parameters
    ----------
    score : SimilarityScore
    prior : GaussianPrior or PointCloudPrior
    options : SamplerOptions, optional
    scaffold : tuple of array of int (s,) and array (s, 3) in angstrom, optional
        Atomic numbers and positions of heavy atoms that are part of every molecule and never move.
    wall : HostWall, optional

    Raises
    ------
    UnknownElementError
        If the model lacks an element.
    ConfigurationError
        If the schedule is not one.
    """

    def __init__(
        self,
        score: SimilarityScore,
        prior: Any,
        options: SamplerOptions | None = None,
        *,
        scaffold: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None,
        wall: HostWall | None = None,
    ) -> None:
        self.score, self.prior, self.wall = score, prior, wall
        self.options = options or SamplerOptions()
        self.levels = schedule(self.options.schedule, self.options.n_levels)
        descriptor = score.descriptor
        numbers, positions = scaffold or (np.zeros(0, dtype=np.int64), np.zeros((0, 3)))
        self.scaffold_species = descriptor.species_of(numbers).numpy()
        self.scaffold_positions = np.asarray(positions, dtype=np.float64)
        species = descriptor.species_of([atomic_number_of(symbol) for symbol in self.options.elements]).numpy()
        self.moves = ElementMoves(tuple(int(s) for s in species), (1.0,) * len(species), self.options.swap_fraction)
        self.atomic_numbers = np.asarray(descriptor.atomic_numbers)

    def run(
        self,
        sizes: Sequence[int],
        seeds: Sequence[Sequence[int]],
        progress: Callable[[float], None] | None = None,
        watch: Callable[[Snapshot], None] | None = None,
    ) -> list[Skeleton | None]:
        """Anneal one batch.

        Parameters
        ----------
        sizes : sequence of int, length M
            Atoms to generate in each molecule, besides the scaffold.
        seeds : sequence of int sequences, length M
            Random streams, one per molecule: it comes out the same in whatever batch it is.
        progress : callable, optional
            Told the part of the steps that is done, 0 to 1.
        watch : callable, optional
            Shown how far the batch is, every ``swap_interval`` steps. What comes out is the same to the bit.

        Returns
        -------
        list of Skeleton or None
            ``None`` for a molecule that flew apart.
        """
        batch = _Batch(self, sizes, seeds)
        integrator = batch.integrator
        for step in range(integrator.n_steps):
            if step % self.options.swap_interval == 0:
                following = step // integrator.steps_per_level + 1
                sigma = float(self.levels[min(following, len(self.levels) - 1)])
                if self.options.particles > 1:
                    batch.move_elements(sigma)
                if watch is not None:
                    watch(batch.snapshot(sigma))
            integrator.setPerDofVariableByName(NOISE, batch.noise())
            integrator.step(1)
            if progress is not None:
                progress((step + 1) / integrator.n_steps)
        return batch.collect()

    def make_integrator(self) -> Any:
        """The integrator of one batch."""
        kinds: dict[str, Any] = {"heun": StochasticHeunIntegrator, "langevin": AnnealedLangevinIntegrator}
        return kinds[self.options.integrator](self.levels, clip=self.options.clip, external_noise=True)


def _gaps(positions: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Pieces, less one, that every particle is in; bonds may be stretched by the noise.

    Parameters
    ----------
    positions : array, shape (P, n, 3), angstrom
    sigma : float
        Noise level, angstrom.

    Returns
    -------
    array, shape (P,)
    """
    distances = np.linalg.norm(positions[:, :, None] - positions[:, None], axis=3)
    return np.array([connected_components(each < _BONDED + sigma, directed=False)[0] - 1.0 for each in distances])


class _Batch:
    """One Context with blocks of atoms: molecule by molecule, particle by particle."""

    def __init__(self, sampler: SimilaritySampler, sizes: Sequence[int], seeds: Sequence[Sequence[int]]) -> None:
        self.sampler = sampler
        self.score = sampler.score
        self.particles = sampler.options.particles
        self.generators = [np.random.default_rng(list(seed)) for seed in seeds]
        low, high = sampler.options.strengths or sampler.prior.usual_strength
        self.factors = [low * (high / low) ** g.uniform() if low > 0 else 0.0 for g in self.generators]
        n_fixed = len(sampler.scaffold_species)
        self.shapes = [(self.particles, size + n_fixed) for size in sizes]
        self.free = [np.arange(size + n_fixed) < size for size in sizes]
        blocks = [n for p, n in self.shapes for _ in range(p)]
        self.cuts = np.cumsum([p * n for p, n in self.shapes])
        self.n_atoms = int(self.cuts[-1])
        self.species = np.concatenate([np.tile(self._first_species(size), self.particles) for size in sizes])
        positions = np.concatenate(
            [
                np.tile(
                    np.concatenate([sampler.prior.sample(size, generator), sampler.scaffold_positions]),
                    (self.particles, 1),
                )
                for size, generator in zip(sizes, self.generators, strict=True)
            ]
        )
        free = np.concatenate([np.tile(each, self.particles) for each in self.free])
        self.system = self._system(blocks, sizes, free)
        self.integrator = sampler.make_integrator()
        self.context = openmm.Context(self.system, self.integrator, *find_platform(sampler.options.platform))
        self.neighbors = BlockNeighbors(blocks, self.score.descriptor.cutoff).to(self.score.descriptor.device)
        self._set(positions)

    def _first_species(self, size: int) -> NDArray[np.int64]:
        first = np.full(size, self.sampler.moves.species[0], dtype=np.int64)
        return np.concatenate([first, self.sampler.scaffold_species])

    def _system(self, blocks: list[int], sizes: Sequence[int], free: NDArray[np.bool_]) -> openmm.System:
        system = openmm.System()
        for moves in [*free, *([False] * n_carriers(self.n_atoms))]:
            system.addParticle(1.0 if moves else 0.0)
        options = self.sampler.options
        pulls = [f * prior_strength(size) for f, size in zip(self.factors, sizes, strict=True)]
        factor = np.repeat(pulls, [p * n for p, n in self.shapes])
        neighbors = BlockNeighbors(blocks, REPULSION_CUTOFF)
        guidance = Guidance(
            self.sampler.prior,
            torch.tensor(np.where(free, factor, 0.0)),
            neighbors,
            self.sampler.wall,
            neighbors.owner if options.recentre else None,
        )
        system.addForce(similarity_force(self.score, blocks, 1, options.backend))
        system.addForce(guidance_force(guidance, self.n_atoms, 0, options.backend))
        return system

    def _set(self, positions: NDArray[np.float64]) -> None:
        """Give positions (N, 3) in angstrom, and the current species, to the Context."""
        self.context.setPositions(np.concatenate([positions / NM_IN_ANGSTROM, carriers(self.species)]))

    def positions(self) -> NDArray[np.float64]:
        """Positions of all atoms, shape (N, 3), angstrom; those of the scaffold to the bit."""
        state = self.context.getState(positions=True)
        found = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)[: self.n_atoms] * NM_IN_ANGSTROM
        for piece in np.split(found, self.cuts[:-1]):
            self._restore_scaffold(piece)
        return np.asarray(found)

    def _restore_scaffold(self, piece: NDArray[np.float64]) -> None:
        n_fixed = len(self.sampler.scaffold_species)
        if n_fixed:
            piece.reshape(self.particles, -1, 3)[:, -n_fixed:] = self.sampler.scaffold_positions

    def noise(self) -> NDArray[np.float64]:
        """Standard normal numbers of the next step, each molecule's from its own stream."""
        draws = [g.normal(size=(p * n, 3)) for g, (p, n) in zip(self.generators, self.shapes, strict=True)]
        return np.concatenate([*draws, np.zeros((n_carriers(self.n_atoms), 3))])

    @torch.no_grad()
    def log_density(self, positions: NDArray[np.float64], sigma: float) -> list[NDArray[np.float64]]:
        """Log density of every atom, one array (P, n) per molecule."""
        device = self.score.descriptor.device
        values = self.score.log_density(
            torch.tensor(positions, device=device), torch.tensor(self.species, device=device), self.neighbors, sigma
        )
        pieces = np.split(values.to(torch.float64).cpu().numpy(), self.cuts[:-1])
        return [piece.reshape(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def move_elements(self, sigma: float) -> None:
        """Keep one particle of every molecule and replace the others by copies with exchanged elements."""
        positions = self.positions()
        densities = self.log_density(positions, sigma)
        limit = self.score.highest_density(sigma)
        places, kinds = np.split(positions, self.cuts[:-1]), np.split(self.species, self.cuts[:-1])
        for m, (generator, (p, n)) in enumerate(zip(self.generators, self.shapes, strict=True)):
            # Denser than any reference molecule: atoms have collapsed onto each other.
            collapsed = densities[m].mean(1) > limit
            energies = np.where(collapsed, np.nan, -densities[m].sum(1))
            penalties = self.sampler.options.fragment_penalty * _gaps(places[m].reshape(p, n, 3), sigma)
            kept = self.sampler.moves.select(energies, sigma, generator, penalties)
            species = kinds[m].reshape(p, n)[kept]
            changed = self.sampler.moves.spawn(
                species, -densities[m][kept], free=self.free[m], copies=p - 1, sigma=sigma, generator=generator
            )
            places[m][:] = np.tile(places[m].reshape(p, n, 3)[kept], (p, 1))
            kinds[m][:] = np.concatenate([species[None], changed]).ravel()
        self._set(positions)

    def snapshot(self, sigma: float) -> Snapshot:
        """The first particle of every molecule, which element moves have kept."""
        positions = self.positions()
        means = [each[0, free].mean() for each, free in zip(self.log_density(positions, sigma), self.free, strict=True)]
        places, kinds = np.split(positions, self.cuts[:-1]), np.split(self.species, self.cuts[:-1])
        return Snapshot(
            sigma,
            [self.sampler.atomic_numbers[kind[:n]] for kind, (_, n) in zip(kinds, self.shapes, strict=True)],
            [place[:n] for place, (_, n) in zip(places, self.shapes, strict=True)],
            np.array(means),
        )

    def collect(self) -> list[Skeleton | None]:
        """Particles at the end, the most similar one first."""
        positions = self.positions()
        densities = self.log_density(positions, float(self.sampler.levels[-1]))
        skeletons: list[Skeleton | None] = []
        for piece, kinds, density, (p, n) in zip(
            np.split(positions, self.cuts[:-1]),
            np.split(self.species, self.cuts[:-1]),
            densities,
            self.shapes,
            strict=True,
        ):
            places = piece.reshape(p, n, 3)
            sane = np.isfinite(places).all(axis=(1, 2)) & (np.abs(places).max(axis=(1, 2), initial=0.0) < _LOST)
            order = [k for k in np.argsort(-density.sum(1), kind="stable") if sane[k]]
            numbers = self.sampler.atomic_numbers[kinds.reshape(p, n)]
            skeletons.append(Skeleton(numbers[order], places[order], density[order]) if order else None)
        return skeletons
