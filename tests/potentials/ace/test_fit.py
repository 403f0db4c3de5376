from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones

from halberd.potentials.ace.basis import AceBasis
from halberd.potentials.ace.compiled_operator import ACE_OPERATOR
from halberd.potentials.ace.design_rows import DesignAssembler
from halberd.potentials.ace.dimers import dimer
from halberd.potentials.ace.fit import AceFit
from halberd.potentials.ace.model import ace_site_model
from halberd.potentials.ace.model_selection import compare_sizes, select_degree, smallest_as_good
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.errors import ConfigurationError, DataError, OutputError, UnknownElementError
from halberd.potentials.frames.labelled import Frame
from halberd.potentials.frames.training_set import check_frames, distance_range, self_energies
from halberd.potentials.regression.weighted_rows import FitWeights
from halberd.potentials.sites.structure_energy import StructureEnergy
from tests.conftest import cluster, random_ace

SYMBOLS = ("Al", "Si")
E0S = {"Al": -56.5, "Si": -101.25}


def labelled(model_basis, coefficients, n_frames, seed, noise=0.0) -> list[Frame]:
    """Frames labelled by a linear ACE, half of them periodic."""
    generator = np.random.default_rng(seed)
    assembler = DesignAssembler(model_basis)
    frames = []
    for number in range(n_frames):
        atoms = cluster(generator, SYMBOLS, 8)
        if number % 2:
            atoms.set_cell(np.diag([5.8, 6.2, 6.0]) + generator.normal(scale=0.2, size=(3, 3)))
            atoms.pbc = True
        block = assembler.rows([atoms])
        energy = float(block.energy[0] @ coefficients) + sum(E0S[s] for s in atoms.get_chemical_symbols())
        forces = block.forces[0] @ coefficients + noise * generator.normal(size=(8, 3))
        virial = None
        if number % 2:
            xx, yy, zz, yz, xz, xy = block.virial[0] @ coefficients
            virial = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        frames.append(
            Frame(atoms, energy + noise * generator.normal(), forces, virial, "odd" if number % 2 else "even")
        )
    return frames


@pytest.fixture(scope="module")
def truth():
    return random_ace(SYMBOLS, degree=6, cutoff=4.0, seed=4)


@pytest.fixture(scope="module")
def frames(truth):
    return labelled(*truth, 40, seed=1)


def total_energy(model, atoms: Atoms) -> np.ndarray:
    energy = StructureEnergy(model, model.species_of(atoms.numbers), 0.0)
    box = torch.tensor(np.array(atoms.cell))
    return energy(torch.tensor(atoms.positions), box, torch.tensor(atoms.pbc)).sum(0).numpy()


@pytest.mark.parametrize(("solver", "options"), [("ridge", {"ridge": 0.0}), ("blr", {}), ("svd", {})])
def test_a_known_model_is_recovered_exactly(truth, frames, solver, options):
    basis, coefficients = truth
    fit = AceFit(basis.settings, e0s=E0S)
    fit.add(frames)
    # What is known of molecules is not so of coefficients drawn at random.
    fitted = fit.solve(solver, repulsion=False, distortions=0, **options)
    scale = np.abs(coefficients).max()
    assert np.abs(fitted.coefficients - coefficients).max() < 1e-6 * scale
    fresh = labelled(basis, coefficients, 4, seed=99)
    for frame in fresh:
        expected = frame.energy - sum(E0S[s] for s in frame.atoms.get_chemical_symbols())
        assert float(total_energy(fitted.model, frame.atoms)) == pytest.approx(expected, abs=1e-6)


def test_a_fit_keeps_its_own_frames_and_rows(truth, frames):
    """Atoms that move on, and systems that are written to, change nothing."""
    basis, coefficients = truth
    noisy = labelled(basis, coefficients, 20, seed=5, noise=0.05)
    own, shared = AceFit(basis.settings, e0s=E0S), AceFit(basis.settings, e0s=E0S)
    own.add(noisy)
    one = [Frame(f.atoms.copy(), f.energy, f.forces.copy(), f.virial, f.config_type) for f in noisy]
    shared.add(one)
    for frame in one:
        frame.atoms.positions += 1.0
        frame.forces[:] = 7.0
    assert np.array_equal(own.solve(committee=2).members, shared.solve(committee=2).members)
    with pytest.raises(ValueError, match="read-only"):
        own.system().matrix[0] = 0.0


def test_memory_bound_and_blocks_do_not_change_the_fit(truth, frames):
    results = []
    for memory in (2.0, 2000.0, 1e300):
        fit = AceFit(truth[0].settings, e0s=E0S, memory_mb=memory)
        fit.add(frames)
        results.append(fit.solve("ridge", ridge=1e-6).coefficients)
    for other in results[1:]:
        assert np.abs(results[0] - other).max() < 1e-5 * np.abs(results[0]).max()


def test_frames_added_later_equal_frames_added_at_once(truth, frames, tmp_path):
    noisy = labelled(*truth, 30, seed=2, noise=0.05)
    at_once = AceFit(truth[0].settings, e0s=E0S)
    at_once.add(noisy)
    grown = AceFit(truth[0].settings, e0s=E0S)
    grown.add(noisy[:12])
    grown.save(tmp_path / "fit.npz")
    again = AceFit.load(tmp_path / "fit.npz")
    again.add(noisy[12:])
    assert again.n_rows == at_once.n_rows
    assert again.n_frames == 30
    assert np.array_equal(again.closest, at_once.closest)
    a, b = at_once.solve().coefficients, again.solve().coefficients
    assert np.abs(a - b).max() < 1e-5 * np.abs(a).max()


def test_frames_added_in_parts_equal_frames_added_at_once(truth, frames):
    """And parts without one of them equal a fit without its frames."""
    settings = truth[0].settings
    parts = [frames[:5], frames[5:6], frames[6:]]
    whole, once = AceFit(settings), AceFit(settings)
    once.add(frames)
    seen = []
    fits = whole.add_in_parts(parts, lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (len(frames), len(frames))
    assert [fit.n_frames for fit in fits] == [5, 1, len(frames) - 6]
    rest = fits[1].alike()
    rest.merge(fits[0])
    rest.merge(fits[2])
    without = AceFit(settings, e0s=dict(zip(settings.symbols, once.e0s, strict=True)))
    without.add(parts[0] + parts[2])
    for found, expected in ((whole, once), (rest, without)):
        assert (found.n_rows, found.n_frames) == (expected.n_rows, expected.n_frames)
        assert np.array_equal(found.e0s, expected.e0s)
        assert np.array_equal(found.closest, expected.closest)
        mean = found.solve("ridge", ridge=1e-3, calibrate=False).coefficients
        assert np.abs(mean - expected.solve("ridge", ridge=1e-3, calibrate=False).coefficients).max() < 1e-7
    with pytest.raises(ConfigurationError, match="different self-energies"):
        rest.merge(AceFit(settings, e0s={"Al": 0.0, "Si": 0.0}).add_in_parts([frames[:2]])[0])
    with pytest.raises(ConfigurationError, match="another basis"):
        rest.merge(AceFit(dataclasses.replace(settings, cutoff=settings.cutoff + 0.5)))


def test_same_seed_same_bits(truth, tmp_path):
    noisy = labelled(*truth, 12, seed=3, noise=0.05)
    files = []
    for name in ("a", "b"):
        fit = AceFit(truth[0].settings, e0s=E0S)
        fit.add(noisy)
        fitted = fit.solve(committee=4, seed=7)
        files.append(fitted.members)
        fitted.model.save(tmp_path / f"{name}.pt")
    assert np.array_equal(files[0], files[1])
    fit = AceFit(truth[0].settings, e0s=E0S)
    fit.add(noisy)
    assert not np.array_equal(fit.solve(committee=4, seed=8).members, files[0])


def test_committee_is_centred_on_the_mean_and_knows_where_it_is_unsure(truth):
    noisy = labelled(*truth, 16, seed=5, noise=0.05)
    fit = AceFit(truth[0].settings, e0s=E0S)
    fit.add(noisy)
    fitted = fit.solve(committee=16, seed=0)
    assert np.abs(fitted.members.mean(axis=1) - fitted.coefficients).max() < 1e-12
    seen = np.mean([total_energy(fitted.model, frame.atoms).std() for frame in noisy[:4]])
    strange = cluster(np.random.default_rng(0), SYMBOLS, 8, radius=1.7)
    assert total_energy(fitted.model, strange).std() > 3 * seen


def test_uncertainty_is_calibrated(truth):
    """Errors on fresh frames are as large as the committee says, if noise and prior are what it takes them for."""
    basis, coefficients = truth
    ratios = []
    for seed in range(4):
        fit = AceFit(basis.settings, e0s=E0S)
        fit.add(labelled(basis, coefficients, 10, seed=20 + seed, noise=0.1))
        fitted = fit.solve(committee=24, seed=seed, prior_power=2.0, repulsion=False)
        for frame in labelled(basis, coefficients, 12, seed=60 + seed):
            energies = total_energy(fitted.model, frame.atoms)
            expected = frame.energy - sum(E0S[s] for s in frame.atoms.get_chemical_symbols())
            ratios.append((energies.mean() - expected) / energies.std())
    rms = np.sqrt(np.mean(np.square(ratios)))
    # Of 48 frames that share four fits: a standard deviation of some 12 %.
    assert 0.7 < rms < 1.4


def lj_frames(n_frames, seed=0, scale=0.12):
    frames = []
    for number in range(n_frames):
        atoms = bulk("Ar", cubic=True) * (2, 1, 1)
        atoms.rattle(scale, seed=seed + number)
        atoms.calc = LennardJones(sigma=3.4, epsilon=0.0104, rc=5.4, smooth=True)
        virial = -atoms.get_volume() * atoms.get_stress(voigt=False)
        frames.append(Frame(atoms, atoms.get_potential_energy(), atoms.get_forces(), virial, "default"))
    return frames


def test_dimers_rise_monotonically_below_the_closest_distance():
    fit = AceFit(AceSettings(("Ar",), order=3, degree=9, cutoff=5.5))
    fit.add(lj_frames(12))
    fitted = fit.solve(committee=6, seed=0)
    assert fitted.notes == []
    assert rises(fitted.model, 18, 18, fit.closest[0, 0])


def rises(model, a, b, closest) -> bool:
    """Whether the dimer energies of the mean and of every member fall with distance up to the closest one."""
    curves = np.array([total_energy(model, dimer(a, b, r)) for r in np.linspace(0.05, 1.0, 200) * closest])
    return bool((np.diff(curves, axis=0) < 0).all())


def test_holes_in_dimer_curves_are_closed(truth):
    """A model that somebody made up attracts at short range; the fit to it must not."""
    fit = AceFit(truth[0].settings, e0s=E0S)
    fit.add(labelled(*truth, 20, seed=9, noise=0.02))
    pairs = [(13, 13, 0, 0), (13, 14, 0, 1), (14, 14, 1, 1)]
    bare = fit.solve(committee=4, seed=0, repulsion=False).model
    assert not all(rises(bare, a, b, fit.closest[i, j]) for a, b, i, j in pairs)
    mended = fit.solve(committee=4, seed=0).model
    assert all(rises(mended, a, b, fit.closest[i, j]) for a, b, i, j in pairs)


def test_the_core_does_not_touch_the_data():
    fit = AceFit(AceSettings(("Ar",), order=2, degree=8, cutoff=5.5))
    frames = lj_frames(6)
    fit.add(frames)
    fitted = fit.solve()
    without = ace_site_model(fitted.basis, fitted.coefficients)
    for frame in frames:
        assert float(total_energy(fitted.model, frame.atoms)) == pytest.approx(
            float(total_energy(without, frame.atoms)), abs=1e-8
        )


def test_weights_per_property_and_config_type(truth, frames):
    """A label that contradicts the others is followed or ignored according to its weight."""
    wrong = [dataclasses.replace(f, energy=f.energy + 1.0) if f.config_type == "odd" else f for f in frames]
    errors = {}
    for name, weight in (("kept", 30.0), ("ignored", 0.0)):
        weights = FitWeights(per_config_type={"odd": (weight, 1.0, 1.0)})
        fit = AceFit(truth[0].settings, weights, e0s=E0S)
        fit.add(wrong)
        fitted = fit.solve("ridge", ridge=0.0, repulsion=False, distortions=0)
        errors[name] = np.abs(fitted.coefficients - truth[1]).max() / np.abs(truth[1]).max()
    assert errors["ignored"] < 1e-6
    assert errors["kept"] > 1e-3


def test_evidence_chooses_the_smoothness(truth):
    fit = AceFit(truth[0].settings, e0s=E0S)
    fit.add(labelled(*truth, 14, seed=8, noise=0.05))
    chosen = fit.solve(prior_power="auto")
    power = chosen.model.metadata["prior_power"]
    evidence = {p: fit.solve(prior_power=p).posterior.log_evidence for p in (1.0, 2.0, 3.0, 4.0, 5.0)}
    assert power == max(evidence, key=evidence.get)
    with pytest.raises(ConfigurationError, match="has no evidence"):
        fit.solve("svd", prior_power="auto")


def test_bic_finds_the_degree_that_made_the_labels():
    """One assembly of the largest basis judges all smaller ones."""
    basis, coefficients = random_ace(SYMBOLS, order=3, degree=6, cutoff=4.0, pair_degree=6, seed=3)
    frames = labelled(basis, coefficients, 30, seed=1, noise=0.02)
    fit = AceFit(dataclasses.replace(basis.settings, degree=8, pair_degree=8), e0s=E0S)
    fit.add(frames)
    choices = select_degree(fit, degrees=(4, 5, 6, 7, 8), orders=(2, 3))
    best = choices[0]
    assert (best.order, best.degree) == (3, 6)
    assert best.n_functions == basis.n_functions
    # The residual of a sub-basis is that of fitting it on its own.
    small = AceFit(dataclasses.replace(basis.settings, order=2, degree=5, pair_degree=5), e0s=E0S)
    small.add(frames)
    alone = small.solve("ridge", ridge=0.0, repulsion=False, distortions=0)
    judged = next(c for c in choices if (c.order, c.degree) == (2, 5))
    system = small.system(restraint=False)
    assert judged.n_functions == small.basis.n_functions
    assert judged.residual == pytest.approx(system.residual(alone.coefficients), rel=1e-6)


def test_sizes_are_compared_by_frames_that_a_fit_of_that_size_has_not_seen():
    basis, coefficients = random_ace(SYMBOLS, order=3, degree=6, cutoff=4.0, pair_degree=6, seed=3)
    frames = labelled(basis, coefficients, 30, seed=1, noise=0.02)
    largest = dataclasses.replace(basis.settings, degree=(10, 8, 8), pair_degree=10)
    fit = AceFit(largest, e0s=E0S)
    fit.add(frames)
    sizes = [dataclasses.replace(largest, degree=(d, min(d, 8), min(d, 8)), pair_degree=d) for d in (4, 5, 6, 8, 10)]
    found = compare_sizes(fit, sizes)
    assert [each.n_functions for each in found] == [AceBasis(size).n_functions for size in sizes]
    assert smallest_as_good(found).settings == sizes[2]  # of degree 6, as the labels
    assert found[0].worse > 2 * found[0].uncertain
    # A size of its own says the same of the same frames.
    small = AceFit(sizes[1], e0s=E0S)
    small.add(frames)
    alone = small.solve(repulsion=False, distortions=0).leave_one_out
    for kind in ("energy", "forces"):
        assert found[1].left_out[kind].rmse == pytest.approx(alone[kind].rmse, rel=0.02)
    with pytest.raises(ConfigurationError, match="degrees that are not larger"):
        compare_sizes(fit, [dataclasses.replace(largest, degree=(12, 8, 8))])
    few = AceFit(largest, e0s=E0S)
    few.add(frames[:2])
    with pytest.raises(ConfigurationError, match="too few to choose a degree"):
        compare_sizes(few, sizes)


def test_self_energies(frames):
    e0s, source = self_energies(frames, (13, 14), {"Al": 1.0, 14: 2.0})
    assert (e0s.tolist(), source) == ([1.0, 2.0], "given")
    atoms = [Frame(Atoms(s), E0S[s], None, None, "isolated") for s in SYMBOLS]
    e0s, source = self_energies([*atoms, *frames], (13, 14))
    assert (e0s.tolist(), source) == ([-56.5, -101.25], "isolated")
    e0s, source = self_energies(frames, (13, 14))
    assert source == "average"
    assert np.abs(e0s - [-56.5, -101.25]).max() < 5.0
    always = lj_frames(3)
    assert self_energies(always, (18,))[0][0] == pytest.approx(np.mean([f.energy / 8 for f in always]))
    with pytest.raises(DataError, match="single atom for Si"):
        self_energies([atoms[0], *frames], (13, 14), "isolated")
    with pytest.raises(ConfigurationError, match="not for Si"):
        self_energies(frames, (13, 14), {"Al": 1.0})
    with pytest.raises(ConfigurationError, match="'isolated' or 'average'"):
        self_energies(frames, (13, 14), "guess")


def test_distance_range():
    atoms = Atoms("AlSiSi", positions=[[0, 0, 0], [2.0, 0, 0], [0, 3.5, 0]])
    shortest, longest = distance_range([Frame(atoms, 0.0, None, None, "")], (13, 14), 4.5)
    assert longest == pytest.approx(np.hypot(2.0, 3.5))
    assert shortest[0, 1] == shortest[1, 0] == pytest.approx(2.0)
    assert shortest[1, 1] == pytest.approx(np.hypot(2.0, 3.5))
    assert np.isinf(shortest[0, 0])


def test_a_cutoff_beyond_all_data_is_noted():
    atoms = cluster(np.random.default_rng(0), SYMBOLS, 5, radius=1.5)
    frames = [Frame(atoms, -1.0, np.zeros((5, 3)), None, "")]
    fit = AceFit(AceSettings(SYMBOLS, order=2, degree=4, cutoff=7.0), e0s=E0S)
    fit.add(frames)
    assert "a shorter cutoff would do" in fit.solve().notes[0]


def damaged(frames, number, **changes):
    copies = list(frames[:4])
    copies[number] = dataclasses.replace(copies[number], **changes)
    return copies


def test_frames_that_cannot_be_fitted(frames):
    with pytest.raises(DataError, match="no frames"):
        check_frames([])
    with pytest.raises(DataError, match="Frames 2 have no energy"):
        check_frames(damaged(frames, 2, energy=None, forces=None, virial=None))
    with pytest.raises(DataError, match=r"Frames 1 .* not finite"):
        check_frames(damaged(frames, 1, forces=np.full((8, 3), np.nan)))
    flat = frames[0].atoms.copy()
    flat.pbc = [True, False, False]
    with pytest.raises(DataError, match=r"Frames 0 .* without a cell vector"):
        check_frames(damaged(frames, 0, atoms=flat))
    assert check_frames([*frames[:3], frames[1]]) == [3]


def test_fits_that_cannot_be_made(truth, frames):
    fit = AceFit(truth[0].settings, e0s=E0S)
    with pytest.raises(DataError, match="No labelled frame"):
        fit.solve()
    strange = Frame(Atoms("AlGe", positions=[[0, 0, 0], [0, 0, 2.3]]), 0.0, None, None, "")
    with pytest.raises(UnknownElementError, match="Frame 1 holds Ge"):
        fit.add([frames[0], strange])
    far = Frame(Atoms("AlAl", positions=[[0, 0, 0], [0, 0, 23.0]]), 0.0, None, None, "")
    with pytest.raises(DataError, match="No two atoms"):
        fit.add([far])
    assert fit.n_rows == 0
    fit.add(frames[:1])
    with pytest.raises(DataError, match="unknowns"):
        fit.solve("ridge", ridge=0.0)
    with pytest.raises(ConfigurationError, match="2 members"):
        fit.solve(committee=1)
    with pytest.raises(ConfigurationError, match="three numbers"):
        FitWeights(energy=-1.0)


def test_state_files(tmp_path, truth, frames, monkeypatch):
    with pytest.raises(DataError, match="does not exist"):
        AceFit.load(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK nonsense")
    with pytest.raises(DataError, match="cannot be read"):
        AceFit.load(tmp_path / "bad.npz")
    fit = AceFit(truth[0].settings, e0s=E0S)
    fit.add(frames[:2])
    with pytest.raises(OutputError):
        fit.save(tmp_path / "nowhere" / "fit.npz")
    fit.save(tmp_path / "fit.npz")
    before = (tmp_path / "fit.npz").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        fit.save(tmp_path / "fit.npz")
    monkeypatch.undo()
    assert (tmp_path / "fit.npz").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.npz", "fit.npz"]


@pytest.mark.parametrize(("elements", "choices"), [(("Al",), {}), (("Al", "Si"), {"order": 4, "degree": (7, 6, 6, 5)})])
def test_rows_by_the_operator_are_those_of_torch(elements, choices, monkeypatch):
    generator = np.random.default_rng(5)
    basis = AceBasis(AceSettings(elements, **{"degree": 8, "cutoff": 4.0, **choices}))
    structures = [cluster(generator, elements, 7), cluster(generator, elements, 5)]
    structures[1].set_cell(np.diag([4.5, 5.0, 4.8]))
    structures[1].pbc = True
    structures.append(Atoms(elements[-1], [[0.0, 0.0, 0.0]]))  # without neighbours
    assert ACE_OPERATOR.problem() is None
    found = DesignAssembler(basis).rows(structures)
    in_pieces = DesignAssembler(basis, memory_mb=0.2).rows(structures)
    monkeypatch.setattr(ACE_OPERATOR, "problem", lambda: "switched off")
    expected = DesignAssembler(basis).rows(structures)
    for rows in (found, in_pieces):
        assert np.abs(rows.energy - expected.energy).max() < 1e-11
        assert np.abs(rows.virial - expected.virial).max() < 1e-10
        for ours, theirs in zip(rows.forces, expected.forces, strict=True):
            assert np.abs(ours - theirs).max(initial=0.0) < 1e-11
    assert np.abs(expected.forces[0]).max() > 0.1
