"""Time per step of learned forces on the CUDA platform, against mace-torch and openmm-ml on one device, in one run.

    python tests/benchmarks/bench_gpu.py [MODEL.model] [--atoms 24 99 999 9999] [--platform CUDA]

Water on a grid (for ACE: aluminium and silicon), float32, short steps without a thermostat: every runner makes them
from the same positions. Columns: microseconds per step, per atom and step, nanoseconds per day at 0.5 fs, memory in use
on the GPU after it, MB. Runners of one system and size are measured in interleaved rounds; the ratios to the first
runner are what to quote.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import torch
from ase import Atoms
from ase.build import bulk
from bench_multi_ace import network
from steppers import Step, ase_stepper, measured, slow_stepper, water

from halberd.plugins import HalberdCalculator, LearnedPotential, topology_from_atoms
from halberd.potentials.ace.basis import AceBasis
from halberd.potentials.ace.model import ace_site_model
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.loading import import_mace
from halberd.potentials.mace.network import mace_site_model
from halberd.potentials.multi_ace.model import multi_ace_model
from halberd.potentials.multi_ace.weights.mace import multi_ace_of

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)


def alloy(n_atoms: int) -> Atoms:
    """Aluminium with some silicon."""
    side = max(2, round((n_atoms / 4) ** (1 / 3)))
    atoms = bulk("Al", cubic=True) * (side, side, side)
    atoms.numbers[::7] = 14
    atoms.rattle(0.08, seed=1)
    return atoms


def mace_models(file: str) -> dict[str, Any]:
    """What halberd makes of a MACE file."""
    import_mace("compare with it")
    original = torch.load(file, map_location="cpu", weights_only=False)
    numbers = [int(z) for z in original.atomic_numbers]
    return {
        "halberd, scripted": mace_site_model(original, name="mace", dtype=torch.float32),
        "halberd, family": multi_ace_model(multi_ace_of(original.double()), numbers).to(torch.float32),
    }


def mace_runners(
    file: str, models: dict[str, Any], atoms: Atoms, platform: str, device: str, peers: bool
) -> dict[str, Step]:
    """Everything that evaluates one MACE file."""
    topology, positions = topology_from_atoms(atoms)
    found = {
        name: slow_stepper(LearnedPotential(model).createSystem(topology), positions, platform)
        for name, model in models.items()
    }
    if not peers:
        return found
    from mace.calculators import MACECalculator

    with contextlib.redirect_stdout(io.StringIO()):
        calculator = MACECalculator(model_paths=file, device=device, default_dtype="float32")
    found["mace-torch"] = ase_stepper(atoms, calculator)
    try:
        from openmmml import MLPotential

        system = MLPotential("mace", modelPath=file).createSystem(
            topology, precision="single", returnEnergyType="interaction_energy"
        )
        found["openmm-ml"] = slow_stepper(system, positions, platform)
    except (ImportError, OSError) as error:
        print(f"openmm-ml is left out: {error}")
    return found


def ace_runners(atoms: Atoms, platform: str, device: str) -> dict[str, Step]:
    """Linear ACE, plain, with its bias, and from ASE."""
    basis = AceBasis(AceSettings(("Al", "Si"), order=3, degree=10, cutoff=5.0))
    scale = basis.smoothness(2.0)[:, None]
    coefficients = 0.3 * np.random.default_rng(0).normal(size=(basis.n_functions, 8)) / scale
    topology, positions = topology_from_atoms(atoms)
    committee = ace_site_model(basis, coefficients).to(torch.float32)
    single = ace_site_model(basis, coefficients[:, 0]).to(torch.float32)
    systems = {
        "ACE": LearnedPotential(single).createSystem(topology),
        "ACE committee of 8": LearnedPotential(committee).createSystem(topology),
        "ACE committee of 8, biased": LearnedPotential(committee).createSystem(topology, bias="sigma"),
    }
    found = {name: slow_stepper(system, positions, platform) for name, system in systems.items()}
    found["ACE, ASE calculator"] = ase_stepper(atoms, HalberdCalculator(single, device=device))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="A MACE file, called pretrained in the table; left out if omitted.")
    parser.add_argument("--atoms", type=int, nargs="+", default=[24, 99, 999, 9999])
    parser.add_argument("--platform", default="CUDA")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.3, help="Of one round.")
    parser.add_argument("--only", nargs="+", default=["pretrained", "large", "ace"])
    arguments = parser.parse_args()
    on_gpu = arguments.platform == "CUDA"
    device = "cuda" if on_gpu else "cpu"
    if on_gpu:
        print(torch.cuda.get_device_name(), "torch", torch.__version__, "openmm", openmm.version.version)
    folder = Path(tempfile.mkdtemp())
    files = {}
    if arguments.model:
        files["pretrained"] = arguments.model
    torch.save(network("128x0e+128x1o", 3).float(), folder / "large.model")
    files["large"] = str(folder / "large.model")
    models = {name: mace_models(file) for name, file in files.items() if name in arguments.only}
    for n_atoms in arguments.atoms:
        for system in arguments.only:
            try:
                if system == "ace":
                    atoms = alloy(n_atoms)
                    runners = ace_runners(atoms, arguments.platform, device)
                elif system in models:
                    atoms = water(n_atoms)
                    peers = n_atoms < 5000
                    runners = mace_runners(files[system], models[system], atoms, arguments.platform, device, peers)
                else:
                    continue
                samples = measured(runners, arguments.rounds, arguments.seconds)
            except (RuntimeError, openmm.OpenMMException) as error:
                print(f"{system}, {n_atoms} atoms: {str(error)[-600:]}")
                continue
            first = np.array(next(iter(samples.values())))
            memory = (torch.cuda.mem_get_info()[1] - torch.cuda.mem_get_info()[0]) / 1e6 if on_gpu else 0.0
            for name, each in samples.items():
                middle, ratios = np.median(each), np.array(each) / first
                print(f"{system:11s} {len(atoms):6d} {name:28s} {1e6 * middle:9.0f} us/step "
                      f"{1e6 * middle / len(atoms):8.2f} us/atom {0.5e-6 * 86400 / middle:8.2f} ns/day  "
                      f"x{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f}) {memory:6.0f} MB",
                      flush=True)  # fmt: skip
            del runners
            if on_gpu:
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
