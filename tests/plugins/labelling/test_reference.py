"""Labels from calculators and commands: right ones, and every way in which they can fail."""

from __future__ import annotations

import dataclasses
import json
import sys
import time

import ase.io
import numpy as np
import pytest

from halberd.plugins.labelling.reference import label_structure, label_to_file
from halberd.plugins.labelling.settings import LabelSettings
from halberd.plugins.labelling.worker import make_calculator
from halberd.potentials.errors import ConfigurationError, LabelError
from halberd.potentials.frames.labelled import read_frames
from tests.samplers.conftest import copper_gold, emt_frame

CALCULATORS = '''
import os, time
import numpy as np
from ase.calculators.emt import EMT

class Moody(EMT):
    """EMT that looks at the number of its calls."""

    def __init__(self, mood="", at=1):
        super().__init__()
        self.mood, self.at, self.calls = mood, at, 0

    def calculate(self, *arguments, **keywords):
        print("calculators like to print")
        super().calculate(*arguments, **keywords)
        self.calls += 1
        if self.calls < self.at:
            return
        if self.mood == "raise":
            raise ValueError("SCF did not\\nconverge")
        if self.mood == "hang":
            time.sleep(600)
        if self.mood == "nan":
            self.results["forces"] = self.results["forces"] * np.nan
        if self.mood == "huge":
            self.results["forces"] = self.results["forces"] + 1e4
        if self.mood == "die":
            os._exit(3)

class Charged(EMT):
    """EMT of ions: their charges and moments are in the energy."""

    def calculate(self, atoms=None, *arguments, **keywords):
        super().calculate(atoms, *arguments, **keywords)
        told = 100.0 * atoms.get_initial_charges().sum() + atoms.get_initial_magnetic_moments() @ np.arange(len(atoms))
        for key in ("energy", "free_energy"):
            self.results[key] = self.results[key] + told + 1e4 * atoms.info.get("charge", 0)

def broken():
    raise RuntimeError("no licence")
'''


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("calculators") / "moody.py"
    path.write_text(CALCULATORS)
    return path


def settings_of(file, timeout=60.0, **kwargs):
    return LabelSettings(calculator=f"{file}:Moody", kwargs=kwargs, timeout=timeout)


def test_a_calculator_labels(file):
    atoms = copper_gold(3)
    atoms.info["energy"] = -999.0  # stale labels are not looked at
    frame = label_structure(atoms, settings_of(file))
    expected = emt_frame(copper_gold(3))
    assert frame.energy == pytest.approx(expected.energy, abs=1e-6)
    assert np.abs(frame.forces - expected.forces).max() < 1e-6
    assert np.abs(frame.virial - expected.virial).max() < 1e-5


def test_charges_and_moments_reach_the_calculator(file, tmp_path):
    ion, settings = copper_gold(3), LabelSettings(calculator=f"{file}:Charged", timeout=60.0)
    neutral = label_structure(ion, settings).energy
    assert neutral == pytest.approx(emt_frame(ion).energy, abs=1e-6)
    ion.set_initial_charges([1.0, *[0.0] * 7])
    ion.set_initial_magnetic_moments([*[0.0] * 7, 2.0])
    assert label_structure(ion, settings).energy == pytest.approx(neutral + 100.0 + 14.0, abs=1e-6)
    ion.info.update(charge=1, energy=-999.0)
    ion.positions += 0.1  # calculators keep results of structures that differ in their info alone
    assert label_to_file(ion, settings, tmp_path / "ion.extxyz", "ions")["ok"]
    frame = read_frames(tmp_path / "ion.extxyz")[0]
    assert frame.energy == pytest.approx(neutral + 114.0 + 1e4, abs=1e-6)
    assert frame.atoms.get_initial_charges().tolist() == ion.get_initial_charges().tolist()
    assert frame.atoms.get_initial_magnetic_moments().tolist() == ion.get_initial_magnetic_moments().tolist()
    assert frame.atoms.info["charge"] == 1


@pytest.mark.parametrize(
    ("mood", "reason"),
    [
        ("raise", "ValueError: SCF did not converge"),
        ("nan", "not finite"),
        ("huge", r"above max_force 100"),
        ("die", "process died"),
    ],
)
def test_failures_say_why_and_the_next_label_works(file, mood, reason):
    settings = settings_of(file, mood=mood, at=2)
    label_structure(copper_gold(0), settings)
    with pytest.raises(LabelError, match=reason):
        label_structure(copper_gold(1), settings)
    if mood == "die":  # replaced by a fresh process, whose calls count from one
        assert label_structure(copper_gold(2), settings).energy is not None


def test_a_label_that_hangs_is_given_up(file):
    settings = settings_of(file, timeout=3.0, mood="hang", at=2)
    label_structure(copper_gold(0), settings)
    start = time.perf_counter()
    with pytest.raises(LabelError, match="no result within 3 s"):
        label_structure(copper_gold(1), settings)
    assert time.perf_counter() - start < 20
    assert label_structure(copper_gold(2), settings).energy is not None


def test_calculators_that_cannot_be_made(file):
    with pytest.raises(ConfigurationError, match="cannot be made: RuntimeError: no licence"):
        label_structure(copper_gold(0), LabelSettings(calculator=f"{file}:broken"))
    with pytest.raises(ConfigurationError, match="ModuleNotFoundError"):
        make_calculator("no.such.module:Thing")
    with pytest.raises(ConfigurationError, match=r"write 'package\.module:callable'"):
        make_calculator("chgnett")
    assert type(make_calculator("emt")).__name__ == "EMT"


SCRIPT = """
import sys, time, ase.io
from ase.calculators.emt import EMT
source, target, mood = sys.argv[1:]
atoms = ase.io.read(source)
if mood == "hang":
    time.sleep(600)
if mood == "fail":
    print("out of memory")
    sys.exit(7)
if mood == "silent":
    sys.exit(0)
atoms.calc = EMT()
energy, forces = atoms.get_potential_energy(), atoms.get_forces()
atoms.calc = None
atoms.info["dft_energy"] = energy
atoms.arrays["dft_forces"] = forces
if mood == "shuffle":
    atoms = atoms[::-1]
ase.io.write(target, atoms, format="extxyz")
"""


@pytest.fixture
def command(tmp_path):
    script = tmp_path / "label it.py"  # with a blank in its name
    script.write_text(SCRIPT)

    def make(mood, timeout=60.0):
        return LabelSettings(
            command=f"{sys.executable} '{script}' {{input}} {{output}} {mood}",
            timeout=timeout,
            energy_key="dft_energy",
            forces_key="dft_forces",
        )

    return make


def test_a_command_labels(command):
    frame = label_structure(copper_gold(3), command("good"))
    expected = emt_frame(copper_gold(3))
    assert frame.energy == pytest.approx(expected.energy, abs=1e-5)
    assert np.abs(frame.forces - expected.forces).max() < 1e-5
    assert frame.virial is None


@pytest.mark.parametrize(
    ("mood", "reason"),
    [
        ("fail", "exit code 7: out of memory"),
        ("silent", "its output cannot be used: .* does not exist"),
        ("shuffle", "not those it was given"),
        ("hang", "no result within 4 s"),
    ],
)
def test_commands_that_fail(command, mood, reason):
    with pytest.raises(LabelError, match=reason):
        label_structure(copper_gold(0), command(mood, 4.0 if mood == "hang" else 60.0))


def test_label_files_are_made_once(file, tmp_path):
    settings = settings_of(file)
    assert label_to_file(copper_gold(0), settings, tmp_path / "a.extxyz", "hal")["ok"]
    frame = read_frames(tmp_path / "a.extxyz")[0]
    assert frame.config_type == "hal"
    assert frame.energy == pytest.approx(emt_frame(copper_gold(0)).energy, abs=1e-6)
    poisoned = dataclasses.replace(settings, kwargs={"mood": "raise"})
    assert label_to_file(copper_gold(0), poisoned, tmp_path / "a.extxyz", "hal")["ok"]  # not labelled again
    failed = label_to_file(copper_gold(0), poisoned, tmp_path / "b.extxyz", "hal")
    assert not failed["ok"]
    assert "SCF did not converge" in json.loads((tmp_path / "b.failed.json").read_text())["reason"]
    assert len(ase.io.read(tmp_path / "b.failed.extxyz")) == 8
    assert not (tmp_path / "b.extxyz").exists()
    assert not label_to_file(copper_gold(0), settings, tmp_path / "b.extxyz", "hal")["ok"]  # nor tried again


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give one of the two"),
        ({"calculator": "emt", "command": "x {input} {output}"}, "give one of the two"),
        ({"command": "no-such-program-anywhere {input} {output}"}, "'no-such-program-anywhere' is not found"),
        ({"command": "cat {input}"}, r"must name its files as \{input\} and \{output\}"),
        ({"calculator": "emt", "timeout": 0}, "timeout of labels is 0"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ConfigurationError, match=message):
        LabelSettings(**options)
