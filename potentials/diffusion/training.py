"""Learning to take noise out of molecules, and what comes of it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from ase import Atoms

from halberd.potentials.diffusion.energy import NoisyEnergy, centred
from halberd.potentials.diffusion.model import DiffusionModel
from halberd.potentials.diffusion.molecules import Molecules, MoleculeSet
from halberd.potentials.diffusion.network import NoisyNetwork
from halberd.potentials.diffusion.preconditioning import Preconditioning
from halberd.potentials.diffusion.settings import DiffusionSettings
from halberd.potentials.training.graphs import batches
from halberd.potentials.training.loop import Trainer
from halberd.potentials.training.settings import TrainingSettings
from halberd.potentials.training.training import drawn_aside

#: Bands of noise that errors are told of, from low to high, angstrom, by their names.
BANDS = {
    f"above {low:g} angstrom": (low, high) for low, high in ((0.0, 0.1), (0.1, 0.3), (0.3, 1.0), (1.0, float("inf")))
}
#: Molecules, evenly spread, that an epoch is validated on at most, roughly.
_VALIDATED = 5000


class DenoisingTrainer(Trainer):
    """Trains the network of a diffusion model; epochs, averages and checkpoints are those of every other network.

    The loss is the mean over atoms and their coordinates and elements of ``((D - x0) / c_out)^2`` (Karras et al., arXiv
    2206.00364, eq. 8), with noise that is new in every epoch and whose coordinates leave the centre where it is. A
    network that says nothing has a loss of about 1.

    Parameters
    ----------
    settings : DiffusionSettings
        ``sigma_data`` included.
    training, validation : MoleculeSet
    how : TrainingSettings
        Losses, weights of config types and replay are of no account.
    device : str
    start : DiffusionModel, optional
        Whose network, of the same settings, is trained further.
    """

    def __init__(
        self,
        settings: DiffusionSettings,
        training: MoleculeSet,
        validation: MoleculeSet,
        how: TrainingSettings,
        device: str = "cpu",
        start: DiffusionModel | None = None,
    ) -> None:
        assert settings.sigma_data is not None
        self.choices = settings
        self.preconditioning = Preconditioning(settings.preconditioning, settings.sigma_data)
        if start is None:
            self.neighbours, self.epochs_before = training.neighbours(), 0
            network = NoisyNetwork(settings, self.neighbours, how.seed)
        else:
            self.neighbours, self.epochs_before = start.neighbours, start.epochs
            network = copy.deepcopy(start.network).requires_grad_(True)
        super().__init__(network, training, validation, how, device)
        self.energy = NoisyEnergy(network, self.preconditioning, self.evaluator)

    def _loss(self, graph: Any, _: Any) -> torch.Tensor:
        # Of the seed, the epoch and the batch alone, so that a training goes on as it would have.
        epoch = self.epochs_before + len(self.history) + 1
        place = ((self.settings.seed * 1_000_003 + epoch) * 1_000_003 + self._batches_done + 1) % 2**63
        generator = torch.Generator().manual_seed(place)
        _, loss = self._denoised(graph, generator, training=True)
        return loss.mean()

    def _denoised(
        self, graph: Molecules, generator: torch.Generator, training: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise levels (M,) that were drawn, and the losses (N,) of all atoms."""
        choices, owner, count = self.choices, graph.frame, graph.n_frames
        n_elements = len(choices.numbers)

        def normal(*shape: int) -> torch.Tensor:
            drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
            return drawn.to(graph.positions.device, graph.positions.dtype)

        sigma = torch.exp(choices.noise_mean + choices.noise_std * normal(count))
        each = sigma.index_select(0, owner).unsqueeze(1)
        elements = choices.element_scale * torch.nn.functional.one_hot(graph.species, n_elements).to(sigma.dtype)
        x = graph.positions + each * centred(normal(len(owner), 3), owner, count)
        h = elements + each * normal(len(owner), n_elements)
        noisy = (x.to(self.dtype), h.to(self.dtype), sigma.to(self.dtype))
        found = self.energy.denoised(*noisy, graph.edge_index, owner, training=training)
        out = self.preconditioning.out(each)
        errors = [
            ((d - clean) / out).square().sum(dim=1) for d, clean in zip(found, (graph.positions, elements), strict=True)
        ]
        return sigma, (errors[0] + errors[1]) / (3 + n_elements)

    def validated(self) -> tuple[float, dict[str, dict[str, float]]]:
        """Loss of the molecules that are kept aside, by the averaged weights, and in bands of the noise level.

        The noise is the same after every epoch. Of very many molecules some are looked at.
        """
        order = range(0, len(self.validation), max(1, len(self.validation) // _VALIDATED))
        generator = torch.Generator().manual_seed(self.settings.seed)
        averaged = self.average.applied() if self.average is not None else torch.enable_grad()
        levels, losses, counts = [], [], []
        with averaged:
            for graph in batches(self.validation, self.settings.batch_size, self.settings.max_edges, order):
                own = self._placed(graph)
                sigma, loss = self._denoised(own, generator)
                zeros = torch.zeros(own.n_frames, dtype=torch.float64)
                losses.append(zeros.index_add(0, own.frame.cpu(), loss.detach().double().cpu()))
                levels.append(sigma.double().cpu())
                counts.append(own.n_atoms.double().cpu())
        sigma, loss, n_atoms = (torch.cat(each) for each in (levels, losses, counts))
        bands = {}
        for name, (low, high) in BANDS.items():
            own = (sigma > low) & (sigma <= high)
            if own.any():
                bands[name] = {"loss": float(loss[own].sum() / n_atoms[own].sum())}
        return float(loss.sum() / n_atoms.sum()), bands

    @staticmethod
    def _described_by(graph: Any) -> list[torch.Tensor]:
        return [graph.species, graph.positions]

    def _described(self) -> str:
        return f"{super()._described()} {sorted(dataclasses.asdict(self.choices).items())}"


def denoising_trainer(
    molecules: Sequence[Atoms],
    settings: DiffusionSettings,
    how: TrainingSettings,
    validation: Sequence[Atoms] | None = None,
    device: str = "cpu",
    start: DiffusionModel | None = None,
) -> DenoisingTrainer:
    """Everything that a training needs, from molecules.

    Parameters
    ----------
    molecules : sequence of ase.Atoms
    settings : DiffusionSettings
    how : TrainingSettings
    validation : sequence of ase.Atoms, optional
        A share of the others, chosen by the seed, if omitted.
    device : str
    start : DiffusionModel, optional
        Trained further, in place of a new network; ``settings`` are then its own.

    Raises
    ------
    DataError
        If molecules are damaged; see :class:`halberd.potentials.diffusion.molecules.MoleculeSet`.
    """
    own = list(molecules)
    if start is not None:
        settings = start.settings
    how = dataclasses.replace(how, learning_rate=how.rate(further=start is not None))
    if validation is None:
        kept = drawn_aside(range(len(own)), how.validation, how.seed)
        validation = [each for number, each in enumerate(own) if number in kept]
        own = [each for number, each in enumerate(own) if number not in kept]
    training, held = (MoleculeSet(each, settings.numbers) for each in (own, validation))
    if settings.sigma_data is None:
        settings = dataclasses.replace(settings, sigma_data=training.sigma_data())
    return DenoisingTrainer(settings, training, held, how, device=device, start=start)


def trained_diffusion(trainer: DenoisingTrainer, name: str) -> DiffusionModel:
    """The best network of a training as a diffusion model.

    Parameters
    ----------
    trainer : DenoisingTrainer
    name : str
    """
    network: Any = trainer.best_network().to("cpu", trainer.dtype)
    training: Any = trainer.training
    metadata = {
        "name": name,
        "training": {
            "molecules": len(trainer.training),
            "validation_molecules": len(trainer.validation),
            "epochs": trainer.epochs_before + len(trainer.history),
            "best_epoch": trainer.epochs_before + trainer.best,
            "validation": trainer.history[trainer.best - 1].validation if trainer.best else None,
            "seed": trainer.settings.seed,
        },
    }
    return DiffusionModel(network, trainer.choices, trainer.neighbours, training.size_table(), metadata)
