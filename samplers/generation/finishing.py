"""From skeletons to molecules: bonds, hydrogens, relaxation, and the reasons why some do not make it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halberd.plugins.molecules.bonding import import_rdkit, is_valid, numbers_of, perceive_molecule, skeleton_molecule
from halberd.plugins.molecules.repair import note_repair
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.simgen.guidance import HostWall
from halberd.potentials.simgen.score import SimilarityScore
from halberd.potentials.simgen.valence import assign_valences
from halberd.potentials.sites.site_model import SiteModel
from halberd.potentials.validation import conform
from halberd.samplers.generation.annealing import Skeleton
from halberd.samplers.generation.relaxation import Relaxed, relax
from halberd.samplers.generation.scaffold import Scaffold

#: Why a molecule failed; keys of the count of failures.
LOST = "atoms flew apart"
NO_MORE = "no particle left"
CLASH = "atoms overlap"
VALENCE_FAILED = "no bonds fill the valences"
FRAGMENTS = "several fragments"
REFUSED = "RDKit refuses it"
NOT_RELAXED = "not relaxed"
CHANGED = "no valid molecule after relaxation"
HOST = "clashes with the host"
DETACHED = "scaffold changed"

#: Closest heavy atoms of a skeleton, and how deep an atom may be in the wall of a host, angstrom.
_CLOSEST, _DEEPEST = 0.95, 0.6
#: Largest force after relaxation, eV/angstrom, that still counts as relaxed.
_LARGEST_FORCE = 0.2


@dataclasses.dataclass(frozen=True)
class FinishOptions:
    """How skeletons become molecules.

    Attributes
    ----------
    hydrogens : {'vote', 'lengths'}
        Whether similar reference atoms vote on the number of hydrogens, or bond lengths alone decide.
    joint : bool
        Whether bonds and hydrogens are chosen together so that valences are filled. If not, hydrogens fill up what the
        likeliest bond orders leave, as other generators do it: a baseline.
    classical : bool
        Whether a classical force field (MMFF94, else UFF), which knows the bonds, goes over the geometry first: it
        takes out clashes of hydrogens, which a learned one may answer with a reaction.
    fmax : float
        Where relaxation stops, eV/angstrom.
    steps : int
        Evaluations after which it stops.
    tries : int
        Particles of a molecule that are relaxed, one after the other, until one gives a valid molecule.
    relax_scaffold : bool
        Whether scaffold atoms may move in the relaxation.
    """

    hydrogens: str = "vote"
    joint: bool = True
    classical: bool = True
    fmax: float = 0.05
    steps: int = 200
    tries: int = 3
    relax_scaffold: bool = False

    def __post_init__(self) -> None:
        conform(self)
        if self.hydrogens not in ("vote", "lengths"):
            raise ConfigurationError(f"hydrogens is '{self.hydrogens}'; it must be 'vote' or 'lengths'.")
        if not self.fmax > 0 or self.steps < 0 or self.tries < 1:
            raise ConfigurationError(
                "fmax must be positive, steps 0 or more and tries at least 1, got "
                f"{self.fmax}, {self.steps} and {self.tries}."
            )


@dataclasses.dataclass
class Candidate:
    """A molecule on its way: hydrogens placed, not relaxed yet.

    Attributes
    ----------
    mol : rdkit.Chem.Mol
    fixed : array of bool, shape (n,)
        Atoms of the scaffold.
    log_density : float
        Mean over generated atoms.
    particle : int
        Which one it was made of, 0 for the most similar.
    """

    mol: Any
    fixed: NDArray[np.bool_]
    log_density: float
    particle: int = 0


def hydrogenate(
    skeleton: Skeleton | None,
    score: SimilarityScore,
    options: FinishOptions,
    scaffold: Scaffold | None = None,
    begin: int = 0,
) -> Candidate | str:
    """Give a skeleton bonds and hydrogens.

    The particles are tried in the order of their similarity; the first that becomes a molecule is taken.

    Parameters
    ----------
    skeleton : Skeleton, or None for one that was lost
    score : SimilarityScore
        Lets its references vote on hydrogens.
    options : FinishOptions
    scaffold : Scaffold, optional
        Its bonds are kept, and those of its hydrogens that stay keep their places.
    begin : int
        Particle to begin with.

    Returns
    -------
    Candidate or str
        Or the reason why the first of these particles failed.
    """
    if skeleton is None:
        return LOST
    first: str | None = None
    for particle in range(begin, len(skeleton.numbers)):
        numbers, positions = skeleton.numbers[particle], skeleton.positions[particle]
        generated = len(numbers) - (len(scaffold.numbers) if scaffold else 0)
        result = _hydrogenate_particle(
            numbers, positions, generated=generated, score=score, options=options, scaffold=scaffold
        )
        if not isinstance(result, str):
            return Candidate(*result, float(skeleton.log_density[particle, :generated].mean()), particle)
        first = first or result
    return first or NO_MORE


def _hydrogenate_particle(
    numbers: NDArray[np.int64],
    positions: NDArray[np.float64],
    generated: int,
    score: SimilarityScore,
    options: FinishOptions,
    scaffold: Scaffold | None,
) -> tuple[Any, NDArray[np.bool_]] | str:
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    if len(numbers) > 1 and distances[~np.eye(len(numbers), dtype=bool)].min() < _CLOSEST:
        return CLASH
    known = {} if scaffold is None else scaffold.known_bonds(generated)
    vote = score.hydrogen_vote(numbers, positions) if options.hydrogens == "vote" else None
    valences = assign_valences(numbers, positions, vote, known_bonds=known, joint=options.joint)
    if valences is None:
        return VALENCE_FAILED
    if not valences.is_connected():
        return FRAGMENTS
    mol = skeleton_molecule(numbers, positions, valences)
    if mol is None:
        return REFUSED
    try:
        return place_hydrogens(mol, generated, scaffold)
    except (ValueError, RuntimeError):  # RDKit's own types derive from these
        return REFUSED


def place_hydrogens(mol: Any, generated: int, scaffold: Scaffold | None = None) -> tuple[Any, NDArray[np.bool_]]:
    """Place the hydrogens a molecule of heavy atoms counts, by the geometry of their neighbours.

    Parameters
    ----------
    mol : rdkit.Chem.Mol
        From :func:`halberd.plugins.molecules.bonding.skeleton_molecule`.
    generated : int
        Heavy atoms before those of the scaffold.
    scaffold : Scaffold, optional
        Hydrogens of it that are still wanted keep their places; on an atom that needs fewer, those closest to new
        neighbours go.

    Returns
    -------
    mol : rdkit.Chem.Mol
    fixed : array of bool, shape (n,)
        Atoms that belong to the scaffold, kept hydrogens included.
    """
    Chem = import_rdkit()
    editable = Chem.RWMol(mol)
    kept: list[tuple[int, NDArray[np.float64]]] = []
    positions = mol.GetConformer().GetPositions()
    for index in range(len(scaffold.numbers) if scaffold else 0):
        assert scaffold is not None
        atom = editable.GetAtomWithIdx(generated + index)
        places = scaffold.hydrogens[index]
        wanted = min(atom.GetNumExplicitHs(), len(places))
        new = [n.GetIdx() for n in atom.GetNeighbors() if n.GetIdx() < generated]
        if len(places) > wanted and new:
            gaps = np.linalg.norm(places[:, None] - positions[new][None], axis=2).min(axis=1)
            places = places[np.argsort(-gaps, kind="stable")]
        kept += [(generated + index, place) for place in places[:wanted]]
        atom.SetNumExplicitHs(atom.GetNumExplicitHs() - wanted)
    for parent, _ in kept:
        editable.AddBond(parent, editable.AddAtom(Chem.Atom(1)), Chem.BondType.SINGLE)
    whole = editable.GetMol()
    conformer = Chem.Conformer(whole.GetNumAtoms())
    conformer.SetPositions(np.concatenate([positions, *[place[None] for _, place in kept]]))
    whole.RemoveAllConformers()
    whole.AddConformer(conformer)
    Chem.SanitizeMol(whole)
    whole = Chem.AddHs(whole, addCoords=True)
    fixed = np.zeros(whole.GetNumAtoms(), dtype=bool)
    fixed[generated : len(positions) + len(kept)] = True
    return whole, fixed


def finish(
    candidates: Sequence[Candidate],
    force_field: SiteModel,
    options: FinishOptions,
    scaffold: Scaffold | None = None,
    wall: HostWall | None = None,
) -> list[Any]:
    """Relax candidates and perceive what they have become.

    Parameters
    ----------
    candidates : sequence of Candidate
    force_field : SiteModel
    options : FinishOptions
    scaffold : Scaffold, optional
    wall : HostWall, optional

    Returns
    -------
    list of rdkit.Chem.Mol or str
        A molecule with properties ``energy_eV`` (interaction energy), ``log_density``, ``largest_force_eV_A``,
        ``particle``, and how much repair it took (:mod:`halberd.plugins.molecules.repair`), or the reason why there is
        none.
    """
    if not candidates:
        return []
    numbers = [numbers_of(c.mol) for c in candidates]
    raw = [import_rdkit().Mol(c.mol) for c in candidates]
    if options.classical:
        for candidate in candidates:
            relax_classically(candidate.mol, None if options.relax_scaffold else candidate.fixed)
    positions = [c.mol.GetConformer().GetPositions() for c in candidates]
    fixed = None if options.relax_scaffold else [c.fixed for c in candidates]
    relaxed = relax(force_field, numbers, positions, fixed=fixed, fmax=options.fmax, steps=options.steps)
    return [
        _judge(candidate, raw[k], relaxed=relaxed, k=k, scaffold=scaffold, wall=wall)
        for k, candidate in enumerate(candidates)
    ]


def relax_classically(mol: Any, fixed: NDArray[np.bool_] | None = None, steps: int = 200) -> None:
    """Relax a molecule in place with MMFF94, or UFF where that has no parameters: hydrogens alone, then all atoms.

    Parameters
    ----------
    mol : rdkit.Chem.Mol
        With hydrogens and a conformer.
    fixed : array of bool, shape (n,), optional
        Atoms that keep their coordinates to the bit.
    steps : int
        Iterations of each stage.
    """
    from rdkit.Chem import rdForceFieldHelpers

    before = mol.GetConformer().GetPositions()
    held = np.zeros(mol.GetNumAtoms(), dtype=bool) if fixed is None else fixed
    heavy = numbers_of(mol) > 1
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    for frozen in (held | heavy, held):
        if properties is not None:
            field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties)
        elif rdForceFieldHelpers.UFFHasAllMoleculeParams(mol):
            field = rdForceFieldHelpers.UFFGetMoleculeForceField(mol)
        else:
            return
        field.Initialize()
        for index in np.nonzero(frozen)[0]:
            field.AddFixedPoint(int(index))
        field.Minimize(maxIts=steps)
    after = mol.GetConformer().GetPositions()
    if not np.isfinite(after).all():
        after = before
    mol.GetConformer().SetPositions(np.ascontiguousarray(np.where(held[:, None], before, after)))


def _judge(
    candidate: Candidate,
    raw: Any,
    relaxed: Relaxed,
    k: int,
    scaffold: Scaffold | None,
    wall: HostWall | None,
) -> Any:
    """The relaxed molecule, with what it was before, or what is wrong with it."""
    numbers = numbers_of(raw)
    if not relaxed.largest_force[k] < _LARGEST_FORCE:
        return NOT_RELAXED
    mol = perceive_molecule(numbers, relaxed.positions[k])
    if not is_valid(mol):
        return CHANGED
    if scaffold is not None:
        first = int(np.nonzero(candidate.fixed)[0][0])
        if not scaffold.is_part_of(mol, first):
            return DETACHED
    if wall is not None and wall.depth(relaxed.positions[k][numbers > 1]) > _DEEPEST:
        return HOST
    mol.SetDoubleProp("energy_eV", float(relaxed.energies[k]))
    mol.SetDoubleProp("log_density", candidate.log_density)
    mol.SetDoubleProp("largest_force_eV_A", float(relaxed.largest_force[k]))
    mol.SetIntProp("particle", candidate.particle)
    note_repair(mol, raw)
    return mol
