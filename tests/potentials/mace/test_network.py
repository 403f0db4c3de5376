"""MACE as a site model: parity with mace-torch's own calculator, heads, elements, charge."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from mace.calculators import MACECalculator

from halberd.plugins.hosts.ase_calculator import HalberdCalculator
from halberd.potentials import SiteModel, load
from halberd.potentials.conformance import check_site_model, edges, random_environment
from halberd.potentials.errors import ConfigurationError, ModelError, UnknownElementError
from halberd.potentials.mace.network import mace_site_model
from halberd.potentials.sites.torchscript import default_dtype
from tests.conftest import VARIANTS, make_mace

#: Relative to the largest force or the interaction energy.
PARITY = {"double": 1e-8, "single": 1e-5}


def assert_parity(ours: Atoms, theirs: Atoms, precision: str) -> None:
    tolerance = PARITY[precision]
    scale = np.abs(theirs.get_forces()).max()
    np.testing.assert_allclose(ours.get_forces(), theirs.get_forces(), atol=tolerance * scale, rtol=0)
    assert ours.get_potential_energy() == pytest.approx(theirs.get_potential_energy(), rel=tolerance)
    if all(ours.pbc):
        stress = theirs.get_stress()
        np.testing.assert_allclose(ours.get_stress(), stress, atol=tolerance * np.abs(stress).max() * 10, rtol=0)


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("structure", ["ethanol", "crystal"])
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_parity_with_mace_torch(variant, structure, precision, mace_files, request):
    atoms = request.getfixturevalue(structure)
    ours, theirs = atoms.copy(), atoms.copy()
    ours.calc = HalberdCalculator(mace_files[variant], precision=precision)
    dtype = {"double": "float64", "single": "float32"}[precision]
    theirs.calc = MACECalculator(model_paths=str(mace_files[variant]), device="cpu", default_dtype=dtype)
    if precision == "single":
        # Two single-precision results differ by their own rounding, which these random models, with forces far
        # below the terms they are made of, magnify. What must hold is that ours is no further from the truth.
        # Over several geometries: the largest error of one is a matter of luck, and of the processor.
        exact = MACECalculator(model_paths=str(mace_files[variant]), device="cpu", default_dtype="float64")
        errors, largest = [], 0.0
        for seed in range(6):
            moved = atoms.copy()
            moved.rattle(0.02, seed=seed)
            forces = []
            for calculator in (ours.calc, theirs.calc, exact):
                moved.calc = calculator
                forces.append(moved.get_forces())
            errors.append([forces[0] - forces[2], forces[1] - forces[2]])
            largest = max(largest, np.abs(forces[2]).max())
        our_error, their_error = np.sqrt((np.array(errors) ** 2).mean(axis=(0, 2, 3)))
        assert our_error <= max(1.5 * their_error, PARITY["single"] * largest)
        assert ours.get_potential_energy() == pytest.approx(theirs.get_potential_energy(), rel=PARITY["single"])
        return
    # mace-torch's short-range repulsion is rounded to the default precision, whatever that of the model.
    with default_dtype(torch.float64):
        assert_parity(ours, theirs, precision)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_contract(variant, mace_files):
    check_site_model(load(mace_files[variant]))


@pytest.mark.parametrize("head", ["dft", "mp2"])
@pytest.mark.parametrize("variant", ["heads", "heads-plain"])
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_heads_match_mace_torch(variant, head, mace_files, ethanol):
    ours, theirs = ethanol.copy(), ethanol.copy()
    ours.calc = HalberdCalculator(mace_files[variant], head=head)
    theirs.calc = MACECalculator(model_paths=str(mace_files[variant]), device="cpu", default_dtype="float64", head=head)
    assert_parity(ours, theirs, "double")


def test_head_must_be_named(mace_files):
    with pytest.raises(ConfigurationError, match="choose one with head=: dft, mp2"):
        load(mace_files["heads"])
    with pytest.raises(ConfigurationError, match=r"has no head 'mp3'.*Did you mean 'mp2'"):
        load(mace_files["heads"], head="mp3")


@pytest.mark.parametrize("variant", ["plain", "zbl", "scalars-only", "agnesi"])
def test_cutting_elements_changes_nothing_else(variant, mace_files):
    whole = load(mace_files[variant])
    cut = load(mace_files[variant], elements=["O", "H"])
    assert cut.symbols == ("H", "O")
    assert sum(p.numel() for p in cut.module.parameters()) < sum(p.numel() for p in whole.module.parameters())
    species, positions = random_environment(cut, seed=4)
    edge_index, vectors = edges(cut, positions)
    translated = torch.tensor([0, 2])[species]
    torch.testing.assert_close(
        cut.scripted()(species, edge_index, vectors),
        whole.scripted()(translated, edge_index, vectors),
        rtol=1e-12,
        atol=1e-12,
    )
    np.testing.assert_array_equal(cut.e0s, whole.e0s[[0, 2]])


def test_unknown_element_is_named(mace_files):
    with pytest.raises(UnknownElementError, match="asked for Si; it knows H, C, O"):
        load(mace_files["plain"], elements=["H", "Si"])


def test_saved_model_needs_neither_mace_nor_e3nn(mace_files, tmp_path):
    path = tmp_path / "model.pt"
    model = load(mace_files["zbl"])
    model.save(path)
    species, positions = random_environment(model)
    edge_index, vectors = edges(model, positions)
    expected = model.scripted()(species, edge_index, vectors).sum().detach()
    np.savez(tmp_path / "in.npz", species=species, edge_index=edge_index, vectors=vectors)
    code = f"""
import sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mace", "e3nn"):
            raise ImportError(name + " must not be needed")
sys.meta_path.insert(0, Forbidden())
import numpy as np, torch
from halberd.potentials import load
data = {{key: torch.tensor(value) for key, value in np.load({str(tmp_path / "in.npz")!r}).items()}}
model = load({str(path)!r})
print(repr(float(model(data["species"], data["edge_index"], data["vectors"]).sum().detach())))
"""
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert float(result.stdout) == pytest.approx(float(expected), rel=1e-11)


def test_charge_embedding_is_baked_in(ethanol):
    from e3nn.util import jit  # noqa: F401  (mace first)

    specs = {
        "total_charge": {"type": "categorical", "num_classes": 21, "offset": 10, "emb_dim": 4, "per": "graph"},
        "total_spin": {"type": "categorical", "num_classes": 11, "emb_dim": 4, "per": "graph"},
    }
    network = make_mace(embedding_specs=specs, use_embedding_readout=True)
    energies = {}
    for charge, multiplicity in ((0, 1), (1, 2)):
        calculator = HalberdCalculator(
            mace_site_model(network, name="charged", charge=charge, multiplicity=multiplicity)
        )
        energies[charge] = calculator.evaluate(ethanol)
        data = mace_data(network, ethanol, charge, multiplicity)
        reference = network(data)
        assert energies[charge]["energy"] == pytest.approx(float(reference["energy"].detach()), rel=1e-10)
        forces = reference["forces"].detach().numpy()
        np.testing.assert_allclose(energies[charge]["forces"], forces, atol=1e-9)
        cut = mace_site_model(
            make_mace(embedding_specs=specs, use_embedding_readout=True, elements=(1, 6, 7, 8)),
            name="cut",
            charge=charge,
            multiplicity=multiplicity,
            elements=[1, 6, 8],
        )
        whole = make_mace(embedding_specs=specs, use_embedding_readout=True, elements=(1, 6, 7, 8))
        expected = whole(mace_data(whole, ethanol, charge, multiplicity))["energy"]
        found = HalberdCalculator(cut).evaluate(ethanol)["energy"]
        assert found == pytest.approx(float(expected.detach()), rel=1e-10)
    assert np.abs(energies[0]["forces"] - energies[1]["forces"]).max() > 1e-6


def mace_data(network, atoms, charge, multiplicity):
    """Input of a MACE network for an open structure, from all pairs."""
    positions = torch.tensor(atoms.positions)
    distances = torch.cdist(positions, positions)
    pairs = torch.nonzero((distances < float(network.r_max)) & (distances > 0)).T
    numbers = [int(z) for z in network.atomic_numbers]
    species = torch.tensor([numbers.index(z) for z in atoms.numbers])
    return {
        "positions": positions,
        "edge_index": pairs,
        "shifts": torch.zeros((pairs.shape[1], 3), dtype=torch.float64),
        "unit_shifts": torch.zeros((pairs.shape[1], 3), dtype=torch.float64),
        "cell": torch.zeros((3, 3), dtype=torch.float64),
        "node_attrs": torch.eye(len(numbers), dtype=torch.float64)[species],
        "batch": torch.zeros(len(atoms), dtype=torch.int64),
        "ptr": torch.tensor([0, len(atoms)]),
        "head": torch.tensor([0]),
        "total_charge": torch.tensor([float(charge)], dtype=torch.float64),
        "total_spin": torch.tensor([float(multiplicity)], dtype=torch.float64),
    }


def test_charge_is_refused_where_the_model_takes_none(mace_files):
    with pytest.raises(ConfigurationError, match="takes neither charge nor multiplicity"):
        load(mace_files["plain"], charge=1)


def test_unsupported_architecture_is_refused():
    class EnergyDipolesMACE(torch.nn.Module):
        pass

    with pytest.raises(ModelError, match="halberd runs MACE and ScaleShiftMACE"):
        mace_site_model(EnergyDipolesMACE(), name="dipole")


def test_conversion_leaves_the_original_alone(ethanol):
    network = make_mace()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    model = mace_site_model(network, name="copy", dtype=torch.float32, elements=[1, 6])
    model.scripted()
    assert isinstance(model, SiteModel)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key
