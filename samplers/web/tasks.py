"""What a job computes; runs in a worker's process, in the folder of the job."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import openmm
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import NDArray
from openmm import app, unit

from halberd.plugins.commands.settings_file import read_yaml
from halberd.plugins.forces.learned_potential import LearnedPotential
from halberd.plugins.forces.topology import topology_from_atoms
from halberd.plugins.molecules.bonding import canonical_smiles, import_rdkit, perceive_molecule
from halberd.plugins.molecules.files import formula_svg, write_molecules
from halberd.plugins.molecules.likeness import unwanted_groups
from halberd.potentials.constants import EV_IN_KJ_PER_MOL, NM_IN_ANGSTROM
from halberd.potentials.errors import DataError, StabilityError
from halberd.potentials.files import replacing
from halberd.potentials.loading import load
from halberd.potentials.simgen.score import SimilarityScore
from halberd.samplers.generation.annealing import Skeleton, Snapshot
from halberd.samplers.generation.finishing import FinishOptions, hydrogenate
from halberd.samplers.generation.generator import Generator, Watcher, generate
from halberd.samplers.generation.relaxation import relax
from halberd.samplers.generation.settings import GenerationSettings
from halberd.samplers.runs.platforms import find_platform
from halberd.samplers.web.fragment import Fragment
from halberd.samplers.web.settings import JobRequest

#: Files of a job: what it is given, and what it makes.
SETTINGS, FRAGMENT, SHAPE, SCAFFOLD = "settings.yaml", "fragment.json", "shape.csv", "scaffold.sdf"
RESULT, TRAJECTORY = "molecules.sdf", "trajectory.extxyz"
#: ps, of a step and between frames; 1/ps.
_STEP, _INTERVAL, _FRICTION = 0.0005, 0.02, 1.0
#: Of the sum of covalent radii: longer bonds are broken.
_BROKEN = 1.6

Tell = Callable[[dict[str, Any]], None]


def run_task(kind: str, request: dict[str, Any], model: str, folder: Path, tell: Tell) -> str:
    """Do what a job asks for.

    Parameters
    ----------
    kind : str
    request : dict
        Of :class:`halberd.samplers.web.settings.JobRequest`.
    model : str
        Name or file of the potential.
    folder : path
        Holds the inputs, and gets the results.
    tell : callable
        Takes messages: ``frame`` with ``symbols``, ``positions`` in angstrom, and ``point`` of the trace;
        ``progress`` with ``done`` and ``message``; ``molecule``.

    Returns
    -------
    str
        What came out, for people.
    """
    if kind in ("generate", "link"):
        return _generate(folder, tell)
    fragment = Fragment.from_json(json.loads((folder / FRAGMENT).read_text(encoding="utf-8")))
    if kind == "hydrogenate":
        return _hydrogenate(fragment, model, folder, tell)
    if kind == "relax":
        return _relax(fragment, model, folder, tell)
    return _dynamics(fragment, JobRequest(**request), model, folder=folder, tell=tell)


def warm_up(model: str) -> None:
    """Load and compile what the first job would wait for."""
    settings = GenerationSettings.from_mapping({"n": 1, "heavy_atoms": "4", "model": model, "sampler": {"n_levels": 4}})
    Generator(settings).attempt(range(2))


class _Teller(Watcher):
    """Sends what it sees to the page."""

    def __init__(self, folder: Path, tell: Tell) -> None:
        self.folder, self.tell, self.count = folder, tell, 0

    def snapshot(self, snapshot: Snapshot) -> None:
        """Show the first molecule of a batch that is whole."""
        shown = next((k for k, each in enumerate(snapshot.positions) if np.isfinite(each).all()), None)
        if shown is not None:
            point = (snapshot.sigma, float(snapshot.similarity[shown]))
            self.tell(_frame(snapshot.numbers[shown], snapshot.positions[shown], point))

    def found(self, mol: Any) -> None:
        """Add a molecule to the gallery."""
        self.tell(_shown(mol, self.folder, self.count))
        self.count += 1


def _frame(numbers: NDArray[np.int64], positions: NDArray[np.float64], point: tuple[float, float]) -> dict[str, Any]:
    symbols = [chemical_symbols[z] for z in numbers]
    trace = [x if math.isfinite(x) else None for x in point]
    return {"type": "frame", "symbols": symbols, "positions": positions.round(3).tolist(), "point": trace}


def _shown(mol: Any, folder: Path, index: int) -> dict[str, Any]:
    """A molecule for the gallery; its formula is drawn beside the results."""
    with replacing(folder / f"formula-{index}.svg") as temporary:
        temporary.write_text(formula_svg(mol), encoding="utf-8")
    energy = mol.GetDoubleProp("energy_eV") if mol.HasProp("energy_eV") else None
    about = {"smiles": canonical_smiles(mol), "energy": energy, "groups": unwanted_groups(mol)}
    return {"type": "molecule", "molecule": about}


def _generate(folder: Path, tell: Tell) -> str:
    settings = GenerationSettings.from_mapping(read_yaml(SETTINGS), SETTINGS)
    made = generate(
        settings,
        output=folder / RESULT,
        progress=lambda what, part: tell({"type": "progress", "done": part, "message": what}),
        watcher=_Teller(folder, tell),
    )
    causes = ", ".join(f"{count} {cause}" for cause, count in sorted(made.failures.items(), key=lambda each: -each[1]))
    if not made.molecules:
        raise DataError(
            f"None of {made.attempts} attempts became a molecule: {causes}. Ask for other sizes, or draw another shape."
        )
    return f"{len(made.molecules)} of {settings.n} molecules in {made.attempts} attempts" + (
        f" ({causes})" * bool(causes)
    )


def _finish(mol: Any, folder: Path, tell: Tell) -> None:
    tell(_shown(mol, folder, 0))
    write_molecules(folder / RESULT, [mol])


def _hydrogenate(fragment: Fragment, model: str, folder: Path, tell: Tell) -> str:
    Chem = import_rdkit()
    heavy = fragment.heavy
    mol = fragment.bonded
    if mol is None and len(heavy) < len(fragment.numbers):
        raise DataError(
            f"The hydrogens of '{fragment.name}' do not make a neutral molecule of it whose bonds could be told: it "
            "may be an ion, a radical, or hold a nitro group. Upload its heavy atoms alone, or an SDF file with bonds."
        )
    if mol is not None:
        # Bonds are known: what they leave of the valences is hydrogen.
        for atom in mol.GetAtoms():
            atom.SetNoImplicit(False)
            atom.SetNumRadicalElectrons(0)
        mol.UpdatePropertyCache(strict=False)
        mol = Chem.AddHs(mol, addCoords=True)
    else:
        settings = GenerationSettings(n=1, model=model, heavy_atoms=str(max(1, len(heavy))))
        score: SimilarityScore = Generator(settings).score
        numbers, positions = fragment.numbers[heavy][None], fragment.positions[heavy][None]
        skeleton = Skeleton(numbers, positions, np.zeros(numbers.shape))
        found = hydrogenate(skeleton, score, FinishOptions())
        if isinstance(found, str):
            raise DataError(f"'{fragment.name}' cannot be given hydrogens: {found}. It must be one neutral molecule.")
        mol = found.mol
    _finish(mol, folder, tell)
    return f"{mol.GetNumAtoms() - len(heavy)} hydrogens"


def _relax(fragment: Fragment, model: str, folder: Path, tell: Tell) -> str:
    potential = load(model)
    before = relax(potential, [fragment.numbers], [fragment.positions], steps=0)
    after = relax(potential, [fragment.numbers], [fragment.positions], steps=500)
    mol = _with_positions(fragment, after.positions[0])
    _check_bonds(mol, after.positions[0], "in relaxation")
    mol.SetDoubleProp("energy_eV", float(after.energies[0]))
    _finish(mol, folder, tell)
    gained, force = before.energies[0] - after.energies[0], after.largest_force[0]
    rest = "" if force <= 0.05 else f"; not at rest, the largest force is {force:.2f} eV/Å"
    return f"{gained:.3f} eV lower after {int(after.steps[0])} steps{rest}"


def _with_positions(fragment: Fragment, positions: NDArray[np.float64]) -> Any:
    """The fragment's molecule elsewhere, with bonds found anew if none were known."""
    known = fragment.bonds
    mol = dataclasses.replace(fragment, positions=positions).molecule if known is not None else None
    mol = mol or perceive_molecule(fragment.numbers, positions)
    if mol is None:
        raise DataError(
            f"'{fragment.name}' is no neutral molecule with all its hydrogens, or did not stay one. Hydrogenate it "
            "first."
        )
    return mol


def _check_bonds(mol: Any, positions: NDArray[np.float64], when: str) -> None:
    """Refuse to go on with a molecule that has fallen apart, whatever its energy says."""
    for bond in mol.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        ends = bond.GetBeginAtom(), bond.GetEndAtom()
        usual = sum(covalent_radii[atom.GetAtomicNum()] for atom in ends)
        length = float(np.linalg.norm(positions[i] - positions[j]))
        if length > _BROKEN * usual:
            names = " and ".join(f"{atom.GetSymbol()}{atom.GetIdx() + 1}" for atom in ends)
            raise StabilityError(f"The bond of {names} broke {when}: it is {length:.1f} Å long. The model fails here.")


def _dynamics(fragment: Fragment, request: JobRequest, model: str, *, folder: Path, tell: Tell) -> str:
    whole = _with_positions(fragment, fragment.positions)  # refuses what is no molecule before it computes
    # Ours keeps its steps short: OpenMM's jumps over the barriers that hold small molecules together.
    potential = load(model)
    rest = relax(potential, [fragment.numbers], [fragment.positions]).positions[0]
    topology, places = topology_from_atoms(Atoms(fragment.numbers, positions=rest))
    system = LearnedPotential(potential).createSystem(topology)
    integrator = openmm.LangevinMiddleIntegrator(request.temperature, _FRICTION, _STEP)
    integrator.setRandomNumberSeed(request.seed + 1)  # 0 would be a random one
    simulation = app.Simulation(topology, system, integrator, *find_platform("CPU"))
    simulation.context.setPositions(places)
    simulation.context.setVelocitiesToTemperature(request.temperature, request.seed + 1)
    frames: list[Atoms] = []
    count = max(1, round(request.picoseconds / _INTERVAL))
    for index in range(count):
        simulation.step(round(_INTERVAL / _STEP))
        state = simulation.context.getState(positions=True, energy=True)
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer) * NM_IN_ANGSTROM
        energy = state.getPotentialEnergy().value_in_unit(unit.kilojoules_per_mole) / EV_IN_KJ_PER_MOL
        time = (index + 1) * _INTERVAL
        if not (np.isfinite(positions).all() and math.isfinite(energy)):
            raise StabilityError(f"The molecule flew apart after {time:.2f} ps.")
        _check_bonds(whole, positions, f"after {time:.2f} ps")
        frames.append(Atoms(fragment.numbers, positions=positions, info={"time_ps": time, "energy_eV": energy}))
        tell(_frame(fragment.numbers, positions, (time, energy)))
        tell({"type": "progress", "done": (index + 1) / count, "message": f"{time:.2f} of {request.picoseconds:g} ps"})
    with replacing(folder / TRAJECTORY) as temporary:
        ase.io.write(temporary, frames, format="extxyz")
    mol = _with_positions(fragment, frames[-1].positions)
    mol.SetDoubleProp("energy_eV", frames[-1].info["energy_eV"])
    _finish(mol, folder, tell)
    return f"{request.picoseconds:g} ps at {request.temperature:g} K"
