"""The loop of a training: epochs, validation, what is best, and files to go on from."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from halberd.potentials.errors import ModelFileError, RestartError, TrainingError
from halberd.potentials.multi_ace.compiled.training_form import training_form
from halberd.potentials.multi_ace.network import MultiAce
from halberd.potentials.sites.archive import read_state, write_state
from halberd.potentials.training.averaging import MovingAverage
from halberd.potentials.training.graphs import GraphSet, GraphsOf, batches, groups, joined
from halberd.potentials.training.losses import Errors, evaluated, loss_of
from halberd.potentials.training.optimisers import optimiser_of, schedule_of, trained_weights
from halberd.potentials.training.precision import DTYPES, Stepped
from halberd.potentials.training.replay import Replay
from halberd.potentials.training.settings import LossSettings, TrainingSettings

#: A validation loss so much larger than the best one is a training that has diverged.
_DIVERGED = 1e4
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Epoch:
    """What one epoch came to.

    Attributes
    ----------
    number : int
        From 1.
    loss : float
        Mean over its batches.
    validation : float
        Loss of the frames that were kept aside, after it.
    errors : dict
        Of these frames, see :meth:`halberd.potentials.training.losses.Errors.summary`.
    learning_rate : float
    """

    number: int
    loss: float
    validation: float
    errors: dict[str, dict[str, float]]
    learning_rate: float


class Trainer:
    """Trains one network.

    Parameters
    ----------
    network : MultiAce
        Trained in place, in the precision of the settings.
    training, validation : GraphSet, or other graphs that a loss is known of
    settings : TrainingSettings
    device : str
    replay : GraphSet, optional
        Frames that the network knew, see :mod:`halberd.potentials.training.replay`.

    Attributes
    ----------
    history : list of Epoch
    best : int
        Number of the epoch with the smallest validation loss in its phase; 0 before the first.
    """

    def __init__(
        self,
        network: MultiAce,
        training: GraphsOf[Any],
        validation: GraphsOf[Any],
        settings: TrainingSettings,
        device: str = "cpu",
        replay: GraphSet | None = None,
    ) -> None:
        self.settings = settings
        self.device = torch.device(device)
        self.dtype, self.exact = DTYPES[settings.precision]
        self.network = network.to(self.device, self.dtype)
        self.evaluator = training_form(self.network)
        self.training, self.validation = training, validation
        names = trained_weights(self.network, settings.frozen)
        own = {name: weight for name, weight in self.network.named_parameters() if name in names}
        self.replay = None if replay is None else Replay(self.network, replay)
        further = {} if self.replay is None else self.replay.weights
        self.stepped = Stepped({**own, **further}, self.exact, settings.lora_rank, settings.seed)
        self.optimiser = optimiser_of(self.stepped.named, settings)
        self.schedule = schedule_of(self.optimiser, settings)
        self.average = None if settings.average is None else MovingAverage(self.stepped, settings.average)
        self.history: list[Epoch] = []
        self.best = 0
        self._best_weights: dict[str, torch.Tensor] = {}
        self._set_within(0, 0.0)
        self._fingerprint = self._described()

    # -- epochs -------------------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        early = self.settings.early_stop
        waited = len(self.history) - max(self.best, self._phase_start)
        second = self.settings.second_phase
        if second is not None and len(self.history) < second.start:
            early = None
        return len(self.history) >= self.settings.epochs or (early is not None and waited >= early)

    def epoch(self, each_batch: Callable[[int, int], None] | None = None) -> Epoch:
        """Train for one epoch, and validate.

        Parameters
        ----------
        each_batch : callable, optional
            Told how many batches are done, and how many there are.

        Raises
        ------
        TrainingError
            If the loss is no number any more, or much larger than it was. What was best is kept.
        """
        number = len(self.history) + 1
        self._begin(number)
        plan, again = self._plan(number)
        rate = self.optimiser.param_groups[0]["lr"]
        for batch in range(self._batches_done, len(plan) + len(again)):
            # What is replayed comes evenly in between.
            whole = len(plan) + len(again)
            place = batch * len(again) // whole
            if (batch + 1) * len(again) // whole > place:
                assert self.replay is not None
                graph = joined([self.replay.graphs[each] for each in again[place]])
                self._step(self._placed(graph), self.replay.evaluator)
            else:
                graph = joined([self.training[each] for each in plan[batch - place]])
                self._loss_sum += self._step(self._placed(graph)).detach()
            self._batches_done += 1
            if each_batch is not None:
                each_batch(self._batches_done, whole)
        loss = float(self._loss_sum) / len(plan)
        self._set_within(0, 0.0)
        validation, errors = self.validated()
        result = Epoch(number, loss, validation, errors, rate)
        self._judge(result)
        self.history.append(result)
        if self._in_second_phase(number):
            return result
        if isinstance(self.schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.schedule.step(validation)
        elif self.schedule is not None:
            self.schedule.step()
        return result

    def _set_within(self, batches_done: int, loss_sum: float) -> None:
        """How far an epoch is, and the sum of its losses up to there; on the device, so that nobody waits for it."""
        self._batches_done = batches_done
        self._loss_sum = torch.tensor(loss_sum, dtype=torch.float64, device=self.device)

    def _begin(self, number: int) -> None:
        phase = self.settings.second_phase
        if phase is not None and number == phase.start:
            for group in self.optimiser.param_groups:
                group["lr"] = phase.learning_rate or 0.1 * self.settings.rate()

    @property
    def _phase_start(self) -> int:
        """The epoch before the phase that the last one belongs to."""
        phase = self.settings.second_phase
        return phase.start - 1 if phase is not None and len(self.history) >= phase.start else 0

    def _in_second_phase(self, number: int) -> bool:
        return self.settings.second_phase is not None and number >= self.settings.second_phase.start

    def loss_settings(self, number: int) -> LossSettings:
        """The loss of an epoch."""
        phase = self.settings.second_phase
        return phase.loss if phase is not None and self._in_second_phase(number) else self.settings.loss

    def _plan(self, number: int) -> tuple[list[list[int]], list[list[int]]]:
        """Batches of an epoch, and those that are replayed.

        Of the seed and the number of the epoch alone, so that a training goes on as it would have.
        """
        settings = self.settings
        generator = torch.Generator().manual_seed((settings.seed * 1_000_003 + number) % 2**63)
        order: list[int] = torch.randperm(len(self.training), generator=generator).tolist()
        plan = groups(self.training.n_edges, settings.batch_size, settings.max_edges, order=order)
        if self.replay is None:
            return plan, []
        drawn = self.replay.drawn(max(1, round(settings.replay * len(self.training))), generator)
        return plan, groups(self.replay.graphs.n_edges, settings.batch_size, settings.max_edges, order=drawn)

    def _placed(self, graph: Any) -> Any:
        return graph.to(self.device, self.dtype, self.exact)

    def _step(self, graph: Any, evaluator: Any = None) -> torch.Tensor:
        self.optimiser.zero_grad(set_to_none=True)
        loss = self._loss(graph, evaluator or self.evaluator)
        loss.backward()
        self.stepped.take_gradients()
        if self.settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.stepped.tensors, self.settings.clip)
        self.optimiser.step()
        values = self.stepped.give_weights()
        if self.average is not None:
            self.average.update(values)
        return loss

    def _loss(self, graph: Any, evaluator: Any) -> torch.Tensor:
        """Of a batch, to be differentiated with respect to weights."""
        found = evaluated(evaluator, graph, training=True)
        return loss_of(found, graph, self.loss_settings(len(self.history) + 1))

    def validated(self) -> tuple[float, dict[str, dict[str, float]]]:
        """Loss and errors of the frames that are kept aside, with the averaged weights."""
        errors = Errors()
        settings = self.loss_settings(max(len(self.history), 0) + 1)
        total = 0.0
        averaged = self.average.applied() if self.average is not None else torch.enable_grad()
        with averaged:
            for graph in batches(self.validation, self.settings.batch_size, self.settings.max_edges):
                own = self._placed(graph)
                found = evaluated(self.evaluator, own)
                total += float(loss_of(found, own, settings)) * own.n_frames
                errors.add(found, own)
        return total / len(self.validation), errors.summary()

    def _judge(self, result: Epoch) -> None:
        """Keep the weights if they are the best of their phase; raise if the training has diverged."""
        begins = self.settings.second_phase is not None and result.number == self.settings.second_phase.start
        before = None if begins or not self.best else self.history[self.best - 1].validation
        if not math.isfinite(result.loss + result.validation) or (
            before is not None and result.validation > _DIVERGED * before
        ):
            kept = f"The network of epoch {self.best} is kept." if self.best else "There is no better network to keep."
            raise TrainingError(
                f"The training has diverged in epoch {result.number}: its loss is {result.loss:.3g}, that of the "
                f"validation frames {result.validation:.3g}. {kept} Take a smaller learning_rate, or look for frames "
                "with large errors."
            )
        if before is None or result.validation < before:
            self.best = result.number
            self._best_weights = self._averaged()

    def _averaged(self) -> dict[str, torch.Tensor]:
        averaged = self.average.applied() if self.average is not None else torch.no_grad()
        with averaged:
            return {name: each.detach().clone() for name, each in self.network.state_dict().items()}

    def best_network(self) -> MultiAce:
        """The network with the weights of the best epoch, or as it is before the first."""
        network = copy.deepcopy(self.network)
        if self._best_weights:
            network.load_state_dict(self._best_weights)
        return network

    # -- going on -----------------------------------------------------------------------------------------------

    def _described(self) -> str:
        """Digest of settings, frames and the first weights: a training goes on with the same ones only.

        How long it is to be may change, unless the learning rate depends on it.
        """
        described = dataclasses.asdict(self.settings)
        if self.settings.lora_rank is None:  # trainings of before there was one
            del described["lora_rank"]
        if self.settings.schedule.kind != "cosine":
            del described["epochs"], described["early_stop"]
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
        again = () if self.replay is None else (self.replay.graphs,)
        for graphs in (self.training, self.validation, *again):
            for number in range(len(graphs)):
                for each in self._described_by(graphs[number]):
                    digest.update(each.numpy().tobytes())
        for name, weight in self.network.state_dict().items():
            digest.update(name.encode() + weight.detach().cpu().numpy().tobytes())
        return digest.hexdigest()

    @staticmethod
    def _described_by(graph: Any) -> list[torch.Tensor]:
        """What of a frame is not to change."""
        described_by = [graph.species, graph.edge_vectors, graph.energy, graph.forces, graph.weight]
        if not graph.stress.isnan().any():
            described_by += [graph.stress, graph.volume]
        return described_by

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that :meth:`resume` needs, between two batches, under a temporary name that is then renamed."""
        state = {
            "format": _FORMAT,
            "fingerprint": self._fingerprint,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "stepped": self.stepped.tensors if self.stepped.apart else None,
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "average": None if self.average is None else self.average.get_state(),
            "history": [dataclasses.asdict(each) for each in self.history],
            "best": self.best,
            "best_weights": self._best_weights,
            "replay": None if self.replay is None else self.replay.network.readouts.state_dict(),
            "within": (self._batches_done, float(self._loss_sum)),
        }
        write_state(state, path)

    def resume(self, path: str | os.PathLike[str]) -> None:
        """Go on where a training was ended, to the same numbers.

        Raises
        ------
        RestartError
            If the file cannot be read, is damaged, or is of another training.
        """
        file = Path(path)
        try:
            state = read_state(file, self.device)
        except ModelFileError as error:
            first = str(error).splitlines()[0]
            raise RestartError(f"'{file}' cannot be read: {first.rstrip('.')}. Remove it to begin anew.") from error
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            raise RestartError(f"'{file}' is no file of a training. Name another, or remove it to begin anew.")
        if state["fingerprint"] != self._fingerprint:
            raise RestartError(
                f"'{file}' belongs to a training with other frames, other settings or another network. "
                "Name another output, or remove it to begin anew."
            )
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        if self.average is not None:
            self.average.set_state(state["average"])
        self.history = [Epoch(**each) for each in state["history"]]
        self.best, self._best_weights = state["best"], state["best_weights"]
        if self.replay is not None:
            self.replay.network.readouts.load_state_dict(state["replay"])
        if self.stepped.apart:
            self.stepped.set_tensors(state["stepped"])
        self._set_within(*state.get("within", (0, 0.0)))
