"""Attempts at molecules by a diffusion model, in the place of those by similarity."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms

from halberd.plugins.forces.options import check_device
from halberd.plugins.molecules.bonding import canonical_smiles, import_rdkit, perceive_molecule
from halberd.plugins.molecules.files import read_molecules
from halberd.plugins.molecules.repair import note_repair
from halberd.potentials.diffusion.model import DiffusionModel
from halberd.potentials.errors import ConfigurationError, DataError
from halberd.potentials.loading import load
from halberd.potentials.mace.descriptor import mace_descriptor
from halberd.potentials.simgen.score import SimilarityScore
from halberd.samplers.generation.annealing import Skeleton
from halberd.samplers.generation.diffusion import NEAR, Denoised, DenoisingSampler
from halberd.samplers.generation.finisher import Finisher
from halberd.samplers.generation.references import load_references
from halberd.samplers.generation.settings import MODELS, GenerationSettings

#: Causes of failure.
NO_MOLECULE = "no neutral molecule in one piece"
LOST = "numbers without bounds"
OTHER_SIZE = "other number of heavy atoms"


class DenoisedGenerator:
    """Everything a run needs, made once from its settings.

    Parameters
    ----------
    settings : GenerationSettings
        ``method`` is ``diffusion``.

    Raises
    ------
    ModelFileError
        If the model cannot be read.
    DataError, UnknownElementError
        If molecules to start from cannot be read, or the model cannot begin with them.
    ConfigurationError
        If it has seen no molecule of a size that is asked for, or elements that what repairs them does not know.
    """

    def __init__(self, settings: GenerationSettings) -> None:
        import_rdkit()
        self.settings = settings
        self.model = DiffusionModel.load(settings.model_or_default)
        denoising = settings.denoising
        self.starts = None if settings.start is None else _starts(settings.start, self.model)
        if self.starts is not None and denoising.sigma_max is None:
            denoising = dataclasses.replace(denoising, sigma_max=NEAR)
        self.sampler = DenoisingSampler(self.model, denoising)
        wanted = None if self.starts is not None else settings.sizes
        table = {key: count for key, count in self.model.sizes.items() if wanted is None or key[0] in wanted}
        if not table:
            known = sorted({heavy for heavy, _ in self.model.sizes})
            raise ConfigurationError(
                f"'{self.model.name}' was trained on molecules of {known[0]} to {known[-1]} heavy atoms, and "
                f"heavy_atoms is {settings.heavy_atoms}: ask for some of these."
            )
        self.sizes = np.array([atoms for _, atoms in table])
        self.shares = np.array(list(table.values())) / sum(table.values())
        heavy = [heavy for heavy, _ in table]
        if self.starts is not None:
            heavy = [int((each.numbers > 1).sum()) for each in self.starts]
        self.finisher = self._finisher(max(heavy)) if settings.repair else None

    def _finisher(self, largest: int) -> Finisher:
        """What makes skeletons of similarity molecules."""
        settings = self.settings
        check_device(settings.device)
        force_field = load(MODELS["simgen"], precision=settings.precision).to(device=settings.device)
        unknown = sorted(set(self.model.atomic_numbers) - set(force_field.atomic_numbers))
        if unknown:
            raise ConfigurationError(
                f"'{self.model.name}' makes molecules of the elements with the numbers {unknown}, too, which "
                f"'{MODELS['simgen']}' cannot relax: give repair: false."
            )
        references = load_references(settings.references, largest)
        score = SimilarityScore(mace_descriptor(force_field), references)
        return Finisher(force_field, score, settings.finish)

    def start_of(self, attempt: int) -> Atoms | None:
        """What an attempt begins with, if not with noise alone."""
        if self.starts is None:
            return None
        return self.starts[int(np.random.default_rng([self.settings.seed, attempt, 1]).integers(len(self.starts)))]

    def size_of(self, attempt: int) -> int:
        """Atoms of an attempt: of what it begins with, or as often as among the molecules of the training."""
        start = self.start_of(attempt)
        if start is not None:
            return len(start)
        return int(np.random.default_rng([self.settings.seed, attempt, 1]).choice(self.sizes, p=self.shares))

    def attempt(
        self, attempts: range, progress: Callable[[str, float], None] | None = None
    ) -> tuple[list[Any], dict[str, float]]:
        """Make a batch of attempts; see :meth:`halberd.samplers.generation.generator.Generator.attempt`."""
        tell = progress or (lambda _what, _part: None)
        started = time.perf_counter()
        seeds = [[self.settings.seed, k] for k in attempts]
        starts = [each for each in map(self.start_of, attempts) if each is not None] or None
        sizes = [self.size_of(k) for k in attempts]
        made = self.sampler.run(sizes, seeds, lambda part: tell("annealing", part), starts)
        denoised = time.perf_counter()
        if self.finisher is None:
            results = [self._molecule(each, k) for k, each in zip(attempts, made, strict=True)]
        else:
            results = self.finisher.run([_skeleton(each) for each in made], attempts, tell)
            for each, mol in zip(made, results, strict=True):
                if each is not None and not isinstance(mol, str):
                    mol.ClearProp("log_density")
                    mol.SetDoubleProp("certainty", float(each.certainty[each.numbers > 1].min()))
        results = [self._of_size(each) for each in results]
        return results, {"anneal": denoised - started, "finish": time.perf_counter() - denoised}

    def _of_size(self, result: Any) -> Any:
        """A molecule of a size that was asked for: the model is told of atoms alone, and chooses their elements."""
        wanted = None if self.starts is not None else self.settings.sizes
        if isinstance(result, str) or wanted is None or result.GetNumHeavyAtoms() in wanted:
            return result
        return OTHER_SIZE

    @staticmethod
    def _molecule(made: Denoised | None, attempt: int) -> Any:
        """A molecule with its bonds, or why there is none."""
        if made is None:
            return LOST
        mol = perceive_molecule(made.numbers, made.positions)
        if mol is None:
            return NO_MOLECULE
        note_repair(mol, mol)
        mol.SetIntProp("attempt", attempt)
        mol.SetIntProp("particle", 0)
        mol.SetDoubleProp("certainty", float(made.certainty.min()))
        mol.SetProp("smiles", canonical_smiles(mol))
        return mol


def _starts(file: str, model: DiffusionModel) -> list[Atoms]:
    """Molecules to begin with, as a model can take them."""
    found = read_molecules(file)
    for number, atoms in enumerate(found):
        wrong = {
            "is a single atom": len(atoms) < 2,
            "is periodic": bool(atoms.pbc.any()),
            "has positions that are no numbers": not np.isfinite(atoms.positions).all(),
        }
        for what in (what for what, is_so in wrong.items() if is_so):
            raise DataError(f"Molecule {number} (counted from 0) of '{file}' {what}: attempts cannot begin with it.")
        model.elements_of(atoms.numbers)
    return found


def _skeleton(made: Denoised | None) -> Skeleton | None:
    """The heavy atoms, as one particle whose density nobody knows."""
    if made is None:
        return None
    heavy = made.numbers > 1
    if not heavy.any():
        return None
    numbers, positions = made.numbers[heavy], made.positions[heavy]
    return Skeleton(numbers[None], positions[None], np.zeros((1, len(numbers))))
