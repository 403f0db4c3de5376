"""Skeletons to molecules, particle after particle: everything that finishing needs, made once for a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from halberd.plugins.molecules.bonding import canonical_smiles
from halberd.potentials.simgen.guidance import HostWall
from halberd.potentials.simgen.score import SimilarityScore
from halberd.potentials.sites.site_model import SiteModel
from halberd.samplers.generation.annealing import Skeleton
from halberd.samplers.generation.element_sweep import ElementSweep
from halberd.samplers.generation.finishing import Candidate, FinishOptions, finish, hydrogenate
from halberd.samplers.generation.scaffold import Scaffold


class Finisher:
    """Gives skeletons bonds and hydrogens, relaxes them, and tells molecules from failures.

    Parameters
    ----------
    force_field : SiteModel
        Relaxes; knows hydrogen.
    score : SimilarityScore
        Its references vote on hydrogens.
    options : FinishOptions
    scaffold : Scaffold, optional
    wall : HostWall, optional
    sweep : ElementSweep, optional
        Over the elements of what has its hydrogens.
    """

    def __init__(
        self,
        force_field: SiteModel,
        score: SimilarityScore,
        options: FinishOptions,
        *,
        scaffold: Scaffold | None = None,
        wall: HostWall | None = None,
        sweep: ElementSweep | None = None,
    ) -> None:
        self.force_field, self.score, self.options = force_field, score, options
        self.scaffold, self.wall, self.sweep = scaffold, wall, sweep
        # Hydrogen takes part in the relaxation.
        self.force_field.species_of([1, *(scaffold.numbers.tolist() if scaffold else [])])

    def run(
        self,
        skeletons: Sequence[Skeleton | None],
        attempts: Sequence[int],
        tell: Callable[[str, float], None],
    ) -> list[Any]:
        """Finish one batch.

        Parameters
        ----------
        skeletons : sequence of Skeleton or None
        attempts : sequence of int
            Their numbers, which molecules are marked with.
        tell : callable
            Told what is being done.

        Returns
        -------
        list of rdkit.Chem.Mol or str
            A molecule, or why there is none, per skeleton.
        """
        results: list[Any] = [None] * len(skeletons)
        begin = dict.fromkeys(range(len(skeletons)), 0)
        for _ in range(self.options.tries):
            tell("placing hydrogens", 0.0)
            tried = {k: hydrogenate(skeletons[k], self.score, self.options, self.scaffold, begin[k]) for k in begin}
            candidates = {k: each for k, each in tried.items() if isinstance(each, Candidate)}
            prepared = list(candidates.values())
            if self.sweep is not None:
                tell("sweeping over elements", 0.0)
                prepared = self.sweep.run(prepared, self.scaffold)
            tell("relaxing", 0.0)
            finished = finish(prepared, self.force_field, self.options, self.scaffold, self.wall)
            tried.update(zip(candidates, finished, strict=True))
            for k, result in tried.items():
                # Of a failure, what became of its most similar particle is remembered.
                if results[k] is None or not isinstance(result, str):
                    results[k] = result
            begin = {k: candidate.particle + 1 for k, candidate in candidates.items() if isinstance(tried[k], str)}
            if not begin:
                break
        for number, mol in zip(attempts, results, strict=True):
            if not isinstance(mol, str):
                mol.SetIntProp("attempt", number)
                mol.SetProp("smiles", canonical_smiles(mol))
        return results
