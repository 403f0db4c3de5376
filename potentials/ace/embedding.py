"""Finnis-Sinclair embedding of ACE densities, as in ML-PACE potentials: TorchScript modules."""

from typing import Any, Final

import torch

from halberd.potentials.ace.sites import CompiledAceSites


class FinnisSinclair(torch.nn.Module):
    """Site energy from densities: ``sum_p w_p f(rho_p, m_p)``, switched off where the core density is high.

    Parameters
    ----------
    weights, powers : torch.Tensor, shape (S, P)
        w_p and m_p of every central species; zero weight where a species has fewer densities.
    shifted : torch.Tensor, shape (S,), 0 or 1
        1: FinnisSinclairShiftedScaled, 0: FinnisSinclair.
    core_cut, core_width : torch.Tensor, shape (S,)
        Core density from which the embedding is zero, and width of the switch below it, eV.
    """

    #: In the order of the constructor.
    BUFFERS: Final = ("weights", "powers", "shifted", "core_cut", "core_width")

    weights: torch.Tensor
    powers: torch.Tensor
    shifted: torch.Tensor
    core_cut: torch.Tensor
    core_width: torch.Tensor

    def __init__(
        self,
        weights: torch.Tensor,
        powers: torch.Tensor,
        shifted: torch.Tensor,
        core_cut: torch.Tensor,
        core_width: torch.Tensor,
    ) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.register_buffer("powers", powers)
        self.register_buffer("shifted", shifted)
        self.register_buffer("core_cut", core_cut)
        self.register_buffer("core_width", core_width)

    def plain(self, a: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        """``|x|^m``, linear close to zero; ``a = |x|`` is positive."""
        scaled = torch.clamp((1e6 * a) ** 3, max=30.0)
        near = torch.where(scaled < 30.0, torch.exp(-scaled), torch.zeros_like(scaled))
        return (1.0 - near) * a**m + near * a * 1e6 ** (1.0 - m)

    def shifted_scaled(self, a: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        """``(x_off + |x|)^m - y_off`` with offsets that vanish as ``exp(-|x|)`` and a slope of 1 at zero."""
        power = torch.where(m == 1.0, torch.full_like(m, 2.0), m)
        nu = 1.0 / power
        decay = torch.exp(-a)
        x_off = nu ** (nu / (1.0 - nu)) * decay
        y_off = nu ** (1.0 / (1.0 - nu)) * decay
        return (x_off + a) ** power - y_off

    def forward(self, densities: torch.Tensor, species: torch.Tensor) -> torch.Tensor:
        """Site energies (N,), from densities (N, P + 1) whose last column is the core density, eV."""
        count = self.weights.size(1)
        rho = densities[:, :count]
        core = densities[:, count]
        m = self.powers.index_select(0, species)
        shifted = self.shifted.index_select(0, species).unsqueeze(1)
        a = torch.clamp(torch.abs(rho), min=1e-10)
        sign = torch.where(rho < 0.0, -torch.ones_like(rho), torch.ones_like(rho))
        value = sign * torch.where(shifted > 0.5, self.shifted_scaled(a, m), self.plain(a, m))
        # Both are the identity at m = 1, and go through zero with a finite slope.
        slope = torch.where(shifted > 0.5, torch.ones_like(m), torch.full_like(m, 1e6) ** (1.0 - m))
        value = torch.where(torch.abs(rho) <= 1e-10, slope * rho, value)
        value = torch.where(m == 1.0, rho, value)
        energy = (self.weights.index_select(0, species) * value).sum(1)
        cut = self.core_cut.index_select(0, species)
        width = self.core_width.index_select(0, species)
        x = torch.clamp(1.0 - 2.0 * (1.0 + (core - cut) / width), min=-1.0, max=1.0)
        switch = 0.5 + 3.75 * (x / 4.0 - x**3 / 6.0 + x**5 / 20.0)
        return energy * switch + core


class EmbeddedSites(torch.nn.Module):
    """Densities, then the embedding."""

    def __init__(self, sites: torch.nn.Module, embedding: torch.nn.Module) -> None:
        super().__init__()
        self.sites = sites
        self.embedding = embedding

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract of :mod:`halberd.potentials.sites.site_model`."""
        return self.embedding(self.sites(species, edge_index, edge_vectors), species)


class CompiledEmbeddedSites(torch.nn.Module):
    """As :class:`EmbeddedSites`, with the compiled operator on CPUs; ``portable`` is what files hold."""

    def __init__(self, portable: Any) -> None:
        super().__init__()
        self.portable = portable
        self.sites = CompiledAceSites(portable.sites)

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract of :mod:`halberd.potentials.sites.site_model`."""
        return self.portable.embedding(self.sites(species, edge_index, edge_vectors), species)
