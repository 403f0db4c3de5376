"""Mixed systems: what is taken out of the force field, what is put in, and fading between the two."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
from ase import Atoms
from openmm import app, unit

from halberd.plugins import LearnedPotential
from halberd.potentials.errors import ConfigurationError, GeometryError
from tests.conftest import topology_of
from tests.plugins.forces.test_builder import BACKENDS, energy_and_forces, make_context

REGION = list(range(9))


@pytest.fixture(scope="module")
def solvated(ethanol) -> Atoms:
    """Ethanol and four more atoms in a box; the last carries a virtual site's place."""
    others = Atoms("OH2C", positions=[[4.0, 0.5, 0.3], [4.9, 0.4, 0.1], [3.8, 1.4, 0.2], [-3.5, 0.2, 0.8]])
    atoms = ethanol + others
    atoms.set_cell([22.0, 21.0, 20.0])
    atoms.pbc = True
    return atoms


def force_field(n_atoms: int, method=openmm.NonbondedForce.PME, seed: int = 0) -> openmm.System:
    """A System with one force of every bonded kind and random parameters, inside, across and outside the region."""
    generator = np.random.default_rng(seed)
    system = openmm.System()
    for _ in range(n_atoms):
        system.addParticle(12.0)
    system.setDefaultPeriodicBoxVectors((2.2, 0, 0), (0, 2.1, 0), (0, 0, 2.0))
    chains = [list(generator.choice(n_atoms, 4, replace=False)) for _ in range(12)] + [[0, 1, 2, 3], [8, 7, 6, 5]]
    chains = [[int(a) for a in chain] for chain in chains]
    bonds, angles, torsions = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce(), openmm.PeriodicTorsionForce()
    rb, cmap = openmm.RBTorsionForce(), openmm.CMAPTorsionForce()
    custom = openmm.CustomBondForce("scale*k*(r-r0)^4")
    custom.addGlobalParameter("scale", 1.5)
    for name in ("k", "r0"):
        custom.addPerBondParameter(name)
    compound = openmm.CustomCompoundBondForce(2, "0.3*distance(p1,p2)^2")
    compound.addBond([0, 5], [])
    compound.addBond([2, 3], [])
    cmap.addMap(4, generator.normal(size=16))
    for a, b, c, d in chains:
        bonds.addBond(a, b, 0.2, 50.0)
        angles.addAngle(a, b, c, 1.9, 20.0)
        torsions.addTorsion(a, b, c, d, 3, 0.2, 2.0)
        rb.addTorsion(a, b, c, d, 1.0, 0.5, 0.3, 0.2, 0.1, 0.05)
        custom.addBond(c, d, [3.0, 0.15])
    cmap.addTorsion(0, 0, 1, 2, 3, 1, 2, 3, 4)
    cmap.addTorsion(0, 0, 1, 2, 3, 9, 10, 11, 12)
    nonbonded = openmm.NonbondedForce()
    for charge in generator.uniform(-0.4, 0.4, n_atoms):
        nonbonded.addParticle(charge, 0.25, 0.3)
    nonbonded.addException(0, 1, 0.0, 1.0, 0.0)
    nonbonded.addException(0, 3, 0.02, 0.25, 0.1)
    nonbonded.addException(0, 9, 0.03, 0.25, 0.1)
    nonbonded.setNonbondedMethod(method)
    nonbonded.setCutoffDistance(0.95)
    nonbonded.setUseDispersionCorrection(False)
    nonbonded.setEwaldErrorTolerance(1e-6)
    for force in (bonds, angles, torsions, rb, cmap, custom, compound, nonbonded):
        system.addForce(force)
    return system


def region_only(system: openmm.System) -> openmm.System:
    """The force field of the region alone in vacuum, built independently of the code under test."""
    n = len(REGION)
    alone = openmm.System()
    for _ in range(n):
        alone.addParticle(12.0)
    for force in system.getForces():
        kind = type(force).__name__
        if kind == "NonbondedForce":
            vacuum = openmm.NonbondedForce()
            for i in range(n):
                vacuum.addParticle(*force.getParticleParameters(i))
            for i in range(force.getNumExceptions()):
                a, b, *rest = force.getExceptionParameters(i)
                if a < n and b < n:
                    vacuum.addException(a, b, *rest)
            alone.addForce(vacuum)
            continue
        terms = {"CMAPTorsionForce": "Torsion", "CustomCompoundBondForce": "Bond"}.get(kind)
        terms = terms or ("Bond" if "Bond" in kind else "Angle" if "Angle" in kind else "Torsion")
        arguments = [getattr(force, f"get{terms}Parameters")(i) for i in range(getattr(force, f"getNum{terms}s")())]
        fresh = {
            "HarmonicBondForce": openmm.HarmonicBondForce,
            "HarmonicAngleForce": openmm.HarmonicAngleForce,
            "PeriodicTorsionForce": openmm.PeriodicTorsionForce,
            "RBTorsionForce": openmm.RBTorsionForce,
        }.get(kind)
        if fresh is not None:
            bare = fresh()
        elif kind == "CMAPTorsionForce":
            bare = openmm.CMAPTorsionForce()
            bare.addMap(*force.getMapParameters(0))
        elif kind == "CustomBondForce":
            bare = openmm.CustomBondForce(force.getEnergyFunction())
            bare.addGlobalParameter("scale", 1.5)
            for name in ("k", "r0"):
                bare.addPerBondParameter(name)
        else:
            bare = openmm.CustomCompoundBondForce(2, force.getEnergyFunction())
        for each in arguments:
            particles = each[0] if isinstance(each[0], (tuple, list)) else [x for x in each if isinstance(x, int)]
            if kind == "CMAPTorsionForce":
                particles = each[1:]
            elif kind == "PeriodicTorsionForce":
                particles = each[:4]
            if all(p < n for p in particles):
                getattr(bare, f"add{terms}")(*each)
        alone.addForce(bare)
    return alone


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("interpolate", [False, True])
def test_energy_is_force_field_minus_inside_plus_model(backend, interpolate, solvated, ethanol, mace_files):
    topology, positions = topology_of(solvated)
    system = force_field(len(solvated))
    potential = LearnedPotential(mace_files["plain"])
    mixed = potential.createMixedSystem(topology, system, REGION, interpolate=interpolate, backend=backend)
    energy, forces = energy_and_forces(make_context(mixed, positions))

    whole, whole_forces = energy_and_forces(make_context(system, positions))
    inside, inside_forces = energy_and_forces(make_context(region_only(system), positions[:9]))
    alone, _ = topology_of(ethanol)
    learned, learned_forces = energy_and_forces(make_context(potential.createSystem(alone), positions[:9]))
    assert energy == pytest.approx(whole - inside + learned, rel=1e-5)
    expected = whole_forces.copy()
    expected[:9] += learned_forces - inside_forces
    np.testing.assert_allclose(forces, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("backend", BACKENDS)
def test_lambda_runs_from_force_field_to_model(backend, solvated, mace_files):
    topology, positions = topology_of(solvated)
    system = force_field(len(solvated))
    potential = LearnedPotential(mace_files["plain"])
    mixed = potential.createMixedSystem(topology, system, REGION, interpolate=True, backend=backend)
    context = make_context(mixed, positions)
    energies, forces = {}, {}
    for value in (0.0, 0.3, 1.0):
        context.setParameter("lambda_interpolate", value)
        energies[value], forces[value] = energy_and_forces(context)
    whole, whole_forces = energy_and_forces(make_context(system, positions))
    assert energies[0.0] == pytest.approx(whole, rel=1e-5)
    np.testing.assert_allclose(forces[0.0], whole_forces, atol=2e-5 * np.abs(whole_forces).max())
    assert energies[0.3] == pytest.approx(0.7 * energies[0.0] + 0.3 * energies[1.0], rel=1e-9)
    hard = potential.createMixedSystem(topology, system, REGION, backend=backend)
    assert energies[1.0] == pytest.approx(energy_and_forces(make_context(hard, positions))[0], rel=1e-9)


def test_the_given_system_is_left_alone(solvated, mace_files):
    topology, _ = topology_of(solvated)
    system = force_field(len(solvated))
    before = openmm.XmlSerializer.serialize(system)
    LearnedPotential(mace_files["plain"]).createMixedSystem(topology, system, REGION, interpolate=True)
    assert openmm.XmlSerializer.serialize(system) == before


def water_box() -> tuple[app.Topology, openmm.System, np.ndarray]:
    """TIP4P-Ew water: rigid, with virtual sites."""
    modeller = app.Modeller(app.Topology(), [] * unit.nanometer)
    field = app.ForceField("tip4pew.xml")
    modeller.addSolvent(field, model="tip4pew", boxSize=openmm.Vec3(1.9, 1.9, 1.9) * unit.nanometer)
    system = field.createSystem(
        modeller.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.9 * unit.nanometer, rigidWater=True
    )
    return modeller.topology, system, modeller.positions


def test_virtual_sites_and_rigid_water_outside_the_region(mace_files):
    """A learned water among TIP4P-Ew: its own constraints go, the others' stay, and the run is stable."""
    topology, system, positions = water_box()
    region = [atom.index for atom in next(topology.residues()).atoms() if atom.element is not None]
    # The virtual site of the learned water keeps following its parents.
    mixed = LearnedPotential("gfn2-chnof").createMixedSystem(topology, system, region)
    assert mixed.getNumConstraints() == system.getNumConstraints() - 3
    kept = LearnedPotential("gfn2-chnof").createMixedSystem(topology, system, region, removeConstraints=False)
    assert kept.getNumConstraints() == system.getNumConstraints()
    integrator = openmm.LangevinMiddleIntegrator(300, 5.0, 0.0005)
    integrator.setRandomNumberSeed(1)
    context = make_context(mixed, positions, "CPU", integrator)
    context.computeVirtualSites()
    openmm.LocalEnergyMinimizer.minimize(context, 50, 30)
    context.setVelocitiesToTemperature(300, 1)
    integrator.step(40)
    state = context.getState(positions=True, energy=True)
    end = state.getPositions(asNumpy=True)._value
    assert np.isfinite(end).all()
    for hydrogen in region[1:]:
        assert 0.08 < np.linalg.norm(end[hydrogen] - end[region[0]]) < 0.12


def test_bad_regions(mace_files, solvated):
    topology, system, _ = water_box()
    potential = LearnedPotential("gfn2-chnof")
    site = next(i for i in range(system.getNumParticles()) if system.isVirtualSite(i))
    with pytest.raises(ConfigurationError, match=f"Particle {site} is a virtual site"):
        potential.createMixedSystem(topology, system, [site])
    with pytest.raises(ConfigurationError, match="atoms is empty"):
        potential.createMixedSystem(topology, system, [])
    with pytest.raises(ConfigurationError, match="index 99999"):
        potential.createMixedSystem(topology, system, [99999])
    with pytest.raises(ConfigurationError, match="twice"):
        potential.createMixedSystem(topology, system, [0, 0])
    with pytest.raises(ConfigurationError, match="The topology has"):
        potential.createMixedSystem(topology, force_field(5), [0])


def test_a_box_too_small_for_the_force_field(solvated, mace_files):
    topology, _ = topology_of(solvated)
    system = force_field(len(solvated))
    system.setDefaultPeriodicBoxVectors((1.8, 0, 0), (0, 2.1, 0), (0, 0, 2.0))
    with pytest.raises(GeometryError, match=r"1.8 nm wide, less than twice the force field's cutoff of 0.95 nm"):
        LearnedPotential(mace_files["plain"]).createMixedSystem(topology, system, REGION)


def test_a_generator_of_atoms_works(solvated, mace_files):
    topology, positions = topology_of(solvated)
    system = force_field(len(solvated))
    potential = LearnedPotential(mace_files["plain"])
    first = potential.createMixedSystem(topology, system, REGION)
    second = potential.createMixedSystem(topology, system, (i for i in REGION))
    energies = [energy_and_forces(make_context(each, positions))[0] for each in (first, second)]
    assert energies[0] == energies[1]


def test_forces_that_cannot_be_split(solvated, mace_files):
    topology, _ = topology_of(solvated)
    system = force_field(len(solvated))
    compound = openmm.CustomCompoundBondForce(2, "distance(p1,p2)")
    compound.addBond([0, 1], [])
    compound.addBond([0, 10], [])
    system.addForce(compound)
    with pytest.raises(ConfigurationError, match="acts both inside and outside"):
        LearnedPotential(mace_files["plain"]).createMixedSystem(topology, system, REGION)
    system = force_field(len(solvated))
    system.addForce(openmm.AmoebaVdwForce())
    with pytest.raises(ConfigurationError, match="holds a AmoebaVdwForce"):
        LearnedPotential(mace_files["plain"]).createMixedSystem(topology, system, REGION)


def test_custom_nonbonded_gets_exclusions(solvated, mace_files):
    topology, positions = topology_of(solvated)
    system = openmm.System()
    lj = openmm.CustomNonbondedForce("0.1/r^6")
    for _ in solvated:
        system.addParticle(12.0)
        lj.addParticle([])
    lj.addExclusion(0, 1)
    system.addForce(lj)
    potential = LearnedPotential(mace_files["plain"])
    mixed = potential.createMixedSystem(topology, system, REGION)
    energy, _ = energy_and_forces(make_context(mixed, positions))
    vectors = positions[:, None] - positions[None]
    distances = np.linalg.norm(vectors, axis=2)
    pairs = sum(0.1 / distances[i, j] ** 6 for i in range(13) for j in range(i + 1, 13) if not (i < 9 and j < 9))
    learned, _ = energy_and_forces(make_context(potential.createSystem(open_topology(solvated[:9])), positions[:9]))
    assert energy == pytest.approx(pairs + learned, rel=1e-9)
    with pytest.raises(ConfigurationError, match="cannot fade a CustomNonbondedForce"):
        potential.createMixedSystem(topology, system, REGION, interpolate=True)


def open_topology(atoms: Atoms) -> app.Topology:
    """The same atoms without a cell."""
    free = atoms.copy()
    free.pbc = False
    return topology_of(free)[0]
