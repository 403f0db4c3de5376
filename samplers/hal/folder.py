"""The folder of a hyperactive-learning run: what is in it decides where the run goes on.

Every iteration has a folder; its ``iteration.json``, written last, makes it count. Everything else, the databases
included, follows from these files, so a run can be killed at any moment.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase.io

from halberd.potentials.errors import RestartError
from halberd.potentials.files import make_folder, replacing
from halberd.potentials.frames.labelled import Frame, read_frames, to_atoms
from halberd.samplers.hal.settings import FREE, HALSettings

RUN = "run.json"


@dataclasses.dataclass
class Iteration:
    """What an iteration left behind; paths are relative to the run's folder.

    Attributes
    ----------
    number : int
    fit, test : list of str
        Labelled frames it added.
    n_failed, n_duplicates : int
        Frames that could not be labelled, or needed not be.
    tolerance : float
        Of its walkers.
    held : int
        Trajectories in a row, up to its end, for which the final tolerance held.
    model, drive, state : str
        The current model, what drives walkers, and the state of the fit; ``None`` if the model is all of it.
    n_functions, n_rows : int
    walkers : list of dict
        Outcomes, with ``first_step`` and ``start`` of the trajectory.
    errors : dict
        ``fit`` and ``test``: error reports of the model.
    seconds : dict
        ``md``, ``label``, ``fit``.
    details : dict
        What the solver chose.
    """

    number: int
    fit: list[str]
    test: list[str]
    n_failed: int
    n_duplicates: int
    tolerance: float
    held: int
    model: str
    drive: str
    state: str | None
    n_functions: int
    n_rows: int
    walkers: list[dict[str, Any]]
    errors: dict[str, Any]
    seconds: dict[str, float]
    details: dict[str, Any]


class RunFolder:
    """Files of a run.

    Parameters
    ----------
    path : pathlib.Path
        Made if it is not there.

    Raises
    ------
    OutputError
        If it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        for folder in (path, path / "iterations"):
            make_folder(folder)

    def claim(self, settings: HALSettings, inputs: Mapping[str, Sequence[Any]]) -> None:
        """Write the settings, or compare them with those of the run that is here.

        Parameters
        ----------
        settings : HALSettings
        inputs : mapping
            Name -> structures that the run depends on.

        Raises
        ------
        RestartError
            If the folder belongs to a run with other settings or inputs; says which.
        """
        mine = json.loads(json.dumps({"settings": settings.to_dict()}))
        mine["inputs"] = {name: _digest(structures) for name, structures in inputs.items()}
        file = self.path / RUN
        if file.is_file():
            stored = json.loads(file.read_text(encoding="utf-8"))
            differences = [
                f"{key} was {old!r} and is {new!r}"
                for key, old, new in _compare(stored, mine)
                if key.removeprefix("settings.") not in FREE
            ]
            if differences:
                raise RestartError(
                    f"'{self.path}' belongs to a run with other settings: {'; '.join(differences[:6])}. "
                    "Restore them, or choose another output folder."
                )
            return
        from importlib.metadata import version

        mine["versions"] = {name: version(name) for name in ("halberd-md", "openmm", "torch", "numpy", "scipy")}
        write_json(file, mine)

    def iteration(self, number: int) -> Path:
        """Folder of an iteration."""
        return self.path / "iterations" / f"{number:04d}"

    def final(self, number: int) -> Path:
        """Folder of a last fit after an iteration; made by whoever fits."""
        return self.path / "iterations" / f"{number:04d}-final"

    def finished(self) -> list[Iteration]:
        """Iterations that are complete, in order."""
        done: list[Iteration] = []
        while (file := self.iteration(len(done)) / "iteration.json").is_file():
            done.append(Iteration(**json.loads(file.read_text(encoding="utf-8"))))
        return done

    def finish(self, iteration: Iteration, history: Sequence[Iteration]) -> None:
        """Make an iteration count, and write the databases and the current model as they are after it."""
        every = [*history, iteration]
        write_json(self.iteration(iteration.number) / "iteration.json", dataclasses.asdict(iteration))
        self.publish(every)
        # States are large; only the last one is ever read.
        for old in every[:-1]:
            if old.state is not None and old.state != iteration.state:
                (self.path / old.state).unlink(missing_ok=True)

    def publish(self, history: Sequence[Iteration]) -> None:
        """Write ``fit.extxyz``, ``test.extxyz`` and ``model.pt`` from the iterations."""
        for name in ("fit", "test"):
            images = [to_atoms(frame) for frame in self.frames(history, name)]
            with replacing(self.path / f"{name}.extxyz") as temporary:
                ase.io.write(temporary, images, format="extxyz")
        self.publish_model(self.path / history[-1].model)

    def publish_model(self, model: Path) -> None:
        """Make a model the one of the run."""
        with replacing(self.path / "model.pt") as temporary:
            shutil.copyfile(model, temporary)

    def frames(self, history: Sequence[Iteration], name: str) -> list[Frame]:
        """Labelled frames of the fit or the test set, in the order they came."""
        return [frame for iteration in history for file in getattr(iteration, name) for frame in self.read(file)]

    def read(self, file: str) -> list[Frame]:
        """Labelled frames of one file."""
        return read_frames(self.path / file)

    def relative(self, path: Path) -> str:
        """A path as iterations store it."""
        return str(path.relative_to(self.path))


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one step."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _digest(structures: Sequence[Any]) -> str:
    digest = hashlib.sha256()
    for atoms in structures:
        for array in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
            digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def _compare(old: Any, new: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = [name for name in {**old, **new} if key or name != "versions"]
        return [
            found
            for name in names
            for found in _compare(old.get(name), new.get(name), f"{key}.{name}" if key else name)
        ]
    return [] if old == new else [(key, old, new)]
