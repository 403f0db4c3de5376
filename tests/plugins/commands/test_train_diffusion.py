"""``halberd train`` with a section ``diffusion``."""

from __future__ import annotations

import csv
import json

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from PIL import Image

from halberd.plugins.commands.train_diffusion import molecules_of
from halberd.plugins.commands.train_settings import TrainSettings
from halberd.potentials.diffusion.model import DiffusionModel
from halberd.potentials.diffusion.settings import DiffusionSettings
from halberd.potentials.errors import ConfigurationError
from tests.conftest import call
from tests.potentials.diffusion.models import MOLECULES

SETTINGS = """
train: {folder}/train.xyz
output: {folder}/{output}
threads: 1
diffusion: {{elements: [H, C, O], hidden: 4x0e+4x1o, n_radial: 4, radial_widths: [8], correlation: 2{choices}}}
training: {{epochs: {epochs}, validation: 0.34, batch_size: 2}}
"""


@pytest.fixture
def config(tmp_path):
    ase.io.write(tmp_path / "train.xyz", MOLECULES)

    def write(epochs=3, more="", output="small.diffusion", choices=""):
        file = tmp_path / "train.yaml"
        file.write_text(SETTINGS.format(folder=tmp_path, epochs=epochs, output=output, choices=choices) + more)
        return file

    return write


def test_a_training_leaves_model_report_history_and_a_figure(config, tmp_path, capsys, monkeypatch):
    code, out, _ = call(capsys, monkeypatch, "train", config(), "--json")
    assert code == 0
    report = json.loads(out)
    assert report["molecules"] == {"train": 4, "validation": 2}
    assert (report["epochs"], report["done"]) == ([3], True)
    model = DiffusionModel.load(tmp_path / "small.diffusion")
    assert model.settings.sigma_data == pytest.approx(report["sigma_data"])
    assert report["weights"] == sum(weight.numel() for weight in model.network.parameters())
    assert json.loads((tmp_path / "small.json").read_text()) == report
    with (tmp_path / "small.history.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    best = min(float(row["validation loss"]) for row in rows)
    assert report["loss"]["all"] == pytest.approx(best)
    assert "above 0.3 angstrom loss" in rows[0]
    with Image.open(tmp_path / "small.loss.png") as picture:
        assert np.ptp(np.asarray(picture.convert("L"))) > 100


def test_a_training_goes_on_to_the_same_numbers(config, tmp_path, capsys, monkeypatch):
    file = config(4, output="whole.diffusion")
    assert call(capsys, monkeypatch, "train", file)[0] == 0
    assert call(capsys, monkeypatch, "train", config(4), "--max-hours", "1e-9")[0] == 3  # no time, no epoch
    assert call(capsys, monkeypatch, "train", config(2))[0] == 0
    assert len((tmp_path / "small.history.csv").read_text().splitlines()) == 3
    code, out, _ = call(capsys, monkeypatch, "train", config(4), "--json")
    assert (code, json.loads(out)["epochs"]) == (0, [4])
    first, second = ((tmp_path / f"{name}.history.csv").read_text() for name in ("whole", "small"))
    assert first == second
    code, _, err = call(capsys, monkeypatch, "train", config(4, choices=", noise_mean: -2.0"))
    assert code == 2
    assert "other frames, other settings" in " ".join(err.split())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": "small.pt"}, "call it NAME.diffusion"),
        ({"more": "test: x.xyz\n"}, "test is for potentials, and diffusion is given"),
        ({"more": "committee: 2\n"}, "committee is for potentials"),
        ({"more": "start_from: gfn2-chnof\n"}, "start_from brings its own network and noise"),
        ({"choices": ", noise_men: 1"}, "Did you mean 'noise_mean'"),
        ({"choices": ", elements: [H, C]"}, "holds O, which is not among the elements of the model"),
        ({"more": "validation: missing.xyz\n"}, "missing.xyz"),
    ],
)
def test_mistakes(config, change, message, capsys, monkeypatch):
    text = config(**change)
    if "elements: [H, C]" in change.get("choices", ""):
        text.write_text(text.read_text().replace("elements: [H, C, O], ", ""))
    code, _, err = call(capsys, monkeypatch, "train", text)
    assert code == 2
    assert message in " ".join(err.split())


def test_a_model_is_trained_further(config, tmp_path, capsys, monkeypatch):
    """It begins where it was, with other noise than the first time, and counts its epochs."""
    assert call(capsys, monkeypatch, "train", config(2))[0] == 0
    choices = "elements: [H, C, O], hidden: 4x0e+4x1o, n_radial: 4, radial_widths: [8], correlation: 2"
    file = config(1, output="further.diffusion", more=f"start_from: {tmp_path}/small.diffusion\n")
    slow = file.read_text().replace("batch_size: 2", "batch_size: 2, learning_rate: 1.0e-12, average: null")
    file.write_text(slow.replace(choices, ""))
    code, out, _ = call(capsys, monkeypatch, "train", file, "--json")
    assert code == 0
    report, before = json.loads(out), json.loads((tmp_path / "small.json").read_text())
    assert report["loss"]["all"] == pytest.approx(before["loss"]["all"], rel=1e-6)
    assert report["settings"]["diffusion"]["hidden"] == "4x0e+4x1o"
    first, further = (DiffusionModel.load(tmp_path / f"{name}.diffusion") for name in ("small", "further"))
    assert (first.epochs, further.epochs, further.metadata["started_from"]) == (2, 3, "small")
    assert further.settings == first.settings
    assert first.metadata["training"]["best_epoch"] <= 2 < further.metadata["training"]["best_epoch"]
    file.write_text(file.read_text().replace("further.diffusion", "small.diffusion"))
    code, _, err = call(capsys, monkeypatch, "train", file)
    assert code == 2
    assert "would be lost" in " ".join(err.split())


def test_qm9_is_split_by_its_clusters(monkeypatch):
    names = ["CH4", "NH3", "H2O", "CH3OH", "CH3CHO", "C2H6"]
    monkeypatch.setattr("halberd.plugins.molecules.clusters.qm9_clusters", lambda: np.array([0, 1, 1, 2, 2, 3]))
    monkeypatch.setattr("halberd.plugins.molecules.qm9.qm9_molecules", lambda: [molecule(name) for name in names])
    settings = TrainSettings(train="qm9", output="x.diffusion", diffusion=DiffusionSettings(elements=("H", "C", "O")))
    own, held = molecules_of(settings, settings.diffusion)
    formulas = {str(atoms.symbols) for atoms in own}, {str(atoms.symbols) for atoms in held}
    assert len(own) + len(held) == 5  # no ammonia
    assert not formulas[0] & formulas[1]
    pair = {str(molecule(name).symbols) for name in ("CH3OH", "CH3CHO")}
    assert pair <= formulas[0] or pair <= formulas[1]
    mixed = TrainSettings(train=("qm9", "x.xyz"), output="x.diffusion", diffusion=settings.diffusion)
    with pytest.raises(ConfigurationError, match="train is qm9"):
        molecules_of(mixed, mixed.diffusion)
