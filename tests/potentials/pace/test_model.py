"""PACE potentials: files made here, checked against formulas written out by hand and against each other."""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import bulk
from scipy.special import sph_harm_y

from halberd.plugins import HalberdCalculator
from halberd.potentials import load
from halberd.potentials.ace.couplings import clebsch_gordan
from halberd.potentials.ace.embedding import FinnisSinclair
from halberd.potentials.ace.model import ace_site_model
from halberd.potentials.conformance import check_site_model
from halberd.potentials.errors import ConfigurationError, ModelFileError
from halberd.potentials.pace.radial import PaceBond, base_functions
from halberd.potentials.pace.writing import write_pace
from tests.conftest import cluster, random_ace

SYMBOLS = ("Al", "Ni")
CUTOFFS = {("Al", "Al"): 5.0, ("Al", "Ni"): 4.6, ("Ni", "Al"): 4.6, ("Ni", "Ni"): 4.8}


def radial_coefficients(pair, n_radial=2, l_max=2, n_base=3):
    seed = SYMBOLS.index(pair[0]) + SYMBOLS.index(pair[1])
    return np.random.default_rng(seed).normal(size=(n_radial, l_max + 1, n_base)).round(6).tolist()


def bond_block(pair, basis="ChebExpCos"):
    return {
        **{"nradmaxi": 2, "lmaxi": 2, "rcutij": CUTOFFS[pair], "dcutij": 0.01, "nradbaseij": 3},
        **{"NameOfCutoffFunctionij": "cos", "radbase": basis, "radparameters": [3.3]},
        **{"radcoefficients": radial_coefficients(pair), "core-repulsion": [120.0, 3.0]},
    }


FUNCTIONS = {
    "Al": [
        {"type": "Al Al", "nr": [1], "nl": [0], "c": [-1.3]},
        {"type": "Al Al", "nr": [3], "nl": [0], "c": [0.7]},
        {"type": "Al Al Al", "nr": [1, 2], "nl": [2, 2], "c": [0.21]},
        {"type": "Al Al Al Al", "nr": [1, 1, 2], "nl": [1, 1, 2], "lint": [2], "c": [0.05]},
        {"type": "Al Al Al Al Al", "nr": [1, 1, 1, 1], "nl": [1, 1, 1, 1], "lint": [2, 2], "c": [0.03]},
    ],
    "Al Ni": [
        {"type": "Al Ni", "nr": [2], "nl": [0], "c": [-0.9]},
        {"type": "Al Al Ni", "nr": [2, 1], "nl": [1, 1], "c": [0.4]},
        {"type": "Al Al Ni Ni", "nr": [1, 1, 2], "nl": [2, 1, 1], "lint": [1], "c": [-0.06]},
    ],
    "Ni": [
        {"type": "Ni Ni", "nr": [1], "nl": [0], "c": [-0.8, 0.5]},
        {"type": "Ni Ni Ni", "nr": [1, 1], "nl": [1, 1], "c": [0.3, 0.1]},
    ],
    "Ni Al": [{"type": "Ni Al Ni", "nr": [1, 2], "nl": [2, 2], "c": [0.15, -0.2]}],
}


def b_basis(basis="ChebExpCos"):
    blocks = []
    for name, functions in FUNCTIONS.items():
        pair = tuple(name.split()) if " " in name else (name, name)
        block = {"speciesblock": name, **bond_block(pair, basis), "nbody": functions}
        if name == "Al":
            block |= {"ndensityi": 1, "npoti": "FinnisSinclair", "parameters": [1.0, 1.0]}
        if name == "Ni":
            block |= {"ndensityi": 2, "npoti": "FinnisSinclairShiftedScaled", "parameters": [1.0, 1.0, 1.0, 0.5]}
        if " " not in name:
            block |= {"rho_core_cut": 100000.0, "drho_core_cut": 250.0}
        blocks.append(block)
    return {"species": blocks, "E0": {"Al": -1.5, "Ni": -2.5}}


def coupling(angular, ms, inner):
    if len(angular) == 1:
        return 1.0
    if len(angular) == 2:
        return clebsch_gordan((angular[0], ms[0]), (angular[1], ms[1]), (0, 0))
    first = clebsch_gordan((angular[0], ms[0]), (angular[1], ms[1]), (inner[0], ms[0] + ms[1]))
    if len(angular) == 3:
        return first * clebsch_gordan((inner[0], ms[0] + ms[1]), (angular[2], ms[2]), (0, 0))
    second = clebsch_gordan((angular[2], ms[2]), (angular[3], ms[3]), (inner[1], ms[2] + ms[3]))
    return first * second * clebsch_gordan((inner[0], ms[0] + ms[1]), (inner[1], ms[2] + ms[3]), (0, 0))


def c_tilde():
    """The same potential with every product spelt out."""
    functions = {0: [], 1: []}
    for function in itertools.chain(*FUNCTIONS.values()):
        names, angular = function["type"].split(), function["nl"]
        centre = SYMBOLS.index(names[0])
        ms_all, weights = [], []
        for ms in itertools.product(*(range(-d, d + 1) for d in angular)):
            weight = coupling(angular, ms, function.get("lint", ())) if sum(ms) == 0 else 0.0
            if weight:
                ms_all += list(ms)
                weights += [weight * c for c in function["c"]]
        functions[centre].append(
            {
                **{"mu0": centre, "rank": len(angular), "ndensity": len(function["c"])},
                **{"num_ms_combs": len(ms_all) // len(angular), "mus": [SYMBOLS.index(n) for n in names[1:]]},
                **{"ns": function["nr"], "ls": angular, "ms_combs": ms_all, "ctildes": weights},
            }
        )
    bonds = {}
    for pair in itertools.product(SYMBOLS, repeat=2):
        block = bond_block(pair)
        bonds[tuple(SYMBOLS.index(s) for s in pair)] = {
            **{"nradmax": 2, "lmax": 2, "nradbasemax": 3, "radbasename": "ChebExpCos", "radparameters": [3.3]},
            **{"radcoefficients": block["radcoefficients"], "prehc": 120.0, "lambdahc": 3.0},
            **{"rcut": CUTOFFS[pair], "dcut": 0.01},
        }
    embeddings = {
        0: {"ndensity": 1, "FS_parameters": [1.0, 1.0], "npoti": "FinnisSinclair"},
        1: {"ndensity": 2, "FS_parameters": [1.0, 1.0, 1.0, 0.5], "npoti": "FinnisSinclairShiftedScaled"},
    }
    for entry in embeddings.values():
        entry |= {"rho_core_cutoff": 100000.0, "drho_core_cutoff": 250.0}
    return {
        "elements": list(SYMBOLS),
        "E0": [-1.5, -2.5],
        "embeddings": embeddings,
        "bonds": bonds,
        "functions": functions,
    }


def dump(content, path):
    """Write with bonds keyed by lists, as such files are."""
    text = yaml.safe_dump({k: v for k, v in content.items() if k != "bonds"}, default_flow_style=None)
    if "bonds" in content:
        text += "bonds:\n" + "".join(
            f"  [{a}, {b}]: {yaml.safe_dump(bond, default_flow_style=True, width=10**9).strip()}\n"
            for (a, b), bond in content["bonds"].items()
        )
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pace")
    return dump(b_basis(), folder / "alni.yaml"), dump(c_tilde(), folder / "alni.yace")


def site_by_hand(atoms: Atoms, i: int) -> float:
    """Energy of one site, straight from the definition, with complex harmonics and sums over all neighbours."""
    centre = atoms.symbols[i]
    core, neighbours = 0.0, []
    for j in range(len(atoms)):
        v = atoms.positions[j] - atoms.positions[i]
        r, pair = np.linalg.norm(v), (centre, atoms.symbols[j])
        if j == i or r >= CUTOFFS[pair]:
            continue
        rc = CUTOFFS[pair]
        x = 1 - 2 * (math.exp(-3.3 * r / rc) - math.exp(-3.3)) / (1 - math.exp(-3.3))
        switch = 0.5 * (1 + math.cos(math.pi * max(0.0, (r - rc + 0.01) / 0.01)))
        g = 0.5 * (1 + math.cos(math.pi * r / rc)) * switch * np.array([1, 0.5 - 0.5 * x, 0.5 - 0.5 * (2 * x * x - 1)])
        core += 120.0 * math.exp(-3.0 * r * r) / r * 0.5 * (1 + math.cos(math.pi * r / rc)) if 3 * r * r < 50 else 0
        mixed = np.einsum("nlk,k->nl", np.array(radial_coefficients(pair)), g)
        theta, phi = math.acos(v[2] / r), math.atan2(v[1], v[0])
        neighbours.append((pair[1], g, mixed, theta, phi))

    def base(element, n, degree, m, single):
        total = 0.0j
        for other, g, mixed, theta, phi in neighbours:
            if other == element:
                value = g[n - 1] if single else mixed[n - 1, degree]
                total += value * math.sqrt(4 * math.pi) * sph_harm_y(degree, m, theta, phi)
        return total

    rho = np.zeros(1 if centre == "Al" else 2)
    for function in itertools.chain(*FUNCTIONS.values()):
        names, angular = function["type"].split(), function["nl"]
        if names[0] != centre:
            continue
        value = 0.0
        for ms in itertools.product(*(range(-d, d + 1) for d in angular)):
            weight = coupling(angular, ms, function.get("lint", ())) if sum(ms) == 0 else 0.0
            if weight:
                factors = [
                    base(names[t + 1], function["nr"][t], angular[t], ms[t], len(angular) == 1)
                    for t in range(len(angular))
                ]
                value += weight * np.prod(factors).real
        rho += value * np.array(function["c"])
    if centre == "Al":
        return rho[0] + core
    a = abs(rho[1])
    # m = 1/2, so nu = 2: offsets 2^(2/(1-2)) and 2^(1/(1-2)), times exp(-a).
    second = math.sqrt(0.25 * math.exp(-a) + a) - 0.5 * math.exp(-a)
    return rho[0] + math.copysign(second, rho[1]) + core


def test_equals_the_definition(files):
    generator = np.random.default_rng(0)
    for path in files:
        calculator = HalberdCalculator(load(path))
        for _ in range(3):
            atoms = cluster(generator, SYMBOLS, 7)
            energies = calculator.evaluate(atoms)["energies"]
            expected = [site_by_hand(atoms, i) + {"Al": -1.5, "Ni": -2.5}[atoms.symbols[i]] for i in range(7)]
            assert np.abs(energies - expected).max() < 1e-6 * np.abs(expected).max()


def pacemaker_file(basis, path):
    """A file that pacemaker reads, too; it has no reference energies in B-basis files."""
    content = b_basis(basis)
    del content["E0"]
    return dump({"global": {"DeltaSplineBins": 0.001}, **content}, path)


def pacemaker_frames():
    frames = [cluster(np.random.default_rng(seed), SYMBOLS, 8) for seed in range(3)]
    for atoms in frames:
        atoms.positions = atoms.positions.round(8)  # as many digits as the file holds
    for atoms in frames[1:]:
        atoms.set_cell([9.0, 9.5, 10.0])
        atoms.pbc = True
    return frames


PACEMAKER_FILES = {
    **{f"{b}.yaml": functools.partial(pacemaker_file, b) for b in ("ChebExpCos", "ChebPow", "ChebLinear", "SBessel")},
    "ChebExpCos.yace": lambda path: dump({"deltaSplineBins": 0.001, **c_tilde()}, path),
    "written.yace": lambda path: write_pace(ace_site_model(*random_ace(SYMBOLS), e0s=[-1.5, -2.5]), path).path,
}


@pytest.mark.parametrize("name", PACEMAKER_FILES)
def test_equals_pacemaker(name, tmp_path):
    """Against numbers of pacemaker's evaluator; see tests/benchmarks/parity_with_pace.py."""
    expected = json.loads(Path(__file__).with_name("pacemaker.json").read_text(encoding="utf-8"))[name]
    calculator = HalberdCalculator(load(PACEMAKER_FILES[name](tmp_path / name)))
    for atoms, truth in zip(pacemaker_frames(), expected, strict=True):
        found = calculator.evaluate(atoms)
        assert found["energy"] == pytest.approx(truth["energy"], abs=1e-8)
        assert np.abs(found["forces"] - truth["forces"]).max() < 1e-7
        if "stress" in truth:
            assert np.abs(found["stress"] - truth["stress"]).max() < 1e-8


def test_coefficients_in_one_list_have_the_base_function_first(tmp_path):
    """As old files have them; pacemaker takes such a file and the one with three levels for the same."""
    content = b_basis()
    for block in content["species"]:
        nested = np.array(block["radcoefficients"])  # n, l, k
        block["radcoefficients"] = nested.transpose(2, 0, 1).ravel().tolist()
    old, new = dump(content, tmp_path / "old.yaml"), dump(b_basis(), tmp_path / "new.yaml")
    atoms = cluster(np.random.default_rng(4), SYMBOLS, 9)
    assert HalberdCalculator(load(old)).evaluate(atoms)["energy"] == pytest.approx(
        HalberdCalculator(load(new)).evaluate(atoms)["energy"], abs=1e-12
    )


def test_both_forms_of_a_potential_agree(files):
    atoms = cluster(np.random.default_rng(3), SYMBOLS, 12)
    atoms.set_cell([6.0, 6.4, 6.2])
    atoms.pbc = True
    first, second = (HalberdCalculator(load(path)).evaluate(atoms) for path in files)
    assert first["energy"] == pytest.approx(second["energy"], abs=1e-11)
    assert np.abs(first["forces"] - second["forces"]).max() < 1e-10
    assert np.abs(first["stress"] - second["stress"]).max() < 1e-11


@pytest.mark.parametrize("number", [0, 1])
def test_keeps_the_contract(files, number):
    check_site_model(load(files[number]), smoothness=1e-3)


def test_tabulated_radial_functions(files, tmp_path):
    """The form ace-jax exports: values on a grid in place of formulas."""
    content = c_tilde()
    for bond in content["bonds"].values():
        grid = torch.linspace(0.0, bond["rcut"], 4001, dtype=torch.float64)
        coefficients = torch.tensor(bond.pop("radcoefficients"), dtype=torch.float64)
        formula = PaceBond("ChebExpCos", bond.pop("radparameters")[0], bond["rcut"], 0.01, coefficients, 3, (0.0, 1.0))
        g = base_functions(formula)(grid)
        rnl = torch.einsum("nlk,gk->nlg", coefficients, g)
        bond["radbasename"] = "Tabulated"
        bond["radtable"] = {
            "nbins": 4000,
            "gk": [{"k": k + 1, "f": g[:, k].tolist()} for k in range(3)],
            "rnl": [{"n": n + 1, "l": d, "f": rnl[n, d].tolist()} for n in range(2) for d in range(3)],
        }
    atoms = cluster(np.random.default_rng(3), SYMBOLS, 12)
    read, expected = (
        HalberdCalculator(load(path)).evaluate(atoms) for path in (dump(content, tmp_path / "tab.yace"), files[1])
    )
    assert read["energy"] == pytest.approx(expected["energy"], rel=1e-9)
    assert np.abs(read["forces"] - expected["forces"]).max() < 1e-7 * np.abs(expected["forces"]).max()


@pytest.mark.parametrize("basis", ["ChebPow", "ChebLinear", "SBessel"])
def test_other_radial_bases(basis):
    bond = PaceBond(basis, 2.0, 5.0, 0.0, torch.ones(1, 1, 4, dtype=torch.float64), 4, (0.0, 1.0))
    functions = base_functions(bond)
    r = torch.tensor([0.5, 2.0, 3.7, 4.9999, 5.0, 6.0], dtype=torch.float64)
    g = functions(r)
    assert torch.equal(g[4:], torch.zeros(2, 4, dtype=torch.float64))
    assert torch.isfinite(g).all()
    if basis == "SBessel":  # orthonormal with weight r^2
        grid = torch.linspace(1e-6, 5.0, 20001, dtype=torch.float64)
        values = functions(grid) * grid.unsqueeze(1)
        overlap = torch.trapezoid(values.unsqueeze(1) * values.unsqueeze(2), grid, dim=0)
        assert torch.abs(overlap - torch.eye(4, dtype=torch.float64)).max() < 1e-5
    else:
        power = 2.0 if basis == "ChebPow" else 1.0
        y = 1 - 2.0 / 5.0
        x = 1 - 2 * y**power if basis == "ChebPow" else y
        expected = [0.5 - 0.5 * t for t in (x, 2 * x * x - 1, 4 * x**3 - 3 * x)]
        assert torch.allclose(g[1, :3], torch.tensor(expected, dtype=torch.float64), atol=1e-13)


@pytest.mark.parametrize(("power", "shifted"), [(0.5, 0.0), (0.5, 1.0), (2.0, 0.0), (2.0, 1.0), (1.0, 0.0), (1.0, 1.0)])
def test_embedding_is_smooth_through_zero(power, shifted):
    def column(x):
        return torch.tensor([x], dtype=torch.float64)

    embedding = FinnisSinclair(
        column(1.0).reshape(1, 1), column(power).reshape(1, 1), column(shifted), column(10.0), column(2.0)
    )
    rho = torch.tensor([-2.0, -1e-3, -1e-11, 0.0, 1e-11, 1e-3, 2.0], dtype=torch.float64, requires_grad=True)
    species = torch.zeros(7, dtype=torch.int64)
    energy = embedding(torch.stack([rho, torch.zeros_like(rho)], dim=1), species)
    assert torch.allclose(energy, -energy.flip(0), atol=1e-14)
    (slope,) = torch.autograd.grad(energy.sum(), rho)
    assert torch.isfinite(slope).all()
    if shifted or power == 1.0:
        assert float(slope[3]) == pytest.approx(1.0, rel=1e-6)
    if not shifted:
        assert float(energy[6].detach()) == pytest.approx(2.0**power)
    # The core density switches the embedding off and stays itself.
    crowded = torch.tensor([[2.0, 0.0], [2.0, 9.0], [2.0, 11.0]], dtype=torch.float64)
    full, half, none = embedding(crowded, torch.zeros(3, dtype=torch.int64)).tolist()
    assert half == pytest.approx(0.5 * full + 9.0)
    assert none == 11.0


def test_export_and_elements(files, tmp_path):
    model = load(files[1])
    model.save(tmp_path / "alni.pt")
    loaded = load(tmp_path / "alni.pt")
    atoms = cluster(np.random.default_rng(6), SYMBOLS, 6)
    a, b = (HalberdCalculator(m).evaluate(atoms) for m in (model, loaded))
    assert a["energy"] == b["energy"]
    assert loaded.symbols == SYMBOLS
    nickel = Atoms("Ni3", positions=[[0, 0, 0], [2.3, 0, 0], [0.4, 2.4, 0.3]])
    assert HalberdCalculator(model.restrict(["Ni"])).evaluate(nickel)["energy"] == pytest.approx(
        HalberdCalculator(model).evaluate(nickel)["energy"], rel=1e-13
    )
    with pytest.raises(ConfigurationError, match="head cannot be chosen"):
        load(files[0], head="dft")


@pytest.mark.parametrize(("power", "core", "linear"), [(1.0, 0.0, True), (0.5, 0.0, False), (1.0, 120.0, False)])
def test_potentials_without_an_embedding_or_core_are_sums_of_products(power, core, linear, tmp_path, monkeypatch):
    content = c_tilde()
    content["embeddings"][1] |= {"FS_parameters": [1.0, 1.0, -0.7, power]}
    for bond in content["bonds"].values():
        bond["prehc"] = core
    path = dump(content, tmp_path / "sum.yace")
    atoms = cluster(np.random.default_rng(7), SYMBOLS, 8)
    found = load(path)
    assert hasattr(getattr(found.module, "portable", found.module), "embedding") is not linear
    monkeypatch.setattr("halberd.potentials.pace.model._is_linear", lambda _: False)
    expected = HalberdCalculator(load(path)).evaluate(atoms)
    found.save(tmp_path / "sum.pt")
    nickel = atoms[[i for i, symbol in enumerate(atoms.symbols) if symbol == "Ni"]]
    for model in (found, load(tmp_path / "sum.pt")):
        results = HalberdCalculator(model).evaluate(atoms)
        assert results["energy"] == pytest.approx(expected["energy"], rel=1e-12)
        assert np.abs(results["forces"] - expected["forces"]).max() < 1e-11 * np.abs(expected["forces"]).max()
        alone = HalberdCalculator(model.restrict(["Ni"])).evaluate(nickel)["energy"]
        assert alone == pytest.approx(HalberdCalculator(load(path)).evaluate(nickel)["energy"], rel=1e-12)


def changed(edit):
    content = b_basis()
    edit(content)
    return content


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["species"][0].update(npoti="Tersoff"), "embedding 'Tersoff' is not supported"),
        (lambda c: c["species"][0].update(radbase="TEST_Gaussians"), "radial basis 'TEST_Gaussians' is not supported"),
        (lambda c: c["species"][0].update(parameters=[1.0, 1.0, 1.0]), "do not fit the number of densities"),
        (lambda c: c["species"][0].update(inner_cutoff_type="distance", r_in=1.2), "inner cutoff of type 'distance'"),
        (lambda c: c["species"][0].pop("rcutij"), "lacks or garbles .*rcutij"),
        (lambda c: c["species"][0].update(radcoefficients=[[1.0]]), "lacks or garbles"),
        (lambda c: c["species"].pop(1) and c["species"].pop(-1), "bonds of Al and Ni"),
        (
            lambda c: c["species"][0]["nbody"].append(
                {"type": "Al" + " Al" * 5, "nr": [1] * 5, "nl": [0] * 5, "lint": [0, 0, 0], "c": [1.0]}
            ),
            "has 5 factors; halberd couples up to 4",
        ),
    ],
)
def test_what_cannot_be_read_is_said(edit, message, tmp_path):
    import copy

    content = copy.deepcopy(b_basis())
    edit(content)
    with pytest.raises(ModelFileError, match=message):
        load(dump(content, tmp_path / "bad.yaml"))


def test_files_that_are_something_else(tmp_path):
    (tmp_path / "a.yaml").write_text("ensemble: NVT\n")
    with pytest.raises(ModelFileError, match="not a PACE potential"):
        load(tmp_path / "a.yaml")
    (tmp_path / "b.yace").write_text("elements: [Al\n")
    with pytest.raises(ModelFileError, match="cannot be read as a PACE potential"):
        load(tmp_path / "b.yace")


@pytest.mark.skipif("HALBERD_DATA" not in os.environ, reason="files of pacemaker lie in no package: set HALBERD_DATA")
@pytest.mark.parametrize("nickel", range(4))
def test_aluminium_nickel_gives_the_numbers_of_pacemakers_own_tests(nickel):
    """Of ``Al-Ni_opt_all.yace``: four atoms of fcc aluminium, one of them nickel."""
    atoms = bulk("Al", cubic=True, a=4.05)
    atoms.symbols[nickel] = "Ni"
    atoms.calc = HalberdCalculator(load(Path(os.environ["HALBERD_DATA"]) / "pace" / "Al-Ni_opt_all.yace"))
    assert atoms.get_potential_energy() == pytest.approx(306.0646090745618, abs=1e-10)
    sites = np.full(4, -11.77463638)
    sites[nickel] = 341.38851822
    assert atoms.calc.results["energies"] == pytest.approx(sites, abs=1e-8)
    assert atoms.get_stress() == pytest.approx([-4.82378191] * 3 + [0.0] * 3, abs=1e-8)
