"""Fixtures: tiny MACE models with random weights, made on the spot with mace-torch itself."""

from __future__ import annotations

import gc
import os
import sys

os.environ.setdefault("MPLBACKEND", "Agg")

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from halberd.potentials.loading import import_mace

mace = import_mace("run the tests")

#: eV; large, as real self-energies are, so that a test notices when they get lost.
E0S = {1: -13.6, 6: -1029.5, 8: -2042.0}


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Shared machines: two torch threads are often slower than one."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def programs_are_given_back():
    """TorchScript keeps all that was ever compiled; a run of all tests would hold 10 GB in the end.

    Modules that were compiled before are dead after it: no fixture for the whole session may hold one.
    """
    yield
    torch.jit._state._jit_caching_layer.clear()
    torch._C._jit_clear_class_registry()
    torch.jit._state._clear_class_state()
    torch.jit._recursive.concrete_type_store = torch.jit._recursive.ConcreteTypeStore()
    gc.collect()


def make_mace(
    kind: str = "ScaleShiftMACE",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    elements: tuple[int, ...] = (1, 6, 8),
    hidden: str = "8x0e + 8x1o",
    cutoff: float = 4.0,
    heads: tuple[str, ...] = ("Default",),
    zbl: bool = False,
    first: str = "RealAgnosticInteractionBlock",
    **extra: Any,
) -> torch.nn.Module:
    """Build a MACE of a few thousand random parameters."""
    from e3nn import o3
    from mace import modules

    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        torch.manual_seed(seed)
        n_heads = len(heads)
        energies = np.array([[E0S.get(z, -100.0 * z) + 0.1 * h for z in elements] for h in range(n_heads)])
        arguments: dict[str, Any] = {
            "r_max": cutoff,
            "num_bessel": 5,
            "num_polynomial_cutoff": 5,
            "max_ell": 2,
            "interaction_cls": modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
            "interaction_cls_first": modules.interaction_classes[first],
            "num_interactions": 2,
            "num_elements": len(elements),
            "hidden_irreps": o3.Irreps(hidden),
            "MLP_irreps": o3.Irreps("4x0e"),
            "atomic_energies": energies if n_heads > 1 else energies[0],
            "avg_num_neighbors": 6.0,
            "atomic_numbers": list(elements),
            "correlation": 2,
            "gate": torch.nn.functional.silu,
            "pair_repulsion": zbl,
            "radial_MLP": [8, 8],
            "heads": list(heads),
            **extra,
        }
        if kind == "ScaleShiftMACE":
            arguments["atomic_inter_scale"] = [0.8] * n_heads if n_heads > 1 else 0.8
            arguments["atomic_inter_shift"] = [0.1 * (h + 1) for h in range(n_heads)] if n_heads > 1 else 0.1
        return getattr(modules, kind)(**arguments)
    finally:
        torch.set_default_dtype(previous)


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"kind": "MACE"},
    "scale-shift": {"kind": "ScaleShiftMACE"},
    "zbl": {"kind": "ScaleShiftMACE", "zbl": True},
    "plain-zbl-residual": {"kind": "MACE", "zbl": True, "first": "RealAgnosticResidualInteractionBlock"},
    "scalars-only": {"kind": "ScaleShiftMACE", "hidden": "8x0e"},
    "density": {"kind": "ScaleShiftMACE", "first": "RealAgnosticDensityInteractionBlock"},
    "agnesi": {"kind": "ScaleShiftMACE", "distance_transform": "Agnesi"},
}


@pytest.fixture(scope="session")
def mace_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model files of every variant, plus a multi-head one and three members of a committee."""
    folder = tmp_path_factory.mktemp("models")
    files = {}
    variants = {
        **VARIANTS,
        "heads": {"heads": ("dft", "mp2")},
        "heads-plain": {"kind": "MACE", "heads": ("dft", "mp2")},
        **{f"member{k}": {"seed": 10 + k} for k in range(3)},
        "other-order": {"seed": 20, "elements": (1, 6, 7, 8), "cutoff": 3.5},
        "single-precision": {"dtype": torch.float32},
    }
    for name, arguments in variants.items():
        files[name] = folder / f"{name}.model"
        torch.save(make_mace(**arguments), files[name])
    return files


@pytest.fixture(scope="session")
def ethanol() -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=3)
    return atoms


@pytest.fixture(scope="session")
def crystal() -> Atoms:
    """A small triclinic cell, thinner than the cutoff, with atoms outside of it."""
    generator = np.random.default_rng(5)
    fractional = np.array([[0.05, 0.1, 0.1], [0.5, 0.45, 0.3], [0.2, 0.7, 0.8], [0.75, 0.2, 0.7], [0.6, 0.9, 0.5]])
    cell = np.array([[3.9, 0.0, 0.0], [1.1, 4.4, 0.0], [-0.7, 0.9, 4.8]])
    atoms = Atoms("COHHC", cell=cell, scaled_positions=fractional, pbc=True)
    atoms.positions += generator.normal(scale=0.05, size=(5, 3))
    atoms.positions[1] += cell[0] - 2 * cell[2]
    atoms.positions[3] -= cell[1]
    return atoms


def cluster(generator: np.random.Generator, symbols: tuple[str, ...], n_atoms: int, radius: float = 2.8) -> Atoms:
    """Atoms of random elements in a cube, none too close: every one sees most of the others."""
    positions = [np.zeros(3)]
    while len(positions) < n_atoms:
        trial = generator.uniform(-radius, radius, size=3)
        if min(np.linalg.norm(trial - p) for p in positions) > 1.3:
            positions.append(trial)
    return Atoms([symbols[k] for k in generator.choice(len(symbols), size=n_atoms)], positions=positions)


def random_ace(symbols: tuple[str, ...] = ("Al", "Si"), members: int = 0, seed: int = 0, **settings: Any):
    """Basis and coefficients of a linear ACE that nobody fitted; some eV/angstrom of force at a bond length."""
    from halberd.potentials.ace.basis import AceBasis
    from halberd.potentials.ace.settings import AceSettings

    basis = AceBasis(AceSettings(symbols, **{"order": 3, "degree": 7, "cutoff": 4.5, **settings}))
    shape = (basis.n_functions, members) if members else basis.n_functions
    scale = basis.smoothness(2.0)
    coefficients = 0.3 * np.random.default_rng(seed).normal(size=shape) / (scale[:, None] if members else scale)
    return basis, coefficients


def fitted_last_layer(mace_files: dict[str, Path], ethanol: Atoms):
    """A committee of four on the last layer of a MACE, fitted to what another one says of some ethanols."""
    from halberd.plugins import HalberdCalculator
    from halberd.potentials import LastLayerFit, load
    from halberd.potentials.frames.labelled import Frame

    truth = HalberdCalculator(mace_files["member0"])
    frames = []
    for seed in range(4):
        atoms = ethanol.copy()
        atoms.rattle(0.1, seed=seed)
        results = truth.evaluate(atoms)
        frames.append(Frame(atoms, results["energy"], results["forces"], None, "default"))
    fit = LastLayerFit(load(mace_files["scale-shift"]))
    fit.add(frames)
    return fit.solve(committee=4, seed=3, correction=True)


@pytest.fixture(scope="session")
def alloy() -> Atoms:
    """32 atoms of aluminium and silicon, rattled."""
    from ase.build import bulk

    atoms = bulk("Al", cubic=True) * (2, 2, 2)
    atoms.numbers[[3, 11, 17, 30]] = 14
    atoms.rattle(0.15, seed=8)
    return atoms


def topology_of(atoms: Atoms):
    """OpenMM topology and positions (nm) of an ASE structure."""
    from halberd.plugins.forces.topology import topology_from_atoms

    return topology_from_atoms(atoms)


def call(capsys: Any, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[int, str, str]:
    """Run ``halberd`` in this process; faster."""
    from halberd.plugins.commands import app

    monkeypatch.setattr(sys, "argv", ["halberd", *map(str, arguments)])
    with pytest.raises(SystemExit) as ending:
        app.main()
    captured = capsys.readouterr()
    return int(ending.value.code or 0), captured.out, captured.err
