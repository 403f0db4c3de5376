"""The ASE calculator: derivatives, committees, caching."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.optimize import BFGS

from halberd.plugins import HalberdCalculator
from halberd.potentials.errors import BackendError, ConfigurationError, GeometryError, UnknownElementError
from halberd.potentials.sites.lennard_jones import lennard_jones


@pytest.mark.parametrize("variant", ["plain", "zbl", "density"])
def test_forces_and_stress_are_derivatives(variant, crystal, mace_files):
    atoms = crystal.copy()
    atoms.calc = HalberdCalculator(mace_files[variant])
    forces, stress = atoms.get_forces(), atoms.get_stress()
    np.testing.assert_allclose(
        calculate_numerical_forces(atoms, eps=1e-4), forces, atol=1e-6 * max(1, np.abs(forces).max())
    )
    np.testing.assert_allclose(
        calculate_numerical_stress(atoms, eps=1e-5), stress, atol=1e-6 * max(1, np.abs(stress).max())
    )


def test_what_is_no_number_is_named():
    calculator = HalberdCalculator(lennard_jones([18]))
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True)
    calculator.evaluate(atoms)
    broken = atoms.copy()
    broken.positions[2, 1] = np.nan
    with pytest.raises(GeometryError, match=r"Positions are not finite for 1 of 4 atoms: 2 \(Ar\)"):
        calculator.evaluate(broken)
    broken = atoms.copy()
    broken.cell[1, 1] = np.inf
    with pytest.raises(GeometryError, match="cell is not finite"):
        calculator.evaluate(broken)
    broken.pbc = (True, False, True)
    assert np.isfinite(calculator.evaluate(broken)["energy"])


def test_committee_statistics(crystal, mace_files):
    files = [mace_files[f"member{k}"] for k in range(3)]
    together = HalberdCalculator(files).evaluate(crystal)
    apart = [HalberdCalculator(file).evaluate(crystal) for file in files]
    energies = np.array([each["energy"] for each in apart])
    forces = np.array([each["forces"] for each in apart])
    np.testing.assert_allclose(together["energies_committee"], energies, rtol=1e-12)
    np.testing.assert_allclose(together["forces_committee"], forces, atol=1e-10)
    assert together["energy"] == pytest.approx(energies.mean(), rel=1e-12)
    assert together["energy_std"] == pytest.approx(np.sqrt(((energies - energies.mean()) ** 2).sum() / 3), rel=1e-6)
    deviation = np.linalg.norm(forces - forces.mean(0), axis=2)
    np.testing.assert_allclose(together["forces_std"], np.sqrt((deviation**2).mean(0)), rtol=1e-8)
    np.testing.assert_allclose(together["stress"], np.mean([each["stress"] for each in apart], axis=0), atol=1e-12)


def test_site_energies_sum_to_the_energy(crystal, mace_files):
    results = HalberdCalculator(mace_files["plain"]).evaluate(crystal)
    assert results["energies"].shape == (len(crystal),)
    assert results["energies"].sum() == pytest.approx(results["energy"], rel=1e-12)
    carbon = HalberdCalculator(mace_files["plain"]).model.e0s[1]
    assert abs(results["energies"][0] - carbon) < 20


def test_interaction_energy(ethanol, mace_files):
    total = HalberdCalculator(mace_files["plain"]).evaluate(ethanol)["energy"]
    calculator = HalberdCalculator(mace_files["plain"], energy="interaction")
    assert total - calculator.evaluate(ethanol)["energy"] == pytest.approx(
        calculator.model.self_energy(ethanol.numbers), rel=1e-12
    )


def test_skin_and_many_compositions_do_not_leak_between_structures(mace_files, ethanol, crystal):
    calculator = HalberdCalculator(mace_files["plain"], skin=1.0)
    fresh = [HalberdCalculator(mace_files["plain"], skin=0.0).evaluate(a)["energy"] for a in (ethanol, crystal)]
    for k in range(12):  # more compositions than are kept
        calculator.evaluate(ethanol[: k % 9 + 1])
    for _ in range(2):
        assert calculator.evaluate(ethanol)["energy"] == pytest.approx(fresh[0], rel=1e-13)
        assert calculator.evaluate(crystal)["energy"] == pytest.approx(fresh[1], rel=1e-13)
    shifted = ethanol.copy()
    shifted.positions += [1000.0, 0, 0]
    assert calculator.evaluate(shifted)["energy"] == pytest.approx(fresh[0], rel=1e-11)


def test_lone_atom_has_no_force():
    atoms = Atoms("Ar")
    atoms.calc = HalberdCalculator(lennard_jones([18]))
    assert atoms.get_potential_energy() == 0.0
    assert not atoms.get_forces().any()


def test_argon_crystal_relaxes_to_a_known_lattice_constant():
    """fcc Lennard-Jones, truncated smoothly: the minimum from a direct lattice sum."""
    cutoff = 8.0
    atoms = bulk("Ar", "fcc", a=5.3)
    calculator = HalberdCalculator(lennard_jones([18], cutoff=cutoff))

    def energy(a: float) -> float:
        total = 0.0
        for i in range(-9, 10):
            for j in range(-9, 10):
                for k in range(-9, 10):
                    r = a / 2 * np.linalg.norm([j + k, i + k, i + j])
                    if 0 < r < cutoff:
                        s6 = (3.4 / r) ** 6
                        total += 2 * 0.0104 * (s6**2 - s6) * (1 - (r / cutoff) ** 2) ** 3
        return total

    atoms.calc = calculator
    assert atoms.get_potential_energy() == pytest.approx(energy(5.3), rel=1e-10)


def test_works_with_ase_optimisers(ethanol):
    atoms = ethanol.copy()
    atoms.calc = HalberdCalculator("gfn2-chnof", precision="double")
    assert BFGS(atoms, logfile=None).run(fmax=0.05, steps=200)
    assert 1.05 < atoms.get_distance(0, 1) < 1.60


def test_bad_input(mace_files):
    with pytest.raises(UnknownElementError, match="Atom 0 is Ar"):
        HalberdCalculator(mace_files["plain"]).evaluate(Atoms("Ar"))
    with pytest.raises(ConfigurationError, match="'total' or 'interaction'"):
        HalberdCalculator(mace_files["plain"], energy="all")
    with pytest.raises((BackendError, ConfigurationError)):
        HalberdCalculator(mace_files["plain"], device="cuda:99")
