"""Carrying a halberd force module in ``openmm.PythonForce``, for hosts without a working TorchForce.

The callback holds the scripted module and pickles as its TorchScript bytes, so serialised Systems are
self-contained. Loading such XML runs a pickle: load only files you trust.
"""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from halberd.plugins.forces.stored_modules import read_module
from halberd.potentials.errors import BackendError, HalberdError, StabilityError
from halberd.potentials.signals import undisturbed
from halberd.potentials.sites.torchscript import inline, quiet_torchscript

# XML of halberd before its folders names this module so, and OpenMM crashes where a pickle does not find its class.
sys.modules.setdefault("halberd.plugins.python_force", sys.modules[__name__])


class ModuleCallback:
    """Evaluate a scripted force module for an OpenMM State.

    Parameters
    ----------
    module : torch.jit.ScriptModule or None
        One of :data:`halberd.plugins.forces.module.FORCE_MODULES`, scripted.
    periodic : bool
    parameters : list of str
        Context parameters, in the order the module takes them.
    device : str
        Torch device to evaluate on.
    """

    def __init__(
        self, module: torch.jit.ScriptModule | None, periodic: bool, parameters: list[str], device: str
    ) -> None:
        self.periodic = periodic
        self.parameters = parameters
        self.device = device
        self._master = module
        self._frozen: torch.jit.ScriptModule | None = None
        self._stored, self._problem = b"", ""
        if module is not None:
            inline(module)

    @property
    def master(self) -> torch.jit.ScriptModule:
        """The module.

        Raises
        ------
        BackendError
            If it came out of a file and could not be read. It is said here and not on reading, since OpenMM ends the
            process where that raises an error.
        """
        if self._master is None:
            raise BackendError(self._problem)
        return self._master

    def __call__(self, state: Any) -> tuple[float, np.ndarray]:
        """Return the energy (kJ/mol) and forces (kJ/mol/nm) of a State.

        OpenMM keeps only the text of an exception, so the text carries the traceback.
        """
        try:
            return self._evaluate(state)
        except (HalberdError, torch.jit.Error) as error:
            if "halberd:" in str(error):
                raise StabilityError(str(error)[str(error).rindex("halberd:") :].strip()) from None
            raise
        except Exception as error:
            raise RuntimeError("halberd's PythonForce failed:\n" + traceback.format_exc()) from error

    def _evaluate(self, state: Any) -> tuple[float, np.ndarray]:
        box = np.asarray(state.getPeriodicBoxVectors(asNumpy=True)._value) if self.periodic else None
        values = state.getParameters() if self.parameters else None
        parameters = [values[name] for name in self.parameters] if values is not None else []
        return self.evaluate(state.getPositions(asNumpy=True)._value, box, parameters)

    def evaluate(
        self, positions_nm: np.ndarray, box: np.ndarray | None = None, parameters: Sequence[float] = ()
    ) -> tuple[float, np.ndarray]:
        """Return the energy (kJ/mol) and forces (kJ/mol/nm) of a geometry.

        Parameters
        ----------
        positions_nm : array, shape (N, 3), nm
        box : array, shape (3, 3), nm, optional
        parameters : sequence of float
            Values of the context parameters, in the order the module takes them.

        Raises
        ------
        BackendError
            If the module could not be read.
        """
        if self._frozen is None:
            with quiet_torchscript():
                self._frozen = torch.jit.freeze(self.master.to(self.device).eval())
        positions = torch.tensor(positions_nm, dtype=torch.float64, device=self.device, requires_grad=True)
        arguments = [positions]
        if self.periodic:
            arguments.append(torch.tensor(box, dtype=torch.float64, device=self.device))
        arguments += [torch.tensor(value, dtype=torch.float64) for value in parameters]
        energy = self._frozen(*arguments)
        (gradient,) = torch.autograd.grad(energy, positions)
        return float(energy.detach()), -gradient.cpu().numpy()

    def __getstate__(self) -> dict[str, Any]:
        stored = self._stored
        if self._master is not None:
            buffer = io.BytesIO()
            with quiet_torchscript(), undisturbed():
                torch.jit.save(self._master, buffer)
            stored = buffer.getvalue()
        return {
            "module": stored,
            "periodic": self.periodic,
            "parameters": self.parameters,
            "device": self.device,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        module, problem = None, ""
        try:
            module = read_module(state["module"])
        except BackendError as error:
            problem = str(error)
        self.__init__(module, state["periodic"], state["parameters"], state["device"])  # type: ignore[misc]
        if module is None:
            self._stored, self._problem = state["module"], problem
