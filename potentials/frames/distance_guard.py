"""Limits beyond which a structure is not worth a reference calculation: atoms too close, or apart from all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ase.data
import numpy as np
import scipy.sparse
import torch
from ase import Atoms
from numpy.typing import NDArray

from halberd.potentials.errors import ConfigurationError
from halberd.potentials.sites.elements import bond_length
from halberd.potentials.sites.verlet_list import NeighborList, edges_of_atoms

#: Of a bond length; real training sets come as close as 0.52 (Ti-Ti in hot Ti-Al).
DEFAULT_FRACTION = 0.5


class DistanceGuard:
    """Finds pairs of atoms closer than a limit for their elements.

    Parameters
    ----------
    elements : sequence of int
    limits : float or mapping, optional
        One distance for all, or distances by pair such as ``{"Al-Si": 1.6}`` over the default, angstrom. The default
        is half the usual bond length of the pair.
    connected_within : float, optional
        Open structures must hang together by distances below this, angstrom; not checked if omitted.
    fraction : float
        Of the bond length, that the default is.

    Raises
    ------
    ConfigurationError
        If a pair is not of these elements, or a limit is negative.
    """

    def __init__(
        self,
        elements: Sequence[int],
        limits: float | Mapping[str, float] | None = None,
        connected_within: float | None = None,
        fraction: float = DEFAULT_FRACTION,
    ) -> None:
        self.elements = sorted({int(z) for z in elements})
        symbols = [ase.data.chemical_symbols[z] for z in self.elements]
        lengths = np.array([bond_length(z) for z in self.elements])
        table = fraction * 0.5 * (lengths[:, None] + lengths[None, :])
        if isinstance(limits, (int, float)):
            table[:] = float(limits)
        for name, value in limits.items() if isinstance(limits, Mapping) else ():
            pair = name.split("-")
            if len(pair) != 2 or not set(pair) <= set(symbols):
                raise ConfigurationError(
                    f"min_distance names '{name}'; pairs of {', '.join(symbols)} are written like "
                    f"'{symbols[0]}-{symbols[-1]}'."
                )
            a, b = (symbols.index(symbol) for symbol in pair)
            table[a, b] = table[b, a] = float(value)
        if not (np.isfinite(table).all() and (table >= 0).all()):
            raise ConfigurationError(f"min_distance is {limits}; distances must be 0 or positive, in angstrom.")
        self.limits: NDArray[np.float64] = table
        self.connected_within = connected_within
        self._neighbors = NeighborList(max(float(table.max()), connected_within or 0.0, 0.1), 0.0)

    def violation(self, atoms: Atoms) -> str | None:
        """Describe what is wrong with a structure, or return ``None``."""
        index, vectors = edges_of_atoms(self._neighbors, atoms)
        distances = vectors.norm(dim=1).numpy()
        species = np.searchsorted(self.elements, atoms.numbers)
        pair = torch.as_tensor(index).numpy()
        short = distances - self.limits[species[pair[0]], species[pair[1]]]
        if len(short) and short.min() < 0:
            worst = int(short.argmin())
            i, j = int(pair[0, worst]), int(pair[1, worst])
            limit = self.limits[species[i], species[j]]
            return (
                f"atoms {i} ({atoms.symbols[i]}) and {j} ({atoms.symbols[j]}) are {distances[worst]:.2f} angstrom "
                f"apart, closer than {limit:.2f}"
            )
        if self.connected_within is not None and not atoms.pbc.any() and len(atoms) > 1:
            near = distances < self.connected_within
            graph = scipy.sparse.coo_array((np.ones(near.sum()), pair[:, near]), shape=(len(atoms),) * 2)
            parts, _ = scipy.sparse.csgraph.connected_components(graph, directed=False)
            if parts > 1:
                return f"it has come apart into {parts} pieces more than {self.connected_within:.2f} angstrom apart"
        return None
