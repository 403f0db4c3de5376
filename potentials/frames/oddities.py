"""What looks odd about a set of labelled structures, in sentences; nothing here is wrong for certain."""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np

from halberd.potentials.frames.labelled import ENERGY_KEYS, FORCES_KEYS, VIRIAL_KEYS, Frame
from halberd.potentials.frames.training_set import is_isolated, listed
from halberd.potentials.frames.units import unit_problem

#: Frames named in a sentence.
_NAMED = 6
#: Of all atoms: a config type with more of them drowns the others.
_DOMINANT = 0.95
#: Distances from the middle, in units of the interquartile range, beyond which a frame is far from the rest.
_FAR = 15.0
#: eV/angstrom: a larger force is rarely meant.
_LARGEST_FORCE = 100.0


def oddities(frames: Sequence[Frame]) -> list[str]:
    """Sentences about labels that are not read, units, copies, config types and frames far from the rest.

    Parameters
    ----------
    frames : sequence of Frame

    Returns
    -------
    list of str
        Empty if nothing is odd.
    """
    found = [*unread_labels(frames), unit_problem(frames), _crystals_of_one_atom(frames)]
    found += [contradictions(frames), _dominant_type(frames), _far_from_the_rest(frames), _large_forces(frames)]
    return [sentence for sentence in found if sentence is not None]


def unread_labels(frames: Sequence[Frame]) -> list[str]:
    """Sentences about properties that no frame has a label of, where some key looks like one.

    Parameters
    ----------
    frames : sequence of Frame
    """
    periodic = any(frame.atoms.pbc.all() for frame in frames)
    # Property: whether it is missing, what its keys begin to look like, where, and the usual keys.
    wanted = {
        "energy": (all(f.energy is None for f in frames), ("energ",), ENERGY_KEYS),
        "forces": (all(f.forces is None for f in frames), ("force", "grad"), FORCES_KEYS),
        "virial": (periodic and all(f.virial is None for f in frames), ("virial", "stress"), VIRIAL_KEYS),
    }
    found = []
    for name, (missing, parts, usual) in wanted.items():
        if not missing:
            continue
        keys: collections.Counter[str] = collections.Counter()
        for frame in frames:
            atoms = frame.atoms
            per_atom = {k: v for k, v in atoms.arrays.items() if v.shape == (len(atoms), 3) and v.dtype.kind == "f"}
            source = per_atom if name == "forces" else {**atoms.info, **(atoms.calc.results if atoms.calc else {})}
            keys.update(key for key in source if any(part in key.lower() for part in parts))
        if keys:
            listed = ", ".join(f"'{key}'" for key, _ in keys.most_common(4))
            found.append(
                f"No frame has {name} under the usual keys ({', '.join(usual)}), but {listed} "
                f"look{'s' if len(keys) == 1 else ''} like it: say --{name}-key {keys.most_common(1)[0][0]}, or they "
                "are not used."
            )
    return found


def _crystals_of_one_atom(frames: Sequence[Frame]) -> str | None:
    numbers = [n for n, frame in enumerate(frames) if len(frame.atoms) == 1 and not is_isolated(frame.atoms)]
    if not numbers:
        return None
    return (
        f"Frames {listed(numbers, _NAMED)} hold one atom in a periodic cell, near its own images: they count as "
        "crystals, not as isolated atoms that self-energies are read from."
    )


def contradictions(frames: Sequence[Frame]) -> str | None:
    """A sentence if a structure is there twice, with different labels.

    Parameters
    ----------
    frames : sequence of Frame
    """
    seen: dict[bytes, int] = {}
    pairs = []
    for number, frame in enumerate(frames):
        atoms = frame.atoms
        key = b"".join(each.tobytes() for each in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc))
        first = seen.setdefault(key, number)
        if first != number and _differ(frames[first], frame):
            pairs.append(f"{first} and {number}")
    if not pairs:
        return None
    more = f" and {len(pairs) - _NAMED} more pairs" if len(pairs) > _NAMED else ""
    return f"Frames {', '.join(pairs[:_NAMED])}{more} are the same structure with different labels."


def _differ(one: Frame, other: Frame) -> bool:
    if one.energy is not None and other.energy is not None and abs(one.energy - other.energy) > 1e-6:
        return True
    if one.forces is None or other.forces is None:
        return False
    return bool(np.abs(one.forces - other.forces).max() > 1e-6)


def _dominant_type(frames: Sequence[Frame]) -> str | None:
    atoms: collections.Counter[str] = collections.Counter()
    for frame in frames:
        if not is_isolated(frame.atoms):
            atoms[frame.config_type] += len(frame.atoms)
    if len(atoms) < 2:
        return None
    kind, count = atoms.most_common(1)[0]
    share = count / atoms.total()
    if share < _DOMINANT:
        return None
    return (
        f"Config type '{kind}' has {100 * share:.1f} % of all atoms: what is fitted is fitted to it. Weights of config "
        "types can give the others a say."
    )


def _far_from_the_rest(frames: Sequence[Frame]) -> str | None:
    """Frames whose energies per atom are far from those of the others, once what elements explain is taken off."""
    used = [n for n, frame in enumerate(frames) if frame.energy is not None and not is_isolated(frame.atoms)]
    if len(used) < 20:
        return None
    elements = sorted({int(z) for n in used for z in frames[n].atoms.numbers})
    counts = np.array([[(frames[n].atoms.numbers == z).sum() for z in elements] for n in used], dtype=float)
    sizes = counts.sum(axis=1)
    energies = np.array([frames[n].energy for n in used]) / sizes
    if not np.isfinite(energies).all():
        return None  # refused by those who fit
    rest = energies - np.median(energies)
    if len(elements) > 1:
        shares = counts / sizes[:, None]
        rest = rest - shares @ np.linalg.lstsq(shares, rest, rcond=1e-6)[0]
    low, middle, high = np.percentile(rest, [25, 50, 75])
    width = max(high - low, 1e-3)
    far = np.flatnonzero(np.abs(rest - middle) > _FAR * width)
    if not 0 < len(far) <= 0.02 * len(used) + 1:
        return None  # many far ones are another kind, not mistakes
    worst = far[np.argsort(-np.abs(rest[far] - middle))]
    return (
        f"Energies per atom of frames {listed([used[n] for n in worst], _NAMED)} are far from those of the rest, by up "
        f"to {np.abs(rest[worst[0]] - middle):.3g} eV. Have a look at them."
    )


def _large_forces(frames: Sequence[Frame]) -> str | None:
    sizes = {n: float(np.abs(f.forces).max()) for n, f in enumerate(frames) if f.forces is not None and f.forces.size}
    large = [n for n, size in sizes.items() if size > _LARGEST_FORCE]
    if not large:
        return None
    return (
        f"Frames {listed(large, _NAMED)} have forces of up to {max(sizes[n] for n in large):.3g} eV/angstrom, which "
        "weigh more than all others. Leave them out if they are not meant, or say what unit they are in "
        "(--energy-unit)."
    )
