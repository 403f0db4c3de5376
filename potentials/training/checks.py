"""What labels must be like before a network is trained on them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from halberd.potentials.errors import DataError, did_you_mean
from halberd.potentials.frames.labelled import Frame
from halberd.potentials.training.settings import LossSettings

#: Pairs of frames that energies are compared with forces in.
_PAIRS = 400
#: Frames, evenly spread, that pairs are looked for in.
_LOOKED_AT = 20_000
#: Differences of energies are as forces say to within this factor, where the two go together as well as this.
_SLOPE, _CORRELATION = 1.25, 0.9


class LabelWarning(UserWarning):
    """Energies and forces do not look as if they belonged together."""


def check_labels(frames: Sequence[Frame], loss: LossSettings) -> None:
    """Make sure that there are the labels that a loss asks for.

    Parameters
    ----------
    frames : sequence of Frame
    loss : LossSettings

    Raises
    ------
    DataError
        If no frame has one of them, or a config type that has a weight is none of the frames'.

    Warns
    -----
    LabelWarning
        If energies change otherwise than forces say, by a factor of units, say.
    """
    missing = {
        "energy": all(frame.energy is None for frame in frames),
        "forces": all(frame.forces is None for frame in frames),
        "stress": all(frame.virial is None or not frame.atoms.pbc.all() for frame in frames),
    }
    for name, absent in missing.items():
        if absent and getattr(loss, name) > 0:
            known = sorted({key for frame in frames for key in [*frame.atoms.info, *frame.atoms.arrays]})
            raise DataError(
                f"The loss has a weight of {getattr(loss, name):g} on the {name}, but no frame has one; the keys there "
                f"are {', '.join(known)}. Say where it is (--{name}-key), or set this weight to 0."
            )
    kinds = {frame.config_type for frame in frames}
    for kind in loss.per_config_type:
        if kind not in kinds:
            raise DataError(
                f"There is a weight for config type '{kind}', but no frame is of it.{did_you_mean(kind, kinds)} There "
                f"are {', '.join(sorted(kinds))}."
            )
    slope = energy_over_work(frames)
    if slope is not None and not 1 / _SLOPE < slope < _SLOPE:
        warnings.warn(
            f"Energies change {slope:.3g} times as much from frame to frame as forces say. Energies should be in eV, "
            "forces in eV/angstrom (1 eV is 23.06 kcal/mol, 96.49 kJ/mol; 1 hartree/bohr is 51.42 eV/angstrom), and "
            "forces minus the gradient.",
            LabelWarning,
            stacklevel=2,
        )


def energy_over_work(frames: Sequence[Frame]) -> float | None:
    """Differences of energies between similar frames, over what the mean of their forces says.

    Parameters
    ----------
    frames : sequence of Frame

    Returns
    -------
    float or None
        Slope of a line through zero; ``None`` if there are few pairs, or they scatter.
    """
    groups: dict[bytes, list[Frame]] = {}
    for number in np.unique(np.linspace(0, len(frames) - 1, min(len(frames), _LOOKED_AT)).astype(int)):
        frame = frames[int(number)]
        if frame.energy is not None and frame.forces is not None and len(frame.atoms) > 1:
            key = frame.atoms.numbers.tobytes() + np.array(frame.atoms.cell).tobytes()
            groups.setdefault(key, []).append(frame)
    work: list[float] = []
    change: list[float] = []
    for group in groups.values():
        chosen = group[: _PAIRS + 1]
        positions = np.stack([frame.atoms.positions for frame in chosen]).reshape(len(chosen), -1)
        for number in range(len(chosen)):
            distances = np.linalg.norm(positions - positions[number], axis=1)
            distances[number] = np.inf
            if len(chosen) < 2 or len(work) >= _PAIRS:
                break
            one, other = chosen[number], chosen[int(distances.argmin())]
            assert one.forces is not None and other.forces is not None  # noqa: PT018
            assert one.energy is not None and other.energy is not None  # noqa: PT018
            step = other.atoms.positions - one.atoms.positions
            work.append(-0.5 * float(((one.forces + other.forces) * step).sum()))
            change.append(other.energy - one.energy)
    x, y = np.array(work), np.array(change)
    if len(x) < 10 or not (x @ x) > 0 or not (y @ y) > 0:
        return None
    correlation = (x @ y) / np.sqrt((x @ x) * (y @ y))
    return float((x @ y) / (x @ x)) if abs(correlation) > _CORRELATION else None
