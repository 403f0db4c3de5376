"""Hyperactive learning of committees of networks: what members start from, what they keep aside, kills, bad input."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase import Atoms

from halberd.plugins.evaluation.prediction import predict
from halberd.plugins.hosts.ase_calculator import HalberdCalculator
from halberd.potentials.committees.committee import committee
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.frames.labelled import Frame, read_frames
from halberd.potentials.loading import load
from halberd.potentials.multi_ace.model import multi_ace_model
from halberd.potentials.multi_ace.settings import preset
from halberd.potentials.multi_ace.sites import networks_in
from halberd.potentials.training.start import networks_of_committee
from halberd.samplers.hal.loop import run_hal
from halberd.samplers.hal.model import ModelSettings
from halberd.samplers.hal.network_learner import TrainingTask, kept_aside, run_training
from halberd.samplers.hal.settings import HALSettings
from tests.samplers.conftest import copper_gold, emt_frame

NETWORK = {"hidden": "4x0e", "radial_widths": [8], "cutoff": 4.0, "correlation": 2, "max_ell": 1}
MODEL = {
    "kind": "multi_ace",
    "network": NETWORK,
    "committee": 2,
    "training": {"epochs": 12, "validation": 0.2, "precision": "single"},
    "refit": {"epochs": 6, "final_epochs": 4},
}
MD = {
    **{"steps": 20, "temperature": 900.0, "friction": 5.0, "check_interval": 5, "tau_history": 10},
    **{"tolerance": 0.02, "checkpoint_interval": 20},
}


def values_of(initial, output, **changes):
    return {
        "initial": str(initial),
        "output": str(output),
        "seed": 3,
        "label": {"calculator": "emt"},
        "model": MODEL,
        "md": MD,
        "walkers": 2,
        "workers": 0,
        "max_labels": 12,
        "max_iterations": 2,
        "test_fraction": 0.0,
        "first_tolerance": 0.02,
        **changes,
    }


@pytest.fixture(scope="module")
def finished(initial_file, tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("networks") / "run"
    return run_hal(HALSettings.from_mapping(values_of(initial_file, folder)), progress=False), folder


def weights_in(file):
    """Of all members, one vector each."""
    networks = networks_in(load(file).module)
    assert networks is not None
    return [torch.cat([w.detach().ravel() for w in network.parameters()]) for network, _ in networks]


def test_a_run_leaves_a_committee_and_a_last_fit(finished):
    result, folder = finished
    assert (result["iterations"], result["n_labels"]) == (2, 12)
    history = [json.loads((folder / "iterations" / f"{k:04d}" / "iteration.json").read_text()) for k in range(3)]
    assert all(it["state"] is None and len(it["details"]["members"]) == 2 for it in history)
    epochs = [[member["epochs"] for member in it["details"]["members"]] for it in history]
    assert epochs == [[12, 12], [6, 6], [6, 6]]
    final = folder / "iterations" / "0002-final"
    for number, frames in ((0, 8), (1, 10)):
        for member, told in enumerate(history[number]["details"]["members"]):
            kept = kept_aside(frames, 0.2, 3, member)
            assert (told["frames"], told["validation_frames"]) == (frames - len(kept), len(kept))
    rates = np.genfromtxt(folder / "iterations" / "0001" / "member0.history.csv", delimiter=",", names=True)
    assert rates["learning_rate"][0] == 0.002
    assert rates["learning_rate"][-1] < 0.0006
    assert (folder / "model.pt").read_bytes() == (final / "model.pt").read_bytes()
    left = {f"member{k}.{end}" for k in range(2) for end in ("history.csv", "loss.png")}
    assert {path.name for path in final.iterdir()} == {"model.pt", *left}
    assert len((final / "member1.history.csv").read_text().splitlines()) == 1 + MODEL["refit"]["final_epochs"]
    members = weights_in(folder / "model.pt")
    assert (members[0] - members[1]).norm() > 0.1 * members[0].norm()
    model = load(folder / "model.pt")
    assert model.n_columns == 2
    frames = read_frames(folder / "fit.extxyz")
    predicted = predict(HalberdCalculator(model), frames)
    found = np.concatenate([(p.forces - f.forces).ravel() for p, f in zip(predicted, frames, strict=True)])
    assert result["errors"]["fit"]["forces"]["rmse"] == pytest.approx(np.sqrt((found**2).mean()), rel=1e-4)
    size = np.sqrt(np.mean(np.concatenate([f.forces.ravel() for f in frames]) ** 2))
    assert result["errors"]["fit"]["forces"]["rmse"] < 0.8 * size


def test_every_fit_goes_on_from_the_weights_of_the_last(finished):
    """Weights of an iteration are near those it began with, and far from those of the other member."""
    _, folder = finished
    first, second = (weights_in(folder / "iterations" / f"{k:04d}" / "model.pt") for k in (0, 1))
    for number in range(2):
        moved = (second[number] - first[number]).norm()
        assert 0 < moved < 0.3 * (second[number] - first[1 - number]).norm()


def test_a_finished_run_is_not_run_again(finished, initial_file):
    result, folder = finished
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("iterations/*/*")}
    again = run_hal(HALSettings.from_mapping(values_of(initial_file, folder)), progress=False)
    assert again["errors"] == result["errors"]
    assert {path: path.stat().st_mtime_ns for path in folder.glob("iterations/*/*")} == stamps


def test_killed_in_two_trainings(finished, initial_file, tmp_path):
    """SIGKILL in the first and in a later training: database and weights are those of the uninterrupted run."""
    (tmp_path / "hal.yaml").write_text(yaml.safe_dump(values_of(initial_file, "run")))
    iterations = tmp_path / "run" / "iterations"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "halberd.plugins.commands.app", "hal", str(tmp_path / "hal.yaml"), "--json"]
    for number, member in ((0, 1), (1, 0)):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 240
        while not (iterations / f"{number:04d}" / f"member{member}.checkpoint").exists():
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()
        assert not (iterations / f"{number:04d}" / "iteration.json").exists()
    subprocess.run(command, env=environment, capture_output=True, check=True)
    assert (tmp_path / "run" / "fit.extxyz").read_bytes() == (finished[1] / "fit.extxyz").read_bytes()
    for one, other in zip(weights_in(tmp_path / "run" / "model.pt"), weights_in(finished[1] / "model.pt"), strict=True):
        assert torch.equal(one, other)


def test_what_a_member_keeps_aside_stays_aside():
    """However many frames come, and members keep aside other frames."""
    for member in range(3):
        before = kept_aside(40, 0.2, 5, member)
        assert 2 <= len(before) <= 15
        for count in (2, 3, 8, 40):
            for seed in range(30):
                fewer = kept_aside(count, 0.1, seed, member)
                assert kept_aside(100, 0.1, seed, member) & set(range(count)) == fewer
                assert 0 < len(fewer) < count
    assert kept_aside(40, 0.2, 5, 0) != kept_aside(40, 0.2, 5, 1)
    assert all(0 < len(kept_aside(2, share, seed, 0)) < 2 for share in (0.01, 0.99) for seed in range(20))


#: Energies of a network with random weights are far off any others.
UNTRAINED = pytest.mark.filterwarnings("ignore::halberd.potentials.training.checks.LabelWarning")


def small(seed, elements=("Cu", "Au")):
    settings = preset("mace", elements, **{**NETWORK, "radial_widths": (8,)})
    return multi_ace_model(settings, seed=seed, name="small", e0s=[1.0 + seed, 5.0 - seed])


def task_of(folder, start_from, member):
    model = ModelSettings(kind="multi_ace", start_from=str(start_from), committee=2, training={"epochs": 1})
    frames = [emt_frame(copper_gold(seed)) for seed in range(3)]
    return TrainingTask(model, (29, 79), frames, 1, 0, member, str(folder), None, None, 1)


@UNTRAINED
def test_members_that_start_from_one_network_differ(tmp_path):
    small(0).save(tmp_path / "one.pt")
    from halberd.samplers.hal.network_learner import _start

    tasks = [task_of(tmp_path, tmp_path / "one.pt", member) for member in (0, 1)]
    first, second, again = (_start(tasks[k]).network.state_dict() for k in (0, 1, 0))
    own = _start(
        TrainingTask(**{**vars(tasks[0]), "settings": ModelSettings(
            kind="multi_ace", start_from=str(tmp_path / "one.pt"), committee=2, refit={"perturbation": 0.0})})
    ).network  # fmt: skip
    for name, weight in own.named_parameters():
        size = weight.detach().square().mean().sqrt()
        assert torch.equal(first[name], again[name])
        assert 0.02 * size < (first[name] - second[name]).std() / np.sqrt(2) < 0.1 * size or weight.numel() < 10
        assert (first[name] - weight).abs().max() < 0.3 * size


@UNTRAINED
def test_self_energies_of_atoms_alone_with_a_start(tmp_path):
    small(0).save(tmp_path / "one.pt")
    alone = [Frame(Atoms(symbol), value, np.zeros((1, 3)), None, "x") for symbol, value in (("Cu", 0.3), ("Au", 0.4))]
    task = task_of(tmp_path, tmp_path / "one.pt", 0)
    settings = dataclasses.replace(task.settings, e0s="isolated")
    file = run_training(dataclasses.replace(task, settings=settings, frames=[*task.frames, *alone, task.frames[0]]))
    model = load(file)
    assert model.e0s.tolist() == [0.3, 0.4]
    assert model.metadata["training"]["frames"] + model.metadata["training"]["validation_frames"] == 3


@UNTRAINED
def test_members_start_from_those_of_a_committee(tmp_path):
    # The second knows the elements in the other order.
    members = [small(0), small(1, ("Au", "Cu"))]
    committee(members, "two").save(tmp_path / "two.pt")
    model = load(tmp_path / "two.pt")
    frames = [emt_frame(copper_gold(seed)) for seed in range(3)]
    starts = networks_of_committee(model, frames)
    atoms = frames[0].atoms
    for start, member in zip(starts, members, strict=True):
        again = multi_ace_model(start.network.float(), start.atomic_numbers, e0s=start.e0s)
        expected, found = HalberdCalculator(member).evaluate(atoms), HalberdCalculator(again).evaluate(atoms)
        assert np.allclose(found["forces"], expected["forces"], atol=1e-5)
        assert found["energy"] == pytest.approx(expected["energy"], abs=1e-4)
    file = run_training(task_of(tmp_path, tmp_path / "two.pt", 1))
    told = load(file).metadata["training"]
    assert (told["epochs"], told["frames"], told["validation_frames"]) == (1, 2, 1)
    with pytest.raises(ConfigurationError, match="is no committee of networks"):
        networks_of_committee(small(0), frames)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"basis": {"order": 2}}, "basis belongs to kind 'ace', and kind is 'multi_ace'"),
        ({"weights": {"forces": 3.0}}, "weights belongs to kind 'ace' or 'last_layer'"),
        ({"kind": "ace", "network": NETWORK}, "network belongs to kind 'multi_ace'"),
        ({"network": {"hiden": "4x0e"}}, "Unknown choice 'hiden'. Did you mean 'hidden'"),
        ({"network": {"preset": "mase"}}, "There is no preset 'mase'"),
        ({"network": {"elements": ["H"]}}, "those of the frames: leave them out"),
        ({"start_from": "gfn2-chnof"}, "start_from brings its own network"),
        ({"training": {"lora_rank": 2}}, "lora_rank is for a network that is trained further"),
        ({"sigma": "exact"}, "no exact sigma"),
        ({"committee": 1}, "needs 2 members or more"),
        ({"training": {"epocs": 3}}, "Unknown key 'epocs'"),
        ({"refit": {"learning_rate": 0.0}}, "learning_rate of refit is 0.0"),
        ({"refit": {"final_epochs": -1}}, "final_epochs of refit is -1"),
    ],
)
def test_bad_settings(initial_file, tmp_path, changes, message):
    with pytest.raises(ConfigurationError, match=message):
        HALSettings.from_mapping(values_of(initial_file, tmp_path, model={**MODEL, **changes}))


def test_losses_have_names_in_files(tmp_path):
    model = {**MODEL, "training": {"loss": {"like": "botnet", "forces": 3.0}}}
    (tmp_path / "hal.yaml").write_text(yaml.safe_dump(values_of("a.xyz", "run", model=model)))
    loss = HALSettings.from_file(tmp_path / "hal.yaml").model.training.loss
    assert (loss.energy, loss.forces, loss.energy_power) == (27.0, 3.0, 0.5)


def test_too_few_frames_and_starts_that_do_not_fit(initial_file, tmp_path):
    ase.io.write(tmp_path / "one.xyz", copper_gold(0))
    with pytest.raises(ConfigurationError, match="two initial frames or more"):
        run_hal(HALSettings.from_mapping(values_of(tmp_path / "one.xyz", tmp_path / "run")), progress=False)
    committee([small(0), small(1)], "two").save(tmp_path / "two.pt")
    model = {"kind": "multi_ace", "start_from": str(tmp_path / "two.pt"), "committee": 3}
    with pytest.raises(ConfigurationError, match="has 2 members, and committee is 3"):
        run_hal(HALSettings.from_mapping(values_of(initial_file, tmp_path / "run", model=model)), progress=False)
