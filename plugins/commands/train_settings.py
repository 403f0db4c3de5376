"""Settings of a training from files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from halberd.potentials.diffusion.settings import DiffusionSettings
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.frames.labelled import LabelKeys
from halberd.potentials.training.settings import TrainingSettings, check_start
from halberd.potentials.validation import Count, changed, conform

_OF_POTENTIALS = ("test", "network", "replay", "e0s", "keys", "stream", "committee")


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """What is trained, on what, and what is written.

    Attributes
    ----------
    train : str or tuple of str
        Labelled structures: extended XYZ, an ASE database, or arrays as of rMD17 (``.npz``).
    output : str
        The .pt file to write; ``NAME.json``, ``NAME.history.csv``, figures, and ``NAME.checkpoint``, which a training
        that was ended goes on from, are written beside it.
    validation : str or tuple of str, optional
        Labelled structures that tell when the network is best; a share of the others if omitted.
    test : mapping or str, optional
        Files of labelled structures to test on, by a name.
    network : mapping
        ``preset``, and choices of :class:`halberd.potentials.multi_ace.settings.MultiAceSettings`.
    start_from : str, optional
        A model whose network is trained further, in place of a new one: a name or a file that halberd loads. Of a
        committee every member is, if ``committee`` says as many. With ``diffusion: {}``, a diffusion model.
    replay : str, optional
        Frames that the network of ``start_from`` knew, which it goes on seeing, with read-outs of their own, so that it
        forgets less; it labels those that have no labels. ``training.replay`` says how many.
    replay_keys : LabelKeys
        Where the labels of these are.
    training : TrainingSettings
    e0s : mapping or str, optional
        Self-energies: ``isolated``, ``average``, or energies of the elements in eV. With ``start_from``, those of that
        model if left out.
    keys : LabelKeys
    stream : bool
        Keep the frames to train on in flat files, in ``NAME.frames`` beside the output, and read them as they are
        needed: for more frames than memory holds.
    committee : int
        Networks, of different seeds and shares of the frames, in one model.
    device : str
        ``cpu`` or ``cuda``.
    threads : int, optional
        CPU threads.
    max_hours : float, optional
        Stop after the epoch in which they end; the same command goes on.
    plots : bool
        Draw losses and parity.
    diffusion : DiffusionSettings, optional
        Train a diffusion model of molecules instead of a potential: ``train`` and ``validation`` are then files of
        molecules without labels, or ``qm9``, whose clusters of similar molecules are split as a whole.

    Raises
    ------
    ConfigurationError
        Names the value that makes no sense.
    """

    train: str | tuple[str, ...]
    output: str
    validation: str | tuple[str, ...] | None = None
    test: Mapping[str, str] | str | None = None
    network: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    start_from: str | None = None
    replay: str | None = None
    replay_keys: LabelKeys = dataclasses.field(default_factory=LabelKeys)
    training: TrainingSettings = dataclasses.field(default_factory=TrainingSettings)
    e0s: Mapping[str | int, float] | str | None = None
    keys: LabelKeys = dataclasses.field(default_factory=LabelKeys)
    stream: bool = False
    committee: Count = 1
    device: str = "cpu"
    threads: Count | None = None
    max_hours: float | None = None
    plots: bool = True
    diffusion: DiffusionSettings | None = None

    def __post_init__(self) -> None:
        conform(self)
        if self.diffusion is not None:
            self._check_diffusion()
        check_start(self.start_from, self.network, self.training)
        if self.replay is not None and self.start_from is None:
            raise ConfigurationError("replay is for a network that is trained further: give start_from, too.")
        if self.max_hours is not None and not self.max_hours > 0:
            raise ConfigurationError(f"max_hours is {self.max_hours}; it must be positive.")
        if self.device.partition(":")[0] not in ("cpu", "cuda"):
            raise ConfigurationError(f"device is '{self.device}'; it is cpu or cuda.")

    def _check_diffusion(self) -> None:
        """Refuse what belongs to potentials alone."""
        for name in changed(self, _OF_POTENTIALS):
            raise ConfigurationError(f"{name} is for potentials, and diffusion is given: leave one of them away.")
        if self.start_from is not None and self.diffusion != DiffusionSettings():
            raise ConfigurationError("start_from brings its own network and noise: write diffusion: {} alone.")

    @property
    def test_files(self) -> dict[str, str]:
        """Files to test on, by their names."""
        if self.test is None:
            return {}
        return {"test": self.test} if isinstance(self.test, str) else dict(self.test)

    @property
    def train_files(self) -> tuple[str, ...]:
        """Files to train on."""
        return (self.train,) if isinstance(self.train, str) else self.train

    @property
    def validation_files(self) -> tuple[str, ...] | None:
        """Files that tell when the network is best; ``None`` for a share of the others."""
        return (self.validation,) if isinstance(self.validation, str) else self.validation
