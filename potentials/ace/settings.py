"""What defines a linear ACE basis, checked and with defaults that depend on the elements only."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import ase.data
import numpy as np
from numpy.typing import NDArray

from halberd.potentials.errors import ConfigurationError, did_you_mean
from halberd.potentials.sites.elements import atomic_number_of, bond_length
from halberd.potentials.validation import conform

MAX_ORDER = 4
#: Largest degree of order 1, 2, ...: a few hundred functions for one element, a few thousand for two.
DEFAULT_DEGREES = (20, 16, 12, 10)


@dataclasses.dataclass(frozen=True)
class AceSettings:
    """Choices that fix a linear ACE basis.

    Attributes
    ----------
    elements : tuple of int
        Atomic numbers; given as symbols or numbers.
    order : int
        Correlation order nu, 1 to 4: a function sees up to nu neighbours at once.
    degree : float or tuple of float
        Keep products with ``sum_t (n_t + l_weight l_t) <= degree``; several values apply to order 1, 2, ... The first
        of (20, 16, 12, 10) if ``None``.
    l_weight : float
        Weight of l in the degree.
    cutoff : float, angstrom
        Range of the many-body functions.
    pair_degree : int
        Number of pair functions per pair of elements; 0 leaves the pair potential to order 1. If ``None``, the
        highest degree.
    pair_cutoff : float, angstrom
        Range of the pair functions; 1 angstrom more than ``cutoff`` if ``None``.
    pair_cutoffs : mapping, optional
        Shorter many-body ranges for some pairs, such as ``{"H-H": 3.0}``.
    inner_cutoff : float, angstrom
        Many-body functions vanish below it.
    bond_lengths : mapping, optional
        Distance of the finest radial resolution, such as ``{"C-H": 1.1}``; from the elements otherwise.
    transform, pair_transform : pair of float
        Exponents (p, q) of the Agnesi transform.
    envelope, pair_envelope : pair of int
        Powers with which the functions vanish at the inner and outer cutoff.
    core_radii : mapping, optional
        Where the repulsive core begins, angstrom, such as ``{"Al-Si": 1.9}``; from the data if omitted.

    Raises
    ------
    ConfigurationError
        Names the value that makes no sense, and a sensible one.
    """

    elements: tuple[int, ...]
    order: int = 3
    degree: float | tuple[float, ...] | None = None
    l_weight: float = 1.5
    cutoff: float = 5.5
    pair_degree: int | None = None
    pair_cutoff: float | None = None
    pair_cutoffs: Mapping[str, float] | None = None
    inner_cutoff: float = 0.0
    bond_lengths: Mapping[str, float] | None = None
    transform: tuple[float, float] = (2, 4)
    pair_transform: tuple[float, float] = (1, 4)
    envelope: tuple[int, int] = (2, 3)
    pair_envelope: tuple[int, int] = (0, 3)
    core_radii: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.elements, Iterable):
            raise ConfigurationError(f"elements is {self.elements!r}; give symbols or atomic numbers.")
        self._fix("elements", tuple(sorted({atomic_number_of(element) for element in self.elements})))
        conform(self)
        if not self.elements:
            raise ConfigurationError("A linear ACE needs at least one element.")
        self._check_degrees()
        self._check_ranges()
        self._check_exponents()
        for name in ("pair_cutoffs", "bond_lengths", "core_radii"):  # stored under one spelling of the pair
            given = getattr(self, name)
            if given is not None:
                self._fix(name, {self._pair_name(key, name): float(value) for key, value in given.items()})
        for key, value in (self.pair_cutoffs or {}).items():
            if not self.inner_cutoff < value <= self.cutoff:
                raise ConfigurationError(
                    f"pair_cutoffs sets {key} to {value}; it must be longer than the inner cutoff and at most the "
                    f"cutoff {self.cutoff}."
                )
        if self.bonds.min() <= self.inner_cutoff:
            raise ConfigurationError(
                f"inner_cutoff is {self.inner_cutoff}, longer than a bond ({self.bonds.min():.2f} angstrom)."
            )

    def _fix(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_degrees(self) -> None:
        if not (isinstance(self.order, int) and 1 <= self.order <= MAX_ORDER):
            raise ConfigurationError(f"order is {self.order!r}; it must be 1, 2, 3 or 4.")
        if self.degree is None:
            self._fix("degree", DEFAULT_DEGREES[: self.order])
        if isinstance(self.degree, (list, tuple)):
            self._fix("degree", tuple(self.degree))
            if len(self.degrees) != self.order:
                raise ConfigurationError(
                    f"degree lists {len(self.degrees)} values for order {self.order}; give one number, or one for "
                    "each order 1, 2, ..."
                )
        if not all(1 <= d <= 60 for d in self.degrees):
            raise ConfigurationError(f"degree is {self.degree}; every value must be between 1 and 60.")
        if not self.l_weight > 0:
            raise ConfigurationError(f"l_weight is {self.l_weight}; it must be positive, 1.5 is usual.")
        if self.pair_degree is None:
            self._fix("pair_degree", int(max(self.degrees)))
        if not (isinstance(self.pair_degree, int) and 0 <= self.pair_degree <= 60):
            raise ConfigurationError(f"pair_degree is {self.pair_degree!r}; it must be a whole number from 0 to 60.")

    def _check_ranges(self) -> None:
        if not 0.5 < float(self.cutoff) < 100:
            raise ConfigurationError(f"cutoff is {self.cutoff}; it is a length in angstrom, 4 to 7 is usual.")
        if self.pair_cutoff is None:
            self._fix("pair_cutoff", float(self.cutoff) + 1.0 if self.pair_degree else float(self.cutoff))
        if self.r_max < self.cutoff:
            raise ConfigurationError(
                f"pair_cutoff is {self.pair_cutoff}, shorter than cutoff {self.cutoff}; make it at least as long."
            )
        if not 0 <= self.inner_cutoff < self.cutoff:
            raise ConfigurationError(f"inner_cutoff is {self.inner_cutoff}; it must lie between 0 and the cutoff.")

    def _check_exponents(self) -> None:
        for name in ("transform", "pair_transform"):
            exponents = getattr(self, name)
            if np.size(exponents) != 2 or not 0 < exponents[0] <= exponents[1]:
                raise ConfigurationError(f"{name} is {exponents}; it takes two exponents with 0 < p <= q.")
            if exponents[0] * (2 * exponents[1] - 1) <= exponents[1]:
                raise ConfigurationError(
                    f"{name} is {exponents}, which is steepest nowhere; it takes exponents with p (2 q - 1) > q, "
                    "such as (2, 4)."
                )
            self._fix(name, tuple(exponents))
        for name in ("envelope", "pair_envelope"):
            powers = tuple(int(power) for power in getattr(self, name))
            if len(powers) != 2 or min(powers) < 0 or powers[1] < 3:
                raise ConfigurationError(
                    f"{name} is {powers}; the second power must be 3 or more, so that forces have a derivative at "
                    "the cutoff."
                )
            self._fix(name, powers)
        if self.inner_cutoff > 0 and self.envelope[0] < 3:
            self._fix("envelope", (3, self.envelope[1]))

    @property
    def degrees(self) -> tuple[float, ...]:
        """Largest degree of order 1, 2, ..."""
        if isinstance(self.degree, tuple):
            return self.degree
        assert self.degree is not None
        return (self.degree,) * self.order

    @property
    def symbols(self) -> tuple[str, ...]:
        """Chemical symbols of species 0, 1, ..."""
        return tuple(ase.data.chemical_symbols[z] for z in self.elements)

    @property
    def r_max(self) -> float:
        """Longest distance that matters, angstrom."""
        assert self.pair_cutoff is not None
        return float(self.pair_cutoff) if self.pair_degree else float(self.cutoff)

    @property
    def bonds(self) -> NDArray[np.float64]:
        """Distance of the finest resolution for every pair, shape (S, S), angstrom."""
        lengths = np.array([bond_length(z) for z in self.elements])
        return self.pair_table(0.5 * (lengths[:, None] + lengths[None, :]), self.bond_lengths)

    @property
    def cutoffs(self) -> NDArray[np.float64]:
        """Many-body cutoff of every pair, shape (S, S), angstrom."""
        return self.pair_table(np.full((len(self.elements),) * 2, float(self.cutoff)), self.pair_cutoffs)

    @property
    def cores(self) -> NDArray[np.float64]:
        """Onset of the repulsive core of every pair, shape (S, S), angstrom; 0.7 bond lengths where not given."""
        return self.pair_table(0.7 * self.bonds, self.core_radii)

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible form; ``AceSettings(**settings.to_dict())`` is equal."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()
        }

    def pair_names(self) -> list[str]:
        """Names of the unordered pairs, ``["Al-Al", "Al-Si", "Si-Si"]``."""
        symbols = self.symbols
        return [f"{symbols[a]}-{symbols[b]}" for a in range(len(symbols)) for b in range(a, len(symbols))]

    def pair_species(self, name: str) -> tuple[int, int]:
        """Species numbers of a pair such as ``"Al-Si"``."""
        first, second = name.split("-")
        return self.symbols.index(first), self.symbols.index(second)

    def _pair_name(self, key: str, where: str) -> str:
        parts = key.split("-")
        for name in ("-".join(parts), "-".join(reversed(parts))):
            if name in self.pair_names():
                return name
        raise ConfigurationError(
            f"{where} names the pair '{key}'.{did_you_mean(key, self.pair_names())} "
            f"The pairs of these elements are {', '.join(self.pair_names())}."
        )

    def pair_table(self, table: NDArray[np.float64], given: Mapping[str, float] | None) -> NDArray[np.float64]:
        """Fill values given by pair name into a table over species, shape (S, S); changes and returns it."""
        for name, value in (given or {}).items():
            a, b = self.pair_species(name)
            table[a, b] = table[b, a] = value
        return table
