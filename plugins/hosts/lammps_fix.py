"""A learned potential in LAMMPS, through ``fix external``: any LAMMPS with its Python module, no compiled interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from halberd.plugins.hosts.ase_calculator import HalberdCalculator
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.loading import ModelSource
from halberd.potentials.sites.elements import atomic_number_of


class LammpsForce:
    """Adds the forces, energy and virial of a model to a LAMMPS run.

    Parameters
    ----------
    lmp : lammps.lammps
        With ``units metal``, on one MPI rank, and its atoms made. Every atom gets the force; add no other interactions
        unless they are meant to come on top.
    model : path, name of a pretrained model, SiteModel, or a sequence of these
    elements : sequence of str or int
        Element of LAMMPS' atom types 1, 2, ...
    fix_id : str
        Name of the fix that is made.
    **options
        Of :class:`halberd.plugins.HalberdCalculator`: ``precision``, ``device``, ``skin``, ``head``, ...; ``energy`` is
        ``'interaction'`` if not given.

    Raises
    ------
    ConfigurationError
        If LAMMPS uses other units or several ranks, or there are more atom types than elements.
    UnknownElementError, ModelFileError
        As for the calculator.

    Notes
    -----
    ``thermo_style`` shows the energy in ``pe`` and the pressure in ``press``: the fix is told to count in both.
    """

    def __init__(
        self,
        lmp: Any,
        model: ModelSource | Sequence[ModelSource],
        elements: Sequence[str | int],
        fix_id: str = "halberd",
        **options: Any,
    ) -> None:
        units = lmp.extract_global("units")
        if units != "metal":
            raise ConfigurationError(f"LAMMPS runs with 'units {units}'; a halberd model needs 'units metal'.")
        if lmp.extract_setting("world_size") != 1:
            raise ConfigurationError("halberd's fix runs on one MPI rank; start LAMMPS without mpirun.")
        n_types = lmp.extract_global("ntypes")
        if n_types > len(elements):
            raise ConfigurationError(f"LAMMPS has {n_types} atom types, but only {len(elements)} elements were given.")
        self.calculator = HalberdCalculator(model, **{"energy": "interaction", **options})
        self._numbers = np.array([0, *(atomic_number_of(each) for each in elements)])
        self.calculator.model.species_of(self._numbers[1 : n_types + 1])
        self._id = fix_id
        lmp.command(f"fix {fix_id} all external pf/callback 1 1")
        lmp.command(f"fix_modify {fix_id} energy yes virial yes")
        lmp.set_fix_external_callback(fix_id, self._evaluate, lmp)

    def _evaluate(
        self,
        lmp: Any,
        step: int,  # noqa: ARG002  (LAMMPS passes it)
        n_local: int,
        tags: Any,  # noqa: ARG002
        x: NDArray[np.float64],
        f: NDArray[np.float64],
    ) -> None:
        types = np.asarray(lmp.numpy.extract_atom("type"))[:n_local]
        low, high, xy, yz, xz, periodic, _ = lmp.extract_box()
        cell = np.diag(np.array(high) - np.array(low))
        cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
        results = self.calculator.evaluate(
            Atoms(numbers=self._numbers[types], positions=x[:n_local] - np.array(low), cell=cell, pbc=periodic)
        )
        f[:n_local] = results["forces"]
        lmp.fix_external_set_energy_global(self._id, results["energy"])
        if "stress" in results:
            xx, yy, zz, yz_, xz_, xy_ = -results["stress"] * abs(np.linalg.det(cell))
            lmp.fix_external_set_virial_global(self._id, [xx, yy, zz, xy_, xz_, yz_])
