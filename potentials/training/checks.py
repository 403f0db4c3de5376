"""What labels must be like before a network is trained on them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from halberd.potentials.errors import DataError, did_you_mean
from halberd.potentials.frames.labelled import Frame
from halberd.potentials.frames.units import unit_problem
from halberd.potentials.training.settings import LossSettings

_FLAGS = {"energy": "energy", "forces": "forces", "stress": "virial"}


class LabelWarning(UserWarning):
    """Energies and forces do not look as if they belonged together."""


def check_labels(frames: Sequence[Frame], validation: Sequence[Frame], loss: LossSettings) -> None:
    """Make sure that there are the labels that a loss asks for.

    Parameters
    ----------
    frames, validation : sequence of Frame
        To train on, and to tell by when a network is best.
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
    for part, what in ((frames, "frame to train on"), (validation, "frame for validation")):
        _check_labels(part, what, loss)
    kinds = {frame.config_type for part in (frames, validation) for frame in part}
    for kind in loss.per_config_type:
        if kind not in kinds:
            raise DataError(
                f"There is a weight for config type '{kind}', but no frame is of it.{did_you_mean(kind, kinds)} There "
                f"are {', '.join(sorted(kinds))}."
            )
    problem = unit_problem(frames)
    if problem is not None:
        warnings.warn(problem, LabelWarning, stacklevel=2)


def _check_labels(frames: Sequence[Frame], what: str, loss: LossSettings) -> None:
    if not frames:
        return
    missing = {
        "energy": all(frame.energy is None for frame in frames),
        "forces": all(frame.forces is None for frame in frames),
        "stress": all(frame.virial is None or not frame.atoms.pbc.all() for frame in frames),
    }
    for name, absent in missing.items():
        if absent and getattr(loss, name) > 0:
            known = sorted({key for frame in frames for key in [*frame.atoms.info, *frame.atoms.arrays]})
            raise DataError(
                f"The loss has a weight of {getattr(loss, name):g} on the {name}, but no {what} has one; the keys "
                f"there are {', '.join(known)}. Say where it is (--{_FLAGS[name]}-key), or set this weight to 0."
            )
    if not any(loss.per_config_type.get(frame.config_type, 1.0) > 0 for frame in frames):
        raise DataError(f"Config types of every {what} have the weight 0. Give one of them another.")
