"""Generation from end to end: reproducible, independent of batches, exact scaffolds, resumable."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from ase.build import molecule
from rdkit import Chem
from rdkit.Chem import AllChem

from halberd.plugins.molecules.bonding import is_valid, perceive_molecule
from halberd.plugins.molecules.files import read_molecules
from halberd.potentials.errors import ConfigurationError, DataError, OutputError, RestartError, UnknownElementError
from halberd.potentials.locks import locked
from halberd.samplers.generation.annealing import SamplerOptions, SimilaritySampler
from halberd.samplers.generation.element_sweep import ElementSweep
from halberd.samplers.generation.finishing import FinishOptions
from halberd.samplers.generation.generator import DUPLICATE, Generator, Watcher, generate
from halberd.samplers.generation.settings import GenerationSettings
from tests.conftest import call

SAMPLER = SamplerOptions(particles=3, n_levels=24, strength=0.8)
QUICK = GenerationSettings(
    n=4, heavy_atoms="4:6", references="qm9-small", seed=3, batch=4, max_attempts=4, precision="double", sampler=SAMPLER
)


@pytest.fixture(scope="module")
def quick():
    return generate(QUICK)


def coordinates(made):
    return {mol.GetIntProp("attempt"): mol.GetConformer().GetPositions() for mol in made.molecules}


def test_molecules_are_valid_and_of_the_size_asked_for(quick):
    assert len(quick.molecules) >= 3
    assert len(quick.molecules) + sum(quick.failures.values()) == quick.attempts
    for mol, atoms in zip(quick.molecules, quick.atoms, strict=True):
        assert is_valid(mol)
        assert 4 <= mol.GetNumHeavyAtoms() <= 6
        assert perceive_molecule(atoms.numbers, atoms.positions) is not None
        assert mol.GetDoubleProp("largest_force_eV_A") < 0.2
        assert atoms.info["smiles"] == mol.GetProp("smiles")


def test_same_seed_same_molecules_to_the_bit(quick):
    again = generate(QUICK)
    for k, positions in coordinates(again).items():
        np.testing.assert_array_equal(positions, coordinates(quick)[k])
    other = generate(dataclasses.replace(QUICK, seed=4))
    assert [m.GetProp("smiles") for m in other.molecules] != [m.GetProp("smiles") for m in quick.molecules]


@pytest.mark.parametrize("particles", [1, 3])
def test_who_watches_changes_nothing(particles):
    class Seen(Watcher):
        def __init__(self):
            self.snapshots, self.molecules = [], []

        def snapshot(self, snapshot):
            self.snapshots.append(snapshot)

        def found(self, mol):
            self.molecules.append(mol)

    seen = Seen()
    settings = dataclasses.replace(QUICK, n=2, sampler=dataclasses.replace(SAMPLER, particles=particles))
    made, alone = generate(settings, watcher=seen), generate(settings)
    for k, positions in coordinates(made).items():
        np.testing.assert_array_equal(positions, coordinates(alone)[k])
    assert [mol.GetProp("smiles") for mol in seen.molecules] == [mol.GetProp("smiles") for mol in made.molecules]
    levels = [each.sigma for each in seen.snapshots[:12]]
    assert levels == sorted(levels, reverse=True)
    first, last = seen.snapshots[0], seen.snapshots[11]
    assert [len(each) for each in first.positions] == [len(each) for each in first.numbers]
    assert last.similarity.mean() > first.similarity.mean()
    if particles == 1:  # what is seen at last is, without hydrogens, what was made of it
        for mol in made.molecules:
            numbers = sorted(atom.GetAtomicNum() for atom in mol.GetAtoms() if atom.GetAtomicNum() > 1)
            assert sorted(last.numbers[mol.GetIntProp("attempt")].tolist()) == numbers


def test_a_batch_gives_what_single_runs_give(quick):
    alone = generate(dataclasses.replace(QUICK, batch=1))
    assert alone.failures == quick.failures
    assert [m.GetProp("smiles") for m in alone.molecules] == [m.GetProp("smiles") for m in quick.molecules]
    for k, positions in coordinates(alone).items():
        np.testing.assert_allclose(positions, coordinates(quick)[k], atol=2e-3)


@pytest.mark.parametrize("integrator", ["heun", "langevin"])
def test_skeletons_of_a_batch_are_those_of_single_runs(integrator):
    settings = dataclasses.replace(QUICK, sampler=dataclasses.replace(SAMPLER, n_levels=8, integrator=integrator))
    sampler = Generator(settings).sampler
    together = sampler.run([4, 6, 5], [[1, 0], [1, 1], [1, 2]])
    for k, size in enumerate((4, 6, 5)):
        (alone,) = sampler.run([size], [[1, k]])
        np.testing.assert_array_equal(alone.numbers, together[k].numbers)
        np.testing.assert_allclose(alone.positions, together[k].positions, atol=1e-6)
        assert (np.diff(alone.log_density.sum(1)) <= 1e-9).all()


@pytest.fixture(scope="module")
def scaffold_file(tmp_path_factory):
    """Ethanol, relaxed a little, with a mark where its methyl group should grow."""
    mol = Chem.AddHs(Chem.MolFromSmiles("OCC*"))
    AllChem.EmbedMolecule(mol, randomSeed=2)
    path = tmp_path_factory.mktemp("scaffold") / "ethanol.sdf"
    Chem.MolToMolFile(mol, str(path))
    return path


def test_scaffold_atoms_do_not_move_by_a_bit(scaffold_file):
    settings = dataclasses.replace(QUICK, scaffold=str(scaffold_file), heavy_atoms="3", max_attempts=8, batch=8, n=8)
    generator = Generator(settings)
    made = generate(settings)
    assert made.molecules, made.failures
    for mol in made.molecules:
        heavy = np.array([a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() > 1])
        assert len(heavy) == 6
        positions = mol.GetConformer().GetPositions()[heavy]
        np.testing.assert_array_equal(positions[3:], generator.scaffold.positions)
        # Hydrogens of the scaffold that stayed are where they were.
        hydroxyl = generator.scaffold.hydrogens[0]
        distances = np.linalg.norm(mol.GetConformer().GetPositions()[:, None] - hydroxyl[None], axis=2)
        assert distances.min() < 1.5
    loose = dataclasses.replace(settings, finish=FinishOptions(relax_scaffold=True))
    moved = generate(loose)
    positions = moved.molecules[0].GetConformer().GetPositions()[3:6]
    assert np.abs(positions - generator.scaffold.positions).max() > 1e-4


def test_hosts_are_kept_clear_of(tmp_path):
    """Six atoms on the axes leave room in the middle; without the wall, atoms come closer to them."""
    import ase.io
    from ase import Atoms

    corners = np.concatenate([np.eye(3), -np.eye(3)]) * 4.2
    ase.io.write(tmp_path / "host.xyz", Atoms("Ar6", positions=corners))
    settings = dataclasses.replace(QUICK, heavy_atoms="5", n=3, max_attempts=3, batch=3)

    def deepest(host):
        generator = Generator(dataclasses.replace(settings, host=host))
        wall = Generator(dataclasses.replace(settings, host=str(tmp_path / "host.xyz"))).wall
        skeletons = generator.sampler.run([5, 5, 5], [[1, k] for k in range(3)])
        return max(wall.depth(skeleton.positions[0]) for skeleton in skeletons)

    assert deepest(str(tmp_path / "host.xyz")) < 0.6
    assert deepest(None) > deepest(str(tmp_path / "host.xyz"))
    made = generate(dataclasses.replace(settings, host=str(tmp_path / "host.xyz")))
    for atoms in made.atoms:
        heavy = atoms.positions[atoms.numbers > 1]
        assert np.linalg.norm(heavy[:, None] - corners[None], axis=2).min() > 0.85 * (1.88 + 1.7) - 0.6


OPTIONS = {
    "coverage": {"coverage": 0.3},
    "widths": {"widths": {"C": 1.4}},
    "constant width": {"inverse_width": 80.0},
    "balance": {"balance": 1.0},
    "langevin": {"sampler": {"integrator": "langevin"}},
    "karras": {"sampler": {"schedule": "karras"}},
    "own levels": {"sampler": {"schedule": [1.0, 0.6, 0.3, 0.1, 0.01]}},
    "recentre": {"sampler": {"recentre": True}},
    "pull": {"sampler": {"strength": [0.2, 0.3]}},
    "elements": {"sampler": {"elements": ["N", "C"]}},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_changes_what_comes_out(name):
    common = {"particles": 2, "n_levels": 10}
    change = dict(OPTIONS[name])
    sampler = {**common, **change.pop("sampler", {})}
    base = GenerationSettings(heavy_atoms="5", references="qm9-small", sampler=common, precision="double")
    other = GenerationSettings(heavy_atoms="5", references="qm9-small", sampler=sampler, precision="double", **change)
    (first,) = Generator(base).sampler.run([5], [[1, 0]])
    (second,) = Generator(other).sampler.run([5], [[1, 0]])
    assert second.positions.shape == (2, 5, 3)
    assert np.isfinite(second.positions).all()
    assert np.abs(first.positions - second.positions).max() > 0.02


@pytest.mark.parametrize("options", [{"hydrogens": "lengths"}, {"joint": False}, {"classical": False}])
def test_other_ways_to_finish(options, quick):
    made = generate(dataclasses.replace(QUICK, finish=FinishOptions(**options)))
    assert made.attempts == quick.attempts
    assert len(made.molecules) + sum(made.failures.values()) == made.attempts


def test_an_interrupted_run_goes_on(quick, tmp_path, monkeypatch):
    settings = dataclasses.replace(QUICK, batch=2)
    whole, output = tmp_path / "whole.extxyz", tmp_path / "out.extxyz"
    generate(settings, output=whole)
    calls = []
    original = Generator.attempt

    def interrupted(self, attempts, progress=None):
        if calls:
            raise KeyboardInterrupt
        calls.append(attempts)
        return original(self, attempts, progress)

    monkeypatch.setattr(Generator, "attempt", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(settings, output=output)
    part = tmp_path / "out.extxyz.part"
    assert part.exists()
    assert not output.exists()
    monkeypatch.setattr(Generator, "attempt", original)
    with pytest.raises(RestartError, match=r"other settings \(seed\)"):
        generate(dataclasses.replace(settings, seed=9), output=output)
    seen = []
    made = generate(settings, output=output, progress=lambda what, part: seen.append((what, part)))
    assert [m.GetProp("smiles") for m in made.molecules] == [m.GetProp("smiles") for m in quick.molecules]
    assert not part.exists()
    assert output.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob(".*"))
    with locked(tmp_path, ".out.extxyz.lock"), pytest.raises(OutputError, match="Another run is at work"):
        generate(settings, output=output)
    assert any("annealing" in what for what, _ in seen)
    assert all(0 <= part <= 1 for _, part in seen)
    part.write_text("{")
    with pytest.raises(RestartError, match="damaged"):
        generate(settings, output=output)


def test_duplicates_are_counted_when_unwanted(monkeypatch, quick):
    def same(self, attempts, progress=None):
        return [quick.molecules[0]] * len(attempts), {}

    monkeypatch.setattr(Generator, "attempt", same)
    made = generate(dataclasses.replace(QUICK, unique=True))
    assert len(made.molecules) == 1
    assert made.failures == {DUPLICATE: 3}
    assert made.rates() == {"validity": 1.0, "uniqueness": 0.25}
    kept = generate(dataclasses.replace(QUICK, unique=False))
    assert len(kept.molecules) == 4
    assert kept.rates() == {"validity": 1.0, "uniqueness": 0.25}


def test_shape_that_is_too_small_warns_with_numbers():
    with pytest.warns(UserWarning, match=r"room for about \d+ heavy atoms, and 30 were asked for"):
        Generator(dataclasses.replace(QUICK, heavy_atoms="30", shape="line:3"))


def test_sizes_are_drawn_from_the_range():
    generator = Generator(QUICK)
    sizes = [generator.size_of(k) for k in range(300)]
    assert set(sizes) == {4, 5, 6}
    assert min(np.bincount(sizes)[4:]) > 70


@pytest.mark.long
def test_the_sweep_puts_elements_where_they_belong():
    """Dimethyl peroxide is worse than its isoelectronic neighbours; the sweep ends its O-O bond."""
    generator = Generator(dataclasses.replace(QUICK, sweep=True))
    assert isinstance(generator.sweep, ElementSweep)
    assert set(generator.sweep.potentials) == {1, 6, 7, 8}
    from halberd.plugins.molecules.bonding import skeleton_molecule
    from halberd.potentials.simgen.valence import Valences
    from halberd.samplers.generation.finishing import Candidate, place_hydrogens

    positions = np.array([[-1.15, 0.9, 0.0], [0.0, 0.0, 0.0], [1.3, 0.6, 0.0], [2.4, -0.3, 0.0]])
    chain = {(0, 1): 1, (1, 2): 1, (2, 3): 1}
    skeleton = skeleton_molecule(np.array([6, 8, 8, 6]), positions, Valences(chain, np.array([3, 0, 0, 3]), 0.0))
    candidate = Candidate(*place_hydrogens(skeleton, 4), 0.0)
    swept = generator.sweep.run([candidate])[0]
    smiles = Chem.MolToSmiles(Chem.RemoveHs(swept.mol))
    assert "OO" not in smiles
    assert swept.mol.GetNumHeavyAtoms() == 4
    alternatives = generator.sweep.alternatives(candidate)
    assert len(alternatives) == 8
    with pytest.raises(ConfigurationError, match="margin"):
        ElementSweep(generator.force_field, generator.score, ("C",), margin=-1.0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"heavy_atoms": "9:4"}, ConfigurationError, "heavy_atoms"),
        ({"heavy_atoms": "many"}, ConfigurationError, "heavy_atoms"),
        ({"n": 0}, ConfigurationError, "at least 1"),
        ({"max_attempts": 0}, ConfigurationError, "max_attempts"),
        ({"sampler": {"integrator": "euler"}}, ConfigurationError, "integrator"),
        ({"sampler": {"particels": 3}}, ConfigurationError, "Did you mean 'particles'"),
        ({"sampler": {"particles": 0}}, ConfigurationError, "particles"),
        ({"sampler": {"strength": -1.0}}, ConfigurationError, "strength"),
        ({"sampler": {"elements": []}}, ConfigurationError, "elements"),
        ({"finish": {"hydrogens": "guess"}}, ConfigurationError, "hydrogens"),
        ({"finish": {"fmax": 0.0}}, ConfigurationError, "fmax"),
    ],
)
def test_bad_settings(change, error, message):
    with pytest.raises(error, match=message):
        GenerationSettings(**change)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"device": "tpu"}, ConfigurationError, "device"),
        ({"references": "nothing"}, DataError, "no reference set"),
        ({"shape": "nothing.csv"}, DataError, "neither a file"),
        ({"scaffold": "nothing.sdf"}, DataError, "does not exist"),
        ({"host": "nothing.pdb"}, DataError, "does not exist"),
        ({"sampler": SamplerOptions(elements=("C", "S"))}, UnknownElementError, "S"),
        ({"sampler": SamplerOptions(schedule=(0.1, 0.5))}, ConfigurationError, "fall"),
    ],
)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        Generator(dataclasses.replace(QUICK, **change))


def test_a_model_without_the_elements_of_the_references(tmp_path):
    from ase.io import write

    write(tmp_path / "thiol.xyz", [molecule("CH3SH")])
    with pytest.raises(UnknownElementError, match="'thiol' holds S"):
        Generator(dataclasses.replace(QUICK, references=str(tmp_path / "thiol.xyz")))


def test_a_scaffold_without_room_or_with_foreign_elements(tmp_path):
    for smiles, error, message in (
        ("FC(F)(F)F", ConfigurationError, "no atom that could take a bond"),
        ("CCCl", UnknownElementError, "Cl"),
    ):
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        AllChem.EmbedMolecule(mol, randomSeed=1)
        Chem.MolToMolFile(mol, str(tmp_path / "s.sdf"))
        with pytest.raises(error, match=message):
            Generator(dataclasses.replace(QUICK, scaffold=str(tmp_path / "s.sdf")))


def test_a_lost_molecule_is_a_failure_and_nothing_else(monkeypatch):
    original = SimilaritySampler.run

    def lossy(self, sizes, seeds, progress=None):
        skeletons = original(self, sizes, seeds, progress)
        skeletons[0] = None
        return skeletons

    monkeypatch.setattr(SimilaritySampler, "run", lossy)
    made = generate(
        dataclasses.replace(QUICK, n=2, max_attempts=2, batch=2, sampler=SamplerOptions(particles=1, n_levels=8))
    )
    assert made.failures["atoms flew apart"] == 1


def test_command_line(tmp_path, capsys, monkeypatch):
    output = tmp_path / "out.sdf"
    code, out, err = call(
        capsys, monkeypatch, "generate", "--n", 2, "--heavy-atoms", "5", "--shape", "line:4", "--seed", 1, "-o", output,
        "--references", "qm9-small", "--particles", 3, "--levels", 24, "--max-attempts", 12, "--json", "--no-picture",
        "--raw", tmp_path / "raw.sdf",
    )  # fmt: skip
    result = json.loads(out)
    assert result["requested"] == 2
    assert result["written"] == len(read_molecules(output)) == 2
    assert code == 0
    assert {"output", "requested", "written", "failures", "metrics", "seconds"} <= set(result)
    assert {"atom_stability", "molecule_stability", "validity", "uniqueness", "novelty", "posebusters"} <= set(
        result["metrics"]
    )
    code, out, _ = call(capsys, monkeypatch, "metrics", output, "--json", "--no-posebusters", "--attempts", 4)
    assert code == 0
    assert json.loads(out)["metrics"]["attempts"] == 4
    code, out, _ = call(capsys, monkeypatch, "metrics", output)
    assert "different molecules" in out
    # What was annealed moves, and less of it is lost in the molecules than in what they were made of.
    assert 0 < result["metrics"]["moved_A"] < 1.0
    assert 0 <= result["metrics"]["bonds_changed"] <= 1
    assert 0 < result["metrics"]["first_particle"] <= 1
    raw = read_molecules(tmp_path / "raw.sdf")
    assert [a.numbers.tolist() for a in raw] == [a.numbers.tolist() for a in read_molecules(output)]
    code, out, err = call(
        capsys, monkeypatch, "metrics", output, "--raw", tmp_path / "raw.sdf", "--xtb", 2, "--references", "qm9:40",
        "--json", "--no-posebusters",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    assert found["metrics"]["xtb_raw"]["strain_eV"] > found["metrics"]["xtb"]["strain_eV"] > 0
    assert found["likeness"]["references"] in range(36, 41)  # ions are left out
    assert found["likeness"]["frechet_chemnet"] > 1.0
    code, out, _ = call(capsys, monkeypatch, "metrics", output, "--references", "qm9:40", "--no-posebusters")
    assert "Frechet ChemNet distance" in out
    for arguments, message in (
        (("generate", "--heavy-atoms", "x"), "heavy_atoms"),
        (("generate", "--heavy-atoms", "1" + "0" * 30), "heavy_atoms"),
        (("generate", "-o", tmp_path / "out.cif"), "Molecules are written to"),
        (("metrics", tmp_path / "none.sdf"), "does not exist"),
        (("metrics", output, "--attempts", 1), "--attempts is 1, but there are 2"),
        (("metrics", output, "--raw", output), "say how many with --xtb"),
        (("metrics", output, "--raw", "qm9:2", "--xtb", 1), "does not hold the molecules"),
        (("metrics", output, "--references", "qm9:x"), "is not qm9:N"),
        (("generate", "-o", output, "--raw", output), "another name"),
    ):
        code, out, err = call(capsys, monkeypatch, *arguments)
        assert code == 2
        assert message in err
        assert len(err.strip().splitlines()) == 1
