"""The model that comes with halberd: what it says of molecules whose GFN2-xTB energies are known here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ase import Atoms

from halberd.plugins import HalberdCalculator

#: Relaxed by GFN2-xTB, with its binding energy per molecule, eV: ``examples/pretrain/rings.py``.
RINGS = json.loads(Path(__file__).with_name("rings.json").read_text(encoding="utf-8"))


def binding(model, ring):
    calculator = HalberdCalculator(model)
    alone, together = (calculator.evaluate(Atoms(*ring[name]))["energy"] for name in ("alone", "ring"))
    return alone - together / ring["count"]


@pytest.mark.parametrize("name", RINGS)
def test_hydrogen_bonds_hold(name):
    """The version before the data had chains of them bound rings half as strongly, and so does the first."""
    ring = RINGS[name]
    assert binding("gfn2-chnof", ring) == pytest.approx(ring["binding"], abs=0.025)
    assert binding("gfn2-chnof@1", ring) < 0.6 * ring["binding"]
