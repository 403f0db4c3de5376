"""The one place that makes an OpenMM Force of a TorchScript module: a TorchForce or a PythonForce."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import openmm
import torch

from halberd.plugins.forces.backends import choose_backend, import_openmmtorch
from halberd.plugins.forces.python_force import ModuleCallback
from halberd.potentials.signals import undisturbed
from halberd.potentials.sites.torchscript import inline


@dataclasses.dataclass(frozen=True)
class Carrier:
    """What carries a module, and how OpenMM sees it.

    Attributes
    ----------
    backend : {'torchforce', 'python', 'auto'}
    periodic : bool
        Whether the module takes the box vectors after the positions.
    name : str
    group : int
        Force group.
    parameters : mapping of str to float
        Context parameters and their default values, in the order the module takes them.
    differentiated : tuple of str
        Parameters whose derivative a TorchForce offers.
    device : str
        Where a PythonForce computes; a TorchForce computes where its Context does.
    """

    backend: str
    periodic: bool
    name: str
    group: int = 0
    parameters: Mapping[str, float] = dataclasses.field(default_factory=dict)
    differentiated: tuple[str, ...] = ()
    device: str = "cpu"

    def carry(self, module: torch.jit.ScriptModule) -> openmm.Force:
        """Make the Force.

        Parameters
        ----------
        module : torch.jit.ScriptModule
            Takes positions (N, 3) in nm, box vectors (3, 3) in nm if periodic, and one number per parameter; returns
            an energy in kJ/mol.

        Returns
        -------
        openmm.Force
            An ``openmmtorch.TorchForce`` or an ``openmm.PythonForce``.

        Raises
        ------
        BackendError
            If the backend is not usable here.
        """
        force: openmm.Force
        if choose_backend(self.backend) == "torchforce":
            inline(module)
            with undisturbed():
                force = import_openmmtorch().TorchForce(module)
            for parameter, value in self.parameters.items():
                force.addGlobalParameter(parameter, value)
            for parameter in self.differentiated:
                force.addEnergyParameterDerivative(parameter)
        else:
            callback = ModuleCallback(module, self.periodic, list(self.parameters), self.device)
            force = openmm.PythonForce(callback, dict(self.parameters))
        force.setUsesPeriodicBoundaryConditions(self.periodic)
        force.setForceGroup(self.group)
        force.setName(self.name)
        return force
