"""Physics: species and edges in, site energies out. Knows no simulation engine.

What users type is importable from here, and from nowhere else: files inside may move. Names are imported on first use,
so that one of them does not bring what another one needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from halberd.potentials.faces import lazy_face

if TYPE_CHECKING:
    from halberd.potentials.ace.fit import AceFit
    from halberd.potentials.ace.model_selection import select_degree
    from halberd.potentials.ace.settings import AceSettings
    from halberd.potentials.committees.committee import committee
    from halberd.potentials.conformance import check_site_model
    from halberd.potentials.diffusion.model import DiffusionModel
    from halberd.potentials.diffusion.settings import DiffusionSettings
    from halberd.potentials.diffusion.training import denoising_trainer, trained_diffusion
    from halberd.potentials.errors import HalberdError, RunStopped, StabilityError
    from halberd.potentials.frames.labelled import Frame, LabelKeys, read_frames
    from halberd.potentials.loading import load
    from halberd.potentials.mace.descriptor import mace_descriptor
    from halberd.potentials.mace.last_layer_fit import LastLayerFit
    from halberd.potentials.pace.writing import write_pace
    from halberd.potentials.pretrained_models import pretrained, pretrained_names
    from halberd.potentials.regression.weighted_rows import FitWeights
    from halberd.potentials.simgen.guidance import GaussianPrior, Guidance, HostWall, PointCloudPrior
    from halberd.potentials.simgen.reference_set import ReferenceSet
    from halberd.potentials.simgen.score import SimilarityScore
    from halberd.potentials.sites.lennard_jones import lennard_jones
    from halberd.potentials.sites.site_model import Columns, SiteModel
    from halberd.potentials.training.replay import replayed
    from halberd.potentials.training.settings import LossSettings, TrainingSettings, named_loss
    from halberd.potentials.training.start import network_of_model, networks_of_committee, new_network
    from halberd.potentials.training.training import train, trained_model, trainer_for

#: Public name -> module.
_HOMES = {
    "AceFit": "ace.fit",
    "AceSettings": "ace.settings",
    "Columns": "sites.site_model",
    "DiffusionModel": "diffusion.model",
    "DiffusionSettings": "diffusion.settings",
    "FitWeights": "regression.weighted_rows",
    "Frame": "frames.labelled",
    "GaussianPrior": "simgen.guidance",
    "Guidance": "simgen.guidance",
    "HalberdError": "errors",
    "HostWall": "simgen.guidance",
    "LabelKeys": "frames.labelled",
    "LastLayerFit": "mace.last_layer_fit",
    "LossSettings": "training.settings",
    "PointCloudPrior": "simgen.guidance",
    "ReferenceSet": "simgen.reference_set",
    "RunStopped": "errors",
    "SimilarityScore": "simgen.score",
    "SiteModel": "sites.site_model",
    "StabilityError": "errors",
    "TrainingSettings": "training.settings",
    "check_site_model": "conformance",
    "committee": "committees.committee",
    "denoising_trainer": "diffusion.training",
    "lennard_jones": "sites.lennard_jones",
    "load": "loading",
    "mace_descriptor": "mace.descriptor",
    "named_loss": "training.settings",
    "network_of_model": "training.start",
    "networks_of_committee": "training.start",
    "new_network": "training.start",
    "pretrained": "pretrained_models",
    "pretrained_names": "pretrained_models",
    "read_frames": "frames.labelled",
    "replayed": "training.replay",
    "select_degree": "ace.model_selection",
    "train": "training.training",
    "trained_diffusion": "diffusion.training",
    "trained_model": "training.training",
    "trainer_for": "training.training",
    "write_pace": "pace.writing",
}

__getattr__, __dir__ = lazy_face(__name__, _HOMES)

__all__ = [
    "AceFit",
    "AceSettings",
    "Columns",
    "DiffusionModel",
    "DiffusionSettings",
    "FitWeights",
    "Frame",
    "GaussianPrior",
    "Guidance",
    "HalberdError",
    "HostWall",
    "LabelKeys",
    "LastLayerFit",
    "LossSettings",
    "PointCloudPrior",
    "ReferenceSet",
    "RunStopped",
    "SimilarityScore",
    "SiteModel",
    "StabilityError",
    "TrainingSettings",
    "check_site_model",
    "committee",
    "denoising_trainer",
    "lennard_jones",
    "load",
    "mace_descriptor",
    "named_loss",
    "network_of_model",
    "networks_of_committee",
    "new_network",
    "pretrained",
    "pretrained_names",
    "read_frames",
    "replayed",
    "select_degree",
    "train",
    "trained_diffusion",
    "trained_model",
    "trainer_for",
    "write_pace",
]
