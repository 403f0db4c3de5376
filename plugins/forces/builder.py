"""One builder that turns any site model into an OpenMM Force."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import openmm
import torch

from halberd.plugins.forces.backends import BACKENDS, choose_backend
from halberd.plugins.forces.carrier import Carrier
from halberd.plugins.forces.module import FORCE_MODULES
from halberd.potentials.ace.compiled_operator import load_if_built
from halberd.potentials.committees.bias import MeanEnergy, bias_module, check_bias
from halberd.potentials.constants import EV_IN_KJ_PER_MOL
from halberd.potentials.errors import BackendError, ConfigurationError, did_you_mean
from halberd.potentials.sites.site_model import Columns, SiteModel, dtype_of
from halberd.potentials.sites.structure_energy import StructureEnergy
from halberd.potentials.sites.torchscript import script

#: Context parameter of biased forces.
HAL_TAU = "hal_tau"

# Systems read from XML may hold forces that call it.
load_if_built()


@dataclasses.dataclass(frozen=True)
class ForceOptions:
    """Options of a learned force, with their defaults.

    Attributes
    ----------
    precision : {'single', 'double'}, optional
        Precision of the network; the model's own if ``None``.
    device : str, optional
        ``'cpu'``, ``'cuda'`` or ``'cuda:1'``. With backend ``torchforce`` the network runs where the Context runs
        (its platform and DeviceIndex) and this is a demand that is checked; with ``python`` it is where to compute,
        the CPU if ``None``.
    forceGroup : int
        OpenMM force group, 0 to 31.
    backend : {'torchforce', 'python', 'auto'}
        What carries the module; ``auto`` takes the first that passes a self-test.
    skin : float
        Verlet skin of the neighbour list, angstrom.
    threads : int, optional
        CPU threads of torch, for the whole process; unchanged if ``None``.
    head : str, optional
        Head of a multi-head model.
    charge, multiplicity : number, optional
        Total charge (e) and spin multiplicity, for models that take them.
    energy : {'interaction', 'total'}
        Without or with the atomic self-energies; a constant that no force depends on.
    bias : {'sigma', 'exponential'}, optional
        Push towards disagreement of a committee: the energy is ``mean - hal_tau * u``, with ``u`` the standard
        deviation of the members or its bounded form (:mod:`halberd.potentials.committees.bias`). ``hal_tau`` is a
        context parameter that starts at 0; its derivative, which a TorchForce offers, is ``-u``.
    bias_width : float
        B of the exponential form, eV.
    """

    precision: str | None = None
    device: str | None = None
    forceGroup: int = 0
    backend: str = "torchforce"
    skin: float = 0.5
    threads: int | None = None
    head: str | None = None
    charge: float | None = None
    multiplicity: int | None = None
    energy: str = "interaction"
    bias: str | None = None
    bias_width: float = 0.1

    def __post_init__(self) -> None:
        if self.precision is not None:
            dtype_of(self.precision)
        if self.energy not in ("interaction", "total"):
            raise ConfigurationError(f"energy is '{self.energy}'; it must be 'interaction' or 'total'.")
        if not (isinstance(self.forceGroup, int) and 0 <= self.forceGroup <= 31):
            raise ConfigurationError(f"forceGroup is {self.forceGroup!r}; OpenMM has groups 0 to 31.")
        if self.threads is not None and self.threads < 1:
            raise ConfigurationError(f"threads is {self.threads}; it must be at least 1.")
        if not float(self.skin) >= 0:
            raise ConfigurationError(f"skin is {self.skin}; it must be 0 or a positive length in angstrom.")
        if self.backend not in (*BACKENDS, "auto"):
            choose_backend(self.backend)
        check_device(self.device)
        if self.bias is not None:
            check_bias(self.bias, self.bias_width)

    def updated(self, keywords: dict[str, Any]) -> ForceOptions:
        """Return a copy with some options changed.

        Raises
        ------
        ConfigurationError
            If a keyword is unknown; suggests the closest one.
        """
        known = [field.name for field in dataclasses.fields(self)]
        for keyword in keywords:
            if keyword not in known:
                raise ConfigurationError(
                    f"Unknown keyword '{keyword}'.{did_you_mean(keyword, known)} Known are: {', '.join(known)}."
                )
        return dataclasses.replace(self, **keywords)


def check_device(device: str | None) -> None:
    """Check that a torch device exists here.

    Raises
    ------
    ConfigurationError
        If the name is not a device.
    BackendError
        If this machine has no such device.
    """
    if device is None:
        return
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError):
        raise ConfigurationError(f"device is {device!r}; write 'cpu', 'cuda' or 'cuda:0'.") from None
    if parsed.type not in ("cpu", "cuda"):
        raise ConfigurationError(f"device is '{device}'; halberd runs on 'cpu' and 'cuda'.")
    if parsed.type == "cuda":
        if not torch.cuda.is_available():
            raise BackendError(
                f"device is '{device}', but torch finds no usable GPU on this machine. Use device='cpu', or install "
                "a driver and a CUDA build of torch."
            )
        if parsed.index is not None and parsed.index >= torch.cuda.device_count():
            raise BackendError(f"device is '{device}', but there are {torch.cuda.device_count()} GPUs, counted from 0.")


def build_force(
    model: SiteModel,
    atomic_numbers: Sequence[int],
    *,
    atoms: Iterable[int] | None = None,
    periodic: bool = False,
    options: ForceOptions | None = None,
    reduction: torch.nn.Module | None = None,
    scale_parameter: str | None = None,
    scale: float = 1.0,
    name: str | None = None,
) -> openmm.Force:
    """Turn a site model into an OpenMM Force.

    Parameters
    ----------
    model : SiteModel
    atomic_numbers : sequence of int
        Elements of the atoms the model sees, in the order of ``atoms``.
    atoms : iterable of int, optional
        Their particle indices; all particles if omitted.
    periodic : bool
        Whether the force uses the Context's periodic box.
    options : ForceOptions, optional
        ``head``, ``charge`` and ``multiplicity`` are the loader's and not looked at.
    reduction : torch.nn.Module, optional
        Scriptable; turns the K total energies of a committee (eV) into one. The mean if omitted.
    scale_parameter : str, optional
        Name of a context parameter that multiplies the energy.
    scale : float
        Its default value.
    name : str, optional
        Name of the force; ``halberd: MODEL`` if omitted.

    Returns
    -------
    openmm.Force
        An ``openmmtorch.TorchForce`` or an ``openmm.PythonForce``.

    Raises
    ------
    UnknownElementError
        If the model does not know an element.
    BackendError
        If the backend or device is not usable here.
    """
    options = options or ForceOptions()
    backend = choose_backend(options.backend)
    if options.precision is not None:
        model = model.to(dtype_of(options.precision))
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    species = model.species_of(atomic_numbers)
    index = None if atoms is None else torch.tensor(list(atoms), dtype=torch.int64)
    if index is not None and len(index) != len(species):
        raise ConfigurationError(f"{len(index)} atoms, but {len(species)} atomic numbers were given.")
    use: str = "nothing"
    parameters: dict[str, float] = {}
    if scale_parameter is not None:
        use, parameters = "scales", {scale_parameter: scale}
    if options.bias is not None:
        if scale_parameter is not None or reduction is not None:
            raise ConfigurationError("A force with a bias cannot be interpolated or reduced; leave out bias=.")
        use, parameters = "biases", {HAL_TAU: 0.0}
        reduction = bias_module(model, list(atomic_numbers), options.bias, options.bias_width)
    insists = options.device is not None and backend == "torchforce"
    module = FORCE_MODULES[periodic, use](
        StructureEnergy(model, species, float(options.skin), torch.get_num_threads()),
        index,
        reduction=reduction or MeanEnergy(model.columns is Columns.MEAN_AND_SIGMA),
        offset=_offset(model, atomic_numbers, options.energy),
        periodic=periodic,
        device_type=torch.device(options.device or "cpu").type if insists else "",
    )
    carrier = Carrier(
        backend,
        periodic,
        name or f"halberd: {model.name}",
        group=options.forceGroup,
        parameters=parameters,
        differentiated=() if options.bias is None else (HAL_TAU,),
        device=options.device or "cpu",
    )
    return carrier.carry(script(module))


def _offset(model: SiteModel, atomic_numbers: Sequence[int], energy: str) -> float:
    """Self-energies to add, kJ/mol."""
    return float(np.mean(model.self_energy(atomic_numbers))) * EV_IN_KJ_PER_MOL if energy == "total" else 0.0
