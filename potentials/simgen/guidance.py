"""Restorative potentials: what holds generated atoms together and gives a molecule its shape.

All energies are reduced, like the similarity score they are added to; every force is the gradient of its energy.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from halberd.potentials.errors import ConfigurationError

#: Repulsion of overlapping atoms: height, and inverse range in 1/angstrom; nothing is left of it at the cutoff.
REPULSION_HEIGHT, REPULSION_DECAY, REPULSION_CUTOFF = 1.0 / 3.0, 8.0, 2.5
#: Spread of the first positions in units of the prior's own.
START_SPREAD = 0.5
#: Spread of first positions around the points of a cloud, and their distances along it, angstrom.
CLOUD_SPREAD, _SPACING = 0.3, (0.9, 1.4)
#: Volume a heavy atom with its hydrogens fills, angstrom^3, and the reach of an atom beyond a point of a cloud.
VOLUME_PER_ATOM, REACH = 12.0, 1.9


class GaussianPrior(torch.nn.Module):
    """Harmonic attraction to a centre, ``E = (x - c)' S^-1 (x - c) / 2``.

    Parameters
    ----------
    covariance : array, shape (3,) or (3, 3), angstrom^2
        S, or its diagonal; scaled to determinant 1, so that shape and strength are separate choices.
    centre : array, shape (3,), angstrom

    Raises
    ------
    ConfigurationError
        If the covariance is not positive definite.
    """

    #: Weakest and strongest factor of :func:`prior_strength` that suits it.
    usual_strength = (0.45, 0.8)

    precision: torch.Tensor
    centre: torch.Tensor

    def __init__(self, covariance: ArrayLike = (1.0, 1.0, 1.0), centre: ArrayLike = (0.0, 0.0, 0.0)) -> None:
        super().__init__()
        given = np.asarray(covariance, dtype=np.float64)
        matrix = np.diag(given) if given.shape == (3,) else given
        if matrix.shape != (3, 3) or not np.allclose(matrix, matrix.T) or np.linalg.eigvalsh(matrix).min() <= 0:
            raise ConfigurationError(f"A covariance must be 3 x 3, symmetric and positive definite, got {given}.")
        self.covariance = matrix / np.linalg.det(matrix) ** (1.0 / 3.0)
        self.register_buffer("precision", torch.tensor(np.linalg.inv(self.covariance)))
        self.register_buffer("centre", torch.tensor(np.asarray(centre, dtype=np.float64)))

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """Energy of every atom, shape (N,), from positions (N, 3) in angstrom."""
        away = positions - self.centre
        return 0.5 * (torch.matmul(away, self.precision) * away).sum(1)

    @torch.jit.unused
    def sample(self, count: int, generator: np.random.Generator) -> NDArray[np.float64]:
        """Draw starting positions, shape (count, 3), angstrom."""
        normal = generator.normal(size=(count, 3)) @ np.linalg.cholesky(self.covariance).T
        return np.asarray(START_SPREAD * normal + self.centre.cpu().numpy())

    @torch.jit.unused
    def capacity(self) -> float:
        """Heavy atoms that find room: no limit, the molecule takes the room it needs."""
        return math.inf

    @torch.jit.unused
    def outline(self, count: int, generator: np.random.Generator) -> NDArray[np.float64]:
        """Points that show the shape, shape (count, 3), angstrom."""
        normal = generator.normal(size=(count, 3)) @ np.linalg.cholesky(self.covariance).T
        return np.asarray(normal + self.centre.cpu().numpy())


class PointCloudPrior(torch.nn.Module):
    """Attraction to a cloud of points: a line, a circle, the atoms of a known ligand, a surface.

    ``E = -(1/beta) ln mean_k exp(-beta d_k' P d_k / 2)`` with ``d_k = x - p_k``: the force is a softmax average of the
    pulls towards the points, the nearest ones the more exclusively the larger beta is.

    Parameters
    ----------
    points : array, shape (K, 3), angstrom
    beta : float
        1/angstrom^2.
    precision : array, shape (3,) or (3, 3)
        P; stiffness of the attraction along each direction.

    Raises
    ------
    ConfigurationError
        If there are no points, they are not finite, or ``beta`` is not positive.
    """

    #: As for the Gaussian; more, since points pull to themselves but not atoms to each other.
    usual_strength = (1.6, 2.4)

    points: torch.Tensor
    precision: torch.Tensor

    def __init__(self, points: ArrayLike, beta: float = 5.0, precision: ArrayLike = (1.0, 1.0, 1.0)) -> None:
        super().__init__()
        array = np.atleast_2d(np.asarray(points, dtype=np.float64))
        if array.shape[0] < 1 or array.shape[1] != 3 or not np.isfinite(array).all():
            raise ConfigurationError(f"A shape needs finite points in three dimensions, got shape {array.shape}.")
        if not beta > 0:
            raise ConfigurationError(f"beta is {beta}; it must be positive.")
        matrix = np.asarray(precision, dtype=np.float64)
        matrix = np.diag(matrix) if matrix.shape == (3,) else matrix
        self.beta = float(beta)
        self.register_buffer("points", torch.tensor(array))
        self.register_buffer("precision", torch.tensor(matrix))

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """Energy of every atom, shape (N,), from positions (N, 3) in angstrom."""
        stretched = torch.matmul(self.points, self.precision)
        squares = (torch.matmul(positions, self.precision) * positions).sum(1, keepdim=True)
        squares = squares + (stretched * self.points).sum(1).unsqueeze(0)
        exponents = -0.5 * self.beta * (squares - 2.0 * torch.matmul(positions, stretched.t()))
        return (math.log(self.points.shape[0]) - torch.logsumexp(exponents, 1)) / self.beta

    @torch.jit.unused
    def sample(self, count: int, generator: np.random.Generator) -> NDArray[np.float64]:
        """Draw starting positions near the points, shape (count, 3), angstrom.

        From a random point on, each next one is drawn from those about a bond away from the points so far: atoms that
        are too few for the whole shape fill a part of it without gaps. Where there is no such point any is taken, none
        twice before all were.
        """
        points = self.points.cpu().numpy()
        chosen = [int(generator.integers(len(points)))]
        gaps = np.linalg.norm(points - points[chosen[0]], axis=1)
        while len(chosen) < count:
            near = np.nonzero((gaps > _SPACING[0]) & (gaps < _SPACING[1]))[0]
            unused = np.setdiff1d(np.arange(len(points)), chosen[len(chosen) // len(points) * len(points) :])
            chosen.append(int(generator.choice(near if len(near) else unused)))
            gaps = np.minimum(gaps, np.linalg.norm(points - points[chosen[-1]], axis=1))
        return np.asarray(points[chosen] + CLOUD_SPREAD * generator.normal(size=(count, 3)))

    @torch.jit.unused
    def capacity(self) -> float:
        """Heavy atoms that find room within an atom's reach of the points."""
        from scipy.spatial import cKDTree

        points = self.points.cpu().numpy()
        low, high = points.min(0) - REACH, points.max(0) + REACH
        step = max(0.25, float(np.prod(high - low)) ** (1 / 3) / 60)
        axes = [np.arange(a, b + step, step) for a, b in zip(low, high, strict=True)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        inside = cKDTree(points).query(grid, distance_upper_bound=REACH)[0] < REACH
        return float(inside.sum() * step**3 / VOLUME_PER_ATOM)

    @torch.jit.unused
    def outline(self, count: int, generator: np.random.Generator) -> NDArray[np.float64]:
        """Points that show the shape, shape (count, 3), angstrom."""
        points = self.points.cpu().numpy()
        return np.asarray(points[generator.integers(len(points), size=count)])


class HostWall(torch.nn.Module):
    """Soft wall around the atoms of a host that does not take part in bonding.

    ``E = (k/2) sum_h max(0, r_h - |x - x_h|)^2``.

    Parameters
    ----------
    positions : array, shape (H, 3), angstrom
    radii : array, shape (H,), angstrom
        Closest approach of a heavy atom to each.
    stiffness : float
        k, 1/angstrom^2.
    """

    centres: torch.Tensor
    radii: torch.Tensor

    def __init__(self, positions: ArrayLike, radii: ArrayLike, stiffness: float = 5.0) -> None:
        super().__init__()
        self.register_buffer("centres", torch.tensor(np.asarray(positions, dtype=np.float64)))
        self.register_buffer("radii", torch.tensor(np.asarray(radii, dtype=np.float64)))
        self.stiffness = float(stiffness)

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """Energy of every atom, shape (N,), from positions (N, 3) in angstrom."""
        squares = (positions.unsqueeze(1) - self.centres.unsqueeze(0)).square().sum(2)
        overlap = (self.radii.unsqueeze(0) - torch.sqrt(squares + 1e-12)).clamp(min=0.0)
        return 0.5 * self.stiffness * overlap.square().sum(1)

    @torch.jit.unused
    def depth(self, positions: ArrayLike) -> float:
        """How far the deepest of some atoms is inside the wall, angstrom; 0 if none is."""
        places = torch.tensor(np.asarray(positions, dtype=np.float64)).reshape(-1, 3)
        gaps = self.radii.cpu().unsqueeze(0) - torch.cdist(places, self.centres.cpu())
        return max(0.0, float(gaps.max()))


class Guidance(torch.nn.Module):
    """Everything that acts beside the similarity score: prior, repulsion of overlapping atoms, wall of a host.

    Parameters
    ----------
    prior : GaussianPrior or PointCloudPrior
    strength : torch.Tensor, shape (N,)
        Factor of the prior for every atom, see :func:`prior_strength`; 0 for atoms that it must not touch. The prior
        fades out with the noise as ``tanh(20 sigma^2)``.
    neighbors : BlockNeighbors
        With :data:`REPULSION_CUTOFF`.
    wall : HostWall, optional
    owner : torch.Tensor, int64, shape (N,), optional
        Molecule of each atom. If given, the prior sees every molecule moved to the centre of those of its atoms that
        it touches.
    """

    strength: torch.Tensor
    owner: torch.Tensor

    def __init__(
        self,
        prior: Any,
        strength: torch.Tensor,
        neighbors: Any,
        wall: Any = None,
        owner: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.prior = prior
        self.neighbors = neighbors
        self.has_wall = wall is not None
        self.wall = HostWall(np.zeros((1, 3)), np.zeros(1)) if wall is None else wall
        self.recentre = owner is not None
        self.register_buffer("strength", strength.to(torch.float64))
        self.register_buffer("owner", torch.zeros(0, dtype=torch.int64) if owner is None else owner)
        self.count = 0 if owner is None else int(owner.max()) + 1
        self.height = REPULSION_HEIGHT
        self.decay = REPULSION_DECAY

    def forward(self, positions: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Reduced energy of every atom, shape (N,), from positions (N, 3) in angstrom and the noise level."""
        places = positions
        if self.recentre:
            touched = (self.strength > 0).to(positions.dtype).unsqueeze(1)
            zeros = torch.zeros([self.count, 3], dtype=positions.dtype, device=positions.device)
            sums = zeros.index_add(0, self.owner, positions * touched)
            counts = zeros[:, :1].index_add(0, self.owner, touched).clamp(min=1.0)
            places = positions - (sums / counts).index_select(0, self.owner)
        energy = self.prior(places) * self.strength * torch.tanh(20.0 * sigma * sigma)
        edge_index, vectors = self.neighbors(positions)
        lengths = torch.sqrt(vectors.square().sum(1) + 1e-12)
        # Every pair is listed twice, and each listing gives half of it to its centre.
        pairs = 0.5 * self.height * torch.exp(-self.decay * lengths)
        energy = energy.index_add(0, edge_index[0], pairs)
        if self.has_wall:
            energy = energy + self.wall(positions)
        return energy


def prior_strength(n_atoms: int) -> float:
    """Strength of the prior for a molecule of n heavy atoms, ``0.45 / (0.3 + 0.05 D)^2``.

    ``D = 1.5664519 sqrt(n)``, in angstrom, is the mean diameter of QM9 molecules of that size.
    """
    return 0.45 / (0.3 + 0.05 * 1.5664519 * math.sqrt(n_atoms)) ** 2
