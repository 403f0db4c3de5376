"""Attempts at molecules by a diffusion model, in the place of those by similarity: nothing is finished or relaxed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from halberd.plugins.molecules.bonding import canonical_smiles, import_rdkit, perceive_molecule
from halberd.plugins.molecules.repair import note_repair
from halberd.potentials.diffusion.model import DiffusionModel
from halberd.potentials.errors import ConfigurationError
from halberd.samplers.generation.diffusion import Denoised, DenoisingSampler
from halberd.samplers.generation.settings import GenerationSettings

#: Causes of failure.
NO_MOLECULE = "no neutral molecule in one piece"
LOST = "numbers without bounds"


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
    ConfigurationError
        If it has seen no molecule of a size that is asked for.
    """

    def __init__(self, settings: GenerationSettings) -> None:
        import_rdkit()
        self.settings = settings
        self.model = DiffusionModel.load(settings.model)
        self.sampler = DenoisingSampler(self.model, settings.denoising)
        wanted = settings.sizes
        table = {key: count for key, count in self.model.sizes.items() if wanted is None or key[0] in wanted}
        if not table:
            known = sorted({heavy for heavy, _ in self.model.sizes})
            raise ConfigurationError(
                f"'{self.model.name}' was trained on molecules of {known[0]} to {known[-1]} heavy atoms, and "
                f"heavy_atoms is {settings.heavy_atoms}: ask for some of these."
            )
        self.sizes = np.array([atoms for _, atoms in table])
        self.shares = np.array(list(table.values())) / sum(table.values())

    def size_of(self, attempt: int) -> int:
        """Atoms of an attempt, as often as among the molecules that the model was trained on."""
        return int(np.random.default_rng([self.settings.seed, attempt, 1]).choice(self.sizes, p=self.shares))

    def attempt(
        self, attempts: range, progress: Callable[[str, float], None] | None = None
    ) -> tuple[list[Any], dict[str, float]]:
        """Make a batch of attempts; see :meth:`halberd.samplers.generation.generator.Generator.attempt`."""
        tell = progress or (lambda _what, _part: None)
        started = time.perf_counter()
        seeds = [[self.settings.seed, k] for k in attempts]
        made = self.sampler.run([self.size_of(k) for k in attempts], seeds, lambda part: tell("annealing", part))
        denoised = time.perf_counter()
        results = [self._molecule(each, k) for k, each in zip(attempts, made, strict=True)]
        return results, {"anneal": denoised - started, "finish": time.perf_counter() - denoised}

    def _molecule(self, made: Denoised | None, attempt: int) -> Any:
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
