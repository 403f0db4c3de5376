"""``halberd train``: files, JSON, killed and gone on with, one line per mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from PIL import Image

from halberd.plugins import HalberdCalculator
from halberd.potentials import load
from halberd.potentials.frames.labelled import to_atoms
from halberd.potentials.locks import locked
from halberd.potentials.multi_ace.sites import networks_in
from tests.conftest import call
from tests.potentials.training.frames import alone, molecules

SETTINGS = """
train: {folder}/train.xyz
test: {{held: {folder}/test.xyz}}
output: {output}
e0s: isolated
threads: 1
network: {{hidden: 4x0e+4x1o, radial_widths: [8], max_ell: 2, correlation: 2, cutoff: 4.0, n_radial: 5}}
training: {{epochs: {epochs}, validation: 0.25, loss: {{like: mace-paper, kind: huber}}}}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("water")
    ase.io.write(folder / "train.xyz", [to_atoms(frame) for frame in molecules(12) + alone()])
    ase.io.write(folder / "test.xyz", [to_atoms(frame) for frame in molecules(6, seed=5)])
    return folder


def config(data: Path, folder: Path, epochs: int = 3, more: str = "") -> Path:
    file = folder / "train.yaml"
    file.write_text(SETTINGS.format(folder=data, output=folder / "water.pt", epochs=epochs) + more)
    return file


def test_a_training_leaves_model_report_history_and_figures(data, tmp_path, capsys, monkeypatch):
    code, out, _ = call(capsys, monkeypatch, "train", config(data, tmp_path), "--seed", 2, "--json")
    assert code == 0
    report = json.loads(out)
    assert {"model", "epochs", "best_epoch", "train", "validation", "held", "seconds", "done"} <= set(report)
    assert (report["epochs"], report["done"]) == ([3], True)
    assert report["train"]["n_frames"] + report["validation"]["n_frames"] == 12
    assert report["settings"]["training"]["seed"] == 2
    assert report["settings"]["training"]["loss"]["forces"] == 1000.0
    assert report == json.loads((tmp_path / "water.json").read_text())
    lines = (tmp_path / "water.history.csv").read_text().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("network,epoch,loss,validation loss,learning rate,energy mae")
    for name in ("loss", "parity"):
        with Image.open(tmp_path / f"water.{name}.png") as image:
            assert min(image.size) > 200
    # The errors in the report are those of the file.
    calculator = HalberdCalculator(load(tmp_path / "water.pt"))
    errors = [calculator.evaluate(frame.atoms)["forces"] - frame.forces for frame in molecules(6, seed=5)]
    assert report["held"]["forces"]["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-6)
    code, out, _ = call(capsys, monkeypatch, "evaluate", tmp_path / "water.pt", data / "test.xyz", "--json")
    assert json.loads(out)["forces"] == pytest.approx(report["held"]["forces"])


def test_a_committee_has_members_of_other_seeds_that_part_outside_of_the_data(data, tmp_path, capsys, monkeypatch):
    file = config(data, tmp_path, epochs=30)
    code, out, _ = call(capsys, monkeypatch, "train", file, "--committee", 3, "--json")
    assert code == 0
    assert json.loads(out)["epochs"] == [30, 30, 30]
    model = load(tmp_path / "water.pt")
    assert model.n_columns == 3
    spreads = []
    for spread in (0.03, 0.3):
        calculator = HalberdCalculator(model)
        frames = molecules(10, seed=9, spread=spread)
        spreads.append(np.mean([calculator.evaluate(frame.atoms)["forces_std"].mean() for frame in frames]))
    assert 0 < 3 * spreads[0] < spreads[1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_training_that_is_killed_goes_on_to_the_same_bits(number, data, tmp_path, capsys, monkeypatch):
    folders = [tmp_path / "whole", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
    files = [config(data, folder, epochs=40) for folder in folders]
    assert call(capsys, monkeypatch, "train", files[0], "--json")[0] == 0
    command = [sys.executable, "-m", "halberd.plugins.commands.app", "train", str(files[1]), "--json"]
    process = subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    history = folders[1] / "water.history.csv"
    deadline = time.monotonic() + 120
    while not (history.exists() and len(history.read_text().splitlines()) > 5) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0, "it was through before it was killed"
    assert not (folders[1] / "water.pt").exists()
    assert call(capsys, monkeypatch, "train", files[1], "--json")[0] == 0
    assert history.read_text() == (folders[0] / "water.history.csv").read_text()
    found, expected = (load(folder / "water.pt").scripted() for folder in folders)
    for one, other in zip(found.state_dict().values(), expected.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert not list(folders[1].glob(".*partial*"))


def test_time_that_is_over_ends_a_training_which_goes_on(data, tmp_path, capsys, monkeypatch):
    file = config(data, tmp_path, epochs=3)
    code, out, _ = call(capsys, monkeypatch, "train", file, "--max-hours", 1e-9, "--json")
    assert (code, json.loads(out)["done"]) == (3, False)
    assert (tmp_path / "water.pt").exists()
    code, out, _ = call(capsys, monkeypatch, "train", file, "--json")
    assert (code, json.loads(out)["epochs"]) == (0, [3])


def test_trainings_of_another_number_of_networks_are_not_written_over(data, tmp_path, capsys, monkeypatch):
    assert call(capsys, monkeypatch, "train", config(data, tmp_path, epochs=1), "--no-plots", "--json")[0] == 0
    before = (tmp_path / "water.pt").read_bytes()
    (tmp_path / "water.b.checkpoint").write_bytes(b"")  # of a model called water.b: none of ours
    code, _, err = call(capsys, monkeypatch, "train", config(data, tmp_path, epochs=1, more="committee: 2\n"))
    assert (code, err.count("\n")) == (2, 1)
    assert "'" + str(tmp_path / "water.checkpoint") + "' is of a training with another number of networks than 2" in err
    assert (tmp_path / "water.pt").read_bytes() == before
    (tmp_path / "water.checkpoint").unlink()
    more = "committee: 2\nplots: false\n"
    assert call(capsys, monkeypatch, "train", config(data, tmp_path, epochs=1, more=more), "--json")[0] == 0
    for count in ("", "committee: 1\n"):
        assert call(capsys, monkeypatch, "train", config(data, tmp_path, epochs=1, more=count))[0] == 2


def test_fewer_epochs_than_are_done_are_said(data, tmp_path, capsys, monkeypatch):
    call(capsys, monkeypatch, "train", config(data, tmp_path, epochs=2), "--json")
    code, out, err = call(capsys, monkeypatch, "train", config(data, tmp_path, epochs=1), "--json")
    assert (code, json.loads(out)["epochs"]) == (0, [2])
    assert "has 2 epochs already, and epochs is 1" in " ".join(err.split())


def test_two_trainings_of_one_model_keep_out_of_each_others_way(data, tmp_path, capsys, monkeypatch):
    file = config(data, tmp_path, epochs=1)
    with locked(tmp_path, ".water.pt.lock"):
        code, _, err = call(capsys, monkeypatch, "train", file)
    assert code == 2
    assert "Another run is at work" in err
    assert call(capsys, monkeypatch, "train", file, "--json")[0] == 0
    assert not list(tmp_path.glob(".*lock"))


def test_a_model_is_trained_further(data, tmp_path, capsys, monkeypatch):
    assert call(capsys, monkeypatch, "train", config(data, tmp_path, epochs=10), "--json")[0] == 0
    further = tmp_path / "further.yaml"
    further.write_text(
        f"train: {data}/train.xyz\noutput: {tmp_path}/further.pt\nstart_from: {tmp_path}/water.pt\nthreads: 1\n"
        "training: {epochs: 1, learning_rate: 1.0e-9, validation: 0.25, average: null}\n"
    )
    code, out, _ = call(capsys, monkeypatch, "train", further, "--json")
    assert code == 0
    before = json.loads((tmp_path / "water.json").read_text())
    assert json.loads(out)["validation"]["forces"] == pytest.approx(before["validation"]["forces"], rel=1e-4)
    model = load(tmp_path / "further.pt")
    assert (model.name, model.metadata["started_from"]) == ("further", "water")


def test_frames_on_disk_give_the_same_bits(data, tmp_path, capsys, monkeypatch):
    folders = [tmp_path / "memory", tmp_path / "disk"]
    for folder in folders:
        folder.mkdir()
        file = config(data, folder, epochs=2)
        file.write_text(file.read_text() + f"stream: {str(folder.name == 'disk').lower()}\n")
        assert call(capsys, monkeypatch, "train", file, "--json")[0] == 0
    assert (folders[1] / "water.frames" / "frames.json").exists()
    assert not (folders[0] / "water.frames").exists()
    found, expected = (load(folder / "water.pt").scripted() for folder in folders)
    for one, other in zip(found.state_dict().values(), expected.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_what_was_known_is_replayed(data, tmp_path, capsys, monkeypatch):
    assert call(capsys, monkeypatch, "train", config(data, tmp_path, epochs=2), "--json")[0] == 0
    ase.io.write(tmp_path / "old.xyz", [frame.atoms for frame in molecules(6, seed=5)])
    further = tmp_path / "further.yaml"
    text = f"train: {data}/train.xyz\noutput: {tmp_path}/further.pt\nreplay: {tmp_path}/old.xyz\nthreads: 1\n"
    further.write_text(text + "training: {epochs: 1}\n")
    code, _, err = call(capsys, monkeypatch, "train", further)
    assert code == 2
    assert "give start_from, too" in err
    further.write_text(text + f"start_from: {tmp_path}/water.pt\ntraining: {{epochs: 1, replay: 2.0}}\n")
    assert call(capsys, monkeypatch, "train", further, "--json")[0] == 0
    assert load(tmp_path / "further.pt").n_columns is None
    ase.io.write(tmp_path / "old.xyz", Atoms("CH4", np.arange(15.0).reshape(5, 3)))
    further.write_text(further.read_text().replace("further.pt", "other.pt"))
    code, _, err = call(capsys, monkeypatch, "train", further)
    assert code == 2
    assert "holds C, which the network does not know" in err


def test_a_committee_is_trained_further_member_by_member(data, tmp_path, capsys, monkeypatch):
    file = config(data, tmp_path, epochs=2)
    file.write_text(file.read_text() + "committee: 2\n")
    assert call(capsys, monkeypatch, "train", file, "--json")[0] == 0
    text = (
        f"train: {data}/train.xyz\noutput: {tmp_path}/further.pt\nstart_from: {tmp_path}/water.pt\nthreads: 1\n"
        "training: {epochs: 1, learning_rate: 1.0e-9, validation: 0.25, average: null}\n"
    )
    further = tmp_path / "further.yaml"
    further.write_text(text + "committee: 3\n")
    code, _, err = call(capsys, monkeypatch, "train", further)
    assert code == 2
    assert "has 2 members, and committee is 3" in err
    further.write_text(text + "committee: 2\n")
    assert call(capsys, monkeypatch, "train", further, "--json")[0] == 0
    before, after = (networks_in(load(tmp_path / f"{name}.pt").module) for name in ("water", "further"))
    for (one, _), (other, _) in zip(before, after, strict=True):
        for weight, moved in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.allclose(weight, moved, atol=1e-6)
    assert not torch.allclose(before[0][0].embedding, before[1][0].embedding, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("training: {", "training: {epoch: 3, "), "Did you mean 'epochs'"),
        (("training: {", "training: {lora_rank: 4, "), "lora_rank is for a network that is trained further"),
        (("loss: {like: mace-paper", "loss: {like: mace-papr"), "There is no loss 'mace-papr'"),
        (("hidden: 4x0e", "hiden: 4x0e"), "Did you mean 'hidden'"),
        (("kind: huber}", "kind: huber, stress: 1.0}"), "on the stress, but no frame to train on has one"),
        (("water.pt", "water.txt"), "call it NAME.pt"),
        (("train.xyz", "trian.xyz"), "trian.xyz"),
        (("e0s: isolated", "e0s: {H: -1.5}"), "not for O"),
        (("held:", "train:"), "cannot be called 'train'"),
        (("threads: 1", "device: tpu"), "cpu or cuda"),
        (("held:", "best_epoch:"), "cannot be called 'best_epoch'"),
        (("loss: {like: mace-paper", "loss: {like: [1]"), "There is no loss"),
        (("{hidden: 4x0e", "{elements: [H], hidden: 4x0e"), "Frames hold O, which is not among"),
    ],
)
def test_mistakes_are_one_line(change, message, data, tmp_path, capsys, monkeypatch):
    file = config(data, tmp_path)
    text = file.read_text()
    assert change[0] in text
    file.write_text(text.replace(*change))
    code, _, err = call(capsys, monkeypatch, "train", file)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "water.pt").exists()


def test_frames_without_forces_are_said(data, tmp_path, capsys, monkeypatch):
    frames = ase.io.read(data / "train.xyz", ":")
    for frame in frames:
        frame.arrays["force"] = frame.arrays.pop("REF_forces")
    ase.io.write(data / "named.xyz", frames)
    file = config(data, tmp_path)
    file.write_text(file.read_text().replace("train.xyz", "named.xyz").replace("test.xyz", "named.xyz"))
    code, _, err = call(capsys, monkeypatch, "train", file)
    assert code == 2
    assert "no frame to train on has one; the keys there are" in err
    assert "force" in err
    assert call(capsys, monkeypatch, "train", file, "--forces-key", "force", "--json")[0] == 0


def test_several_files_tell_when_a_network_is_best(data, tmp_path, capsys, monkeypatch):
    ase.io.write(tmp_path / "more.xyz", [to_atoms(frame) for frame in molecules(2, seed=8)])
    more = f"validation: [{data}/test.xyz, {tmp_path}/more.xyz]\n"
    code, out, _ = call(capsys, monkeypatch, "train", config(data, tmp_path, 1, more), "--json")
    assert code == 0
    assert json.loads(out)["validation"]["n_frames"] == 8
    flag = ("--validation", tmp_path / "more.xyz", "-o", tmp_path / "other.pt")
    code, out, _ = call(capsys, monkeypatch, "train", config(data, tmp_path, 1, more), *flag, "--json")
    assert json.loads(out)["validation"]["n_frames"] == 2
