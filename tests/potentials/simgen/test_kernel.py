"""Similarity kernel and score: values by hand, gradients, invariance, and that references look like references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from scipy.spatial.transform import Rotation

from halberd.potentials import load
from halberd.potentials.errors import ConfigurationError, DataError, ModelError, UnknownElementError
from halberd.potentials.mace.descriptor import mace_descriptor
from halberd.potentials.multi_ace.sites import network_in
from halberd.potentials.simgen.kernel import SimilarityKernel
from halberd.potentials.simgen.reference_set import ReferenceSet
from halberd.potentials.simgen.score import SimilarityScore, reference_features
from halberd.potentials.sites.block_list import BlockNeighbors
from halberd.potentials.sites.lennard_jones import lennard_jones

SIGMAS = (1.0, 0.3, 0.05, 0.01, 0.001)


@pytest.fixture(scope="module")
def descriptor():
    return mace_descriptor(load("gfn2-chnof@1", precision="double"))


@pytest.fixture(scope="module")
def references():
    return ReferenceSet.load("qm9-small")


@pytest.fixture(scope="module")
def score(descriptor, references):
    return SimilarityScore(descriptor, references)


def kernel_by_hand(features, references, sigma, widths=1.0):
    m = 119 * (1 - (sigma / 10) ** 0.25) + 1
    scale = (references**2).sum(1).mean()
    d2 = ((features[:, None] - references[None]) ** 2).sum(2)
    return -0.5 * m * d2 / (scale * widths)


@pytest.fixture(scope="module")
def clouds():
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    others = torch.randn(11, 5, generator=generator, dtype=torch.float64)
    return features, others, torch.tensor([0, 1, 0, 2, 1, 0, 0])


@pytest.mark.parametrize("block", [1, 8, 1 << 20])
@pytest.mark.parametrize("sigma", SIGMAS)
def test_direct_sum_is_the_formula_in_blocks_of_any_size(clouds, block, sigma):
    features, others, species = clouds
    kernel = SimilarityKernel(others, (1, 6, 8), {"C": 1.4})
    kernel.block = block
    widths = torch.tensor([1.0, 1.4, 1.0], dtype=torch.float64)[species]
    moving = features.clone().requires_grad_()
    expected = torch.logsumexp(kernel_by_hand(moving, others, sigma, widths[:, None]), 1)
    (gradient,) = torch.autograd.grad(expected.sum(), moving)
    again = features.clone().requires_grad_()
    found = kernel.direct(again, species, torch.tensor(sigma, dtype=torch.float64))
    (other,) = torch.autograd.grad(found.sum(), again)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(other, gradient, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("block", [1, 30, 1 << 20])
def test_coverage_sum_is_the_formula_molecule_by_molecule(clouds, block):
    features, others, species = clouds
    owner = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    kernel = SimilarityKernel(others, (1, 6, 8), {"C": 1.4})
    kernel.block = block
    widths = torch.tensor([1.0, 1.4, 1.0], dtype=torch.float64)[species][:, None]
    moving = features.clone().requires_grad_()
    exponents = kernel_by_hand(moving, others, 0.2, widths)
    expected = torch.stack([torch.logsumexp(exponents[owner == m], 0).sum() for m in range(2)])
    (gradient,) = torch.autograd.grad(expected.sum(), moving)
    again = features.clone().requires_grad_()
    shares = kernel.coverage(again, species, torch.tensor(0.2, dtype=torch.float64), owner, 2)
    (other,) = torch.autograd.grad(shares.sum(), again)
    found = torch.zeros(2, dtype=torch.float64).index_add_(0, owner, shares.detach())
    torch.testing.assert_close(found, expected.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(other, gradient, rtol=1e-9, atol=1e-10)


def test_width_follows_the_noise_as_published():
    kernel = SimilarityKernel(torch.eye(2), (6,))
    values = [float(kernel.inverse_width(torch.tensor(s, dtype=torch.float64))) for s in (0.0, 0.01, 0.5, 1.0, 1.3, 20)]
    np.testing.assert_allclose(values, [120.0, 98.8, 63.7, 53.1, 48.5, 1.0], atol=0.05)
    constant = SimilarityKernel(torch.eye(2), (6,), inverse_width=30.0)
    assert float(constant.inverse_width(torch.tensor(0.2))) == 30.0


@pytest.mark.parametrize("coverage", [0.0, 1.0, 0.4])
@pytest.mark.parametrize("sigma", SIGMAS)
def test_score_is_minus_the_gradient_at_every_noise_level(descriptor, references, sigma, coverage):
    score = SimilarityScore(descriptor, references, coverage=coverage)
    rng = np.random.default_rng(1)
    positions = torch.tensor(np.concatenate([references.positions[k] for k in (0, 1)]), dtype=torch.float64)
    positions = positions + torch.tensor(rng.normal(scale=0.1, size=positions.shape))
    sizes = [len(references.numbers[k]) for k in (0, 1)]
    species = descriptor.species_of(np.concatenate([references.numbers[k] for k in (0, 1)]))
    owner = torch.repeat_interleave(torch.arange(2), torch.tensor(sizes))
    neighbors = BlockNeighbors(sizes, descriptor.cutoff)
    level = torch.tensor(sigma, dtype=torch.float64)

    def energy(x):
        edge_index, vectors = neighbors(x)
        return score.module(species, edge_index, vectors, level, owner, 2).sum()

    moving = positions.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(energy(moving), moving)
    for atom, axis in ((0, 0), (3, 1), (len(positions) - 1, 2)):
        step = torch.zeros_like(positions)
        step[atom, axis] = 1e-4
        slope = (energy(positions + step) - energy(positions - step)) / 2e-4
        np.testing.assert_allclose(float(gradient[atom, axis]), float(slope.detach()), rtol=1e-5, atol=1e-5)


def log_density(score, numbers, positions, sigma=0.01):
    neighbors = BlockNeighbors([len(numbers)], score.descriptor.cutoff)
    return score.log_density(torch.tensor(positions), score.descriptor.species_of(numbers), neighbors, sigma).sum()


@pytest.mark.parametrize("sigma", SIGMAS)
def test_references_are_denser_than_distorted_ones(score, references, sigma):
    rng = np.random.default_rng(7)
    for k in range(10):
        z, x = references.numbers[k], references.positions[k]
        distorted = x + rng.normal(scale=0.25, size=x.shape)
        assert log_density(score, z, x, sigma) > log_density(score, z, distorted, sigma) + 1.0
        assert log_density(score, z, x, sigma) / len(z) <= score.highest_density(sigma) + 1e-6


def test_unseen_molecules_are_denser_than_distorted_ones(score):
    """Averaged over molecules that are not among the 64 references."""
    unseen = ReferenceSet.load("qm9")
    rng = np.random.default_rng(8)
    gaps = []
    for k in range(200, 230):
        z, x = unseen.numbers[k], unseen.positions[k]
        moved = x + rng.normal(scale=0.2, size=x.shape)
        gaps.append(float(log_density(score, z, x) - log_density(score, z, moved)))
    assert np.mean(gaps) > 10
    assert min(gaps) > 0


def test_rotation_permutation_and_translation_change_nothing(score, references):
    z, x = references.numbers[4], references.positions[4]
    order = np.random.default_rng(2).permutation(len(z))
    turned = (x @ Rotation.from_rotvec([0.3, -1.0, 0.7]).as_matrix().T + 5.0)[order]
    before, after = log_density(score, z, x), log_density(score, z[order], turned)
    # The model was fitted in single precision, and its file holds couplings that are equivariant to that precision.
    np.testing.assert_allclose(float(before), float(after), rtol=1e-8)


def test_vote_finds_the_hydrogens_of_unseen_molecules(descriptor):
    unseen = ReferenceSet.load("qm9")
    parts = (unseen.numbers, unseen.positions, unseen.hydrogens, unseen.masks)
    score = SimilarityScore(descriptor, ReferenceSet("seen", *(part[:200] for part in parts)))
    right = total = 0
    for k in range(200, 256):
        votes = score.hydrogen_vote(unseen.numbers[k], unseen.positions[k])
        np.testing.assert_allclose(np.exp(votes).sum(1), 1.0, rtol=1e-6)
        right += int((votes.argmax(1) == unseen.hydrogens[k]).sum())
        total += len(votes)
    assert right / total > 0.98


def test_descriptor_is_the_first_layer_of_the_network():
    model = load("gfn2-chnof@1", precision="double")
    found = mace_descriptor(model)
    atoms = molecule("CH3CONH2")
    edge_index, vectors = BlockNeighbors([len(atoms)], model.cutoff)(torch.tensor(atoms.positions))
    species = model.species_of(atoms.numbers)
    network = network_in(model.module)
    features = network.features(species, edge_index, vectors)[0][0].squeeze(1)
    assert found.n_columns == 64
    for each in (found.module, found.scripted()):
        torch.testing.assert_close(each(species, edge_index, vectors), features, rtol=1e-9, atol=1e-9)


def test_descriptors_of_both_implementations_agree(mace_files):
    atoms = molecule("CH3CH2OH")
    results = []
    for implementation in ("mace-torch", "multi-ace"):
        model = load(mace_files["scale-shift"], implementation=implementation)
        found = mace_descriptor(model)
        edge_index, vectors = BlockNeighbors([len(atoms)], model.cutoff)(torch.tensor(atoms.positions))
        vectors = torch.cat([vectors[:3] * 0.3, vectors[3:]])  # some closer than descriptors look at
        results.append(found.scripted()(model.species_of(atoms.numbers), edge_index, vectors))
    torch.testing.assert_close(results[0], results[1], rtol=1e-8, atol=1e-8)


def test_descriptor_of_a_model_with_vectors_takes_its_scalars_alone(mace_files):
    model = load(mace_files["scale-shift"])
    found = mace_descriptor(model)
    assert found.n_columns == 8
    atoms = molecule("CH3CH2OH")
    turned = atoms.copy()
    turned.positions = turned.positions @ Rotation.from_rotvec([0.3, 0.2, -1.0]).as_matrix().T
    results = []
    for each in (atoms, turned):
        edge_index, vectors = BlockNeighbors([len(each)], model.cutoff)(torch.tensor(each.positions))
        results.append(found(model.species_of(each.numbers), edge_index, vectors))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-10)


def test_overlapping_atoms_stay_finite(score):
    positions = np.zeros((4, 3))
    positions[1, 0], positions[2, 1] = 1e-9, 0.3
    moving = torch.tensor(positions, requires_grad=True)
    neighbors = BlockNeighbors([4], score.descriptor.cutoff)
    species = score.descriptor.species_of([6, 6, 7, 8])
    values = score.log_density(moving, species, neighbors, 0.5)
    (gradient,) = torch.autograd.grad(values.sum(), moving)
    assert torch.isfinite(values).all()
    assert torch.isfinite(gradient).all()


def test_bad_input(descriptor, references, tmp_path):
    with pytest.raises(ConfigurationError, match="shape"):
        SimilarityKernel(torch.zeros(0, 3), (6,))
    with pytest.raises(ConfigurationError, match="not finite"):
        SimilarityKernel(torch.full((2, 2), float("nan")), (6,))
    with pytest.raises(ConfigurationError, match="width of C"):
        SimilarityKernel(torch.eye(2), (6,), {"C": 0.0})
    with pytest.raises(ConfigurationError, match="inverse_width"):
        SimilarityKernel(torch.eye(2), (6,), inverse_width=-1.0)
    with pytest.raises(ConfigurationError, match="coverage"):
        SimilarityScore(descriptor, references, coverage=2.0)
    with pytest.raises(ConfigurationError, match="closest"):
        mace_descriptor(load("gfn2-chnof@1"), closest=9.0)
    with pytest.raises(ModelError, match="not a MACE"):
        mace_descriptor(lennard_jones((6,), 0.01, 3.0, 5.0))
    sulphur = ReferenceSet.from_atoms([molecule("CH3SH")], "thiols")
    with pytest.raises(UnknownElementError, match="'thiols' holds S"):
        SimilarityScore(descriptor, sulphur)


def test_reference_sets(tmp_path, references):
    assert len(references) == 64
    assert set(references.symbols) == {"C", "N", "O"}
    ethanol, water = molecule("CH3CH2OH"), molecule("H2O")
    made = ReferenceSet.from_atoms([ethanol, water], "two", masks=[np.array([True, False, True]), np.array([True])])
    assert list(made.hydrogens[1]) == [2]
    assert sorted(made.hydrogens[0]) == [1, 2, 3]
    assert made.n_atoms == 3
    made.save(tmp_path / "two.npz")
    back = ReferenceSet.load(tmp_path / "two.npz")
    assert back.name == "two"
    assert back.n_atoms == 3
    np.testing.assert_allclose(back.positions[0], made.positions[0], atol=6e-4)
    assert reference_features(mace_descriptor(load("gfn2-chnof@1")), back).shape == (3, 64)
    with pytest.raises(DataError, match="Did you mean 'joined'"):
        ReferenceSet.load("joind")
    (tmp_path / "bad.npz").write_text("nothing")
    with pytest.raises(DataError, match="not a reference set"):
        ReferenceSet.load(tmp_path / "bad.npz")
    with pytest.raises(DataError, match="no heavy atom"):
        ReferenceSet.from_atoms([molecule("H2")])
    far = Atoms("CH", positions=[[0, 0, 0], [0, 0, 3]])
    with pytest.raises(DataError, match=r"hydrogen 3\.00 angstrom"):
        ReferenceSet.from_atoms([far])
    with pytest.raises(DataError, match="no atom to compare"):
        ReferenceSet.from_atoms([])
    with pytest.raises(DataError, match="its mask"):
        ReferenceSet.from_atoms([ethanol], masks=[np.array([True])])
    broken = ethanol.copy()
    broken.positions[0, 0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        ReferenceSet.from_atoms([broken])
