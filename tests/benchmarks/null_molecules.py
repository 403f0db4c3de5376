"""Molecules without a method: what any number about generated molecules is to be compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halberd.plugins.molecules.bonding import canonical_smiles, import_rdkit, is_valid, numbers_of, perceive_molecule
from halberd.plugins.molecules.qm9 import draw_qm9
from halberd.samplers import GenerationSettings
from halberd.samplers.generation.annealing import Skeleton
from halberd.samplers.generation.generator import Generated, Generator, count_results

#: Bonds of a tree, and the closest atoms that are not bonded, angstrom.
BOND, CLOSEST = 1.47, 2.2


def random_tree(
    size: int, elements: Sequence[int], generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Atoms hung on atoms at random: right bond lengths, nothing too close, and nothing else.

    Parameters
    ----------
    size : int
    elements : sequence of int
        Atomic numbers to draw from.
    generator : numpy.random.Generator

    Returns
    -------
    numbers : array of int, shape (size,)
    positions : array, shape (size, 3), angstrom
    """
    positions = np.zeros((1, 3))
    while len(positions) < size:
        direction = generator.normal(size=3)
        parent = int(generator.integers(len(positions)))
        new = positions[parent] + BOND * direction / np.linalg.norm(direction)
        others = np.delete(np.linalg.norm(positions - new, axis=1), parent)
        if len(others) == 0 or others.min() > CLOSEST:
            positions = np.concatenate([positions, new[None]])
    return generator.choice(np.array(elements), size), positions


class RandomTrees:
    """Stands where the sampler stands in a generator: particles are random trees."""

    def __init__(self, elements: Sequence[int], particles: int) -> None:
        self.elements, self.particles = list(elements), particles

    def run(
        self,
        sizes: Sequence[int],
        seeds: Sequence[Sequence[int]],
        progress: Callable[[float], None] | None = None,
    ) -> list[Skeleton]:
        """As :meth:`halberd.samplers.generation.annealing.SimilaritySampler.run`."""
        skeletons = []
        for size, seed in zip(sizes, seeds, strict=True):
            generator = np.random.default_rng([*seed, 77])
            made = [random_tree(size, self.elements, generator) for _ in range(self.particles)]
            numbers, positions = (np.stack(each) for each in zip(*made, strict=True))
            skeletons.append(Skeleton(numbers, positions, np.zeros((self.particles, size))))
        if progress is not None:
            progress(1.0)
        return skeletons


def grow_trees(settings: GenerationSettings) -> Generated:
    """Random trees that go through the finisher of ``halberd generate``, one attempt for every molecule asked for."""
    generator = Generator(settings)
    generator.sampler = RandomTrees([6, 7, 8], settings.sampler.particles)  # type: ignore[assignment]
    results: list[Any] = []
    while len(results) < settings.n:
        batch = range(len(results), min(len(results) + settings.batch, settings.n))
        results += generator.attempt(batch)[0]
    return count_results(dataclasses.replace(settings, unique=False), results, {})


def embedded_references(count: int, seed: int) -> list[Any]:
    """Molecules of QM9, their graphs embedded anew by distance geometry and relaxed by MMFF94: nothing new but places.

    Parameters
    ----------
    count : int
        Drawn; those that cannot be embedded or are not valid are left out.
    seed : int
    """
    Chem = import_rdkit()
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    made = []
    for number, atoms in enumerate(draw_qm9(count, seed)):
        mol = Chem.MolFromSmiles(atoms.info["smiles"])
        if mol is None:
            continue
        mol = Chem.AddHs(mol)
        if rdDistGeom.EmbedMolecule(mol, randomSeed=seed + number) != 0:
            continue
        if rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
            rdForceFieldHelpers.MMFFOptimizeMolecule(mol)
        found = perceive_molecule(numbers_of(mol), mol.GetConformer().GetPositions())
        if is_valid(found):
            found.SetProp("smiles", canonical_smiles(found))
            made.append(found)
    return made
