"""What a run is made of: the System, with barostat, bias and masses as the settings say, and its integrator."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app, unit
from openmm.mtsintegrator import MTSIntegrator, MTSLangevinIntegrator

from halberd.plugins.forces.builder import build_force
from halberd.plugins.forces.hydrogen_mass import repartition_hydrogen_mass
from halberd.plugins.forces.learned_potential import LearnedPotential
from halberd.plugins.forces.topology import elements_of
from halberd.plugins.forces.variables import (
    CollectiveVariable,
    committee_sigma,
    descriptor_component,
    largest_force_uncertainty,
    similarity_log_density,
)
from halberd.plugins.plumed.files import without_read_states
from halberd.plugins.plumed.force import PlumedForce, read_script
from halberd.plugins.plumed.restarts import forgotten
from halberd.potentials.constants import GAS_CONSTANT_KJ_PER_MOL_K
from halberd.potentials.errors import ConfigurationError, HalberdError, did_you_mean
from halberd.potentials.loading import load
from halberd.potentials.sites.site_model import SiteModel
from halberd.samplers.md.settings import MDSettings
from halberd.samplers.runs.restart import Checkpoint, InexactRestartWarning

#: Force groups.
SLOW, FAST, BIAS = 0, 1, 2
#: What the settings call collective variables.
VARIABLES: dict[str, Callable[..., CollectiveVariable]] = {
    "committee_sigma": committee_sigma,
    "largest_force_uncertainty": largest_force_uncertainty,
    "descriptor_component": descriptor_component,
    "similarity_log_density": similarity_log_density,
}


@dataclasses.dataclass(frozen=True)
class MDSystem:
    """A System that is ready to run.

    Attributes
    ----------
    system : openmm.System
    model : SiteModel
        What drives it.
    """

    system: openmm.System
    model: SiteModel


def build_system(settings: MDSettings, topology: app.Topology, positions: np.ndarray) -> MDSystem:
    """Make the System of a run, without PLUMED.

    Raises
    ------
    HalberdError
        Anything wrong with model, elements, ensemble or masses.
    """
    if topology.getNumAtoms() < 2:
        raise ConfigurationError(
            f"'{settings.structure}' holds one atom, and runs stay with their centre of mass. Take two atoms or more."
        )
    potential = LearnedPotential(settings.model)
    options = {**vars(settings.force), "forceGroup": SLOW}
    system = potential.createSystem(topology, **options)
    model = potential.model(**options)
    if settings.fast_model is not None:
        _add_fast_force(system, settings.fast_model, settings, topology)
    if settings.hydrogen_mass is not None:
        repartition_hydrogen_mass(system, topology, positions, settings.hydrogen_mass)
    if settings.ensemble == "NPT":
        system.addForce(make_barostat(settings))
    return MDSystem(system, model)


def _add_fast_force(system: openmm.System, source: str, settings: MDSettings, topology: app.Topology) -> None:
    """Put the cheap model into the fast group and take it away from the slow one: together they are the model's own."""
    numbers = elements_of(topology)
    fast = load(source, precision=settings.force.precision).restrict(set(numbers))
    periodic = topology.getPeriodicBoxVectors() is not None
    options = dataclasses.replace(settings.force, head=None, charge=None, multiplicity=None)
    for group, scale, name in ((FAST, 1.0, "fast_force"), (SLOW, -1.0, "fast_force_in_slow_group")):
        system.addForce(
            build_force(
                fast,
                numbers,
                periodic=periodic,
                options=dataclasses.replace(options, forceGroup=group),
                scale_parameter=name,
                scale=scale,
            )
        )


def make_barostat(settings: MDSettings) -> openmm.Force:
    """The Monte Carlo barostat that the settings ask for."""
    temperature, interval = settings.temperature * unit.kelvin, settings.barostat_interval
    if settings.barostat == "anisotropic":
        pressures = settings.pressure if isinstance(settings.pressure, tuple) else (settings.pressure,) * 3
        every_axis = (True, True, True)
        barostat = openmm.MonteCarloAnisotropicBarostat(
            openmm.Vec3(*pressures) * unit.bar, temperature, *every_axis, interval
        )
    elif settings.barostat == "flexible":
        barostat = openmm.MonteCarloFlexibleBarostat(settings.pressure * unit.bar, temperature, interval)
    else:
        barostat = openmm.MonteCarloBarostat(settings.pressure * unit.bar, temperature, interval)
    return barostat


def barostats(system: openmm.System) -> list[Any]:
    """Monte Carlo barostats of a System."""
    kinds = (openmm.MonteCarloBarostat, openmm.MonteCarloAnisotropicBarostat, openmm.MonteCarloFlexibleBarostat)
    return [force for force in system.getForces() if isinstance(force, kinds)]


def seed_barostats(system: openmm.System, seed: int, step: int) -> None:
    """Give barostats the random stream of a run that is at a certain step; it counts once a Context is (re)made."""
    digest = hashlib.sha256(f"{seed} {step}".encode()).digest()
    for barostat in barostats(system):
        barostat.setRandomNumberSeed(1 + int.from_bytes(digest[:4], "little") % (2**31 - 2))


def make_integrator(settings: MDSettings) -> openmm.Integrator:
    """The integrator that the settings ask for."""
    step = settings.timestep * unit.femtosecond
    temperature, friction = settings.temperature * unit.kelvin, settings.friction / unit.picosecond
    if settings.fast_model is not None:
        groups = [(SLOW, 1), (BIAS, 1), (FAST, settings.inner_steps)]
        if settings.ensemble == "NVE":
            return MTSIntegrator(step, groups)
        integrator = MTSLangevinIntegrator(temperature, friction, step, groups)
    elif settings.ensemble == "NVE":
        return openmm.VerletIntegrator(step)
    else:
        integrator = openmm.LangevinMiddleIntegrator(temperature, friction, step)
    integrator.setRandomNumberSeed(settings.seed)
    return integrator


def set_temperature(simulation: app.Simulation, temperature: float) -> None:
    """Change the temperature (K) of thermostat and barostat of a running simulation."""
    integrator = simulation.integrator
    if isinstance(integrator, openmm.CustomIntegrator):
        integrator.setGlobalVariableByName("kT", GAS_CONSTANT_KJ_PER_MOL_K * temperature)
    elif hasattr(integrator, "setTemperature"):
        integrator.setTemperature(temperature * unit.kelvin)
    for barostat in barostats(simulation.system):
        simulation.context.setParameter(barostat.Temperature(), temperature)


def make_plumed(
    settings: MDSettings, system: openmm.System, topology: app.Topology, folder: Path, script: str | None
) -> PlumedForce:
    """The bias of a run, with its variables.

    Parameters
    ----------
    settings : MDSettings
    system : openmm.System
    topology : openmm.app.Topology
    folder : path
        Where PLUMED's files go.
    script : str, optional
        Of a run that is continued; that of the settings, for a new one, if omitted.

    Raises
    ------
    HalberdError
        Anything PLUMED or a variable does not accept.
    """
    assert settings.plumed is not None
    force = PlumedForce(
        Path(settings.plumed) if script is None else script,
        system,
        timestep=settings.timestep * unit.femtosecond,
        temperature=settings.temperature * unit.kelvin,
        restart=script is not None,
        folder=folder,
        variables={name: make_variable(name, each, topology, settings) for name, each in settings.variables.items()},
        platform=settings.platform,
    )
    force.setForceGroup(BIAS)
    return force


def continued_script(settings: MDSettings, folder: Path, checkpoint: Checkpoint) -> str:
    """The PLUMED script of a run that goes on, reading states only if they are those of the checkpoint.

    Warns
    -----
    InexactRestartWarning
        Of what PLUMED does not carry over.
    """
    assert settings.plumed is not None
    script = read_script(Path(settings.plumed))
    lost = forgotten(script, folder.absolute()) if checkpoint.step > 0 else []
    if lost:
        warnings.warn(
            f"PLUMED does not carry over a restart, and begins anew: {', '.join(lost)}. What depends on it is not "
            "that of a run in one go.",
            InexactRestartWarning,
            stacklevel=2,
        )
    if checkpoint.extra.get("PLUMED state") == checkpoint.step:
        return script
    without = without_read_states(script)
    if without != script:
        warnings.warn(
            "The state files of PLUMED (STATE_WFILE) are older than the checkpoint, so the bias goes on from its "
            "list of kernels, which PLUMED calls approximate. Leave STATE_WSTRIDE out: states are then written "
            "with every checkpoint.",
            InexactRestartWarning,
            stacklevel=2,
        )
    return without


def make_variable(name: str, values: Any, topology: app.Topology, settings: MDSettings) -> CollectiveVariable:
    """A collective variable from the words of a configuration file: ``kind``, and the arguments of that function.

    Raises
    ------
    ConfigurationError
        If there is no such kind, or an argument is missing or unknown.
    """
    arguments = dict(values) if isinstance(values, Mapping) else {"kind": values}
    kind = str(arguments.pop("kind", ""))
    if kind not in VARIABLES:
        raise ConfigurationError(
            f"variable '{name}' has kind '{kind}'; there are {', '.join(VARIABLES)}.{did_you_mean(kind, VARIABLES)}"
        )
    model = arguments.pop("model", settings.model)
    try:
        return VARIABLES[kind](model, topology, **arguments)
    except TypeError as error:
        if isinstance(error, HalberdError):
            raise
        raise ConfigurationError(f"variable '{name}': {error}.") from error
