"""Structures for a model of molecules and their liquids.

Rattled molecules, torsions, pairs, and clusters as dense as the liquid. Everything follows from a seed.
"""

from __future__ import annotations

import functools

import numpy as np
from ase import Atoms
from ase.data import atomic_masses as masses
from ase.data import covalent_radii, vdw_radii
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from halberd.plugins import draw_qm9

#: Liquids to learn from: SMILES as in QM9, density in g/cm^3.
LIQUIDS = {
    "water": ("O", 1.00),
    "methanol": ("CO", 0.79),
    "ethanol": ("CCO", 0.79),
    "acetone": ("CC(C)=O", 0.79),
    "benzene": ("C1=CC=CC=C1", 0.88),
    "hexane": ("CCCCCC", 0.66),
    "acetonitrile": ("CC#N", 0.79),
}
#: Liquids that are only ever tested on.
KEPT_ASIDE = {
    "tetrahydrofuran": ("C1CCOC1", 0.89),
    "dimethylformamide": ("CN(C)C=O", 0.94),
    "propanol": ("CCCO", 0.80),
    "ethylenediol": ("OCCO", 1.11),
}
#: g/mol over angstrom^3 to g/cm^3.
GRAMS = 1.66054
#: Sizes of rattles, angstrom.
RATTLES = (0.03, 0.06, 0.1, 0.15, 0.2, 0.3)
QM9_SEED = 5


@functools.cache
def qm9(count: int = 20_000) -> list[Atoms]:
    """Molecules of QM9, in an order that is always the same."""
    return draw_qm9(count, QM9_SEED)


@functools.cache
def solvents() -> dict[str, Atoms]:
    """Molecules of all liquids."""
    by_smiles = {smiles: name for name, (smiles, _) in (LIQUIDS | KEPT_ASIDE).items()}
    found = {
        by_smiles[a.info["smiles"]]: a for a in draw_qm9(200_000, 0, heavy=range(1, 7)) if a.info["smiles"] in by_smiles
    }
    missing = set(LIQUIDS | KEPT_ASIDE) - set(found)
    if missing:
        raise ValueError(f"QM9 holds no {', '.join(sorted(missing))}")
    return found


def plain(atoms: Atoms) -> Atoms:
    """Numbers and positions alone, around the origin."""
    return Atoms(atoms.numbers, atoms.positions - atoms.positions.mean(axis=0))


def turned(atoms: Atoms, generator: np.random.Generator) -> Atoms:
    """A molecule around the origin, in a random direction."""
    q = generator.normal(size=4)
    w, x, y, z = q / np.linalg.norm(q)
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    return Atoms(atoms.numbers, (atoms.positions - atoms.positions.mean(axis=0)) @ rotation.T)


def rattled(atoms: Atoms, generator: np.random.Generator) -> Atoms:
    """A molecule with noise on its positions."""
    moved = plain(atoms)
    moved.positions += generator.normal(scale=generator.choice(RATTLES), size=moved.positions.shape)
    return moved


def closeness(one: Atoms, other: Atoms) -> float:
    """Smallest distance between two molecules over the sum of van der Waals radii."""
    distances = np.linalg.norm(one.positions[:, None] - other.positions[None], axis=2)
    return float((distances / (vdw_radii[one.numbers][:, None] + vdw_radii[other.numbers][None])).min())


def bonds(atoms: Atoms) -> list[tuple[int, int]]:
    """Pairs of atoms within 1.25 times the sum of their covalent radii."""
    distances = np.linalg.norm(atoms.positions[:, None] - atoms.positions[None], axis=2)
    radii = covalent_radii[atoms.numbers]
    near = distances < 1.25 * (radii[:, None] + radii[None])
    return [(int(i), int(j)) for i, j in np.argwhere(np.triu(near, 1))]


def torsion(atoms: Atoms, generator: np.random.Generator) -> Atoms | None:
    """A molecule turned about one of its bonds that are in no ring, with a little noise; None if it has none."""
    every = bonds(atoms)
    n = len(atoms)
    sides = []
    for left, right in every:
        others = [pair for pair in every if pair != (left, right)]
        rows, columns = np.array(others).T if others else np.zeros((2, 0), int)
        _, part = connected_components(csr_matrix((np.ones(len(rows)), (rows, columns)), (n, n)), directed=False)
        moving = part == part[right]
        if part[left] != part[right] and moving.sum() > 1 and (part == part[left]).sum() > 1:
            sides.append((left, right, moving))
    if not sides:
        return None
    left, right, moving = sides[generator.integers(len(sides))]
    turned_atoms = plain(atoms)
    axis = turned_atoms.positions[right] - turned_atoms.positions[left]
    part = turned_atoms[moving]
    part.rotate(float(generator.uniform(0, 360)), axis, center=turned_atoms.positions[left])
    turned_atoms.positions[moving] = part.positions
    turned_atoms.positions += generator.normal(scale=generator.choice((0.0, 0.02, 0.05)), size=(n, 3))
    return turned_atoms


def pair(one: Atoms, other: Atoms, generator: np.random.Generator) -> Atoms:
    """Two molecules in random directions, from far too close to out of each other's sight."""
    first, second = turned(one, generator), turned(other, generator)
    direction = generator.normal(size=3)
    direction /= np.linalg.norm(direction)
    wanted = generator.choice([generator.uniform(0.6, 0.9), generator.uniform(0.8, 1.2), generator.uniform(1.1, 2.2)])
    # Far apart first; the nearer, the closer.
    low, high = 0.0, 40.0
    for _ in range(40):
        middle = (low + high) / 2
        placed = second.copy()
        placed.positions += middle * direction
        low, high = (low, middle) if closeness(first, placed) > wanted else (middle, high)
    second.positions += high * direction
    return first + second


def donors(atoms: Atoms) -> list[tuple[int, int]]:
    """Pairs of an oxygen or nitrogen and a hydrogen bonded to it."""
    both = [*bonds(atoms), *((j, i) for i, j in bonds(atoms))]
    return [(i, j) for i, j in both if atoms.numbers[i] in (7, 8) and atoms.numbers[j] == 1]


def _accepting(atoms: Atoms, generator: np.random.Generator) -> tuple[int, np.ndarray] | None:
    """An oxygen or nitrogen, and a direction away from its neighbours."""
    sites = [i for i, z in enumerate(atoms.numbers) if z in (7, 8)]
    if not sites:
        return None
    site = int(generator.choice(sites))
    neighbours = [j if i == site else i for i, j in bonds(atoms) if site in (i, j)]
    away = np.sum([atoms.positions[site] - atoms.positions[j] for j in neighbours], axis=0)
    away = away / np.linalg.norm(away) + 0.6 * generator.normal(size=3)
    return site, away / np.linalg.norm(away)


def _rotation(one: np.ndarray, other: np.ndarray, angle: float) -> np.ndarray:
    """That turns a direction into another, and then about it."""

    def axes(direction: np.ndarray) -> np.ndarray:
        side = np.cross(direction, np.eye(3)[np.argmin(np.abs(direction))])
        side /= np.linalg.norm(side)
        return np.array([direction, side, np.cross(direction, side)])

    cosine, sine = np.cos(angle), np.sin(angle)
    about = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    return axes(other).T @ about @ axes(one)


def hydrogen_bonded(molecules: list[Atoms], generator: np.random.Generator) -> Atoms:
    """Molecules of which each gives or takes a hydrogen bond of one that is there: chains and their branches.

    Molecules that neither can are left out, and so are those for which no place is found.
    """
    whole = plain(molecules[0])
    given: set[int] = set()
    for molecule in molecules[1:]:
        for _ in range(200):
            placed = plain(molecule)
            gives = bool(donors(placed)) and generator.random() < 0.5
            giver, taker = (placed, whole) if gives else (whole, placed)
            free = [(x, h) for x, h in donors(giver) if giver is placed or h not in given]
            accepting = _accepting(taker, generator)
            if not free or accepting is None:
                continue
            x, h = free[generator.integers(len(free))]
            along = giver.positions[h] - giver.positions[x]
            along /= np.linalg.norm(along)
            site, away = accepting
            # The bond of the donor points at the acceptor, and the acceptor's direction at the donor.
            one, other = (along, -away) if gives else (away, -along)
            placed.positions = placed.positions @ _rotation(one, other, float(generator.uniform(0, 2 * np.pi))).T
            length = generator.uniform(2.65, 3.05)
            end = whole.positions[site] + length * away if gives else whole.positions[x] + length * along
            placed.positions += end - placed.positions[x if gives else site]
            if _apart(whole, placed, (x, site) if gives else (site, x), h, gives):
                if not gives:
                    given.add(h)
                else:
                    given.add(len(whole) + h)
                whole += placed
                break
    return plain(whole)


def _apart(whole: Atoms, placed: Atoms, bonded: tuple[int, int], hydrogen: int, gives: bool) -> bool:
    """Whether two molecules keep out of each other's way, but for their hydrogen bond."""
    distances = np.linalg.norm(placed.positions[:, None] - whole.positions[None], axis=2)
    relative = distances / (vdw_radii[placed.numbers][:, None] + vdw_radii[whole.numbers][None])
    relative[bonded] = np.inf
    relative[(hydrogen, bonded[1]) if gives else (bonded[0], hydrogen)] = np.inf
    return bool(relative.min() > 0.75)


def cluster(
    molecules: list[Atoms], density: float, generator: np.random.Generator, closest: float = 0.8
) -> tuple[Atoms, np.ndarray]:
    """Molecules in a ball as dense as a liquid, and the number of the molecule that each atom belongs to.

    Where there is no room, molecules may come ever closer.
    """
    weight = sum(masses[m.numbers].sum() for m in molecules)
    radius = (3 * weight * GRAMS / density / (4 * np.pi)) ** (1 / 3)
    placed: list[Atoms] = []
    for molecule in molecules:
        limit, size, tries = closest, radius, 0
        while True:
            candidate = turned(molecule, generator)
            direction = generator.normal(size=3)
            candidate.positions += direction / np.linalg.norm(direction) * size * generator.uniform() ** (1 / 3)
            if all(closeness(candidate, other) > limit for other in placed):
                placed.append(candidate)
                break
            tries += 1
            if tries % 200 == 0:
                limit, size = 0.97 * limit, 1.02 * size
    whole = functools.reduce(lambda a, b: a + b, placed)
    return whole, np.repeat(np.arange(len(placed)), [len(m) for m in placed])


def some_of(names: tuple[str, ...], n_atoms: int, generator: np.random.Generator) -> tuple[list[Atoms], float]:
    """Molecules of one or more liquids, not more than about so many atoms, and their density in the liquid."""
    known = LIQUIDS | KEPT_ASIDE
    molecules: list[Atoms] = []
    while True:
        name = names[generator.integers(len(names))]
        if molecules and sum(map(len, molecules)) + len(solvents()[name]) > n_atoms and len(molecules) >= 2:
            break
        molecules.append(solvents()[name])
        if len(molecules) == 20:
            break
    return molecules, float(np.mean([known[name][1] for name in names]))


def liquid(names: tuple[str, ...], n_atoms: int, generator: np.random.Generator) -> tuple[Atoms, np.ndarray]:
    """A cluster of some molecules of one or more liquids, not more than about so many atoms."""
    molecules, density = some_of(names, n_atoms, generator)
    return cluster(molecules, density * generator.uniform(0.8, 1.1), generator)


def box(molecules: list[Atoms], density: float, generator: np.random.Generator) -> tuple[Atoms, np.ndarray]:
    """Molecules in a periodic cube, and the number of the molecule that each atom belongs to."""
    weight = sum(masses[m.numbers].sum() for m in molecules)
    edge = (weight * GRAMS / density) ** (1 / 3)
    placed = Atoms(cell=[edge] * 3, pbc=True)
    for molecule in molecules:
        limit, tries = 0.8, 0
        while True:
            candidate = turned(molecule, generator)
            candidate.positions += generator.uniform(0, edge, 3)
            vectors = candidate.positions[:, None] - placed.positions[None]
            distances = np.linalg.norm(vectors - edge * np.round(vectors / edge), axis=2)
            if (distances > limit * (vdw_radii[candidate.numbers][:, None] + vdw_radii[placed.numbers][None])).all():
                placed += candidate
                break
            tries += 1
            if tries % 200 == 0:
                limit *= 0.97
    return placed, np.repeat(np.arange(len(molecules)), [len(m) for m in molecules])


def solution(solute: Atoms, name: str, n_atoms: int, generator: np.random.Generator) -> tuple[Atoms, np.ndarray]:
    """A molecule among those of a liquid."""
    solvent = solvents()[name]
    count = max(2, (n_atoms - len(solute)) // len(solvent))
    density = LIQUIDS[name][1] * generator.uniform(0.85, 1.1)
    return cluster([solute, *[solvent] * count], density, generator)
