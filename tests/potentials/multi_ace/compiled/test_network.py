"""Compiled operators of message passing against the network in plain torch, and files that bring their network."""

from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys

import numpy as np
import openmm
import pytest
import torch

from halberd.plugins import HalberdCalculator, LearnedPotential
from halberd.potentials import committee, load
from halberd.potentials.errors import ConfigurationError, ModelError, ModelFileError
from halberd.potentials.multi_ace.blueprint import bytes_of, network_of
from halberd.potentials.multi_ace.building import build
from halberd.potentials.multi_ace.compiled.mix import CompiledMix, by_kinds, in_rows, offsets
from halberd.potentials.multi_ace.compiled.network import CompiledNetwork, product_graph
from halberd.potentials.multi_ace.compiled.operators import MULTI_ACE_OPERATOR
from halberd.potentials.multi_ace.compiled.splines import TOLERANCE, edge_weights, pair_kinds, tabulated
from halberd.potentials.multi_ace.irreps import parse_irreps
from halberd.potentials.multi_ace.layers import Mix
from halberd.potentials.multi_ace.model import CompiledMultiAceSites, multi_ace_model
from halberd.potentials.multi_ace.settings import preset
from tests.conftest import VARIANTS, topology_of
from tests.potentials.multi_ace.test_family import MORE, SMALL, small
from tests.potentials.multi_ace.weights.test_sevennet import FOLDER as SEVENNET

needs_operator = pytest.mark.skipif(
    MULTI_ACE_OPERATOR.problem() is not None, reason=f"no compiled operator: {MULTI_ACE_OPERATOR.problem()}"
)


def atoms_in_a_box(n_atoms: int = 12, n_species: int = 3, cutoff: float = 4.0, seed: int = 0):
    """Species, edges and positions of atoms that are at least 0.6 angstrom apart."""
    generator = np.random.default_rng(seed)
    points: list[np.ndarray] = []
    while len(points) < n_atoms:
        trial = generator.uniform(-2.2, 2.2, size=3)
        if all(np.linalg.norm(trial - point) > 0.6 for point in points):
            points.append(trial)
    positions = torch.tensor(np.array(points))
    near = torch.linalg.vector_norm(positions[:, None] - positions[None], dim=2) < cutoff
    edge_index = torch.nonzero(near & ~torch.eye(n_atoms, dtype=torch.bool)).T.contiguous()
    return torch.tensor(generator.integers(0, n_species, n_atoms)), edge_index, positions


def energies_and_gradient(module, species, edge_index, positions, dtype):
    moving = positions.to(dtype).requires_grad_()
    vectors = moving.index_select(0, edge_index[1]) - moving.index_select(0, edge_index[0])
    energies = module(species, edge_index, vectors)
    # Different weights of sites, so that no gradient cancels by symmetry.
    weights = torch.linspace(0.5, 1.5, len(species), dtype=dtype, device=species.device)
    (gradient,) = torch.autograd.grad((weights * energies).sum(), moving)
    return energies.detach(), gradient


@needs_operator
@pytest.mark.parametrize("name", [*SMALL, *MORE])
def test_operators_equal_the_network(name):
    species, edge_index, positions = atoms_in_a_box()
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 3e-5)):
        network = build(small(name)).to(dtype)
        compiled = CompiledNetwork(network)
        assert compiled.spline_error < TOLERANCE[dtype]
        expected = energies_and_gradient(network, species, edge_index, positions, dtype)
        found = energies_and_gradient(compiled, species, edge_index, positions, dtype)
        for one, other in zip(found, expected, strict=True):
            assert float((one - other).abs().max()) < tolerance * float(other.abs().max())


@needs_operator
def test_gradients_are_those_of_the_energies():
    """Finite differences of what the operators compute, splines included."""
    species, edge_index, positions = atoms_in_a_box(6)
    compiled = CompiledNetwork(build(small("density")).double())
    _, gradient = energies_and_gradient(compiled, species, edge_index, positions, torch.float64)
    for atom, axis in itertools.product((0, 3), range(3)):
        values = []
        for step in (1e-5, -1e-5):
            moved = positions.clone()
            moved[atom, axis] += step
            vectors = moved[edge_index[1]] - moved[edge_index[0]]
            weights = torch.linspace(0.5, 1.5, len(species), dtype=torch.float64)
            values.append(float((weights * compiled(species, edge_index, vectors).detach()).sum()))
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(gradient[atom, axis]), rel=1e-6, abs=1e-8)


@needs_operator
@pytest.mark.parametrize("name", [*SMALL, *MORE])
def test_threads_do_not_change_a_bit_of_the_operators(name):
    """Of matrix products, which torch takes from a library, they may: see the next test."""
    species, edge_index, positions = atoms_in_a_box(30)
    vectors = (positions[edge_index[1]] - positions[edge_index[0]]).float()
    order = torch.ops.halberd.edge_order(edge_index, species)
    generator = torch.Generator().manual_seed(0)
    for layer in CompiledNetwork(build(small(name)).float()).layers:
        width = layer.convolution.width - int(layer.convolution.with_density)
        sent = torch.randn((len(species), width), generator=generator)
        given = (
            None
            if layer.product is None
            else torch.randn(
                (len(species), layer.product.n_components * layer.product.weights.shape[2]), generator=generator
            )
        )
        results = [
            _operators(layer, threads, [sent, vectors, given], (species, edge_index, order)) for threads in (1, 2, 5)
        ]
        for others in results[1:]:
            assert all(torch.equal(*pair) for pair in zip(results[0], others, strict=True))


def _operators(layer, threads, tensors, graph):
    """What the operators of a layer make of features, and all gradients, with a number of threads."""
    sent, vectors, given = (None if each is None else each.clone().requires_grad_() for each in tensors)
    species, edge_index, order = graph
    torch.set_num_threads(threads)
    try:
        sums = layer.convolution(sent, species, edge_index, vectors, order)
        found = [sums, *torch.autograd.grad(sums.square().sum(), (sent, vectors))]
        if given is not None:
            products = layer.product(given, species)
            found += [products, *torch.autograd.grad(products.square().sum(), (given,))]
        for mix in (layer.up, layer.skip, *layer.maps.values()):
            if mix is not None:
                rows = _rows_for(mix, len(species), found[0])
                mixed = mix(rows[0], species, *rows[1:])
                found += [mixed, *torch.autograd.grad(mixed.square().sum(), rows)]
        return found
    finally:
        torch.set_num_threads(1)


@needs_operator
@pytest.mark.parametrize("n_species", [None, 3, 11])
@pytest.mark.parametrize("in_torch", [False, True])
def test_maps_of_two_rows_equal_those_of_the_network(n_species, in_torch):
    """Channels that fill no vector, kinds that are missing, a bias, atoms in more than one piece."""
    torch.manual_seed(2)
    irreps = [parse_irreps(text) for text in ("37x0e + 3x1o + 5x2e", "70x0e + 2x1o", "19x0e + 90x1o + 5x2e + 1x0o")]
    mixes = [Mix(irreps[0], irreps[2], n_species).double(), Mix(irreps[1], irreps[2]).double()]
    mixes[1].maps[0].bias = torch.nn.Parameter(torch.randn(19, dtype=torch.float64))
    species = torch.randint(0, n_species or 2, (101,))
    rows = [torch.randn(101, offsets(each)[-1], dtype=torch.float64, requires_grad=True) for each in irreps[:2]]
    compiled = CompiledMix(mixes[0], irreps[0], mixes[1], irreps[1])
    compiled.in_torch = in_torch
    found = compiled(rows[0], species, rows[1])
    expected = sum(
        in_rows(mix(by_kinds(row, kinds), species)) for mix, row, kinds in zip(mixes, rows, irreps[:2], strict=True)
    )
    given = torch.randn_like(found)
    torch.testing.assert_close(found, expected)
    for pair in zip(*(torch.autograd.grad((each * given).sum(), rows) for each in (found, expected)), strict=True):
        torch.testing.assert_close(*pair)


def _rows_for(mix, n_atoms, like):
    """What a linear map takes: one tensor per operand that it has."""
    generator = torch.Generator().manual_seed(1)
    table = torch.tensor(mix.table).view(-1, 10)
    widths = [
        int((own[:, 1] + own[:, 3] * own[:, 4]).max())
        for operand in (0, 1)
        if len(own := table[table[:, 0] == operand]) or operand == 0
    ]
    return [torch.randn((n_atoms, width), generator=generator, dtype=like.dtype).requires_grad_() for width in widths]


@needs_operator
def test_threads_change_rounding_at_most():
    species, edge_index, positions = atoms_in_a_box(30)
    compiled = CompiledNetwork(build(small("mace")).float())
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(energies_and_gradient(compiled, species, edge_index, positions, torch.float32))
    finally:
        torch.set_num_threads(1)
    for pair in results[1:]:
        for found, expected in zip(pair, results[0], strict=True):
            assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


@needs_operator
@pytest.mark.physical
def test_energy_is_conserved_with_splines(ethanol):
    """100 fs in single precision: forces are the gradient of the energy that the splines make."""
    topology, positions = topology_of(ethanol)
    model = multi_ace_model(build(small("mace")).float(), [1, 6, 8])
    context = openmm.Context(
        LearnedPotential(model).createSystem(topology),
        openmm.VerletIntegrator(0.0002),
        openmm.Platform.getPlatformByName("CPU"),
    )
    context.setPositions(positions)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=50)
    context.setVelocitiesToTemperature(200, 1)
    kinetic, total = [], []
    for _ in range(50):
        context.getIntegrator().step(10)
        state = context.getState(energy=True)
        kinetic.append(state.getKineticEnergy()._value)
        total.append(state.getPotentialEnergy()._value + kinetic[-1])
    assert np.std(kinetic) > 0.02 * np.mean(kinetic)  # there is something to conserve
    assert np.std(total) < 0.01 * np.mean(kinetic)


@needs_operator
def test_atoms_without_neighbours():
    network = build(small("mace")).double()
    empty = (torch.zeros((2, 0), dtype=torch.int64), torch.zeros((0, 3), dtype=torch.float64))
    species = torch.tensor([0, 2])
    torch.testing.assert_close(CompiledNetwork(network)(species, *empty), network(species, *empty))


@needs_operator
def test_a_second_derivative_is_refused():
    """Silence would be wrong numbers."""
    species, edge_index, positions = atoms_in_a_box(5)
    compiled = CompiledNetwork(build(small("mace")).double())
    moving = positions.clone().requires_grad_()
    energies = compiled(species, edge_index, moving[edge_index[1]] - moving[edge_index[0]])
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(energies.square().sum(), moving, create_graph=True)


@needs_operator
def test_operators_check_what_they_are_given():
    compiled = CompiledNetwork(build(small("mace")).double())
    species, edge_index, positions = atoms_in_a_box(5)
    with pytest.raises(RuntimeError, match="differ in precision"):
        compiled(species, edge_index, (positions[edge_index[1]] - positions[edge_index[0]]).float())


def test_splines_are_as_good_as_they_say():
    """Between the places that they were made from, and with a kink of the envelope at a knot."""
    network = build(small("pairs")).double()
    layer = network.layers[0]
    network.edges.onset = 3.6
    weights = edge_weights(network.edges, layer.radial, None)
    kinds = pair_kinds(network.edges, [layer.radial], 3)
    splines = tabulated(weights, kinds, 4.0, torch.float64)
    r = torch.rand(500, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3.6 + 0.399
    one, two = torch.ones(500, dtype=torch.int64), torch.full((500,), 2)
    place = r / splines.spacing
    interval = place.long()
    powers = (place - interval).unsqueeze(1) ** torch.arange(6)
    found = torch.einsum("np,npw->nw", powers, splines.table[kinds[1, 2], interval])
    expected = weights(r.unsqueeze(1), one, two).detach()
    assert float((found - expected).abs().max()) < 3 * splines.error * float(splines.table[:, :, 0].abs().max())
    assert splines.error < 1e-9


def test_a_kink_between_knots_is_not_tabulated():
    network = build(small("mace")).double()
    network.edges.onset = 3.911979
    weights = edge_weights(network.edges, network.layers[0].radial, None)
    with pytest.raises(ModelError, match=r"kink at 3\.91197"):
        tabulated(weights, torch.zeros((3, 3), dtype=torch.int64), 4.0, torch.float64, 3.911979)


def test_products_are_made_of_products():
    wanted = [(0, 1, 2), (0, 1), (1, 1, 1, 2)]
    nodes, index = product_graph(wanted, 3)
    values = [2.0, 3.0, 5.0]
    for a, b in nodes:
        values.append(values[a] * values[b])
    for monomial in wanted:
        assert values[index[monomial]] == np.prod([values[m] for m in monomial])
    assert len(nodes) == len(set(nodes))


# -- files ------------------------------------------------------------------------------------------------------


def test_networks_come_back_from_their_bytes():
    species, edge_index, positions = atoms_in_a_box()
    vectors = positions[edge_index[1]] - positions[edge_index[0]]
    for name in ("botnet", "density", "Chebyshev"):
        network = build(small(name)).double()
        again = network_of(bytes_of(network))
        assert torch.equal(again(species, edge_index, vectors), network(species, edge_index, vectors))


class Harm:
    def __reduce__(self):
        return os.system, ("touch harm_was_done",)


@pytest.mark.parametrize("content", ["code", "another module", "noise", "half"])
def test_bytes_that_are_no_network(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content == "code":
        torch.save(Harm(), tmp_path / "bytes", pickle_module=pickle)
    elif content == "another module":
        torch.save(torch.nn.Linear(2, 2), tmp_path / "bytes")
    else:
        (tmp_path / "bytes").write_bytes(b"no network" * 20)
    data = bytearray((tmp_path / "bytes").read_bytes())
    if content == "half":
        whole = bytes_of(build(small("ace")))
        data = bytearray(whole.numpy().tobytes()[: len(whole) // 2])
    with pytest.raises(ModelFileError):
        network_of(torch.frombuffer(data, dtype=torch.uint8))
    assert not (tmp_path / "harm_was_done").exists()


def test_a_file_runs_anywhere_and_compiles_where_it_can(tmp_path, ethanol):
    model = multi_ace_model(small("mace"))
    model.save(tmp_path / "model.pt")
    code = f"""
import torch, sphericart.torch
module = torch.jit.load({str(tmp_path / "model.pt")!r})
assert "halberd::" not in str(module.inlined_graph)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    expected = HalberdCalculator(model).evaluate(ethanol)["energy"]
    loaded = load(tmp_path / "model.pt")
    assert HalberdCalculator(loaded).evaluate(ethanol)["energy"] == pytest.approx(expected, rel=1e-12)
    if MULTI_ACE_OPERATOR.problem() is None:
        assert loaded.module.compiled is not None
    assert loaded.metadata["settings"]["hidden"] == model.metadata["settings"]["hidden"]
    for other in (
        loaded.to(torch.float32),
        loaded.restrict(["H", "C", "O"]),
        load(tmp_path / "model.pt").restrict([8, 6, 1]),
    ):
        energy = HalberdCalculator(other).evaluate(ethanol)["energy"]
        assert energy == pytest.approx(expected, rel=1e-5 if other.dtype == torch.float32 else 1e-12)
    # Written again from what was read.
    loaded.save(tmp_path / "again.pt")
    assert HalberdCalculator(load(tmp_path / "again.pt")).evaluate(ethanol)["energy"] == pytest.approx(
        expected, rel=1e-12
    )


def test_precision_is_changed_in_the_network_not_in_the_splines(ethanol):
    """Splines in single precision made double would be wrong in the eighth digit."""
    single = multi_ace_model(build(small("mace")).float(), [1, 6, 8])
    single.scripted()
    double = single.to(torch.float64)
    assert isinstance(double.module, CompiledMultiAceSites)
    energies = [HalberdCalculator(each).evaluate(ethanol)["energy"] for each in (double, single)]
    network = build(small("mace")).float().double()
    expected = HalberdCalculator(multi_ace_model(network, [1, 6, 8])).evaluate(ethanol)["energy"]
    assert energies[0] == pytest.approx(expected, rel=1e-12)
    assert energies[1] == pytest.approx(expected, rel=1e-5)


@needs_operator
def test_a_committee_saves_what_runs_anywhere(tmp_path, ethanol):
    members = [multi_ace_model(small("ace"), seed=seed) for seed in range(2)]
    whole = committee(members)
    whole.save(tmp_path / "committee.pt")
    code = f"import torch, sphericart.torch; torch.jit.load({str(tmp_path / 'committee.pt')!r})"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    found = HalberdCalculator(load(tmp_path / "committee.pt")).evaluate(ethanol)["energies_committee"]
    for energy, member in zip(found, members, strict=True):
        assert energy == pytest.approx(HalberdCalculator(member).evaluate(ethanol)["energy"], rel=1e-12)


def test_without_the_operators(tmp_path):
    """The same numbers from torch, said once."""
    code = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from halberd.potentials.multi_ace.model import multi_ace_model
    from halberd.potentials.multi_ace.settings import preset
    for _ in range(2):
        model = multi_ace_model(preset("ace", ("H", "C"), hidden="4x0e", n_radial=3, max_ell=1))
        assert model.scripted().compiled is None
said = [str(each.message) for each in caught if "several times slower" in str(each.message)]
assert len(said) == EXPECTED, caught
"""
    environment = {"PATH": str(tmp_path), "HALBERD_CACHE_DIR": str(tmp_path / "cache")}
    for extra, expected in (({}, 1), ({"HALBERD_MULTI_ACE": "torch"}, 0)):
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code.replace("EXPECTED", str(expected))],
            check=True,
            env={**environment, **extra},
        )


# -- MACE -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [*VARIANTS, "heads"])
def test_mace_files_on_the_family(variant, mace_files, ethanol, crystal):
    options = {"head": "mp2"} if variant == "heads" else {}
    file = mace_files[variant]
    for atoms in (ethanol, crystal):
        models = [load(file, implementation=each, **options) for each in ("mace-torch", "multi-ace")]
        expected, found = (HalberdCalculator(model).evaluate(atoms) for model in models)
        assert found["energy"] == pytest.approx(expected["energy"], rel=1e-11)
        for key in ("forces", "stress"):
            if key in expected:
                np.testing.assert_allclose(found[key], expected[key], atol=1e-8 * np.abs(expected["forces"]).max())
        assert models[1].metadata["architecture"] == models[0].metadata["architecture"]


def test_mace_in_single_precision_and_for_some_elements(mace_files, ethanol):
    expected = HalberdCalculator(mace_files["plain"]).evaluate(ethanol)["energy"]
    for options in ({"precision": "single"}, {"elements": ["H", "C", "O"]}):
        model = load(mace_files["plain"], implementation="multi-ace", **options)
        assert HalberdCalculator(model).evaluate(ethanol)["energy"] == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("variant", ["zbl", "density", "agnesi", "sevennet"])
def test_networks_that_were_read_go_through_files(variant, mace_files, ethanol, tmp_path):
    if variant == "sevennet":
        model = load(SEVENNET / "parity.pth", precision="double")
    else:
        model = load(mace_files[variant], implementation="multi-ace")
    model.save(tmp_path / "model.pt")
    expected = HalberdCalculator(model).evaluate(ethanol)
    found = HalberdCalculator(load(tmp_path / "model.pt")).evaluate(ethanol)
    assert found["energy"] == pytest.approx(expected["energy"], rel=1e-12)
    np.testing.assert_allclose(found["forces"], expected["forces"], atol=1e-9)


def test_implementations_that_are_none(mace_files):
    with pytest.raises(ConfigurationError, match=r"There is no implementation 'multiace'.*multi-ace"):
        load(mace_files["plain"], implementation="multiace")
    with pytest.raises(ConfigurationError, match="implementation cannot be chosen"):
        load("gfn2-chnof", implementation="multi-ace")


def test_pairs_of_many_elements_are_tabulated_together():
    """A table made of all pairs at once holds what each of them would get alone."""
    network = build(preset("mace", ("H", "C", "N", "O"), layers=1, hidden="2x0e", distance="agnesi")).double()
    layer = network.layers[0]
    function = edge_weights(network.edges, layer.radial, layer.density)
    kinds = pair_kinds(network.edges, [layer.radial], 4)
    splines = tabulated(function, kinds, network.edges.cutoff, torch.float32)
    n_intervals = splines.table.shape[1]
    assert len(splines.table) == 16
    r = (torch.arange(n_intervals, dtype=torch.float64) + 0.3) * splines.spacing
    powers = torch.tensor([0.3**k for k in range(6)], dtype=torch.float64)
    far = r > 0.5
    for centre, neighbour in ((0, 0), (1, 3), (3, 1)):
        ones = torch.ones(n_intervals, dtype=torch.int64)
        expected = function(r.unsqueeze(1), centre * ones, neighbour * ones).detach()[far]
        found = torch.einsum("p,npw->nw", powers, splines.table[kinds[centre, neighbour]])[far]
        assert float((found - expected).abs().max()) < 2e-7 * float(expected.abs().max())


@pytest.mark.parametrize("numbers", [None, [1], [1, 6], [1, 6, 8, 9], [1, 6, 6]])
def test_a_network_and_elements_that_are_not_its_own(numbers):
    with pytest.raises(ConfigurationError, match="atomic_numbers"):
        multi_ace_model(build(small("mace")), numbers)
