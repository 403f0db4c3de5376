"""Modules in two forms: one that is fast here, and one that runs wherever torch runs, which is what files hold."""

import torch


class WithPortable(torch.nn.Module):
    """A site model's module that runs in its fast form.

    Parameters
    ----------
    fast, portable : torch.nn.Module
        The same by the contract of :mod:`halberd.potentials.sites.site_model`, with and without compiled operators.
    """

    def __init__(self, fast: torch.nn.Module, portable: torch.nn.Module) -> None:
        super().__init__()
        self.fast = fast
        self.portable = portable

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract."""
        return self.fast(species, edge_index, edge_vectors)
