"""What the columns of a model mean, in files of before and now."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from halberd.potentials import Columns, SiteModel
from halberd.potentials.committees.bias import check_committee
from halberd.potentials.errors import ConfigurationError, ModelError, ModelFileError
from halberd.potentials.sites.lennard_jones import lennard_jones
from halberd.potentials.sites.site_model import SIDECAR


class Two(torch.nn.Module):
    """Two columns of zeros."""

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        return torch.zeros((species.size(0), 2), dtype=edge_vectors.dtype)


def test_columns_are_what_was_said_or_members():
    assert lennard_jones([18]).columns is Columns.ENERGY
    assert SiteModel(Two(), 4.0, [1], n_columns=2).columns is Columns.MEMBERS
    model = SiteModel(Two(), 4.0, [1], n_columns=2, columns=Columns.MEAN_AND_SIGMA)
    assert "columns: mean, sigma" in repr(model)
    with pytest.raises(ConfigurationError, match="no members to compare"):
        check_committee(model)
    with pytest.raises(ModelError, match="do not go together"):
        SiteModel(Two(), 4.0, [1], columns=Columns.MEMBERS)
    with pytest.raises(ModelError, match="do not go together"):
        SiteModel(Two(), 4.0, [1], n_columns=2, columns=Columns.ENERGY)
    with pytest.raises(ModelError, match="columns="):
        SiteModel(Two(), 4.0, [1], n_columns=2, metadata={"columns": "mean, sigma"})


@pytest.mark.parametrize("columns", list(Columns)[1:])
def test_files_keep_the_meaning(columns, tmp_path):
    model = SiteModel(Two(), 4.0, [1], e0s=np.zeros(1), n_columns=2, columns=columns, metadata={"name": "two"})
    model.save(tmp_path / "two.pt")
    loaded = SiteModel.load(tmp_path / "two.pt")
    assert loaded.columns is columns
    assert loaded.metadata == {"name": "two"}
    assert loaded.replaced(loaded.module).columns is columns


@pytest.mark.parametrize(
    ("told", "columns"),
    [
        (None, Columns.MEMBERS),
        ("mean, sigma", Columns.MEAN_AND_SIGMA),
        ("energy, features", Columns.ENERGY_AND_FEATURES),
        ("invariant features of the first layer", Columns.DESCRIPTOR),  # what files said before there was an enum
    ],
)
def test_files_of_before_load(told, columns, tmp_path):
    model = SiteModel(Two(), 4.0, [1], n_columns=2)
    sidecar = model.sidecar()
    assert sidecar["metadata"] == {}
    if told is not None:
        sidecar["metadata"]["columns"] = told
    torch.jit.save(model.scripted(), tmp_path / "old.pt", _extra_files={SIDECAR: json.dumps(sidecar)})
    assert SiteModel.load(tmp_path / "old.pt").columns is columns


def test_files_of_later_are_refused(tmp_path):
    model = SiteModel(Two(), 4.0, [1], n_columns=2)
    sidecar = model.sidecar()
    sidecar["metadata"]["columns"] = "charges"
    torch.jit.save(model.scripted(), tmp_path / "new.pt", _extra_files={SIDECAR: json.dumps(sidecar)})
    with pytest.raises(ModelFileError, match="'charges', which this halberd does not know"):
        SiteModel.load(tmp_path / "new.pt")
