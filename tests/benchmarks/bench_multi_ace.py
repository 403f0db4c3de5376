"""Networks of MACE on halberd's own family against mace-torch's modules, in one run.

    python tests/benchmarks/bench_multi_ace.py [--atoms 24 99 192] [--precision single double] [--rounds 7]

Networks with random weights, of sizes in use; energies and their gradient with respect to the edge vectors, on the same
edges of water: microseconds per atom, medians of interleaved rounds, one thread. Columns: ``mace-torch``, its modules
in eager mode; ``scripted``, TorchScript of these modules, halberd's ``implementation="mace-torch"``; ``family``, what
halberd runs MACE on, with the compiled operators.
"""

from __future__ import annotations

import argparse
import copy
import functools
import time
import warnings
from typing import Any

import numpy as np
import torch

from halberd.potentials.loading import import_mace
from halberd.potentials.mace.network import MaceSiteEnergies, mace_site_model
from halberd.potentials.multi_ace.model import multi_ace_model
from halberd.potentials.multi_ace.weights.mace import multi_ace_of
from halberd.potentials.sites.torchscript import warm_up
from halberd.potentials.sites.verlet_list import NeighborList, edges_of_atoms

warnings.filterwarnings("ignore")
#: Angstrom between molecules of the liquid.
SPACING = 3.106
SIZES = {
    "96x0e, l 3": {"hidden": "96x0e", "max_ell": 3},
    "128x0e, l 3": {"hidden": "128x0e", "max_ell": 3},
    "128x0e+128x1o, l 3": {"hidden": "128x0e+128x1o", "max_ell": 3},
    "64x0e, l 2": {"hidden": "64x0e", "max_ell": 2},
}


def network(hidden: str, max_ell: int) -> Any:
    """A MACE of two layers, correlation 3, with random weights."""
    mace = import_mace("compare with it")
    from e3nn import o3

    classes = mace.modules.interaction_classes
    torch.manual_seed(0)
    return mace.modules.ScaleShiftMACE(
        r_max=5.0, num_bessel=8, num_polynomial_cutoff=5, max_ell=max_ell, num_interactions=2, num_elements=2,
        interaction_cls=classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=classes["RealAgnosticInteractionBlock"], hidden_irreps=o3.Irreps(hidden),
        MLP_irreps=o3.Irreps("16x0e"), atomic_energies=np.zeros(2), avg_num_neighbors=30.0, atomic_numbers=[1, 8],
        correlation=3, gate=torch.nn.functional.silu, atomic_inter_scale=1.0, atomic_inter_shift=0.0,
    )  # fmt: skip


def water_grid(n_atoms: int) -> tuple[Any, int]:
    """Molecules of water rotated at random on a grid, and how many of them lie along its side."""
    from ase import Atoms
    from ase.build import molecule

    generator = np.random.default_rng(0)
    side = int(np.ceil((n_atoms / 3) ** (1 / 3)))
    atoms = Atoms()
    for number in range(n_atoms // 3):
        each = molecule("H2O")
        each.rotate(generator.uniform(0, 360), generator.normal(size=3))
        each.translate(SPACING * np.array([number % side, number // side % side, number // side**2]))
        atoms += each
    return atoms, side


def water(n_atoms: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Species and edges of water on a grid that fills a cube: at the density of the liquid where it is full."""
    atoms, side = water_grid(n_atoms)
    atoms.set_cell([SPACING * side] * 3)
    atoms.pbc = True
    edge_index, vectors = edges_of_atoms(NeighborList(5.0, 0.0), atoms)
    species = torch.tensor([0 if z == 1 else 1 for z in atoms.numbers])
    return species, torch.as_tensor(edge_index), vectors


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, nargs="+", default=[24, 99, 192])
    parser.add_argument("--precision", nargs="+", default=["single"], choices=["single", "double"])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'network':22s} {'precision':9s} {'atoms':>5s} {'edges':>6s} {'mace-torch':>10s} {'scripted':>9s} "
          f"{'family':>9s}  family is faster than scripted by (range)")  # fmt: skip
    for name, size in SIZES.items():
        for precision in arguments.precision:
            dtype = torch.float32 if precision == "single" else torch.float64
            original = network(**size).to(dtype).eval()
            eager = MaceSiteEnergies(copy.deepcopy(original), 2, 0, dtype)
            scripted = mace_site_model(original, name=name, dtype=dtype).scripted()
            family = multi_ace_model(multi_ace_of(original), [1, 8]).scripted()
            for n_atoms in arguments.atoms:
                species, edge_index, vectors = water(n_atoms)
                vectors = vectors.to(dtype).requires_grad_()

                def timed(module: Any, inputs: tuple[torch.Tensor, ...]) -> float:
                    begun = time.perf_counter()
                    torch.autograd.grad(module(*inputs).sum(), inputs[2])
                    return 1e6 * (time.perf_counter() - begun) / len(inputs[0])

                inputs = (species, edge_index, vectors)
                modules = (eager, scripted, family)
                for module in modules:
                    warm_up(functools.partial(timed, module, inputs))
                rounds = np.array([[timed(module, inputs) for module in modules] for _ in range(arguments.rounds)])
                middle, ratios = np.median(rounds, axis=0), rounds[:, 1] / rounds[:, 2]
                print(f"{name:22s} {precision:9s} {len(species):5d} {edge_index.shape[1]:6d} {middle[0]:10.0f} "
                      f"{middle[1]:9.0f} {middle[2]:9.0f}  {np.median(ratios):.2f} ({ratios.min():.2f} to "
                      f"{ratios.max():.2f})", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
