"""Time per step and atom of MACE models on the CPU platform: halberd's TorchForce against its peers, in one run.

    python tests/benchmarks/bench_step.py [MODEL.model ...] [--sizes 96 128 128L1 128L2] [--atoms 24 99 192 498]
        [--threads 1 2] [--precision single double] [--rounds 5] [--peers scripted mace-torch openmm-ml symmetrix-xl]
        [--committee]

Networks of named sizes have random weights, two layers and ``max_ell`` 3. Water on a grid, of which boxes of 24 and 192
atoms are full and have the liquid's density; short steps without a thermostat, always from the same positions.

Peers
-----
scripted
    halberd with ``implementation="mace-torch"``: TorchScript of mace-torch's modules, which is the null row.
mace-torch
    The ASE calculator that comes with MACE: a neighbour list by matscipy at every call, eager network.
openmm-ml
    ``MLPotential("mace")``: the same, called from an ``openmm.PythonForce``.
symmetrix-xl
    Its ASE calculator, on its defaults, where it is installed and knows the model: ``pip install --no-deps --target DIR
    symmetrix-xl==0.1.1``, and DIR at the end of ``PYTHONPATH``.

Numbers are medians of interleaved rounds in one process, microseconds per atom and step, and in brackets how many times
as long as halberd's, with the range over rounds. ``forces`` is the largest difference from mace-torch's forces, eV/A.
With ``--committee`` the columns are one network, a committee of four of its size with a bias, and memory.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import logging
import os
import resource
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from bench_multi_ace import network
from steppers import Step, ase_stepper, measured, slow_stepper, water

from halberd.plugins import HalberdCalculator, LearnedPotential, topology_from_atoms
from halberd.potentials import load
from halberd.potentials.committees.committee import committee
from halberd.potentials.loading import import_mace

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
SIZES = {"96": "96x0e", "128": "128x0e", "128L1": "128x0e+128x1o", "128L2": "128x0e+128x1o+128x2e"}
PEERS = ("scripted", "mace-torch", "openmm-ml", "symmetrix-xl")
DTYPES = {"single": torch.float32, "double": torch.float64}


def symmetrix_calculator(model: str, precision: str) -> Any:
    """Its calculator, or ``None`` with a note."""
    try:
        from symmetrix import Symmetrix
    except ImportError:
        return None
    converted = Path(model).with_suffix(".json")
    if not converted.exists():
        command = [sys.executable, "-m", "symmetrix.cli.extract_mace", "--model", model, "--output", str(converted)]
        result = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
        if result.returncode != 0:
            print(f"symmetrix-xl does not take {model}: {(result.stderr.splitlines() or ['no message'])[-1][:150]}")
            return None
    return Symmetrix(str(converted), dtype={"single": "float32", "double": "float64"}[precision])


def forces_of(atoms: Atoms, calculator: Any) -> np.ndarray:
    """Forces of a calculator."""
    mine = atoms.copy()
    mine.calc = calculator
    return np.asarray(mine.get_forces())


def runners(model: str, atoms: Atoms, precision: str, peers: list[str]) -> tuple[dict[str, Step], dict[str, float]]:
    """What makes steps with a model, and how far its forces are from mace-torch's."""
    from mace.calculators import MACECalculator

    topology, positions = topology_from_atoms(atoms)
    found, apart = {}, {}
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = MACECalculator(model_paths=model, device="cpu", default_dtype=f"float{DTYPES[precision].itemsize * 8}")
    expected = forces_of(atoms, theirs)
    for name, implementation in (("halberd", "multi-ace"), ("scripted", "mace-torch")):
        if name not in ("halberd", *peers):
            continue
        site_model = load(model, implementation=implementation).to(DTYPES[precision])
        found[name] = slow_stepper(LearnedPotential(site_model).createSystem(topology), positions, "CPU")
        apart[name] = float(np.abs(forces_of(atoms, HalberdCalculator(site_model)) - expected).max())
    if "mace-torch" in peers:
        found["mace-torch"] = ase_stepper(atoms, theirs)
    if "openmm-ml" in peers and importlib.util.find_spec("openmmml"):
        from openmmml import MLPotential

        system = MLPotential("mace", modelPath=model).createSystem(
            topology, precision=precision, returnEnergyType="interaction_energy"
        )
        found["openmm-ml"] = slow_stepper(system, positions, "CPU")
    peer = symmetrix_calculator(model, precision) if "symmetrix-xl" in peers else None
    if peer is not None:
        found["symmetrix-xl"] = ase_stepper(atoms, peer)
        apart["symmetrix-xl"] = float(np.abs(forces_of(atoms, peer) - expected).max())
    return found, apart


def committees(size: str, atoms: Atoms, precision: str) -> dict[str, Step]:
    """One network, and four of its size, plain and biased."""
    from halberd.potentials.multi_ace.model import multi_ace_model
    from halberd.potentials.multi_ace.weights.mace import multi_ace_of

    topology, positions = topology_from_atoms(atoms)
    members = []
    for seed in range(4):
        torch.manual_seed(seed)
        original = network(SIZES[size], 3).double()
        with torch.no_grad():
            for parameter in original.parameters():
                parameter.mul_(1.0 + 0.1 * torch.randn_like(parameter))
        members.append(multi_ace_model(multi_ace_of(original), [1, 8]).to(DTYPES[precision]))
    four = committee(members)
    systems = {
        "one network": LearnedPotential(members[0]).createSystem(topology),
        "four": LearnedPotential(four).createSystem(topology),
        "four, biased": LearnedPotential(four).createSystem(topology, bias="sigma"),
    }
    return {name: slow_stepper(system, positions, "CPU") for name, system in systems.items()}


def said(samples: dict[str, list[float]], n_atoms: int, apart: dict[str, float]) -> str:
    """Times and ratios of one system."""
    first = np.array(next(iter(samples.values())))
    parts = []
    for name, each in samples.items():
        ratios = np.array(each) / first
        text = f"{name} {1e6 * np.median(each) / n_atoms:.0f}"
        if ratios.max() != 1.0:
            text += f" [{np.median(ratios):.2f}, {ratios.min():.2f} to {ratios.max():.2f}]"
        parts.append(text + (f" forces {apart[name]:.1g}" if name in apart else ""))
    return " | ".join(parts)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="mace-torch files that know hydrogen and oxygen")
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--atoms", type=int, nargs="+", default=[24, 99, 192, 498])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--precision", nargs="+", default=["single"], choices=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="Of one round.")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--committee", action="store_true")
    arguments = parser.parse_args()
    if arguments.committee and arguments.models:
        parser.error("committees are of networks of named sizes: leave files away")
    import_mace("compare with it")
    folder = Path(tempfile.mkdtemp())
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for precision in arguments.precision:
            for model in [*arguments.models, *arguments.sizes]:
                # openmm-ml does not convert what it reads.
                file = str(folder / f"{Path(model).stem}-{precision}.model")
                original = (
                    network(SIZES[model], 3)
                    if model in SIZES
                    else torch.load(model, map_location="cpu", weights_only=False)
                )
                torch.save(original.to(DTYPES[precision]), file)
                for n_atoms in arguments.atoms:
                    atoms = water(n_atoms)
                    found, apart = (
                        (committees(model, atoms, precision), {})
                        if arguments.committee
                        else runners(file, atoms, precision, arguments.peers)
                    )
                    samples = measured(found, arguments.rounds, arguments.seconds)
                    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                    print(
                        f"{Path(model).stem}, {precision}, {threads} threads, {len(atoms)} atoms: "
                        f"{said(samples, len(atoms), apart)} | {memory:.0f} MB",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
