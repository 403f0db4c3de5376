"""Predictions of a model for labelled structures."""

from __future__ import annotations

from collections.abc import Sequence

from ase.stress import voigt_6_to_full_3x3_stress
from rich.console import Console
from rich.progress import track

from halberd.plugins.hosts.ase_calculator import HalberdCalculator
from halberd.potentials.errors import GeometryError
from halberd.potentials.frames.error_table import Prediction
from halberd.potentials.frames.labelled import Frame


def predict(calculator: HalberdCalculator, frames: Sequence[Frame], progress: bool = False) -> list[Prediction]:
    """Evaluate every frame.

    Parameters
    ----------
    calculator : HalberdCalculator
    frames : sequence of Frame
    progress : bool
        Show a bar on standard error.

    Returns
    -------
    list of Prediction

    Raises
    ------
    UnknownElementError
        If a frame has an element the model does not know; found before anything is computed.
    GeometryError
        If the model has no finite energy for a frame; says which.
    """
    for frame in frames:
        calculator.model.species_of(frame.atoms.numbers)
    predictions = []
    frames_with_bar = track(frames, "evaluating", console=Console(stderr=True), disable=not progress)
    for number, frame in enumerate(frames_with_bar):
        try:
            results = calculator.evaluate(frame.atoms)
        except GeometryError as error:
            raise GeometryError(f"Frame {number}: {error}") from error
        virial = None
        if "stress" in results:
            virial = -frame.atoms.get_volume() * voigt_6_to_full_3x3_stress(results["stress"])
        members = results.get("forces_committee")
        predictions.append(
            Prediction(
                results["energy"],
                results["forces"],
                virial,
                energy_std=results.get("energy_std"),
                forces_std=None if members is None else members.std(axis=0),
            )
        )
    return predictions
