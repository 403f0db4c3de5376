"""Door for openmm-ml: ``MLPotential("halberd", modelPath=...)``.

openmm-ml loads the entry points of all packages when it is imported, unguarded. So nothing here imports torch, nor
anything of halberd that does, before a potential is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import openmm
from openmm import app
from openmmml.mlpotential import MLPotentialImpl, MLPotentialImplFactory


class HalberdImplFactory(MLPotentialImplFactory):
    """What openmm-ml makes potentials with."""

    def createImpl(self, name: str, modelPath: Any = None, **args: Any) -> HalberdImpl:
        """Make the potential behind an ``MLPotential``.

        Parameters
        ----------
        name : str
            ``"halberd"``, with ``modelPath``, or the name of a pretrained model.
        modelPath : path, or a sequence of paths, optional
            Whatever :func:`halberd.potentials.load` reads; a sequence is a committee.
        **args
            Options of :class:`halberd.plugins.LearnedPotential`, as defaults of every System made with this potential.

        Raises
        ------
        ConfigurationError
            If ``modelPath`` is missing or not wanted, or a keyword is unknown.
        ModelFileError
            If the model cannot be read.
        """
        from halberd.potentials.errors import ConfigurationError

        if name == "halberd" and modelPath is None:
            raise ConfigurationError("MLPotential('halberd') needs a model: modelPath='mine.pt' or a pretrained name.")
        if name != "halberd" and modelPath is not None:
            raise ConfigurationError(f"'{name}' is a pretrained model; for a file write MLPotential('halberd', ...).")
        return HalberdImpl(name if modelPath is None else modelPath, args)


class HalberdImpl(MLPotentialImpl):
    """A learned potential as openmm-ml knows it.

    Parameters
    ----------
    model : path, name, or a sequence of these
    options : dict
        Of :class:`halberd.plugins.LearnedPotential`.
    """

    def __init__(self, model: Any, options: dict[str, Any]) -> None:
        from halberd.plugins.forces.learned_potential import LearnedPotential

        self.potential = LearnedPotential(model, **_translated(options))

    def addForces(
        self,
        topology: app.Topology,
        system: openmm.System,
        atoms: Iterable[int] | None,
        forceGroup: int,
        **args: Any,
    ) -> None:
        """Add the potential to a System; called by openmm-ml.

        Raises
        ------
        UnknownElementError, ConfigurationError, BackendError
            See :meth:`halberd.plugins.LearnedPotential.addForces`.
        """
        periodic = topology.getPeriodicBoxVectors() is not None or system.usesPeriodicBoundaryConditions()
        # openmm-ml passes 0 where nobody chose.
        options = {"forceGroup": forceGroup or self.potential.options.forceGroup, **_translated(args)}
        self.potential.addForces(topology, system, atoms, periodic=periodic, **options)


def _translated(args: dict[str, Any]) -> dict[str, Any]:
    """openmm-ml's keywords as halberd's.

    ``returnEnergyType`` is the only one that goes by another name: ``interaction_energy`` or ``energy``.
    """
    from halberd.potentials.errors import ConfigurationError

    options = dict(args)
    kind = options.pop("returnEnergyType", None)
    if kind is not None:
        if kind not in ("interaction_energy", "energy"):
            raise ConfigurationError(f"returnEnergyType is '{kind}'; it must be 'interaction_energy' or 'energy'.")
        options["energy"] = "interaction" if kind == "interaction_energy" else "total"
    return options
