"""Choosing an OpenMM platform by name."""

from __future__ import annotations

from typing import Any

import openmm

from halberd.potentials.errors import BackendError, ConfigurationError, did_you_mean

GPU_PLATFORMS = ("CUDA", "HIP", "OpenCL")


def find_platform(
    name: str | None, device_index: str | None = None, threads: int | None = None
) -> tuple[openmm.Platform, dict[str, str]] | tuple[()]:
    """Find a platform and its properties.

    Parameters
    ----------
    name : str, optional
        OpenMM chooses if omitted.
    device_index : str, optional
        ``DeviceIndex`` of a GPU platform.
    threads : int, optional
        Threads of the CPU platform.

    Returns
    -------
    tuple
        What follows the integrator in the arguments of a Simulation.

    Raises
    ------
    BackendError
        If there is no such platform here.
    ConfigurationError
        If a device is chosen, but not a platform that has devices.
    """
    if device_index is not None and name not in GPU_PLATFORMS:
        raise ConfigurationError(
            f"device_index is {device_index}, but the platform is {name or 'left to OpenMM'}: devices are those of "
            f"{', '.join(GPU_PLATFORMS)}. Name one of these, or leave device_index out."
        )
    if name is None:
        return ()
    platforms = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
    if name not in platforms:
        raise BackendError(
            f"OpenMM has no platform '{name}' here; it has {', '.join(platforms)}."
            f"{did_you_mean(name, platforms)} GPU platforms come with 'halberd-md[cuda12]' or [cuda13]."
        )
    properties: dict[str, Any] = {}
    if device_index is not None:
        properties["DeviceIndex"] = device_index
    if threads is not None and name == "CPU":
        properties["Threads"] = str(threads)
    return openmm.Platform.getPlatformByName(name), properties
