"""Molecules by a diffusion model."""

from __future__ import annotations

import dataclasses

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from halberd.plugins.molecules.files import read_molecules
from halberd.plugins.molecules.repair import raw_molecule
from halberd.potentials.diffusion.model import DiffusionModel
from halberd.potentials.errors import BackendError, ConfigurationError, DataError, ModelFileError, UnknownElementError
from halberd.samplers.generation.denoised import DenoisedGenerator
from halberd.samplers.generation.diffusion import DenoisingOptions, DenoisingSampler
from halberd.samplers.generation.generator import generate
from halberd.samplers.generation.settings import GenerationSettings
from tests.potentials.diffusion.models import model, trained_on_water

#: Molecules of 8 atoms in the tests of variances.
COUNT = 50
#: Their width without noise, angstrom: narrow, so that Langevin steps keep up with the levels.
WIDTH = 0.2


@pytest.mark.parametrize("last", [3.0, 1.0, 0.4])
@pytest.mark.parametrize("integrator", ["heun", "langevin"])
def test_samples_of_a_gaussian_have_its_variance_at_every_level(integrator, last):
    """A model that has learnt nothing is the score of a normal distribution of sigma_data, with noise."""
    options = DenoisingOptions(
        integrator=integrator, n_levels=25, sigma_max=5.0, sigma_min=last, steps_per_level=24, churn_from=0.0
    )
    own = model(blank=True, sigma_data=WIDTH)
    found = DenoisingSampler(own, options).run([8] * COUNT, [[0, k] for k in range(COUNT)])
    skip = float(own.preconditioning.skip(np.float64(last)))
    centred = np.concatenate([each.positions - each.positions.mean(0) for each in found]) / skip
    # The centre is not drawn to anything: of eight times three coordinates, 21 are.
    variance = (centred**2).sum() / (COUNT * 21)
    # 1050 normal numbers; Langevin steps of a tenth of the variance add 5 %.
    bias = 1.0 if integrator == "heun" else 1.0 / (1.0 - 0.05 * last**2 / (last**2 + WIDTH**2))
    assert variance == pytest.approx(bias * (last**2 + WIDTH**2), rel=0.12)


@pytest.fixture(scope="module")
def water():
    """A model of one molecule."""
    return trained_on_water()[0]


@pytest.mark.parametrize("options", [{}, {"churn": 1.0}, {"integrator": "langevin", "steps_per_level": 12}])
def test_the_molecule_that_was_learnt_comes_out(water, options):
    made = DenoisingSampler(water, DenoisingOptions(n_levels=30, sigma_max=4.0, **options)).run(
        [3] * 20, [[7, k] for k in range(20)]
    )
    right = [each for each in made if sorted(each.numbers.tolist()) == [1, 1, 8]]
    assert len(right) >= 17
    bonds, opening = [], []
    for each in right:
        oxygen = int(each.numbers.argmax())
        first, second = (each.positions[k] - each.positions[oxygen] for k in range(3) if k != oxygen)
        bonds += [np.linalg.norm(first), np.linalg.norm(second)]
        opening.append(np.linalg.norm(first - second))
    assert np.median(bonds) == pytest.approx(0.9686, abs=0.04)
    assert np.median(opening) == pytest.approx(1.5267, abs=0.08)
    assert np.mean(np.abs(np.array(bonds) - 0.9686) < 0.15) > 0.85


def test_a_molecule_is_the_same_in_every_batch(water):
    sampler = DenoisingSampler(water, DenoisingOptions(n_levels=10))
    together = sampler.run([3, 5, 4], [[1, 0], [1, 1], [1, 2]])
    alone = sampler.run([5], [[1, 1]])
    np.testing.assert_allclose(alone[0].positions, together[1].positions, atol=1e-5)
    assert alone[0].numbers.tolist() == together[1].numbers.tolist()
    other = sampler.run([5], [[2, 1]])
    assert not np.allclose(other[0].positions, alone[0].positions, atol=0.1)
    again = sampler.run([5], [[1, 1]])
    np.testing.assert_array_equal(again[0].positions, alone[0].positions)


def test_progress_is_told(water):
    told = []
    DenoisingSampler(water, DenoisingOptions(n_levels=5)).run([3], [[0]], told.append)
    assert told == pytest.approx([0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"integrator": "verlet"}, "integrator is 'verlet'"),
        ({"churn": 0.9}, "churn must be at least 1"),
        ({"sigma_min": 20.0}, "sigma_max > sigma_min"),
        ({"step_size": 3.0, "integrator": "langevin"}, "step_size between 0 and 2"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ConfigurationError, match=message):
        DenoisingOptions(**options)


def test_a_platform_that_is_not_there(water):
    with pytest.raises(BackendError, match="no platform 'Abacus'"):
        DenoisingSampler(water, DenoisingOptions(platform="Abacus")).run([3], [[0]])


def test_molecules_are_generated_written_and_the_same_in_other_batches(water, tmp_path):
    file = tmp_path / "water.diffusion"
    water.save(file)
    shared = {"method": "diffusion", "model": str(file), "heavy_atoms": 1, "n": 4, "unique": False, "seed": 3}
    shared.update(denoising={"n_levels": 30, "sigma_max": 4.0}, repair=False)
    made = generate(**shared, batch=5, output=tmp_path / "made.sdf")
    assert [mol.GetProp("smiles") for mol in made.molecules] == ["O"] * 4
    again = generate(**shared, batch=2)
    for one, other in zip(made.molecules, again.molecules, strict=True):
        np.testing.assert_allclose(one.GetConformer().GetPositions(), other.GetConformer().GetPositions(), atol=1e-4)
    assert made.repair() == {"moved_A": 0.0, "bonds_changed": 0.0, "first_particle": 1.0}
    assert made.rates()["validity"] > 0.5
    assert len(read_molecules(tmp_path / "made.sdf")) == 4
    assert [len(atoms) for atoms in made.atoms] == [3] * 4
    first = made.molecules[0]
    assert 0.0 < first.GetDoubleProp("certainty") < 2.0
    np.testing.assert_allclose(raw_molecule(first).GetConformer().GetPositions(), first.GetConformer().GetPositions())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scaffold": "x.sdf"}, "scaffold is not for method diffusion"),
        ({"sampler": {"particles": 2}}, "sampler is not for method diffusion"),
        ({"repair": False, "finish": {"tries": 1}}, "finish is for what is repaired, and repair is false"),
        ({"heavy_atoms": "7:9"}, "was trained on molecules of 1 to 1 heavy atoms"),
        (
            {"method": "simgen", "model": "gfn2-chnof@1", "denoising": {"n_levels": 3}},
            "denoising is not for method simgen",
        ),
        ({"method": "simgen", "model": None, "repair": False}, "repair is not for method simgen"),
    ],
)
def test_settings_of_the_other_method_are_refused(water, tmp_path, changes, message):
    file = tmp_path / "water.diffusion"
    water.save(file)
    with pytest.raises(ConfigurationError, match=message):
        generate(**{"method": "diffusion", "model": str(file), "heavy_atoms": 1, "n": 1, **changes})


def test_repaired_molecules_keep_their_heavy_atoms_and_get_new_hydrogens(water, tmp_path):
    file = tmp_path / "water.diffusion"
    water.save(file)
    shared = {"method": "diffusion", "model": str(file), "heavy_atoms": 1, "n": 3, "unique": False, "seed": 3}
    shared["denoising"] = {"n_levels": 15, "sigma_max": 4.0}
    made = generate(**shared, references="qm9-small", batch=4)
    assert [mol.GetProp("smiles") for mol in made.molecules] == ["O"] * 3
    assert made.rates()["validity"] == 1.0
    for mol in made.molecules:
        assert mol.GetDoubleProp("largest_force_eV_A") < 0.05
        assert mol.HasProp("energy_eV")
        assert mol.HasProp("certainty")
        assert not mol.HasProp("log_density")
    again = generate(**shared, references="qm9-small", batch=2)
    for one, other in zip(made.molecules, again.molecules, strict=True):
        np.testing.assert_allclose(one.GetConformer().GetPositions(), other.GetConformer().GetPositions(), atol=1e-3)


def test_molecules_of_other_sizes_are_failures(water, tmp_path):
    """A model chooses elements, and with them how many atoms are heavy."""
    file = tmp_path / "water.diffusion"
    water.sizes.clear()
    water.sizes[2, 3] = 1  # as if two of the three were
    water.save(file)
    water.sizes.clear()
    water.sizes[1, 3] = 256
    shared = {"method": "diffusion", "model": str(file), "n": 2, "max_attempts": 2, "unique": False, "repair": False}
    shared["denoising"] = {"n_levels": 30, "sigma_max": 4.0}
    made = generate(**shared, heavy_atoms=2)
    assert (made.molecules, made.failures) == ([], {"other number of heavy atoms": 2})
    assert len(generate(**shared, heavy_atoms="references").molecules) == 2


def test_variations_begin_with_a_molecule(tmp_path):
    """With little noise it comes back, with more it is further away, and streams are those of attempts."""
    own, water = model(elements=("H", "C", "O")), molecule("CH3OH")
    there = water.positions - water.positions.mean(axis=0)
    moved = []
    for sigma in (0.006, 0.3):
        options = DenoisingOptions(n_levels=5, sigma_max=sigma, churn=1.0)
        made = DenoisingSampler(own, options).run([6, 6], [[1, 0], [1, 1]], start=[water, water])
        assert all(each.numbers.tolist() == water.numbers.tolist() for each in made[: 2 if sigma < 0.1 else 0])
        moved.append([float(np.abs(each.positions - each.positions.mean(axis=0) - there).max()) for each in made])
    assert max(moved[0]) < 0.05 < min(moved[1])
    model().save(tmp_path / "small.diffusion")
    ase.io.write(tmp_path / "start.xyz", [water, molecule("H2O")])
    settings = GenerationSettings(
        method="diffusion", model=str(tmp_path / "small.diffusion"), start=str(tmp_path / "start.xyz"), repair=False
    )
    generator = DenoisedGenerator(settings)
    assert generator.sampler.options.sigma_max == 0.2
    assert {generator.size_of(k) for k in range(20)} == {3, 6}
    named = dataclasses.replace(settings, denoising=DenoisingOptions(sigma_max=1.5))
    assert DenoisedGenerator(named).sampler.options.sigma_max == 1.5


@pytest.mark.parametrize(
    ("start", "error", "message"),
    [
        (molecule("NH3"), UnknownElementError, r"does not know the elements with the numbers \[7\]"),
        (Atoms("OH", [[0, 0, 0], [0, np.nan, 1]]), DataError, "has positions that are no numbers"),
        (Atoms("O"), DataError, r"Molecule 0 \(counted from 0\) of '.*start.xyz' is a single atom"),
    ],
)
def test_what_cannot_be_started_from(tmp_path, start, error, message):
    model().save(tmp_path / "small.diffusion")
    ase.io.write(tmp_path / "start.xyz", [start])
    shared = {"method": "diffusion", "model": str(tmp_path / "small.diffusion"), "n": 1}
    with pytest.raises(error, match=message):
        generate(**shared, start=str(tmp_path / "start.xyz"))
    with pytest.raises(ConfigurationError, match="start brings its own sizes"):
        generate(**shared, start=str(tmp_path / "start.xyz"), heavy_atoms=5)
    with pytest.raises(ConfigurationError, match="start is not for method simgen"):
        generate(start=str(tmp_path / "start.xyz"), n=1)


def test_a_start_that_changed_is_another_run(tmp_path):
    file = tmp_path / "start.xyz"
    prints = []
    for name in ("H2O", "CH4", "H2O"):
        ase.io.write(file, molecule(name))
        prints.append(GenerationSettings(method="diffusion", start=str(file)).fingerprint())
    assert prints[0] == prints[2] != prints[1]


def test_the_model_that_is_shipped():
    """It takes noise out of molecules, knows their elements, and leaves a molecule with little noise what it is."""
    own = DiffusionModel.load("qm9-diffusion")
    rng = np.random.default_rng(0)
    for name in ("CH3CHO", "CH3CONH2", "C6H6", "isobutane"):
        atoms = molecule(name)
        there = atoms.positions - atoms.positions.mean(axis=0)
        noise = 0.1 * rng.normal(size=there.shape)
        elements = own.elements_of(atoms.numbers)
        found = own.evaluate(there + noise, elements + 0.4 * rng.normal(size=elements.shape), 0.1)
        centred = noise - noise.mean(axis=0)
        assert np.square(found.denoised - noise.mean(axis=0) - there).sum() < 0.8 * np.square(centred).sum()
        assert (found.elements.argmax(axis=1) == elements.argmax(axis=1)).mean() > 0.85
    start = molecule("CH3CHO")
    made = DenoisingSampler(own, DenoisingOptions(n_levels=10, sigma_max=0.05)).run([7], [[0, 0]], start=[start])
    assert made[0].numbers.tolist() == start.numbers.tolist()


def test_elements_that_nothing_can_relax_are_refused_before_anything_is_made(tmp_path):
    file = tmp_path / "silicon.diffusion"
    model(elements=("H", "Si")).save(file)
    with pytest.raises(ConfigurationError, match=r"numbers \[14\], too, which 'gfn2-chnof@1' cannot relax"):
        generate(method="diffusion", model=str(file), heavy_atoms=2, n=1)


def test_the_model_is_that_of_the_method(water, tmp_path):
    assert GenerationSettings().model_or_default == "gfn2-chnof@1"
    assert GenerationSettings(method="diffusion").model_or_default == "qm9-diffusion"
    assert GenerationSettings(model="x.pt").model_or_default == "x.pt"
    named = GenerationSettings(model="gfn2-chnof@1")
    assert named.fingerprint() == GenerationSettings().fingerprint()
    with pytest.raises(ModelFileError, match=r"no file 'gfn2-chnof@1'; of diffusion models, halberd has qm9-diffusion"):
        generate(method="diffusion", model="gfn2-chnof@1", n=1)
