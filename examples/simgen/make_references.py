"""Make reference sets for ``halberd generate``: the shipped ones, and one of your own molecules.

    python examples/simgen/make_references.py qm9                      # 256 molecules of QM9 -> references-qm9.npz
    python examples/simgen/make_references.py joined                   # QM9 molecules joined to larger ones, relaxed
    python examples/simgen/make_references.py mine.sdf -o mine.npz     # any file of molecules with hydrogens

Geometries should be relaxed: what is generated resembles them. ``joined`` takes pairs and triples of QM9 molecules,
joins them by single bonds in place of hydrogens, embeds the result with RDKit and relaxes it with the pretrained model,
so that atoms have the environments they have in larger molecules.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from rdkit import Chem, RDLogger
from rdkit.Chem import AllChem
from rich.progress import track

from halberd.plugins import draw_qm9, read_molecules
from halberd.potentials import ReferenceSet, load
from halberd.samplers import relax

RDLogger.DisableLog("rdApp.*")
ELEMENTS = ("H", "C", "N", "O")


def neutral(atoms: Atoms) -> bool:
    """Whether a molecule of QM9 is written without charges."""
    return "+" not in atoms.info["smiles"] and "-]" not in atoms.info["smiles"]


def qm9(count: int, seed: int) -> list[Atoms]:
    """Neutral molecules of QM9."""
    return [atoms for atoms in draw_qm9(2 * count, seed, elements=ELEMENTS, heavy=range(4, 10)) if neutral(atoms)][
        :count
    ]


def join(parts: list[Chem.Mol], generator: np.random.Generator) -> Chem.Mol | None:
    """Join molecules by single bonds between atoms that carry hydrogens."""
    whole = parts[0]
    for part in parts[1:]:
        first = [a.GetIdx() for a in whole.GetAtoms() if a.GetTotalNumHs()]
        second = [a.GetIdx() + whole.GetNumAtoms() for a in part.GetAtoms() if a.GetTotalNumHs()]
        if not first or not second:
            return None
        edited = Chem.RWMol(Chem.CombineMols(whole, part))
        edited.AddBond(int(generator.choice(first)), int(generator.choice(second)), Chem.BondType.SINGLE)
        for atom in edited.GetAtoms():
            atom.SetNoImplicit(False)
            atom.SetNumExplicitHs(0)
        whole = edited.GetMol()
        try:
            Chem.SanitizeMol(whole)
        except Chem.MolSanitizeException:
            return None
    return whole


def joined(count: int, seed: int) -> list[Atoms]:
    """Molecules of 10 to 20 heavy atoms."""
    generator = np.random.default_rng(seed)
    pool = [Chem.MolFromSmiles(a.info["smiles"]) for a in draw_qm9(3000, seed, elements=ELEMENTS) if neutral(a)]
    pool = [mol for mol in pool if mol is not None and 3 <= mol.GetNumAtoms() <= 9 and "." not in Chem.MolToSmiles(mol)]
    numbers, positions = [], []
    for _ in track(range(2 * count), "joining and embedding"):
        whole = join([pool[k] for k in generator.choice(len(pool), size=generator.integers(2, 4))], generator)
        if whole is None or not 10 <= whole.GetNumAtoms() <= 20:
            continue
        whole = Chem.AddHs(whole)
        if AllChem.EmbedMolecule(whole, randomSeed=int(generator.integers(2**31)), maxAttempts=5) != 0:
            continue
        numbers.append(np.array([atom.GetAtomicNum() for atom in whole.GetAtoms()]))
        positions.append(whole.GetConformer().GetPositions())
        if len(numbers) == count:
            break
    relaxed = relax(load("gfn2-chnof@1"), numbers, positions, fmax=0.05)
    at_rest = relaxed.largest_force < 0.1
    return [Atoms(z, positions=x) for z, x, ok in zip(numbers, relaxed.positions, at_rest, strict=True) if ok]


def main() -> None:
    """Make one set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="qm9, joined, or a file of molecules")
    parser.add_argument("--count", type=int, help="256 molecules of QM9, 200 joined ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", "-o", type=Path)
    arguments = parser.parse_args()
    makers = {"qm9": qm9, "joined": joined}
    name = arguments.source if arguments.source in makers else Path(arguments.source).stem
    if arguments.source in makers:
        count = arguments.count or {"qm9": 256, "joined": 200}[arguments.source]
        molecules = makers[arguments.source](count, arguments.seed)
    else:
        molecules = read_molecules(arguments.source)
    references = ReferenceSet.from_atoms(molecules, name)
    output = arguments.output or Path(f"references-{name}.npz")
    references.save(output)
    print(f"{output}: {len(references)} molecules, {references.n_atoms} atoms of {' '.join(references.symbols)}")


if __name__ == "__main__":
    main()
