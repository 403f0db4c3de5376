"""A last look at the elements: every generated atom is tried as its isoelectronic neighbours, by energy.

CH2, NH and O take the same place in a molecule. Their energies compare once every element has a chemical potential: the
least-squares energy per atom of relaxed reference molecules, hydrogen included. A candidate's excess energy over that
says how strained or oddly composed it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halberd.plugins.molecules.bonding import heavy_bonds, import_rdkit, numbers_of, skeleton_molecule
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.simgen.score import SimilarityScore
from halberd.potentials.simgen.valence import VALENCE, Valences, assign_valences, certain_hydrogens
from halberd.potentials.sites.elements import atomic_number_of
from halberd.potentials.sites.site_model import SiteModel
from halberd.samplers.generation.finishing import Candidate, place_hydrogens
from halberd.samplers.generation.relaxation import relax
from halberd.samplers.generation.scaffold import Scaffold

#: Reference molecules that the chemical potentials are fitted to.
_MOLECULES = 60


class ElementSweep:
    """Replaces elements where that lowers the excess energy.

    Parameters
    ----------
    force_field : SiteModel
    score : SimilarityScore
        Its reference set gives the chemical potentials.
    elements : sequence of str
        To choose from.
    margin : float
        Least gain of a replacement, eV.
    rounds : int
        Replacements per molecule at most.

    Raises
    ------
    ConfigurationError
        If ``margin`` is negative or ``rounds`` below 1.
    """

    def __init__(
        self,
        force_field: SiteModel,
        score: SimilarityScore,
        elements: Sequence[str],
        *,
        margin: float = 0.2,
        rounds: int = 3,
    ) -> None:
        if margin < 0 or rounds < 1:
            raise ConfigurationError(f"margin must be 0 or more and rounds at least 1, got {margin} and {rounds}.")
        self.force_field, self.margin, self.rounds = force_field, margin, rounds
        self.elements = [atomic_number_of(element) for element in elements]
        self.potentials = chemical_potentials(force_field, score)

    def excess(self, numbers: Sequence[NDArray[np.int64]], energies: NDArray[np.float64]) -> NDArray[np.float64]:
        """Energies over the chemical potentials of their atoms, eV; elements without one count nothing."""
        sums = [sum(self.potentials.get(int(z), 0.0) for z in each) for each in numbers]
        return energies - np.array(sums)

    def run(self, candidates: Sequence[Candidate], scaffold: Scaffold | None = None) -> list[Candidate]:
        """Sweep over candidates, all at once; scaffold atoms keep their elements."""
        current = list(candidates)
        active = list(range(len(current)))
        for _ in range(self.rounds):
            trials: list[tuple[int, Candidate]] = [(k, current[k]) for k in active]
            trials += [(k, trial) for k in active for trial in self.alternatives(current[k], scaffold)]
            if not trials:
                break
            numbers = [numbers_of(trial.mol) for _, trial in trials]
            positions = [trial.mol.GetConformer().GetPositions() for _, trial in trials]
            energies = relax(self.force_field, numbers, positions, steps=0).energies
            excess = self.excess(numbers, energies)
            before = {k: excess[place] for place, k in enumerate(active)}
            best: dict[int, tuple[float, Candidate]] = {}
            for (k, trial), value in zip(trials[len(active) :], excess[len(active) :], strict=True):
                if value < min(before[k] - self.margin, best[k][0] if k in best else np.inf):
                    best[k] = (float(value), trial)
            for k, (_, trial) in best.items():
                current[k] = trial
            active = sorted(best)
        return current

    def alternatives(self, candidate: Candidate, scaffold: Scaffold | None = None) -> list[Candidate]:
        """The same molecule with one generated atom replaced, for all replacements that its bonds allow."""
        Chem = import_rdkit()
        mol = Chem.Mol(candidate.mol)
        Chem.Kekulize(mol, clearAromaticFlags=True)
        heavy, bonds = heavy_bonds(mol)
        numbers = numbers_of(mol)[heavy]
        hydrogens = np.array([mol.GetAtomWithIdx(int(k)).GetTotalNumHs(includeNeighbors=True) for k in heavy])
        positions = mol.GetConformer().GetPositions()[heavy]
        generated = len(heavy) - (len(scaffold.numbers) if scaffold else 0)
        found = []
        for atom in range(generated):
            for element in self.elements:
                change = VALENCE[element] - VALENCE[int(numbers[atom])]
                if element == numbers[atom] or hydrogens[atom] + change < 0:
                    continue
                kinds, counts = numbers.copy(), hydrogens.copy()
                kinds[atom], counts[atom] = element, counts[atom] + change
                skeleton = skeleton_molecule(kinds, positions, Valences(bonds, counts, 0.0))
                if skeleton is not None:
                    placed = place_hydrogens(skeleton, generated, scaffold)
                    found.append(Candidate(*placed, candidate.log_density, candidate.particle))
        return found


def chemical_potentials(force_field: SiteModel, score: SimilarityScore) -> dict[int, float]:
    """Least-squares energy per atom of each element in relaxed reference molecules, eV."""
    references = score.references
    molecules: list[Any] = []
    for numbers, positions, counts in zip(
        references.numbers[:_MOLECULES], references.positions, references.hydrogens, strict=False
    ):
        valences = assign_valences(numbers, positions, certain_hydrogens(counts))
        skeleton = None if valences is None else skeleton_molecule(numbers, positions, valences)
        if skeleton is not None:
            molecules.append(place_hydrogens(skeleton, len(numbers))[0])
    kinds = [numbers_of(mol) for mol in molecules]
    energies = relax(force_field, kinds, [m.GetConformer().GetPositions() for m in molecules], steps=25).energies
    elements = np.unique(np.concatenate(kinds))
    counts_of = np.array([[(each == z).sum() for z in elements] for each in kinds], dtype=np.float64)
    solution = np.linalg.lstsq(counts_of, energies, rcond=None)[0]
    return {int(z): float(value) for z, value in zip(elements, solution, strict=True)}
