"""Choosing an OpenMM platform by name."""

from __future__ import annotations

from typing import Any

import openmm

from halberd.potentials.errors import BackendError, did_you_mean


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
    """
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
