"""Elements: atomic numbers of what users write, and how far apart their atoms sit."""

from __future__ import annotations

import math
import numbers
from typing import Any

import ase.data

from halberd.potentials.errors import UnknownElementError


def atomic_number_of(element: str | int) -> int:
    """Return the atomic number of a symbol or number.

    Raises
    ------
    UnknownElementError
        If there is no such element.
    """
    if isinstance(element, str):
        if element in ase.data.atomic_numbers and element != "X":
            return int(ase.data.atomic_numbers[element])
    elif isinstance(element, numbers.Integral) and 0 < int(element) < len(ase.data.chemical_symbols):
        return int(element)
    raise UnknownElementError(f"'{element}' is not a chemical element. Give symbols such as 'Si' or atomic numbers.")


def bond_length(atomic_number: int) -> float:
    """Typical nearest-neighbour distance of an element, angstrom.

    That of its crystal if it is fcc, bcc, hcp or diamond; otherwise twice the covalent radius, at least 1.2.
    """
    reference: dict[str, Any] | None = ase.data.reference_states[atomic_number]
    if reference is not None and "a" in reference:
        scale = {"fcc": math.sqrt(0.5), "bcc": math.sqrt(0.75), "hcp": 1.0, "diamond": math.sqrt(3.0) / 4.0}
        if reference["symmetry"] in scale:
            return float(reference["a"] * scale[reference["symmetry"]])
    return max(1.2, 2.0 * float(ase.data.covalent_radii[atomic_number]))
