"""Choosing a platform."""

from __future__ import annotations

import openmm
import pytest

from halberd.potentials.errors import BackendError, ConfigurationError
from halberd.samplers.runs.platforms import find_platform


def test_platforms_by_name():
    assert find_platform(None) == ()
    platform, properties = find_platform("CPU", threads=2)
    assert platform.getName() == "CPU"
    assert properties == {"Threads": "2"}
    with pytest.raises(BackendError, match="Did you mean 'CPU'"):
        find_platform("CPUU")


@pytest.mark.parametrize("name", [None, "CPU", "Reference"])
def test_a_device_needs_a_platform_with_devices(name):
    """It was passed on to platforms that know no devices, and forgotten where OpenMM chooses."""
    with pytest.raises(ConfigurationError, match="leave device_index out"):
        find_platform(name, "0")


def test_a_device_goes_to_its_platform(monkeypatch):
    monkeypatch.setattr(openmm.Platform, "getNumPlatforms", lambda: 1)
    monkeypatch.setattr(openmm.Platform, "getPlatform", lambda i: openmm.Platform.getPlatformByName("Reference"))
    monkeypatch.setattr("halberd.samplers.runs.platforms.GPU_PLATFORMS", ("Reference",))
    assert find_platform("Reference", "1")[1] == {"DeviceIndex": "1"}
