"""Models and structures for tests on a GPU; all of them are skipped where there is none."""

from __future__ import annotations

import functools

import openmm
import pytest
import torch
from ase import Atoms

from halberd.potentials import load
from halberd.potentials.ace.model import ace_site_model
from halberd.potentials.multi_ace.model import multi_ace_model
from halberd.potentials.sites.lennard_jones import lennard_jones
from tests.conftest import fitted_last_layer, random_ace
from tests.potentials.multi_ace.test_family import MORE, SMALL, small
from tests.potentials.multi_ace.weights.test_sevennet import FOLDER as SEVENNET

PLATFORMS = [openmm.Platform.getPlatform(k).getName() for k in range(openmm.Platform.getNumPlatforms())]
HAS_GPU = torch.cuda.is_available() and "CUDA" in PLATFORMS

#: Every kind of model there is, by the structure it is shown.
MODELS = {
    "lennard-jones": "metal",
    "mace": "water",
    "mace zbl": "water",
    "mace agnesi": "water",
    "mace density": "water",
    "mace committee": "water",
    "mace last layer": "water",
    "mace last layer, exact": "water",
    "ace": "metal",
    "ace committee": "metal",
    "pretrained": "water",
    "sevennet": "carbonate",
    **{f"family {name}": "ethanol" for name in (*SMALL, *MORE)},
}
COMMITTEES = ("mace committee", "mace last layer", "mace last layer, exact", "ace committee")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/gpu/" in str(item.path) and not HAS_GPU:
            item.add_marker(pytest.mark.skip(reason="no GPU that torch and OpenMM can use"))


@pytest.fixture(scope="session")
def structures(ethanol: Atoms, alloy: Atoms) -> dict[str, Atoms]:
    water = ethanol.copy()
    water.set_cell([[5.0, 0, 0], [1.0, 5.5, 0], [0.5, -1.0, 6.0]])
    water.pbc = True
    carbonate = ethanol.copy()
    return {"ethanol": ethanol, "water": water, "metal": alloy, "carbonate": carbonate}


@pytest.fixture(scope="module")
def model_of(mace_files, ethanol):
    """Name -> site model; made once each in every file."""
    made: dict[str, object] = {}

    @functools.cache
    def last_layer():
        return fitted_last_layer(mace_files, ethanol)

    def make(name: str):
        if name.startswith("family"):
            return multi_ace_model(small(name.removeprefix("family ")))
        basis, coefficients = random_ace(members=5, order=3, degree=6)
        makers = {
            "lennard-jones": lambda: lennard_jones([13, 14]),
            "mace": lambda: load(mace_files["scale-shift"]),
            "mace zbl": lambda: load(mace_files["zbl"]),
            "mace agnesi": lambda: load(mace_files["agnesi"]),
            "mace density": lambda: load(mace_files["density"]),
            "mace committee": lambda: load([mace_files[f"member{k}"] for k in range(3)]),
            "mace last layer": lambda: last_layer().model,
            "mace last layer, exact": lambda: last_layer().with_exact_sigma(),
            "ace": lambda: ace_site_model(basis, coefficients[:, 0]),
            "ace committee": lambda: ace_site_model(basis, coefficients),
            "pretrained": lambda: load("gfn2-chnof"),
            "sevennet": lambda: load(SEVENNET / "parity.pth"),
        }
        return makers[name]()

    def get(name: str):
        if name not in made:
            made[name] = make(name)
        return made[name]

    return get
