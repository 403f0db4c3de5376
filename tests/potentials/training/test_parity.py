"""Steps of training against those of mace-torch: same network, weights, frames, batches, optimiser."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from halberd.potentials.multi_ace.weights.mace import multi_ace_of
from halberd.potentials.sites.torchscript import default_dtype
from halberd.potentials.training.graphs import GraphSet, joined
from halberd.potentials.training.loop import Trainer
from halberd.potentials.training.settings import LossSettings, TrainingSettings
from tests.conftest import make_mace
from tests.potentials.training.frames import molecules


@pytest.mark.parametrize("optimiser", ["amsgrad", "adamw"])
def test_losses_and_weights_are_those_of_mace_torch(optimiser):
    """Six steps on three batches: each loss tells of the gradient, the clipping and the optimiser of those before."""
    original = make_mace(elements=(1, 8), hidden="4x0e+4x1o")
    from mace import data, modules, tools
    from mace.tools import torch_geometric
    from mace.tools.train import take_step

    frames = molecules(9)
    network = multi_ace_of(original.double()).double()
    settings = TrainingSettings(
        loss=LossSettings(energy=3.0, forces=7.0), batch_size=3, optimiser=optimiser, clip=1.0, weight_decay=0.0
    )
    cutoff = float(original.r_max)
    graphs = GraphSet(frames, [1, 8], np.asarray(original.atomic_energies_fn.atomic_energies).ravel(), cutoff)
    for weight in network.parameters():
        weight.requires_grad_()
    trainer = Trainer(network, graphs, graphs, settings)

    keys = data.KeySpecification(info_keys={"energy": "E"}, arrays_keys={"forces": "F"})
    table = tools.AtomicNumberTable([1, 8])
    with default_dtype(torch.float64):
        theirs = []
        for frame in frames:
            atoms = frame.atoms.copy()
            atoms.info["E"], atoms.arrays["F"] = frame.energy, frame.forces
            theirs.append(
                data.AtomicData.from_config(data.config_from_atoms(atoms, keys), z_table=table, cutoff=cutoff)
            )
        batches = list(torch_geometric.dataloader.DataLoader(theirs, batch_size=3, shuffle=False))
        loss = modules.WeightedEnergyForcesLoss(3.0, 7.0)
    weights = [each for each in original.parameters() if each.requires_grad]
    kinds = {
        "amsgrad": lambda: torch.optim.Adam(weights, lr=0.01, amsgrad=True),
        "adamw": lambda: torch.optim.AdamW(weights, lr=0.01, weight_decay=0.0),
    }
    theirs_optimiser = kinds[optimiser]()
    wanted = {"forces": True, "virials": False, "stress": False}
    for number in range(6):
        graph = joined([graphs[k] for k in range(number % 3 * 3, number % 3 * 3 + 3)])
        own = trainer._step(graph).detach()
        expected, _ = take_step(
            original, loss, batches[number % 3].clone(), theirs_optimiser, None, wanted, 1.0, torch.device("cpu")
        )
        assert own.item() == pytest.approx(expected.item(), rel=1e-10)
