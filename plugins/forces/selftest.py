"""Exercise one force backend; run as ``python -m halberd.plugins.forces.selftest BACKEND [PLATFORM]``.

Exits with 0 if energies, forces, stepping and XML in both directions work. Started in a subprocess by
:mod:`halberd.plugins.forces.backends`, since a broken wheel may crash the interpreter.
"""

from __future__ import annotations

import sys

import numpy as np
import openmm
from openmm import unit

from halberd.plugins.forces.builder import build_force
from halberd.plugins.forces.options import ForceOptions
from halberd.potentials.sites.lennard_jones import lennard_jones


def main(backend: str, platform: str = "Reference") -> None:
    """Run the test; raises if anything is wrong."""
    system = openmm.System()
    for _ in range(3):
        system.addParticle(39.9)
    positions = np.array([[0.0, 0.0, 0.0], [0.4, 0.0, 0.0], [0.1, 0.38, 0.05]])
    model = lennard_jones([18])
    # Platforms other than Reference add forces up in single precision or fixed point.
    force_error, energy_error = (1e-9, 0.0) if platform == "Reference" else (1e-4, 1e-5)
    system.addForce(build_force(model, [18] * 3, periodic=False, options=ForceOptions(backend=backend)))
    copies = [system, openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))]
    energies = []
    for each in copies:
        integrator = openmm.VerletIntegrator(0.001)
        context = openmm.Context(each, integrator, openmm.Platform.getPlatformByName(platform))
        context.setPositions(positions)
        state = context.getState(energy=True, forces=True)
        energies.append(state.getPotentialEnergy().value_in_unit(unit.kilojoules_per_mole))
        forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoules_per_mole / unit.nanometer)
        if not (np.abs(forces).max() > 0 and np.abs(forces.sum(axis=0)).max() < force_error):
            raise RuntimeError("forces are wrong")
        integrator.step(3)
    if not abs(energies[0] - energies[1]) <= energy_error or not energies[0] < 0:
        raise RuntimeError(f"energies are wrong: {energies}")


if __name__ == "__main__":
    main(*sys.argv[1:])
