"""``halberd fit``: files, JSON, numbers that agree with ``halberd evaluate``, one line per mistake."""

from __future__ import annotations

import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write

from halberd.plugins.evaluation.cross_validation import in_parts
from halberd.plugins.hosts.ase_calculator import HalberdCalculator
from halberd.potentials import load
from halberd.potentials.ace.fit import AceFit
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.frames.labelled import read_frames
from tests.conftest import call


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Copper-aluminium cells labelled by effective medium theory, and the two isolated atoms."""
    folder = tmp_path_factory.mktemp("data")
    frames = []
    for number in range(30):
        atoms = bulk("Cu", cubic=True, a=3.55 + 0.02 * (number % 10)) * (2, 1, 1)
        atoms.rattle(0.08, seed=number)
        atoms.symbols[[0, 5]] = "Al"
        atoms.calc = EMT()
        labelled = atoms.copy()
        labelled.info["REF_energy"] = atoms.get_potential_energy()
        labelled.arrays["REF_forces"] = atoms.get_forces()
        labelled.info["REF_virial"] = -atoms.get_volume() * atoms.get_stress(voigt=False)
        labelled.info["config_type"] = "small" if number % 2 else "large"
        frames.append(labelled)
    for symbol in ("Cu", "Al"):
        alone = Atoms(symbol)
        alone.calc = EMT()
        isolated = Atoms(symbol, info={"REF_energy": alone.get_potential_energy(), "config_type": "isolated_atom"})
        frames.append(isolated)
    write(folder / "train.xyz", frames[:20] + frames[-2:])
    write(folder / "more.xyz", frames[20:24])
    write(folder / "test.xyz", frames[24:30])
    return folder


BASIS = ("--order", 2, "--degree", 8, "--cutoff", 4.5, "--threads", 1)


def test_a_fit_leaves_model_report_and_figures(data, tmp_path, capsys, monkeypatch):
    output = tmp_path / "cual.pt"
    code, out, _ = call(
        capsys, monkeypatch, "fit", data / "train.xyz", "--test", data / "test.xyz", "-o", output, *BASIS,
        "--committee", 4, "--seed", 3, "--json",
    )  # fmt: skip
    assert code == 0
    report = json.loads(out)
    assert {"model", "n_basis", "n_rows", "train", "test", "seconds", "peak_memory_mb"} <= set(report)
    assert set(report["seconds"]) == {"assemble", "solve", "total"}
    assert report["n_rows"] == 20 * (1 + 24 + 6) + 2
    assert report["e0_source"] == "isolated"
    assert report["test"]["energy"]["mae"] < 0.01
    assert report["test"]["forces"]["rmse"] < 0.1
    assert set(report["train"]["per_config_type"]) == {"small", "large", "isolated_atom"}
    assert json.loads((tmp_path / "cual.json").read_text()) == report
    for name in ("cual.parity.png", "cual.dimers.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "cual.dimers.png", "cual.json", "cual.parity.png", "cual.pt"
    ]  # fmt: skip
    model = load(output)
    assert model.n_columns == 4
    assert model.metadata["committee_seed"] == 3

    code, out, _ = call(capsys, monkeypatch, "evaluate", output, data / "test.xyz", "--json")
    again = json.loads(out)
    for name in ("energy", "forces", "virial"):
        assert again[name]["rmse"] == pytest.approx(report["test"][name]["rmse"], rel=1e-9)


def test_the_table_for_people(data, tmp_path, capsys, monkeypatch):
    code, out, err = call(
        capsys, monkeypatch, "fit", data / "train.xyz", "-o", tmp_path / "m.pt", *BASIS, "--committee", 0, "--no-plots",
        "--solver", "ridge", "--ridge", 1e-4, "--config-weight", "small=60,1,1", "--e0", "average",
    )  # fmt: skip
    assert code == 0
    assert "train errors over 22 frames" in out
    assert "functions" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.json", "m.pt"]
    assert load(tmp_path / "m.pt").n_columns is None


def test_every_part_is_predicted_by_a_fit_to_the_others(data, tmp_path, capsys, monkeypatch):
    """By hand: each of three parts left out of a fit from nothing; parts are stretches of every config type."""
    given = (*BASIS, "--no-plots", "--committee", 4)
    code, out, err = call(
        capsys, monkeypatch, "fit", data / "train.xyz", "-o", tmp_path / "m.pt", *given, "--folds", 3, "--json"
    )
    assert code == 0, err
    report = json.loads(out)
    found = report["cross_validation"]
    assert (found["folds"], found["n_frames"]) == (3, 20)  # without the two atoms alone
    frames = read_frames(data / "train.xyz")
    parts = in_parts(frames, 3)
    assert sorted(len(part) for part in parts) == [7, 7, 8]
    for kind in ("small", "large"):
        stretches = [[frames.index(f) for f in part if f.config_type == kind] for part in parts]
        assert sorted(map(len, stretches)) == [3, 3, 4]
        assert all(np.ptp(stretch) == 2 * (len(stretch) - 1) for stretch in stretches)
    settings = AceSettings(("Al", "Cu"), order=2, degree=8, cutoff=4.5)
    e0s = dict(zip(("Al", "Cu"), (report["e0s"][symbol] for symbol in ("Al", "Cu")), strict=True))
    errors = []
    for k in range(3):
        fit = AceFit(settings, e0s=e0s)
        fit.add([frame for j, part in enumerate(parts) if j != k for frame in part])
        calculator = HalberdCalculator(fit.solve(committee=4, seed=0, calibrate=False).model)
        left_out = [frame for frame in parts[k] if len(frame.atoms) > 1]
        errors.append(np.concatenate([(calculator.evaluate(f.atoms)["forces"] - f.forces).ravel() for f in left_out]))
    assert found["forces"]["mae"] == pytest.approx(np.abs(np.concatenate(errors)).mean(), rel=1e-6)
    sizes = [np.abs(each).mean() for each in errors]
    assert found["forces"]["mae_error"] == pytest.approx(np.std(sizes, ddof=1) / np.sqrt(3), rel=1e-5)
    assert found["forces"]["mae"] > 1.2 * report["train"]["forces"]["mae"]
    assert 0.4 < found["sigma"]["forces"]["within_one"] < 0.9
    # The model is that of all frames, as without folds.
    code, out, _ = call(capsys, monkeypatch, "fit", data / "train.xyz", "-o", tmp_path / "n.pt", *given, "--json")
    assert json.loads(out)["log_evidence"] == pytest.approx(report["log_evidence"], rel=1e-6)
    assert json.loads(out)["n_rows"] == report["n_rows"]
    code, out, _ = call(capsys, monkeypatch, "fit", data / "train.xyz", "-o", tmp_path / "o.pt", *given, "--folds", 2)
    assert code == 0
    assert "2 parts, each left out once: errors over 20 frames" in out
    assert "±" in out
    for folds, message in ((1, "must be 2 or more"), (200, "200 folds of 22 frames are not possible")):
        code, _, err = call(
            capsys, monkeypatch, "fit", data / "train.xyz", "-o", tmp_path / "p.pt", *given, "--folds", folds
        )
        assert code == 2
        assert message in " ".join(err.split())


def test_degrees_are_compared(data, tmp_path, capsys, monkeypatch):
    given = ("--no-plots", "--committee", 0, "--order", 2, "--cutoff", 4.5, "--degree", "auto", "--threads", 1)
    code, out, err = call(capsys, monkeypatch, "fit", data / "train.xyz", "-o", tmp_path / "m.pt", *given, "--json")
    assert code == 0, err
    report = json.loads(out)
    counts = [size["n_functions"] for size in report["sizes"]]
    assert counts == sorted(counts)
    assert len(counts) >= 2
    taken = next(size for size in report["sizes"] if size["worse"] <= size["uncertain"])
    assert report["n_basis"] == taken["n_functions"]
    assert err.count("<- taken") == 1
    code, _, err = call(
        capsys, monkeypatch, "fit", data / "train.xyz", "-o", tmp_path / "n.pt", *given, "--prior-power", "auto"
    )
    assert code == 2
    assert "cannot both be auto" in err


def test_adding_frames_to_a_fit(data, tmp_path, capsys, monkeypatch):
    state = tmp_path / "fit.npz"
    arguments = ("--no-plots", "--committee", 0, "--json")
    e0s = ("--e0", "Cu=0.1,Al=0.2")
    call(
        capsys, monkeypatch, "fit", data / "train.xyz", "-o", tmp_path / "a.pt", *BASIS, *arguments, *e0s,
        "--state", state,
    )  # fmt: skip
    code, out, _ = call(
        capsys, monkeypatch, "fit", data / "more.xyz", "-o", tmp_path / "b.pt", *arguments, "--extend", state
    )
    assert code == 0
    grown = json.loads(out)
    assert grown["n_frames"] == 26
    both = ase.io.read(data / "train.xyz", ":") + ase.io.read(data / "more.xyz", ":")
    write(tmp_path / "both.xyz", both)
    _, out, _ = call(
        capsys, monkeypatch, "fit", tmp_path / "both.xyz", "-o", tmp_path / "c.pt", *BASIS, *arguments, *e0s
    )
    whole = json.loads(out)
    assert grown["n_rows"] == whole["n_rows"]
    assert grown["log_evidence"] == pytest.approx(whole["log_evidence"], rel=1e-4)
    code, _, err = call(
        capsys, monkeypatch, "fit", data / "more.xyz", "-o", tmp_path / "d.pt", "--order", 4, "--extend", state
    )
    assert code == 2
    assert "cannot be changed when frames are added" in err


def test_copies_are_left_out_and_said(data, tmp_path, capsys, monkeypatch):
    frames = ase.io.read(data / "train.xyz", ":")
    write(tmp_path / "twice.xyz", [*frames, frames[4]])
    code, out, _ = call(
        capsys, monkeypatch, "fit", tmp_path / "twice.xyz", "-o", tmp_path / "m.pt", *BASIS, "--no-plots", "--json"
    )
    assert code == 0
    assert json.loads(out)["left_out"] == [22]


def test_labels_under_another_name_are_pointed_at(data, tmp_path, capsys, monkeypatch):
    frames = ase.io.read(data / "train.xyz", ":20")
    for frame in frames:
        frame.arrays["force"] = frame.arrays.pop("REF_forces")
    write(tmp_path / "named.xyz", frames)
    given = (*BASIS[:2], "--degree", 4, *BASIS[4:], "--no-plots", "--json")
    code, out, err = call(capsys, monkeypatch, "fit", tmp_path / "named.xyz", "-o", tmp_path / "m.pt", *given)
    assert code == 0
    assert "say --forces-key force" in " ".join(err.split())
    (said,) = json.loads(out)["oddities"]
    assert "'force' looks like it" in said
    found = call(
        capsys, monkeypatch, "fit", tmp_path / "named.xyz", "-o", tmp_path / "m.pt", "--forces-key", "force", *given
    )
    assert json.loads(found[1])["oddities"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--forces-key", "DFT_forces"], "has no forces under 'DFT_forces'; it has"),
        (["--degree", "12,10"], "one for each order"),
        (["--degree", "many"], "write a number"),
        (["--e0", "Cu=1.0"], "not for Al"),
        (["--e0", "Cu"], "'isolated' or 'average'"),
        (["--solver", "lasso"], "There is no solver 'lasso'"),
        (["--solver", "svd", "--ridge", "1"], "has no option 'ridge'"),
        (["--config-weight", "liq=1,2"], "like liq=10,0.66,0.25"),
        (["--prior-power", "smooth"], "write a number"),
        (["--solver", "ridge", "--degree", "14", "--order", "3"], "no posterior to draw a committee from where rows"),
        (["--solver", "ridge", "--ridge", "0", "--degree", "14", "--order", "3", "--committee", "0"], "unknowns"),
        (["--pair-cutoffs", "Cu-Si=3"], "The pairs of these elements are"),
        (["--committee", "1"], "2 members or more"),
        (["--extend", "missing.npz"], "does not exist"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, data, tmp_path, capsys, monkeypatch):
    train = data / "more.xyz" if "unknowns" in message else data / "train.xyz"
    code, out, err = call(capsys, monkeypatch, "fit", train, "-o", tmp_path / "m.pt", *arguments)
    assert code == 2
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("halberd: error:")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "m.pt").exists()


def test_test_frames_of_another_element(data, tmp_path, capsys, monkeypatch):
    other = bulk("Ni", cubic=True)
    other.info["REF_energy"] = 1.0
    write(tmp_path / "ni.xyz", other)
    code, _, err = call(
        capsys, monkeypatch, "fit", data / "train.xyz", "--test", tmp_path / "ni.xyz", "-o", tmp_path / "m.pt"
    )
    assert code == 2
    assert "A test frame holds Ni" in err


def test_positions_in_the_wrong_unit(data, tmp_path, capsys, monkeypatch):
    frames = ase.io.read(data / "train.xyz", ":5")
    for atoms in frames:
        atoms.set_cell(np.array(atoms.cell) * 10, scale_atoms=True)
    write(tmp_path / "far.xyz", frames)
    code, _, err = call(capsys, monkeypatch, "fit", tmp_path / "far.xyz", "-o", tmp_path / "m.pt", *BASIS)
    assert code == 2
    assert "Check the units of the positions, or enlarge the cutoff" in err


def test_without_a_degree_the_basis_is_as_large_as_the_frames_are_good_for(data, tmp_path, capsys, monkeypatch):
    given = ("--order", 2, "--cutoff", 4.0, "--no-plots", "--committee", 0, "--json")
    code, out, err = call(
        capsys, monkeypatch, "fit", data / "train.xyz", "-o", tmp_path / "m.pt", *given, "--budget", "5min"
    )
    assert code == 0
    report = json.loads(out)
    wanted = 5 * np.sqrt(report["n_rows"] * 2)
    assert 0.5 * wanted < report["n_basis"] < 1.1 * wanted
    assert report["foreseen"]["n_functions"] == report["n_basis"]
    assert "as the frames are good for" in err
    code, out, _ = call(
        capsys, monkeypatch, "fit", data / "train.xyz", "-o", tmp_path / "n.pt", *given, "--budget", "1s"
    )
    assert json.loads(out)["n_basis"] <= report["n_basis"]
    code, _, err = call(capsys, monkeypatch, "fit", data / "train.xyz", "-o", tmp_path / "n.pt", "--budget", "5 weeks")
    assert code == 2
    assert "write it like 300, 90s, 5min or 1h" in err
