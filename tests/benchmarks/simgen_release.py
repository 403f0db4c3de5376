"""Molecules by the ``simgen`` release 0.3.1, on the MACE and references of halberd: what they are, how fast.

    PYTHONPATH=DIR python tests/benchmarks/simgen_release.py MODEL.model OUT [--count 60] [--heavy-atoms 7:9]
        [--rounds 5]

DIR holds the release, which asks for other versions of what halberd needs: ``pip install --no-deps --target DIR
simgen==0.3.1 hydromace==0.2.1 mace-models==0.1.6 einops fire frozendict termcolor znframe==0.1.5``. MODEL is a file of
mace-torch, whole. The settings are those of the release's script: 50 levels, 10 particles, element moves every second
step, strength 0.7 of the rule, hydrogens by valence (the network that places them is not on a registry), clean-up with
forces of the MACE. Its default device is ``cuda`` where torch was built for it, so ``cpu`` is set by hand.

The release makes one molecule at a time. ``OUT/release.xyz`` holds what came out, whatever it is; with ``--rounds`` the
release and ``halberd generate`` (batches of 50, its defaults) take turns, and attempts per minute are compared.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import types
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms

from halberd.plugins import likeness, measure
from halberd.plugins.molecules.bonding import perceive_molecule
from halberd.plugins.molecules.qm9 import draw_qm9, known_smiles
from halberd.potentials.simgen.reference_set import ReferenceSet
from halberd.samplers import GenerationSettings
from halberd.samplers.generation.generator import Generator

#: References of likeness, as in simgen_quality.py.
REFERENCES = 5000


class Release:
    """The release, one molecule a call."""

    def __init__(self, model: Path) -> None:
        # The module that downloads models wants this, and nothing else does.
        sys.modules.setdefault("zntrack", types.ModuleType("zntrack"))
        from mace.modules.models import ScaleShiftMACE
        from simgen.calculators import MaceSimilarityCalculator
        from simgen.element_swapping import SwappingAtomicNumberTable
        from simgen.generation_utils import RadialDistanceTransformBlock, calculate_restorative_force_strength
        from simgen.integrators import IntegrationParameters
        from simgen.manifolds import MultivariateGaussianPrior
        from simgen.particle_filtering import ParticleFilterGenerator
        from simgen.utils import get_mace_config

        pretrained = torch.load(model, map_location="cpu", weights_only=False).float()
        torch.set_default_dtype(torch.float32)
        config = get_mace_config(pretrained)
        network = ScaleShiftMACE(**config)
        network.load_state_dict(pretrained.state_dict(), strict=False)
        radial = {key: config[key] for key in ("r_max", "num_bessel", "num_polynomial_cutoff")}
        network.radial_embedding = RadialDistanceTransformBlock(r_min=0.75, **radial)
        for parameter in network.parameters():
            parameter.requires_grad = False
        references = ReferenceSet.load("qm9")
        atoms = [Atoms(z[z != 9], x[z != 9]) for z, x in zip(references.numbers, references.positions, strict=True)]

        class Calculator(MaceSimilarityCalculator):  # type: ignore[misc]
            """With energies that are numbers: it makes arrays of one, which the numpy it pins takes for numbers."""

            def calculate(self, *arguments: Any, **keywords: Any) -> None:
                super().calculate(*arguments, **keywords)
                if "energy" in self.results:
                    self.results["energy"] = float(np.ravel(self.results["energy"])[0])

        self.calculator = Calculator(network.eval(), reference_data=atoms, device="cpu")
        self.table = SwappingAtomicNumberTable([6, 7, 8], [1, 1, 1])
        self.strength = calculate_restorative_force_strength
        self.parts: Any = (ParticleFilterGenerator, IntegrationParameters, MultivariateGaussianPrior)

    def make(self, size: int, seed: int) -> Atoms | None:
        """What comes out at the end; ``None`` if it says itself that nothing does."""
        generator_of, parameters, prior = self.parts
        np.random.seed(seed)  # noqa: NPY002  (the release draws from it)
        torch.manual_seed(seed)
        own = generator_of(
            similarity_calculator=self.calculator,
            guiding_manifold=prior(covariance_matrix=np.diag([1.0, 1.0, 1.0])),
            device="cpu",
            restorative_force_strength=0.7 * self.strength(size),
            integration_parameters=parameters(S_churn=1.3, S_min=2e-3, S_noise=0.5),
            num_steps=50,
        )
        own.integrator.device = "cpu"
        try:
            course = own.generate(Atoms(f"C{size}"), self.table, 10, 2, hydrogenation_type="valence")
        except (ValueError, RuntimeError) as error:
            logging.warning("size %d, seed %d: %s", size, seed, error)
            return None
        last = course[-1]
        return Atoms(last.numbers, last.positions)


def race(release: Release, rounds: int, sizes: range) -> dict[str, Any]:
    """Attempts per minute, in turns."""
    ours = Generator(GenerationSettings(heavy_atoms=f"{sizes[0]}:{sizes[-1]}", batch=50))
    ours.attempt(range(2))
    release.make(5, 0)
    rates: dict[str, list[float]] = {"halberd": [], "release": []}
    for number in range(rounds):
        begun = time.perf_counter()
        ours.attempt(range(50 * number, 50 * (number + 1)))
        rates["halberd"].append(60 * 50 / (time.perf_counter() - begun))
        begun = time.perf_counter()
        for size in sizes:
            release.make(size, number)
        rates["release"].append(60 * len(sizes) / (time.perf_counter() - begun))
    ratios = np.array(rates["halberd"]) / np.array(rates["release"])
    return {**rates, "ratio": float(np.median(ratios)), "range": [float(ratios.min()), float(ratios.max())]}


def main() -> None:
    """Make, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--heavy-atoms", default="7:9")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sizes = GenerationSettings(heavy_atoms=arguments.heavy_atoms).sizes
    assert sizes is not None
    release = Release(arguments.model)
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "release.xyz"
    made = ase.io.read(file, ":") if file.exists() else []
    for number in range(len(made), arguments.count):
        atoms = release.make(sizes[number % len(sizes)], number)
        made.append(Atoms() if atoms is None else atoms)
        ase.io.write(file, made, format="extxyz")
        sys.stderr.write(f"\r{number + 1} of {arguments.count}")
    found = [atoms for atoms in made if len(atoms)]
    molecules = [perceive_molecule(atoms.numbers, atoms.positions) for atoms in found]
    valid = [mol for mol in molecules if mol is not None]
    row: dict[str, Any] = {"attempts": len(made), "valid": len(valid)}
    row["metrics"] = measure(found, len(made), known=known_smiles(), xtb=min(len(found), 20))
    if len(valid) > 1:
        references = [perceive_molecule(atoms.numbers, atoms.positions) for atoms in draw_qm9(REFERENCES, 2)]
        row["likeness"] = likeness(valid, [mol for mol in references if mol is not None])
    if arguments.rounds:
        row["speed"] = race(release, arguments.rounds, sizes)
    (arguments.out / "release.json").write_text(json.dumps(row, indent=2, default=float))
    sys.stdout.write(json.dumps(row, indent=2, default=float) + "\n")


if __name__ == "__main__":
    main()
