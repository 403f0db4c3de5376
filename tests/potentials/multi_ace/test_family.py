"""The design space: what each choice makes of a network."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import sphericart.torch
import torch
from scipy.spatial.transform import Rotation

from halberd.potentials.conformance import check_site_model
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.multi_ace.building import build
from halberd.potentials.multi_ace.model import multi_ace_model
from halberd.potentials.multi_ace.settings import PRESETS, MultiAceSettings, preset
from tests.potentials.multi_ace.weights.test_mace import graph

HCO, HCNO = ("H", "C", "O"), ("H", "C", "N", "O")
BOTH = "3x0o+3x0e+3x1o+3x1e+3x2o+3x2e"
#: Small networks of every preset, and of choices that none of them makes.
SMALL = {
    "mace": {"hidden": "4x0e+4x1o+4x2e", "radial_widths": (8,)},
    "botnet": {"hidden": BOTH, "layers": 3},
    "nequip": {"hidden": BOTH, "layers": 3, "radial_widths": (8,)},
    "nequip_linear": {"hidden": BOTH, "layers": 3, "radial_widths": (8,)},
    "ace": {"hidden": "6x0e", "n_radial": 4},
}
MORE = {
    "Chebyshev": ("mace", {"basis": "chebyshev", "distance": "agnesi"}),
    "Gaussians": ("mace", {"basis": "gaussian", "distance": "soft"}),
    "density": ("mace", {"density": True, "first_layer": "species"}),
    "no residual": ("mace", {"residual": "none", "first_layer": "plain"}),
    "linear residual": ("mace", {"residual": "linear"}),
    "one weight for all": ("mace", {"product_species": False}),
    "gates after products": ("mace", {"update": "gate"}),
    "no inversion": ("mace", {"inversion": False, "hidden": "4x0e+4x1e"}),
    "pairs": ("botnet", {"radial_species": "pair"}),
    "four factors": ("ace", {"correlation": 4, "max_ell": 2}),
}


def small(name: str) -> MultiAceSettings:
    kind, changes = (name, {}) if name in PRESETS else MORE[name]
    return preset(kind, HCO, **{"cutoff": 4.0, **SMALL[kind], **changes})


@pytest.mark.parametrize(
    ("name", "elements", "changes", "count"),
    [
        ("mace", HCO, {}, 2_803_984),
        ("mace", HCNO, {}, 2_983_184),
        ("mace", HCO, {"hidden": "256x0e+256x1o"}, 2_043_408),
        ("mace", HCO, {"hidden": "256x0e"}, 1_376_272),
        ("mace", HCNO, {"hidden": "256x0e"}, 1_521_936),
        ("botnet", HCO, {}, 2_756_416),
        ("botnet", HCNO, {}, 3_107_216),
        ("botnet", HCO, {"radial_species": "none", "radial_widths": (64, 64, 64)}, 3_561_536),
        ("botnet", HCO, {"first_layer": "residual"}, 2_698_816),
        ("nequip", HCO, {}, 3_190_488),
        ("nequip", HCNO, {"trainable_basis": False}, 3_415_824),
    ],
)
def test_networks_of_the_papers_have_as_many_parameters(name, elements, changes, count):
    network = build(preset(name, elements, **changes))
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize("name", [*SMALL, *MORE])
def test_every_choice_makes_a_site_model(name):
    """Symmetries, gradients, cutoff, files, precisions."""
    settings = small(name)
    check_site_model(multi_ace_model(settings), inversion=settings.inversion, smoothness=1e-4)


def representation(degree: int, rotation: np.ndarray) -> np.ndarray:
    """How harmonics of a degree turn: Y(R v) = D Y(v), found from many v."""
    harmonics = sphericart.torch.SphericalHarmonics(degree)
    directions = np.random.default_rng(0).normal(size=(50, 3))
    turned = (harmonics(torch.as_tensor(each))[:, degree**2 :] for each in (directions, directions @ rotation.T))
    before, after = (each.numpy() for each in turned)
    return np.linalg.lstsq(before, after, rcond=None)[0].T


@pytest.mark.parametrize("name", [*SMALL, *MORE])
@pytest.mark.parametrize("mirrored", [False, True])
def test_hidden_features_turn_with_the_structure(name, mirrored):
    settings = small(name)
    if mirrored and not settings.inversion:
        pytest.skip("without inversion features have no parity")
    network = build(settings)
    species, edge_index, vectors = graph(3, 4.0)
    rotation = Rotation.random(random_state=3).as_matrix()
    turned = torch.as_tensor(-rotation if mirrored else rotation)
    before = network.features(species, edge_index, vectors)
    after = network.features(species, edge_index, vectors @ turned.T)
    for layer, old, new in zip(network.layers, before, after, strict=True):
        for block, one, other in zip(layer.outputs, old, new, strict=True):
            matrix = torch.as_tensor(representation(block.degree, rotation))
            expected = torch.einsum("ab,nbk->nak", matrix, one) * (block.parity if mirrored else 1)
            size = float(one.detach().abs().max())
            assert size > 1e-8
            torch.testing.assert_close(other, expected, rtol=1e-9, atol=1e-9 * size)


def many_body(network, n_atoms: int) -> list[float]:
    """Largest energies of k-body terms of a cluster, from those of all its parts."""
    generator = torch.Generator().manual_seed(1)
    positions = 1.5 * torch.randn(n_atoms, 3, generator=generator, dtype=torch.float64)
    species = torch.tensor([0, 1, 2] * n_atoms)[:n_atoms]

    def energy(atoms: tuple[int, ...]) -> float:
        chosen = list(atoms)
        inside = positions[chosen]
        centre, neighbour = torch.nonzero(~torch.eye(len(chosen), dtype=torch.bool), as_tuple=True)
        edge_index = torch.stack([centre, neighbour])
        return float(network(species[chosen], edge_index, inside[neighbour] - inside[centre]).sum().detach())

    known = {
        atoms: energy(atoms) for size in range(1, n_atoms + 1) for atoms in itertools.combinations(range(n_atoms), size)
    }
    largest = []
    for size in range(1, n_atoms + 1):
        terms = []
        for atoms in itertools.combinations(range(n_atoms), size):
            parts = [p for k in range(1, size + 1) for p in itertools.combinations(atoms, k)]
            terms.append(abs(sum((-1) ** (size - len(part)) * known[part] for part in parts)))
        largest.append(max(terms))
    return largest


@pytest.mark.parametrize(
    ("settings", "order"),
    [
        (MultiAceSettings(HCO, layers=1, correlation=1, hidden="4x0e", readout_widths=()), 2),
        (MultiAceSettings(HCO, layers=1, correlation=2, hidden="4x0e", readout_widths=()), 3),
        (MultiAceSettings(HCO, layers=1, correlation=3, hidden="4x0e", readout_widths=()), 4),
        (MultiAceSettings(HCO, layers=2, correlation=1, hidden="4x0e+4x1o", readout_widths=()), 3),
        (MultiAceSettings(HCO, layers=3, correlation=1, hidden="4x0e+4x1o", readout_widths=()), 4),
    ],
)
def test_linear_networks_end_at_their_body_order(settings, order):
    """c_t = nu (1 + c_(t-1)) neighbours: beyond, the many-body expansion is zero; up to there it is not."""
    terms = many_body(build(settings), order + 2)
    largest = max(terms)
    assert all(term > 1e-9 * largest for term in terms[1:order])
    assert all(term < 1e-12 * largest for term in terms[order:])


def test_a_gate_knows_no_body_order():
    settings = preset("nequip", HCO, **{"cutoff": 4.0, **SMALL["nequip"], "layers": 1, "neighbours": 0.1})
    terms = many_body(build(settings), 5)
    assert terms[-1] > 1e-6 * max(terms), terms


def test_contributions_of_layers_add_up():
    network = build(small("mace"))
    inputs = graph(3, 4.0)
    parts = network.contributions(*inputs)
    assert parts.shape == (18, 2)
    torch.testing.assert_close(parts.sum(dim=1), network(*inputs))


def test_the_same_seed_makes_the_same_network():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, third = (build(small("mace"), seed) for seed in (1, 1, 2))
    assert torch.rand(1) == expected, "random numbers elsewhere were disturbed"
    inputs = graph(3, 4.0)
    assert torch.equal(first(*inputs), second(*inputs))
    assert not torch.equal(first(*inputs), third(*inputs))


def test_networks_can_be_trained():
    """A second derivative, for losses on forces, against finite differences."""
    network = build(small("mace"))
    species, edge_index, vectors = graph(3, 4.0, n_atoms=8)

    def loss(weight: torch.Tensor) -> torch.Tensor:
        network.layers[1].down.maps[0].weight.data = weight
        gradient = torch.autograd.grad(network(species, edge_index, vectors).sum(), vectors, create_graph=True)[0]
        return (gradient**2).sum()

    weight = network.layers[1].down.maps[0].weight
    value = loss(weight.data.clone())
    slope = torch.autograd.grad(value, network.layers[1].down.maps[0].weight)[0]
    step = torch.randn(slope.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = network.layers[1].down.maps[0].weight.data.clone()
    change = (loss(start + 1e-5 * step) - loss(start - 1e-5 * step)) / 2e-5
    torch.testing.assert_close(change.detach(), (slope * step).sum(), rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": "4x1o"}, "read out of even scalars"),
        ({"hidden": "4x0e+8x1o"}, "products multiply channel by channel"),
        ({"hidden": "4x0e+4x0e"}, "names a kind twice"),
        ({"hidden": "many"}, "are no irreps"),
        ({"inversion": False}, "without inversion all kinds are even"),
        ({"radial_species": "pair"}, "only if they are linear"),
        ({"basis": "chebyshev"}, "take distance: agnesi"),
        ({"max_ell": 9}, "degrees go to 8"),
        ({"cutoff": -1.0}, "must be positive"),
        ({"update": "relu"}, "update"),
        ({"elements": ("H", "H")}, "each once"),
        (
            {"layers": 2, "correlation": 2, "channels_mixed": False, "hidden": "3x0e+3x1o"},
            "need channels_mixed, or scalars alone",
        ),
    ],
)
def test_choices_that_do_not_go_together(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        MultiAceSettings(**{"elements": HCO, **changes})


def test_unknown_presets_and_choices():
    with pytest.raises(ConfigurationError, match=r"no preset 'mase'.*Did you mean 'mace'"):
        preset("mase", HCO)
    with pytest.raises(ConfigurationError, match=r"Unknown choice 'max_el'.*Did you mean 'max_ell'"):
        preset("mace", HCO, max_el=2)
