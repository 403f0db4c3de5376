"""Making room for a learned region inside a force-field System (mechanical embedding).

Interactions among the atoms of the region are taken out of the force field, all others stay. With interpolation
they are kept in a ``CustomCVForce`` that the context parameter fades out while the learned force fades in.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from itertools import combinations

import openmm
from openmm import unit

from halberd.potentials.errors import ConfigurationError, GeometryError

#: Bonded forces by class name: how to count terms, read one, and disable one. Terms are read as
#: ``(particles..., parameters...)`` with the number of particles given here.
_BONDED = {
    "HarmonicBondForce": ("Bond", 2),
    "HarmonicAngleForce": ("Angle", 3),
    "PeriodicTorsionForce": ("Torsion", 4),
    "RBTorsionForce": ("Torsion", 4),
    "CustomBondForce": ("Bond", 2),
    "CustomAngleForce": ("Angle", 3),
    "CustomTorsionForce": ("Torsion", 4),
}
#: Forces that do not act between pairs of atoms inside the region, and stay as they are. Implicit solvent and
#: external fields act on region atoms too: that is what mechanical embedding means.
_UNTOUCHED = {
    "CMMotionRemover",
    "AndersenThermostat",
    "MonteCarloBarostat",
    "MonteCarloAnisotropicBarostat",
    "MonteCarloFlexibleBarostat",
    "MonteCarloMembraneBarostat",
    "CustomExternalForce",
    "GBSAOBCForce",
    "CustomGBForce",
    "RMSDForce",
    "CustomCentroidBondForce",
    "CustomCVForce",
}
#: Coulomb's constant in kJ nm / (mol e^2), as OpenMM's own forces use it.
_COULOMB = 138.93545764438198


def embed(
    system: openmm.System,
    atoms: Sequence[int],
    remove_constraints: bool,
    interpolate: str | None,
    force_group: int,
) -> openmm.System:
    """Copy a System without the interactions inside a region.

    Parameters
    ----------
    system : openmm.System
        Not modified.
    atoms : sequence of int
        Particle indices of the region.
    remove_constraints : bool
        Drop constraints between two atoms of the region.
    interpolate : str, optional
        Name of a context parameter; the interactions taken out are then added back, times one minus it.
    force_group : int
        Group of the force that holds them.

    Returns
    -------
    openmm.System

    Raises
    ------
    ConfigurationError
        If the region holds virtual sites or the System a force that cannot be split.
    GeometryError
        If the box is too small for the force field's cutoff.
    """
    region = set(atoms)
    for atom in atoms:
        if system.isVirtualSite(atom):
            raise ConfigurationError(
                f"Particle {atom} is a virtual site and cannot be part of the learned region; leave it out."
            )
    new = copy.deepcopy(system)
    if remove_constraints:
        for index in reversed(range(new.getNumConstraints())):
            first, second, _ = new.getConstraintParameters(index)
            if first in region and second in region:
                new.removeConstraint(index)
    inside: list[openmm.Force] = []
    for index in reversed(range(new.getNumForces())):
        force = new.getForce(index)
        kind = type(force).__name__
        if kind in _BONDED:
            inside += _split_bonded(new, index, force, kind, region)
        elif kind == "CMAPTorsionForce":
            inside += _split_cmap(new, index, force, region)
        elif kind == "CustomCompoundBondForce":
            inside += _split_compound(new, index, force, region)
        elif kind == "NonbondedForce":
            _check_box(system, force)
            inside += _split_nonbonded(force, atoms)
        elif kind == "CustomNonbondedForce":
            if interpolate is not None:
                raise ConfigurationError(
                    "interpolate=True cannot fade a CustomNonbondedForce; use a force field with a NonbondedForce, "
                    "or interpolate=False."
                )
            _exclude_custom(force, atoms)
        elif kind not in _UNTOUCHED:
            raise ConfigurationError(
                f"The System holds a {kind}, which halberd cannot split into a learned and a force-field part."
            )
    if interpolate is not None and inside:
        new.addForce(_faded(inside, interpolate, force_group))
    return new


def _faded(forces: Iterable[openmm.Force], parameter: str, group: int) -> openmm.CustomCVForce:
    forces = list(forces)
    names = [f"inside{i}" for i in range(len(forces))]
    faded = openmm.CustomCVForce(f"(1-{parameter})*({'+'.join(names)})")
    faded.addGlobalParameter(parameter, 1.0)
    for name, force in zip(names, forces, strict=True):
        force.setForceGroup(0)
        faded.addCollectiveVariable(name, force)
    faded.setForceGroup(group)
    faded.setName("halberd: force field inside the learned region")
    return faded


def _emptied(force: openmm.Force, kind: str) -> openmm.Force:
    """Return a force of the same kind and settings without terms."""
    if kind.startswith("Custom"):
        bare = type(force)(force.getEnergyFunction())
        term = _BONDED[kind][0]
        for i in range(getattr(force, f"getNumPer{term}Parameters")()):
            getattr(bare, f"addPer{term}Parameter")(getattr(force, f"getPer{term}ParameterName")(i))
        for i in range(force.getNumGlobalParameters()):
            bare.addGlobalParameter(force.getGlobalParameterName(i), force.getGlobalParameterDefaultValue(i))
    else:
        bare = type(force)()
    bare.setUsesPeriodicBoundaryConditions(force.usesPeriodicBoundaryConditions())
    bare.setForceGroup(force.getForceGroup())
    bare.setName(force.getName())
    return bare


def _split_bonded(
    system: openmm.System, index: int, force: openmm.Force, kind: str, region: set[int]
) -> list[openmm.Force]:
    term, size = _BONDED[kind]
    outer, inner = _emptied(force, kind), _emptied(force, kind)
    n_inner = 0
    for i in range(getattr(force, f"getNum{term}s")()):
        arguments = getattr(force, f"get{term}Parameters")(i)
        is_inner = all(particle in region for particle in arguments[:size])
        getattr(inner if is_inner else outer, f"add{term}")(*arguments)
        n_inner += is_inner
    if not n_inner:
        return []
    system.removeForce(index)
    system.addForce(outer)
    return [inner]


def _split_cmap(system: openmm.System, index: int, force: openmm.Force, region: set[int]) -> list[openmm.Force]:
    outer, inner = openmm.CMAPTorsionForce(), openmm.CMAPTorsionForce()
    for i in range(force.getNumMaps()):
        for each in (outer, inner):
            each.addMap(*force.getMapParameters(i))
    for i in range(force.getNumTorsions()):
        arguments = force.getTorsionParameters(i)
        chosen = inner if all(particle in region for particle in arguments[1:9]) else outer
        chosen.addTorsion(*arguments)
    if not inner.getNumTorsions():
        return []
    for each in (outer, inner):
        each.setUsesPeriodicBoundaryConditions(force.usesPeriodicBoundaryConditions())
        each.setForceGroup(force.getForceGroup())
        each.setName(force.getName())
    system.removeForce(index)
    system.addForce(outer)
    return [inner]


def _split_compound(system: openmm.System, index: int, force: openmm.Force, region: set[int]) -> list[openmm.Force]:
    terms = [force.getBondParameters(i) for i in range(force.getNumBonds())]
    is_inner = [all(particle in region for particle in particles) for particles, _ in terms]
    if not any(is_inner):
        return []
    if not all(is_inner):
        raise ConfigurationError(
            "A CustomCompoundBondForce acts both inside and outside the learned region; split it into two forces."
        )
    inner = copy.deepcopy(force)
    system.removeForce(index)
    return [inner]


def _check_box(system: openmm.System, force: openmm.NonbondedForce) -> None:
    if not force.usesPeriodicBoundaryConditions():
        return
    box = [vector.value_in_unit(unit.nanometer) for vector in system.getDefaultPeriodicBoxVectors()]
    cutoff = force.getCutoffDistance().value_in_unit(unit.nanometer)
    width = min(box[axis][axis] for axis in range(3))
    if 2 * cutoff > width:
        raise GeometryError(
            f"The box is {width:.4g} nm wide, less than twice the force field's cutoff of {cutoff:.4g} nm, which "
            "OpenMM does not allow. Use a larger box or a shorter cutoff; the learned force has no such limit."
        )


def _split_nonbonded(force: openmm.NonbondedForce, atoms: Sequence[int]) -> list[openmm.Force]:
    """Turn all pairs inside the region into empty exceptions; return what they were as a bond force."""
    inner = openmm.CustomBondForce(f"{_COULOMB}*charge_product/r + 4*epsilon*((sigma/r)^12-(sigma/r)^6)")
    for name in ("charge_product", "sigma", "epsilon"):
        inner.addPerBondParameter(name)
    inner.setName("nonbonded inside the learned region")
    region = set(atoms)
    known = {}
    for i in range(force.getNumExceptions()):
        first, second, charge, sigma, epsilon = force.getExceptionParameters(i)
        if first in region and second in region:
            known[frozenset((first, second))] = (charge._value, sigma._value, epsilon._value)
    for first, second in combinations(atoms, 2):
        pair = frozenset((first, second))
        if pair in known:
            parameters = known[pair]
        else:
            q1, s1, e1 = (p._value for p in force.getParticleParameters(first))
            q2, s2, e2 = (p._value for p in force.getParticleParameters(second))
            parameters = (q1 * q2, 0.5 * (s1 + s2), (e1 * e2) ** 0.5)
        if parameters[0] != 0 or parameters[2] != 0:
            inner.addBond(first, second, parameters)
        force.addException(first, second, 0.0, 1.0, 0.0, replace=True)
    return [inner] if inner.getNumBonds() else []


def _exclude_custom(force: openmm.CustomNonbondedForce, atoms: Sequence[int]) -> None:
    known = {frozenset(force.getExclusionParticles(i)) for i in range(force.getNumExclusions())}
    for first, second in combinations(atoms, 2):
        if frozenset((first, second)) not in known:
            force.addExclusion(first, second)
