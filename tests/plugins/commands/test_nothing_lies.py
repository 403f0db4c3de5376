"""Commands whose answer would be wrong say so instead."""

from __future__ import annotations

import json
import math

import ase
import ase.io
import numpy as np
import pytest

from halberd.plugins import HalberdCalculator
from halberd.plugins.commands.fit_file import fit_file
from halberd.plugins.commands.fit_settings import FitSettings
from halberd.plugins.commands.output import print_json
from halberd.plugins.evaluation.evaluate import evaluate_file
from halberd.potentials.errors import ConfigurationError, GeometryError, ModelError, OutputError
from halberd.potentials.sites.lennard_jones import lennard_jones


def coincident() -> ase.Atoms:
    return ase.Atoms("Ar3", [[0, 0, 0], [3, 0, 0], [3, 0, 0]])


def test_json_holds_no_nan(capsys):
    print_json({"a": math.nan, "b": [1.5, math.inf, {"c": -math.inf}], "d": (1, "x"), "e": None})
    text = capsys.readouterr().out
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == {
        "a": None, "b": [1.5, None, {"c": None}], "d": [1, "x"], "e": None,
    }  # fmt: skip


def test_the_calculator_does_not_return_what_is_no_number():
    atoms = coincident()
    atoms.calc = HalberdCalculator(lennard_jones([18]))
    with pytest.raises(GeometryError, match=r"not finite for 2 of 3 atoms: 1 \(Ar\), 2 \(Ar\)"):
        atoms.get_forces()


def test_evaluate_names_the_frame(tmp_path):
    frames = [ase.Atoms("Ar2", [[0, 0, 0], [4, 0, 0]]), coincident()]
    for atoms in frames:
        atoms.info["energy"] = 0.0
        atoms.arrays["forces"] = np.zeros((len(atoms), 3))
    ase.io.write(tmp_path / "frames.xyz", frames, format="extxyz")
    with pytest.raises(GeometryError, match=r"Frame 1: .* not finite"):
        evaluate_file(lennard_jones([18]), tmp_path / "frames.xyz", progress=False)


def test_a_figure_needs_a_format(tmp_path):
    """Before anything is computed, and without leaving an empty file."""
    ase.io.write(tmp_path / "frames.xyz", ase.Atoms("Ar", info={"energy": 0.0}), format="extxyz")
    with pytest.raises(OutputError, match=r"ends in \.pdf, \.png"):
        evaluate_file(lennard_jones([18]), tmp_path / "frames.xyz", plot=tmp_path / "p", progress=False)
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(("output", "state"), [("t.json", None), ("t.pt", "t.json"), ("t.pt", "t.pt")])
def test_a_fit_does_not_write_over_its_own_model(output, state, tmp_path):
    settings = FitSettings("no.xyz", str(tmp_path / output), state=None if state is None else str(tmp_path / state))
    with pytest.raises(ConfigurationError, match="would hold two results"):
        fit_file(settings)


def test_models_without_numbers_are_neither_made_nor_saved(tmp_path):
    model = lennard_jones([18])
    with pytest.raises(ModelError, match="self-energy of Ar is no number"):
        model.replaced(model.module, e0s=[math.nan])
    broken = HalberdCalculator("gfn2-chnof").model
    next(iter(broken.module.parameters())).data[0] = math.nan
    with pytest.raises(ModelError, match=r"weights of '.*' are no numbers"):
        broken.save(tmp_path / "m.pt")
    assert not (tmp_path / "m.pt").exists()
