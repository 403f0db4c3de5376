"""The evaluator: its two implementations, design rows, finite differences, committees, the contract."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from halberd.potentials import load
from halberd.potentials.ace.compiled_operator import ACE_OPERATOR
from halberd.potentials.ace.design_rows import DesignAssembler
from halberd.potentials.ace.model import ace_site_model
from halberd.potentials.ace.sites import AceSites, CompiledAceSites
from halberd.potentials.conformance import check_site_model
from halberd.potentials.regression.weighted_rows import VOIGT
from halberd.potentials.sites.compiled_operators import _clear
from halberd.potentials.sites.structure_energy import StructureEnergy
from halberd.potentials.sites.verlet_list import NeighborList
from tests.conftest import cluster, random_ace

needs_operator = pytest.mark.skipif(
    ACE_OPERATOR.problem() is not None, reason=f"no compiled operator: {ACE_OPERATOR.problem()}"
)


def both(basis, coefficients):
    """The same model on ordinary torch functions and on the compiled operator."""
    model = ace_site_model(basis, coefficients)
    portable = getattr(model.module, "portable", model.module)
    return portable, CompiledAceSites(portable)


def edges_of(atoms, basis):
    index = {z: s for s, z in enumerate(basis.settings.elements)}
    species = torch.tensor([index[int(z)] for z in atoms.numbers])
    positions = torch.tensor(atoms.positions)
    box = torch.tensor(np.array(atoms.cell))
    edge_index, vectors = NeighborList(basis.settings.r_max, 0.0)(positions, box, torch.tensor(atoms.pbc))
    return species, edge_index, vectors


@needs_operator
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("members", [0, 1, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_compiled_equals_torch(order, members, dtype, alloy):
    basis, coefficients = random_ace(order=order, members=members, degree=9)
    portable, compiled = both(basis, coefficients)
    species, edge_index, vectors = edges_of(alloy, basis)
    results = []
    for module in (portable.to(torch.float64), portable.to(dtype), compiled.to(dtype)):
        v = vectors.to(next(module.buffers()).dtype).requires_grad_(True)
        energies = module(species, edge_index, v)
        # Another weight for every site and member.
        weights = torch.linspace(-1, 2, energies.numel(), dtype=energies.dtype).reshape(energies.shape)
        (gradient,) = torch.autograd.grad((weights * energies).sum(), v)
        results.append((energies.detach().double(), gradient.double()))
        if module is not compiled:
            portable = portable.to(torch.float64)
    exact, ordinary, fast = results
    for truth, reference, ours in zip(exact, ordinary, fast, strict=True):
        scale = truth.abs().max()
        bound = 1e-12 if dtype == torch.float64 else 3.0 * float((reference - truth).abs().max() / scale) + 1e-6
        assert float((ours - truth).abs().max() / scale) < bound


@needs_operator
def test_compiled_on_awkward_edges(alloy):
    """Edges in any order, atoms without neighbours, no edges at all, no atoms of one species."""
    basis, coefficients = random_ace(members=3)
    portable, compiled = both(basis, coefficients)
    species, edge_index, vectors = edges_of(alloy, basis)
    expected = portable(species, edge_index, vectors)
    shuffle = torch.randperm(edge_index.shape[1], generator=torch.Generator().manual_seed(0))
    assert torch.allclose(compiled(species, edge_index[:, shuffle], vectors[shuffle]), expected, rtol=1e-12)
    more = torch.cat([species, torch.tensor([1, 0])])
    lonely = compiled(more, edge_index, vectors)
    assert torch.allclose(lonely[:-2], expected, rtol=1e-12)
    assert torch.equal(lonely[-2:], torch.zeros(2, 3, dtype=torch.float64))
    nothing = compiled(species, edge_index[:, :0], vectors[:0].requires_grad_(True))
    assert torch.equal(nothing, torch.zeros(32, 3, dtype=torch.float64))
    nothing.sum().backward()
    only = torch.zeros(2, dtype=torch.int64)
    pair = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0.0, 0, 2.2], [0, 0, -2.2]], dtype=torch.float64)
    assert torch.allclose(compiled(only, *pair), portable(only, *pair), rtol=1e-12)


@needs_operator
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_any_number_of_neighbours(dtype):
    """Vectors of 8 or 16 edges that are full, or not; near ones and such that only the first functions reach."""
    basis, coefficients = random_ace(members=4)
    portable, compiled = both(basis, coefficients)
    generator = torch.Generator().manual_seed(3)
    for n_near, n_far in [(0, 1), (1, 0), (7, 1), (8, 9), (15, 16), (16, 17), (17, 15), (33, 8)]:
        directions = torch.randn((n_near + n_far, 3), generator=generator, dtype=torch.float64)
        inner, outer = portable.many_range, basis.settings.r_max
        assert outer - inner > 0.3
        r = torch.cat([torch.linspace(1.8, inner - 0.01, n_near), torch.linspace(inner, outer - 0.1, n_far)])
        vectors = directions * (r.double() / directions.norm(dim=1)).unsqueeze(1)
        species = torch.cat([torch.zeros(1, dtype=torch.int64), torch.arange(len(vectors)) % 2])
        edge_index = torch.stack([torch.zeros(len(vectors), dtype=torch.int64), torch.arange(1, len(vectors) + 1)])
        found = []
        for name, precision in (("portable", torch.float64), ("portable", dtype), ("compiled", dtype)):
            module = {"portable": portable, "compiled": compiled}[name].to(precision)
            v = vectors.to(precision).requires_grad_()
            energies = module(species, edge_index, v)
            (gradient,) = torch.autograd.grad(energies.sum(), v)
            found.append((energies.detach().double(), gradient.double()))
            portable.to(torch.float64)
        for truth, ordinary, fast in zip(*found, strict=True):
            scale = truth.abs().max()
            bound = 1e-12 if dtype == torch.float64 else 3.0 * float((ordinary - truth).abs().max() / scale) + 1e-6
            assert float((fast - truth).abs().max() / scale) < bound


@needs_operator
@pytest.mark.parametrize("order", [1, 3])
def test_members_in_turn_are_those_asked_alone(order, alloy):
    """The second member that is asked for brings those of all: the same bits, in any order, and with factors."""
    basis, coefficients = random_ace(members=5, order=order)
    compiled = both(basis, coefficients)[1]
    species, edge_index, vectors = edges_of(alloy, basis)
    alone = []
    for k in range(5):
        v = vectors.clone().requires_grad_()
        alone.append(torch.autograd.grad(compiled(species, edge_index, v)[:, k].sum(), v)[0])
    v = vectors.clone().requires_grad_()
    energies = compiled(species, edge_index, v)
    totals = energies.sum(0)

    def gradient(of):
        return torch.autograd.grad(of, v, retain_graph=True)[0]

    for k in (3, 0, 0, 4, 1, 2, 3):
        assert torch.equal(gradient(totals[k]), alone[k])
    assert torch.allclose(gradient(-2.5 * totals[1]), -2.5 * alone[1], rtol=1e-12, atol=1e-12)
    mean = torch.stack(alone).mean(0)
    assert torch.allclose(gradient(totals.mean()), mean, rtol=0, atol=1e-12 * float(mean.abs().max()))
    one_site = gradient(energies[0, 2])
    assert not torch.allclose(one_site, alone[2])
    assert torch.equal(one_site[edge_index[0] == 0], alone[2][edge_index[0] == 0])
    assert not one_site[edge_index[0] != 0].any()


@needs_operator
def test_tables_of_older_files_give_the_same(alloy):
    """Rows of tables are whole vectors today; in files of before they end where functions end."""
    basis, coefficients = random_ace()
    portable, compiled = both(basis, coefficients)
    columns = max(start + count for start, count in zip(portable.start, portable.count, strict=True))
    assert portable.table.shape[3] % 16 == 0
    assert portable.table.shape[3] != columns
    expected = compiled(*edges_of(alloy, basis))
    portable.table = portable.table[..., :columns].contiguous()
    assert torch.equal(CompiledAceSites(portable)(*edges_of(alloy, basis)), expected)


@needs_operator
def test_compiled_does_not_depend_on_threads(alloy):
    basis, coefficients = random_ace(members=2)
    compiled = both(basis, coefficients)[1]
    species, edge_index, vectors = edges_of(alloy * (2, 2, 1), basis)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        v = vectors.clone().requires_grad_(True)
        energies = compiled(species, edge_index, v)
        (gradient,) = torch.autograd.grad(energies.mean(1).sum(), v)
        results.append((energies.detach(), gradient))
    torch.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@needs_operator
def test_not_finite_distances_stay_visible(alloy):
    basis, coefficients = random_ace()
    compiled = both(basis, coefficients)[1]
    species, edge_index, vectors = edges_of(alloy, basis)
    vectors[5] = float("nan")
    assert not torch.isfinite(compiled(species, edge_index, vectors)).all()


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("symbols", [("Si",), ("Al", "Si")])
def test_rows_times_coefficients_equal_the_evaluator(order, symbols):
    basis, coefficients = random_ace(symbols, order=order, degree=8, pair_degree=0 if order == 2 else None)
    generator = np.random.default_rng(order)
    frames = [cluster(generator, symbols, 9) for _ in range(3)]
    frames[1].set_cell([[6.0, 0, 0], [0.8, 6.3, 0], [-0.5, 0.7, 6.1]])
    frames[1].pbc = True
    block = DesignAssembler(basis).rows(frames)
    model = ace_site_model(basis, coefficients)
    for k, atoms in enumerate(frames):
        energy = StructureEnergy(model, model.species_of(atoms.numbers), 0.0)
        positions = torch.tensor(atoms.positions, requires_grad=True)
        strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
        deform = torch.eye(3, dtype=torch.float64) + 0.5 * (strain + strain.T)
        box = torch.tensor(np.array(atoms.cell))
        total = energy(positions @ deform, box @ deform, torch.tensor(atoms.pbc)).sum()
        gradient, stretch = torch.autograd.grad(total, [positions, strain])
        scale = np.abs(block.energy).max()
        assert abs(float(total.detach()) - block.energy[k] @ coefficients) < 1e-10 * scale
        assert np.abs(-gradient.numpy() - block.forces[k] @ coefficients).max() < 1e-10 * scale
        virial = [float(-stretch[a, b]) for a, b in VOIGT]
        assert np.abs(np.array(virial) - block.virial[k] @ coefficients).max() < 1e-9 * scale


@pytest.mark.parametrize("members", [0, 3])
def test_keeps_the_contract_of_site_models(members):
    basis, coefficients = random_ace(members=members)
    onsets = np.full((2, 2), 1.4)
    check_site_model(
        ace_site_model(basis, coefficients, e0s=np.zeros((2, members) if members else 2), core_onsets=onsets)
    )


def test_any_combination_of_members_is_one_member(alloy):
    """Mean, and mean - tau sigma at fixed weights: the gradient is that of one coefficient vector."""
    basis, coefficients = random_ace(members=6)
    model = ace_site_model(basis, coefficients)
    species, edge_index, vectors = edges_of(alloy, basis)
    v = vectors.requires_grad_(True)
    energies = model(species, edge_index, v).sum(0)
    deviation = energies - energies.mean()
    sigma = torch.sqrt((deviation**2).mean())
    (biased,) = torch.autograd.grad(energies.mean() - 0.7 * sigma, v)
    weights = (1.0 / 6 - 0.7 * (deviation - deviation.mean()) / (6 * sigma)).detach().numpy()
    single = ace_site_model(basis, coefficients @ weights)
    u = vectors.detach().clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(single(species, edge_index, u).sum(), u)
    assert float((biased - expected).abs().max()) < 1e-11 * float(expected.abs().max())


def test_files_hold_plain_torch_and_load_with_the_operator(tmp_path, alloy):
    basis, coefficients = random_ace(members=2)
    model = ace_site_model(basis, coefficients, e0s=np.full((2, 2), -3.5), metadata={"name": "trial"})
    model.save(tmp_path / "trial.pt")
    code = f"""
import torch, sphericart.torch
module = torch.jit.load({str(tmp_path / "trial.pt")!r})
assert "halberd::" not in str(module.forward.graph)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    loaded = load(tmp_path / "trial.pt")
    assert loaded.metadata["settings"]["order"] == 3
    species, edge_index, vectors = edges_of(alloy, basis)
    assert torch.equal(loaded(species, edge_index, vectors), model(species, edge_index, vectors))
    if ACE_OPERATOR.problem() is None:
        assert isinstance(loaded.module, CompiledAceSites)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_cut_to_elements(dtype, alloy, tmp_path):
    """Products of other elements go; energies of what is left stay."""
    basis, coefficients = random_ace(("Al", "Si", "Cu"), members=2)
    model = ace_site_model(basis, coefficients, e0s=np.arange(6.0).reshape(3, 2)).to(dtype)
    model.save(tmp_path / "three.pt")
    for whole in (model, load(tmp_path / "three.pt")):
        cut = whole.restrict(["Si", "Al"])
        assert cut.symbols == ("Al", "Si")
        assert cut.dtype == dtype
        assert cut.e0s.tolist() == [[0.0, 1.0], [2.0, 3.0]]
        portable = getattr(cut.module, "portable", cut.module)
        assert len(portable.products3) < len(basis.products[2])
        two, _ = random_ace(("Al", "Si"))
        species, edge_index, vectors = edges_of(alloy, two)
        arguments = (edge_index, vectors.to(dtype))
        expected = whole(whole.species_of(alloy.numbers), *arguments)
        assert torch.allclose(cut(species, *arguments), expected, rtol=1e-12 if dtype == torch.float64 else 1e-5)


def test_without_a_compiler(tmp_path, alloy, monkeypatch):
    """No compiler: the same numbers from ordinary torch functions, said once, and doctor says why."""
    code = """
import warnings
from halberd.potentials.ace.compiled_operator import ACE_OPERATOR
from halberd.potentials.ace.model import ace_site_model
from halberd.potentials.ace.basis import AceBasis
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.ace.sites import AceSites
import numpy as np
basis = AceBasis(AceSettings(("Si",), order=2, degree=5))
assert "no C++ compiler" in ACE_OPERATOR.problem(), ACE_OPERATOR.problem()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        assert isinstance(ace_site_model(basis, np.ones(basis.n_functions)).module, AceSites)
said = [str(each.message) for each in caught if "several times slower" in str(each.message)]
assert len(said) == 1 and "no C++ compiler" in said[0], caught
"""
    environment = {"PATH": str(tmp_path), "HALBERD_CACHE_DIR": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, env=environment)
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\necho 'ace.cpp:1: error: out of luck' >&2\nexit 1\n")
    broken.chmod(0o755)
    code = code.replace('"no C++ compiler"', '"g++ failed: ace.cpp:1: error: out of luck"')
    environment["PATH"] = f"{tmp_path}:/bin"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, env=environment)


def test_what_a_killed_compiler_left_goes(tmp_path):
    """After an hour: until then it may be at work."""
    old, new = tmp_path / "building-old", tmp_path / "building-new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "ace.o").write_text("half")
    os.utime(old, (0.0, 0.0))
    _clear(tmp_path)
    assert [folder.name for folder in tmp_path.iterdir()] == ["building-new"]


def test_operator_is_cached_by_source_torch_and_processor(monkeypatch, tmp_path):
    monkeypatch.setenv("HALBERD_CACHE_DIR", str(tmp_path))
    path = ACE_OPERATOR.library_path()
    assert path.parent == tmp_path / "operators"
    monkeypatch.setattr(torch, "__version__", "99.0")
    assert ACE_OPERATOR.library_path() != path


@needs_operator
def test_a_damaged_library_is_compiled_again(tmp_path):
    """Loading half of one would end the process."""
    code = """
from halberd.potentials.ace.compiled_operator import ACE_OPERATOR
assert ACE_OPERATOR.load_if_built() is WHOLE
assert ACE_OPERATOR.problem() is None
"""
    environment = {**os.environ, "HALBERD_CACHE_DIR": str(tmp_path)}
    path = ACE_OPERATOR.library_path()
    mine = tmp_path / "operators" / path.name
    mine.parent.mkdir()
    for ending in (".so", ".sha256"):
        shutil.copy(path.with_suffix(ending), mine.with_suffix(ending))
    subprocess.run([sys.executable, "-c", code.replace("WHOLE", "True")], check=True, env=environment)
    mine.write_bytes(path.read_bytes()[:1000])
    subprocess.run([sys.executable, "-c", code.replace("WHOLE", "False")], check=True, env=environment)
    assert len(mine.read_bytes()) > 10_000


def test_portable_module_is_scripted_once(alloy):
    basis, coefficients = random_ace()
    assert isinstance(both(basis, coefficients)[0], AceSites)
