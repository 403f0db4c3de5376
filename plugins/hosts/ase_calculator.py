"""ASE calculator: the same site models for evaluation, labelling and geometry work outside OpenMM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from halberd.plugins.forces.options import check_device
from halberd.plugins.forces.topology import describe_atoms
from halberd.potentials.constants import EV_IN_KJ_PER_MOL
from halberd.potentials.errors import ConfigurationError, GeometryError
from halberd.potentials.loading import ModelSource, load
from halberd.potentials.sites.site_model import Columns
from halberd.potentials.sites.structure_energy import StructureEnergy
from halberd.potentials.sites.torchscript import script


class HalberdCalculator(Calculator):
    """Energies, forces and stress of a learned model; spreads too, if it is a committee.

    One call runs the network once, whatever is asked for; the members of a committee share the neighbour list and
    the graph.

    Parameters
    ----------
    model : path, name of a pretrained model, SiteModel, or a sequence of these
        See :func:`halberd.potentials.load`.
    precision : {'single', 'double'}, optional
        The model's own if omitted.
    device : str
        ``'cpu'``, ``'cuda'`` or ``'cuda:1'``.
    skin : float
        Verlet skin of the neighbour list, angstrom.
    energy : {'total', 'interaction'}
        With or without the atomic self-energies. Labels carry them, so ``'total'`` is the default here.
    head, charge, multiplicity
        See :func:`halberd.potentials.load`.

    Attributes
    ----------
    results : dict
        ``energy`` and ``free_energy`` (eV), ``energies`` (site energies, eV, shape (N,)), ``forces`` (eV/angstrom),
        ``stress`` (eV/angstrom^3, Voigt order, periodic structures only). Of a committee these are means, and there
        are also ``energy_std`` (eV), ``forces_std`` (eV/angstrom, shape (N,): root mean square over members of the
        deviation of an atom's force vector), ``energies_committee`` (K,) and ``forces_committee`` (K, N, 3). Standard
        deviations are those of the members as a population (divided by K). A model with an exact sigma gives
        ``energy_std`` and ``sigma_forces`` (minus its gradient, shape (N, 3)) instead.

    Raises
    ------
    ModelFileError, ConfigurationError, UnknownElementError, BackendError
        As :func:`halberd.potentials.load`; an unknown element is found when a structure is evaluated.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from halberd.plugins import HalberdCalculator
    >>> ethanol = molecule("CH3CH2OH")
    >>> ethanol.calc = HalberdCalculator("gfn2-chnof", precision="double")
    >>> round(ethanol.get_potential_energy(), 1)  # eV
    -310.0
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012  (as in ASE)

    def __init__(
        self,
        model: ModelSource | Sequence[ModelSource],
        *,
        precision: str | None = None,
        device: str = "cpu",
        skin: float = 0.5,
        energy: str = "total",
        head: str | None = None,
        charge: float | None = None,
        multiplicity: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_device(device)
        if energy not in ("total", "interaction"):
            raise ConfigurationError(f"energy is '{energy}'; it must be 'total' or 'interaction'.")
        self.model = load(model, head=head, precision=precision, charge=charge, multiplicity=multiplicity)
        self.device = torch.device(device)
        self.skin = skin
        self.energy_kind = energy
        self._modules: dict[bytes, torch.jit.ScriptModule] = {}

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate a structure and fill ``results``; called by ASE."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        self.results = self.evaluate(self.atoms)

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        """Evaluate a structure without ASE's caching.

        Parameters
        ----------
        atoms : ase.Atoms

        Returns
        -------
        dict
            See ``results``.

        Raises
        ------
        GeometryError
            If a position or the cell is no number, or the model has no finite energy or force for it, such as where
            atoms coincide; names them.
        """
        _check_numbers(atoms)
        module = self._module(atoms)
        positions = torch.tensor(atoms.positions, dtype=torch.float64, device=self.device, requires_grad=True)
        strain = torch.zeros((3, 3), dtype=torch.float64, device=self.device, requires_grad=True)
        # Derivatives with respect to a symmetric strain of everything give the virial.
        deformation = torch.eye(3, dtype=torch.float64, device=self.device) + 0.5 * (strain + strain.T)
        cell = torch.tensor(atoms.cell.array, dtype=torch.float64, device=self.device)
        periodic = torch.tensor(np.asarray(atoms.pbc, dtype=bool))
        sites = module(positions @ deformation, cell @ deformation, periodic)
        columns = sites if sites.dim() == 2 else sites.unsqueeze(1)
        totals = columns.sum(0)
        n_members = totals.shape[0]
        forces, stresses = [], []
        for k in range(n_members):
            gradient, virial = torch.autograd.grad(
                totals[k], [positions, strain], retain_graph=k + 1 < n_members, materialize_grads=True
            )
            forces.append(-gradient.cpu().numpy())
            stresses.append(virial.cpu().numpy())
        self_sites = np.zeros((len(atoms), 1))
        if self.energy_kind == "total":
            rows = self.model.e0s[self.model.species_of(atoms.numbers).numpy()]
            self_sites = rows.reshape(len(atoms), -1)
            if self.model.columns is Columns.MEAN_AND_SIGMA:  # of the mean alone
                self_sites = self_sites * np.array([1.0, 0.0])
        site_energies = columns.detach().cpu().numpy() + self_sites
        member_forces = np.array(forces)
        _check_finite(atoms, site_energies, member_forces)
        return self._results(atoms, site_energies, member_forces, np.array(stresses))

    def _results(
        self, atoms: Atoms, site_energies: np.ndarray, forces: np.ndarray, virials: np.ndarray
    ) -> dict[str, Any]:
        energies = site_energies.sum(axis=0)
        sigma, sigma_forces = energies[-1], forces[-1]
        if self.model.columns is Columns.MEAN_AND_SIGMA:
            site_energies, forces, virials, energies = site_energies[:, :1], forces[:1], virials[:1], energies[:1]
        results: dict[str, Any] = {
            "energy": float(energies.mean()),
            "free_energy": float(energies.mean()),
            "energies": site_energies.mean(axis=1),
            "forces": forces.mean(axis=0),
        }
        if atoms.cell.rank == 3 and all(atoms.pbc):
            results["stress"] = full_3x3_to_voigt_6_stress(virials.mean(axis=0) / atoms.get_volume())
        if self.model.columns is Columns.MEAN_AND_SIGMA:
            results["energy_std"], results["sigma_forces"] = float(sigma), sigma_forces
        elif self.model.columns is Columns.MEMBERS:
            results["energy_std"] = float(energies.std())
            results["forces_std"] = np.sqrt(((forces - forces.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0))
            results["energies_committee"] = energies
            results["forces_committee"] = forces
        return results

    def _module(self, atoms: Atoms) -> torch.jit.ScriptModule:
        # The neighbour list remembers positions, so a module belongs to one composition. Few are kept: a data set
        # of thousands of compositions must not fill the memory.
        key = np.asarray(atoms.numbers, dtype=np.int64).tobytes()
        if key not in self._modules:
            species = self.model.species_of(atoms.numbers)
            if len(self._modules) >= 8:
                self._modules.pop(next(iter(self._modules)))
            module = script(StructureEnergy(self.model, species, self.skin, torch.get_num_threads()))
            self._modules[key] = module.to(self.device)
        return self._modules[key]


def _check_numbers(atoms: Atoms) -> None:
    bad = np.nonzero(~np.isfinite(atoms.positions).all(axis=1))[0]
    if len(bad):
        names = describe_atoms(list(atoms.symbols), bad)
        raise GeometryError(f"Positions are not finite for {len(bad)} of {len(atoms)} atoms: {names}.")
    if not np.isfinite(atoms.cell.array[np.asarray(atoms.pbc, dtype=bool)]).all():
        raise GeometryError(f"The cell is not finite: {atoms.cell.array.tolist()}.")


def _check_finite(atoms: Atoms, site_energies: np.ndarray, forces: np.ndarray) -> None:
    fine = np.isfinite(site_energies).all(axis=1) & np.isfinite(forces).all(axis=(0, 2))
    if not fine.all():
        bad = np.nonzero(~fine)[0]
        raise GeometryError(
            f"The model's energy or forces are not finite for {len(bad)} of {len(atoms)} atoms: "
            f"{describe_atoms(list(atoms.symbols), bad)}. Atoms may coincide, or a coordinate be out of all bounds."
        )


def virial_trace(results: dict[str, Any], atoms: Atoms) -> float:
    """Trace of the virial, kJ/mol, from the stress in the results of a periodic structure."""
    return float(-results["stress"][:3].sum() * atoms.get_volume() * EV_IN_KJ_PER_MOL)
