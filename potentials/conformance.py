"""Checks that every site model must pass; call them from the tests of a new model.

>>> from halberd.potentials.conformance import check_site_model
>>> from halberd.potentials.sites.lennard_jones import lennard_jones
>>> check_site_model(lennard_jones([18], cutoff=6.0))

Each check raises :class:`ModelError` with what was found and what was allowed.
"""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from halberd.potentials.errors import ModelError
from halberd.potentials.loading import load
from halberd.potentials.sites.site_model import SiteModel
from halberd.potentials.sites.torchscript import quiet_torchscript
from halberd.potentials.sites.verlet_list import NeighborList

#: Largest deviation allowed for what should be equal, relative to the largest energy or gradient at hand. Double:
#: rounding of a sum of a few thousand terms. Single: the same, 2^29 times coarser.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-4}


def check_site_model(model: SiteModel, *, inversion: bool = True, seed: int = 0, smoothness: float = 1e-3) -> None:
    """Run every check.

    Parameters
    ----------
    model : SiteModel
    inversion : bool
        Whether energies must not change under inversion; ``False`` for models of chiral descriptors only.
    seed : int
        Of the random environments.
    smoothness : float
        Distance inside the cutoff, as a fraction of it, at which energy and force must have almost vanished.

    Raises
    ------
    ModelError
        From the first check that fails.
    """
    check_shapes(model, seed)
    check_empty(model)
    check_isolated_atom(model)
    check_permutation(model, seed)
    check_rotation(model, seed, inversion)
    check_gradient(model, seed)
    check_cutoff(model, smoothness)
    check_save_and_load(model, seed)
    check_precisions(model, seed)
    if torch.cuda.is_available():
        check_cuda(model, seed)


def random_environment(model: SiteModel, n_atoms: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw species and positions with every element present and no two atoms unreasonably close.

    Parameters
    ----------
    model : SiteModel
    n_atoms : int
    seed : int

    Returns
    -------
    species : torch.Tensor, int64, shape (n_atoms,)
    positions : torch.Tensor, float64, shape (n_atoms, 3), angstrom
    """
    generator = np.random.default_rng(seed)
    spacing = max(1.1, 0.33 * model.cutoff)
    side = int(np.ceil(n_atoms ** (1 / 3)))
    grid = np.array(list(itertools.product(range(side), repeat=3)), dtype=float)[:n_atoms]
    positions = spacing * (grid + generator.uniform(-0.12, 0.12, size=grid.shape))
    species = np.concatenate(
        [np.arange(len(model.atomic_numbers)), generator.integers(0, len(model.atomic_numbers), n_atoms)]
    )[:n_atoms]
    return torch.tensor(generator.permutation(species)), torch.tensor(positions)


def edges(model: SiteModel, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Edges of an open structure in the model's precision."""
    search = NeighborList(model.cutoff, skin=0.0)
    edge_index, vectors = search(positions, torch.zeros((3, 3), dtype=positions.dtype), torch.tensor([False] * 3))
    return edge_index, vectors.to(model.dtype)


def energies_and_gradient(
    model: SiteModel, species: torch.Tensor, positions: torch.Tensor, column: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Site energies (N, K) and the gradient (N, 3) of the total of one column."""
    positions = positions.detach().clone().requires_grad_(True)
    sites = _call(model, species, *edges(model, positions))
    (gradient,) = torch.autograd.grad(sites[:, column].double().sum(), positions, materialize_grads=True)
    return sites.detach().double(), gradient


def check_shapes(model: SiteModel, seed: int = 0) -> None:
    """Check shape, precision, finiteness, and that inputs are left alone."""
    species, positions = random_environment(model, seed=seed)
    edge_index, vectors = edges(model, positions)
    before = [tensor.clone() for tensor in (species, edge_index, vectors)]
    sites = model.scripted()(species, edge_index, vectors)
    expected = (len(species),) if model.n_columns is None else (len(species), model.n_columns)
    if tuple(sites.shape) != expected:
        raise ModelError(f"'{model.name}' returns shape {tuple(sites.shape)}, expected {expected}.")
    if sites.dtype != model.dtype:
        raise ModelError(f"'{model.name}' returns {sites.dtype}, its parameters are {model.dtype}.")
    if not torch.isfinite(sites).all():
        raise ModelError(f"'{model.name}' returns energies that are not finite.")
    for old, new in zip(before, (species, edge_index, vectors), strict=True):
        if not torch.equal(old, new):
            raise ModelError(f"'{model.name}' writes to its input.")


def check_empty(model: SiteModel) -> None:
    """Check atoms without any edge: finite energies that depend on the element alone."""
    species = torch.arange(len(model.atomic_numbers)).repeat(2)
    sites = _call(model, species, *_no_edges(model))
    first, second = sites.chunk(2)
    # To rounding: matrix products may round the last rows of a batch otherwise than the first.
    rounding = 100.0 * torch.finfo(sites.dtype).eps
    if not torch.isfinite(sites).all() or not torch.allclose(first, second, rtol=rounding, atol=rounding):
        raise ModelError(f"'{model.name}' fails without edges: {sites.tolist()}.")


def check_isolated_atom(model: SiteModel) -> None:
    """Check that one lone atom has the energy of an atom far from all others."""
    for s in range(len(model.atomic_numbers)):
        alone = _call(model, torch.tensor([s]), *_no_edges(model))
        pair = torch.tensor([[0.0, 0.0, 0.0], [0.8 * model.cutoff, 0.0, 0.0], [50 * model.cutoff, 0.0, 0.0]])
        sites, _ = energies_and_gradient(model, torch.tensor([0, 0, s]), pair.double())
        _compare(model, "the energy of an isolated atom", sites[2:], alone.double())


def check_permutation(model: SiteModel, seed: int = 0) -> None:
    """Check that site energies follow their atoms when atoms and edges are reordered."""
    species, positions = random_environment(model, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(species), generator=generator)
    sites, gradient = energies_and_gradient(model, species, positions)
    permuted, permuted_gradient = energies_and_gradient(model, species[order], positions[order])
    _compare(model, "permuted site energies", permuted, sites[order])
    _compare(model, "permuted forces", permuted_gradient, gradient[order])
    edge_index, vectors = edges(model, positions)
    shuffled = torch.randperm(edge_index.shape[1], generator=generator)
    _compare(
        model,
        "site energies with edges in another order",
        _call(model, species, edge_index[:, shuffled], vectors[shuffled]).double(),
        sites,
    )


def check_rotation(model: SiteModel, seed: int = 0, inversion: bool = True) -> None:
    """Check invariance of energies and covariance of forces under rotation, translation and inversion."""
    species, positions = random_environment(model, seed=seed)
    sites, gradient = energies_and_gradient(model, species, positions)
    generator = np.random.default_rng(seed)
    for attempt in range(3):
        q, r = np.linalg.qr(generator.normal(size=(3, 3)))
        q *= np.sign(np.diag(r))
        if np.linalg.det(q) < 0:
            q[:, 0] *= -1
        if inversion and attempt == 2:
            q = -q
        rotation = torch.tensor(q)
        moved = positions @ rotation.T + torch.tensor([1.0, -2.0, 0.5])
        rotated, rotated_gradient = energies_and_gradient(model, species, moved)
        what = "inversion" if inversion and attempt == 2 else "rotation"
        _compare(model, f"site energies under {what}", rotated, sites)
        _compare(model, f"forces under {what}", rotated_gradient, gradient @ rotation.T)


def check_gradient(model: SiteModel, seed: int = 0) -> None:
    """Check every column's gradient against central differences, in double precision."""
    model = model.to(torch.float64)
    species, positions = random_environment(model, n_atoms=8, seed=seed)
    step = 1e-4
    columns = range(1 if model.n_columns is None else model.n_columns)
    analytic = [energies_and_gradient(model, species, positions, k)[1] for k in columns]
    for atom, axis in itertools.product(range(0, len(species), 3), range(3)):
        energies = []
        # Fourth-order differences: rounding and truncation are both far below what a wrong term would cause.
        for factor in (-2, -1, 1, 2):
            moved = positions.clone()
            moved[atom, axis] += factor * step
            energies.append(_call(model, species, *edges(model, moved)).sum(0))
        slope = ((energies[0] - 8 * energies[1] + 8 * energies[2] - energies[3]) / (12 * step)).detach()
        for k in columns:
            expected, found = float(slope[k]), float(analytic[k][atom, axis])
            if abs(expected - found) > 1e-6 * max(1.0, float(analytic[k].abs().max())):
                raise ModelError(
                    f"'{model.name}', column {k}: the gradient of atom {atom} along {'xyz'[axis]} is {found:.10g}, "
                    f"finite differences give {expected:.10g} eV/angstrom."
                )


def check_cutoff(model: SiteModel, smoothness: float = 1e-3) -> None:
    """Check that energy and force go to zero, without a step, as a neighbour crosses the cutoff."""
    model = model.to(torch.float64)
    for s, t in itertools.combinations_with_replacement(range(len(model.atomic_numbers)), 2):
        species = torch.tensor([s, t])

        def at(distance: float, species: torch.Tensor = species) -> tuple[float, float]:
            positions = torch.tensor([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]], dtype=torch.float64)
            sites, gradient = energies_and_gradient(model, species, positions)
            return float(sites[:, 0].sum()), float(gradient.abs().max())

        far, _ = at(1.01 * model.cutoff)
        bonded = [at(fraction * model.cutoff) for fraction in (0.35, 0.5, 0.65, 0.8)]
        energy_scale = max(abs(energy - far) for energy, _ in bonded) + 1e-9
        force_scale = max(force for _, force in bonded) + 1e-9
        energy, force = at((1 - smoothness) * model.cutoff)
        if abs(energy - far) > 1e-3 * energy_scale or force > 2e-2 * force_scale:
            raise ModelError(
                f"'{model.name}': at {1 - smoothness} of the cutoff the pair {model.symbols[s]}-{model.symbols[t]} "
                f"still has {energy - far:.3g} eV and {force:.3g} eV/angstrom; both must go to zero smoothly."
            )


def check_save_and_load(model: SiteModel, seed: int = 0) -> None:
    """Check that a saved model is the same model, bit for bit."""
    species, positions = random_environment(model, seed=seed)
    arguments = (species, *edges(model, positions))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        model.save(path)
        loaded = load(path)
    for attribute in ("cutoff", "atomic_numbers", "n_columns", "columns", "metadata", "dtype"):
        if getattr(loaded, attribute) != getattr(model, attribute):
            raise ModelError(f"'{model.name}' loses {attribute} when saved.")
    if not np.array_equal(loaded.e0s, model.e0s):
        raise ModelError(f"'{model.name}' loses e0s when saved.")
    if not torch.equal(_call(loaded, *arguments), _call(model, *arguments)):
        raise ModelError(f"'{model.name}' gives other energies after being saved and loaded.")


def check_precisions(model: SiteModel, seed: int = 0) -> None:
    """Check that single and double precision agree to single precision."""
    species, positions = random_environment(model, seed=seed)
    single, single_gradient = energies_and_gradient(model.to(torch.float32), species, positions)
    double, double_gradient = energies_and_gradient(model.to(torch.float64), species, positions)
    _compare(model, "energies in single and double precision", single, double, torch.float32)
    _compare(model, "forces in single and double precision", single_gradient, double_gradient, torch.float32)


def check_cuda(model: SiteModel, seed: int = 0) -> None:
    """Check that a GPU gives the CPU's energies, from a file as a user would load it."""
    species, positions = random_environment(model, seed=seed)
    arguments = (species, *edges(model, positions))
    buffer = io.BytesIO()
    with quiet_torchscript():
        torch.jit.save(model.scripted(), buffer)
        buffer.seek(0)
        module = torch.jit.load(buffer, map_location="cuda")
    on_gpu = module(*(tensor.cuda() for tensor in arguments)).cpu()
    _compare(model, "energies on a GPU", on_gpu.double(), model(*arguments).double(), torch.float32)


def _call(model: SiteModel, *arguments: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = model.scripted()(*arguments)
    return result if result.dim() == 2 else result.unsqueeze(1)


def _no_edges(model: SiteModel) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros((2, 0), dtype=torch.int64), torch.zeros((0, 3), dtype=model.dtype)


def _compare(
    model: SiteModel, what: str, found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype | None = None
) -> None:
    found, expected = found.detach(), expected.detach()
    allowed = TOLERANCE[dtype or model.dtype] * max(1.0, float(expected.abs().max()))
    off = float((found - expected).abs().max())
    if not off <= allowed:
        raise ModelError(f"'{model.name}': {what} differ by {off:.3g}, allowed are {allowed:.3g}.")
