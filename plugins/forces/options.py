"""Options of a learned force."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from halberd.plugins.forces.backends import BACKENDS, choose_backend
from halberd.potentials.committees.bias import check_bias
from halberd.potentials.errors import BackendError, ConfigurationError, did_you_mean
from halberd.potentials.sites.site_model import dtype_of
from halberd.potentials.validation import conform

#: Context parameter of biased forces.
HAL_TAU = "hal_tau"


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
        conform(self)
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
