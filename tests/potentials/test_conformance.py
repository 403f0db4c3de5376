"""The conformance check passes good models and fails each bad one."""

from __future__ import annotations

import pytest
import torch

from halberd.potentials import SiteModel, committee, pretrained
from halberd.potentials.conformance import check_site_model
from halberd.potentials.errors import ModelError
from halberd.potentials.sites.lennard_jones import lennard_jones


def test_lennard_jones_passes():
    check_site_model(lennard_jones([10, 18], cutoff=6.0))


def test_committee_passes():
    check_site_model(committee([lennard_jones([10, 18], cutoff=6.0), lennard_jones([18, 10], 0.02, cutoff=5.0)]))


def test_pretrained_passes():
    check_site_model(pretrained("gfn2-chnof"))


class Pairs(torch.nn.Module):
    """A sound pair model with one fault, by name."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.register_buffer("weight", torch.ones(1, dtype=torch.float64))
        self.calls = 0

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        n_atoms = species.shape[0]
        r2 = (edge_vectors * edge_vectors).sum(1)
        envelope = torch.clamp(1 - r2 / 16.0, min=0.0) ** 3
        if self.fault == "step at cutoff":
            envelope = torch.ones_like(r2)
        pair = envelope * self.weight / (1 + r2)
        if self.fault == "not rotation invariant":
            pair = pair * (1 + 0.1 * edge_vectors[:, 0] ** 2)
        if self.fault == "chiral":
            zero = torch.zeros((n_atoms, 3), dtype=pair.dtype)
            first = zero.index_add(0, edge_index[0], edge_vectors * pair[:, None])
            second = zero.index_add(0, edge_index[0], edge_vectors * (pair**2)[:, None])
            third = zero.index_add(0, edge_index[0], edge_vectors * (pair**3)[:, None])
            return (torch.linalg.cross(first, second) * third).sum(1) * 100
        if self.fault == "depends on order":
            pair = pair * torch.arange(pair.shape[0], dtype=pair.dtype)
        if self.fault == "wrong gradient":
            pair = pair.detach() * 1.5 + pair * 0.5
        sites = torch.zeros(n_atoms, dtype=pair.dtype).index_add(0, edge_index[0], pair)
        if self.fault == "wrong shape":
            return sites.unsqueeze(1)
        if self.fault == "wrong precision":
            return sites.to(torch.float32)
        if self.fault == "not finite":
            return sites / torch.zeros_like(sites)
        if self.fault == "fails without edges":
            return sites + 0.0 * pair.max()
        if self.fault == "not extensive":
            return sites + float(n_atoms)
        if self.fault == "writes to its input":
            edge_vectors.mul_(1.0000001)
        return sites


def test_the_sound_model_passes():
    check_site_model(SiteModel(Pairs(""), 4.0, [1, 6]))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("step at cutoff", "must go to zero smoothly"),
        ("not rotation invariant", "under rotation"),
        ("chiral", "under inversion"),
        ("depends on order", "permuted site energies|in another order"),
        ("wrong gradient", "finite differences"),
        ("wrong shape", "returns shape"),
        ("wrong precision", "returns torch.float32"),
        ("not finite", "not finite"),
        ("not extensive", "isolated atom"),
        ("writes to its input", "writes to its input"),
    ],
)
def test_each_fault_is_found(fault, message):
    with pytest.raises(ModelError, match=message):
        check_site_model(SiteModel(Pairs(fault), 4.0, [1, 6]))


def test_a_model_that_fails_without_edges_is_found():
    with pytest.raises((ModelError, RuntimeError)):
        check_site_model(SiteModel(Pairs("fails without edges"), 4.0, [1, 6]))


def test_a_chiral_model_passes_if_inversion_is_not_asked_for():
    check_site_model(SiteModel(Pairs("chiral"), 4.0, [1, 6]), inversion=False)


def test_unscriptable_module_is_a_clear_error():
    class Unscriptable(torch.nn.Module):
        def forward(self, species):
            return (lambda: species)()

    with pytest.raises(ModelError, match="'bad' cannot be converted to TorchScript"):
        SiteModel(Unscriptable(), 4.0, [1], metadata={"name": "bad"}).scripted()
