"""SevenNet: the numbers of its own code, stored, and files that it should not be."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from halberd.plugins import HalberdCalculator
from halberd.potentials import load
from halberd.potentials.conformance import check_site_model
from halberd.potentials.errors import (
    ConfigurationError,
    MissingDependencyError,
    ModelError,
    ModelFileError,
    UnknownElementError,
)
from halberd.potentials.multi_ace.couplings import wigner_3j
from halberd.potentials.multi_ace.irreps import parse_irreps, paths_of

FOLDER = Path(__file__).parent / "sevennet"
#: Made by tests/benchmarks/parity_with_sevennet.py.
REFERENCE = json.loads((FOLDER / "reference.json").read_text())


def frame(number: int) -> Atoms:
    """A frame of the script that made the reference."""
    generator = np.random.default_rng(0)
    one, other = molecule("CH3CH2OH"), bulk("NaCl", "rocksalt", a=4.6, cubic=True)
    other.numbers = np.where(other.numbers == 11, 6, 8)
    for atoms in (one, other):
        atoms.positions += generator.normal(scale=0.08, size=atoms.positions.shape)
    return (one, other)[number]


@pytest.mark.parametrize("each", REFERENCE, ids=lambda r: f"{Path(r['checkpoint']).stem} {r['modal']} {r['frame']}")
def test_energies_and_forces_are_those_of_sevennet(each):
    atoms = frame(each["frame"])
    model = load(FOLDER / Path(each["checkpoint"]).name, head=each["modal"], precision="double")
    found = HalberdCalculator(model.restrict(set(atoms.numbers))).evaluate(atoms)
    assert found["energy"] == pytest.approx(each["energy"], rel=1e-11)
    forces = np.array(each["forces"])
    np.testing.assert_allclose(found["forces"], forces, atol=1e-10 * np.abs(forces).max())


@pytest.mark.parametrize("name", ["manual", "parity"])
def test_it_is_a_site_model(name):
    check_site_model(load(FOLDER / f"{name}.pth"), inversion=name == "parity", smoothness=1e-4)


def test_modals_are_different_networks():
    energies = [each["energy"] for each in REFERENCE if each["frame"] == 0 and each["modal"]]
    assert abs(energies[0] - energies[1]) > 0.1


def test_restricted_to_elements_it_is_the_same(tmp_path):
    atoms = frame(1)  # C and O
    whole = load(FOLDER / "parity.pth", precision="double")
    energies = [HalberdCalculator(each).evaluate(atoms)["energy"] for each in (whole, whole.restrict({6, 8}))]
    assert energies[0] == pytest.approx(energies[1], rel=1e-13)
    with pytest.raises(UnknownElementError):
        whole.restrict({6, 7})


def test_old_files_keep_weights_in_another_order_and_tables_of_another_sign(tmp_path):
    """Before 0.11 paths stood as they were found; some tables had the other sign."""
    content = torch.load(FOLDER / "manual.pth", weights_only=True)
    weights, config = content["model_state_dict"], {**content["config"], "version": "0.9.1"}
    irreps = [parse_irreps(text) for text in config["irreps_manual"]]
    flipped = 0
    for t, (features, outputs) in enumerate(itertools.pairwise(irreps)):
        paths = paths_of(features, 2, [block.kind for block in outputs], inversion=False)
        name = f"{t}_convolution.weight_nn.layer2.weight"
        pieces = dict(zip(paths, weights[name].split([features[p.source].channels for p in paths], dim=1), strict=True))
        for path in paths:
            degrees = (features[path.source].degree, path.edge_degree, path.kind[0])
            table = f"{t}_convolution.convolution._compiled_main_left_right._w3j_{'_'.join(map(str, degrees))}"
            if min(degrees) > 0 and sum(degrees) % 2 and table in weights:
                expected = torch.as_tensor(wigner_3j(*degrees)).abs()
                torch.testing.assert_close(weights[table].double().abs(), expected, rtol=1e-6, atol=1e-6)
                weights[table] *= -1
                pieces[path] = -pieces[path]
                flipped += 1
        found = sorted(paths, key=lambda path: (path.source, path.edge_degree, path.kind))
        assert t != 1 or found != list(paths)
        weights[name] = torch.cat([pieces[path] for path in found], dim=1)
    assert flipped > 0
    torch.save({"model_state_dict": weights, "config": config}, tmp_path / "old.pth")
    atoms = frame(0)
    found = HalberdCalculator(load(tmp_path / "old.pth", precision="double")).evaluate(atoms)
    assert found["energy"] == pytest.approx(REFERENCE[0]["energy"], rel=1e-11)


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


def test_a_checkpoint_that_wants_to_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = torch.load(FOLDER / "manual.pth", weights_only=True)
    torch.save({**content, "optimizer_state_dict": Evil()}, "evil.pth")
    with pytest.raises(ModelFileError, match=r"asks for code: unsupported GLOBAL .*system") as caught:
        load("evil.pth")
    assert "weights_only" not in str(caught.value)  # torch's advice on how to run it all the same
    assert not Path("evil").exists()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"interaction_type": "mace"}, ModelError, "interaction_type: mace; halberd reads SevenNet with nequip"),
        ({"act_radial": "ssp"}, ModelError, "act_radial: ssp"),
        ({"use_bias_in_linear": True}, ModelError, "use_bias_in_linear: True"),
        ({"readout_as_fcn": True}, ModelError, "readout_as_fcn: True"),
        ({"irreps_manual": ["4x0e", "4x0e+2x1e", "4x0e+2x1e+2x2e", "4x0e"]}, ModelError, "weights, not"),
        ({"cutoff_function": {"cutoff_function_name": "cosine"}}, ModelError, "the envelope 'cosine'"),
        ({"_type_map": None}, ModelFileError, "does not hold a whole SevenNet"),
    ],
)
def test_what_the_family_does_not_hold_is_named(change, error, message, tmp_path):
    content = torch.load(FOLDER / "manual.pth", weights_only=True)
    torch.save({**content, "config": {**content["config"], **change}}, tmp_path / "other.pth")
    with pytest.raises(error, match=re.escape(message) if "(" in message else message):
        load(tmp_path / "other.pth")


def test_modals_are_asked_for(tmp_path):
    with pytest.raises(ConfigurationError, match="names no modal: choose one with head=: R2SCAN, PBE"):
        load(FOLDER / "modal.pth")
    with pytest.raises(ConfigurationError, match=r"has no modal 'PBEsol'.*Did you mean 'PBE'"):
        load(FOLDER / "modal.pth", head="PBEsol")
    with pytest.raises(ConfigurationError, match="knows no modal"):
        load(FOLDER / "manual.pth", head="PBE")
    with pytest.raises(ConfigurationError, match="neither charge nor multiplicity"):
        load(FOLDER / "manual.pth", charge=1.0)


def test_names_need_the_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"pip install --no-deps sevenn==0\.13\.0"):
        load("sevennet-0")


def test_damaged_files(tmp_path):
    whole = (FOLDER / "manual.pth").read_bytes()
    for name, content in (("half", whole[: len(whole) // 2]), ("empty", b""), ("text", b"no checkpoint")):
        (tmp_path / f"{name}.pth").write_bytes(content)
        with pytest.raises(ModelFileError, match="damaged"):
            load(tmp_path / f"{name}.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ModelFileError, match="no weights and settings"):
        load(tmp_path / "other.pth")
    with pytest.raises(ModelFileError, match="does not exist"):
        load(tmp_path / "none.pth")
