"""Networks of mace-torch, rebuilt: the same energies and gradients."""

from __future__ import annotations

import pytest
import torch

from halberd.potentials.errors import ModelError
from halberd.potentials.mace.network import MaceSiteEnergies
from halberd.potentials.multi_ace.weights.mace import multi_ace_of
from halberd.potentials.sites.torchscript import default_dtype
from tests.conftest import VARIANTS, make_mace

RESIDUAL = "RealAgnosticResidualInteractionBlock"
DENSITY = "RealAgnosticDensityInteractionBlock"
NON_LINEAR = "RealAgnosticResidualNonLinearInteractionBlock"


def interactions(name: str) -> dict[str, type]:
    from mace import modules

    return {"interaction_cls": modules.interaction_classes[name]}


KINDS = {
    **VARIANTS,
    "tensors": lambda: {"hidden": "4x0e+4x1o+4x2e", "max_ell": 3, "correlation": 3},
    "three layers": lambda: {"hidden": "6x0e+6x1o", "num_interactions": 3, "correlation": [1, 2, 3]},
    "one layer": lambda: {"num_interactions": 1, "correlation": 3, "kind": "MACE"},
    "redundant couplings": lambda: {"use_reduced_cg": False, "correlation": 3},
    "both parities": lambda: {"hidden": "4x0e+4x0o+4x1o+4x1e"},
    "no inversion": lambda: {"use_so3": True, "hidden": "4x0e+4x1e"},
    "agnostic products": lambda: {"use_agnostic_product": True},
    "last read-out": lambda: {"use_last_readout_only": True},
    "whole last layer": lambda: {"keep_last_layer_irreps": True},
    "densities": lambda: {"first": DENSITY, **interactions("RealAgnosticDensityResidualInteractionBlock")},
    "soft distances": lambda: {"distance_transform": "Soft"},
    "Chebyshev": lambda: {"distance_transform": "Agnesi", "radial_type": "chebyshev"},
    "Gaussians": lambda: {"radial_type": "gaussian"},
    "cutoff on weights": lambda: {"apply_cutoff": False, "first": DENSITY},
    "first residual": lambda: {"first": RESIDUAL},
    "non-linear": lambda: {
        "first": NON_LINEAR, **interactions(NON_LINEAR), "apply_cutoff": False, "hidden": "4x0e+4x1o",
    },
    "fewer channels on edges": lambda: {
        "first": NON_LINEAR, **interactions(NON_LINEAR), "apply_cutoff": False, "edge_irreps": "4x0e+4x1o",
    },
}  # fmt: skip


def options_of(kind: str) -> dict:
    chosen = KINDS[kind]
    options = dict(chosen() if callable(chosen) else chosen)
    if "edge_irreps" in options:
        from e3nn import o3

        options["edge_irreps"] = o3.Irreps(options["edge_irreps"])
    return options


def graph(n_species: int, cutoff: float, seed: int = 0, n_atoms: int = 18) -> tuple[torch.Tensor, ...]:
    """Species, edges and vectors of atoms in a cube, one of which is alone."""
    generator = torch.Generator().manual_seed(seed)
    positions = torch.rand(n_atoms, 3, generator=generator, dtype=torch.float64) * 6.0
    positions[-1] += 100.0
    distances = torch.cdist(positions, positions)
    centre, neighbour = torch.nonzero((distances < cutoff) & (distances > 0.6), as_tuple=True)
    vectors = (positions[neighbour] - positions[centre]).requires_grad_()
    return torch.randint(0, n_species, (n_atoms,), generator=generator), torch.stack([centre, neighbour]), vectors


@pytest.mark.parametrize("kind", list(KINDS))
def test_energies_and_gradients_are_those_of_mace_torch(kind):
    network = make_mace(**options_of(kind)).eval()
    with torch.no_grad():
        network.atomic_energies_fn.atomic_energies.zero_()
        for parameter in network.parameters():  # some begin as zero
            parameter += 0.03 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    mine = multi_ace_of(network)
    theirs = MaceSiteEnergies(network, len(network.atomic_numbers), 0, torch.float64)
    species, edge_index, vectors = graph(3, float(network.r_max))
    with default_dtype(torch.float64):  # mace-torch takes it for products of numbers and atomic numbers
        energies = [each(species, edge_index, vectors) for each in (mine, theirs)]
    gradients = [torch.autograd.grad(each.sum(), vectors)[0] for each in energies]
    assert energies[1].abs().max() > 1e-3
    torch.testing.assert_close(energies[0], energies[1], rtol=1e-10, atol=1e-12)
    if kind == "Chebyshev":  # torch's own polynomials, which mace-torch takes, have no derivative
        step = 1e-5 * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        with torch.no_grad():
            change = sum(sign * mine(species, edge_index, vectors + sign * step).sum() for sign in (1, -1))
        torch.testing.assert_close(0.5 * change, (gradients[0] * step).sum(), rtol=1e-6, atol=1e-12)
        return
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("head", [0, 1])
def test_each_head_is_one_network(head):
    network = make_mace(heads=("dft", "mp2")).eval()
    with torch.no_grad():
        network.atomic_energies_fn.atomic_energies.zero_()
    species, edge_index, vectors = graph(3, float(network.r_max))
    theirs = MaceSiteEnergies(network, 3, head, torch.float64)(species, edge_index, vectors)
    torch.testing.assert_close(
        multi_ace_of(network, head)(species, edge_index, vectors), theirs, rtol=1e-10, atol=1e-12
    )


def test_what_the_family_does_not_hold_is_named():
    network = make_mace(**interactions("RealAgnosticAttResidualInteractionBlock"))
    with pytest.raises(ModelError, match=r"interaction 'RealAgnosticAttResidual.*implementation=\"mace-torch\""):
        multi_ace_of(network)
