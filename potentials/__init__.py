"""Physics: species and edges in, site energies out. Knows no simulation engine."""

from halberd.potentials.ace_fit import AceFit
from halberd.potentials.ace_settings import AceSettings
from halberd.potentials.committee import committee
from halberd.potentials.fit_rows import FitWeights
from halberd.potentials.last_layer import LastLayerFit
from halberd.potentials.loading import load
from halberd.potentials.pretrained import pretrained, pretrained_names
from halberd.potentials.site_model import SiteModel

__all__ = [
    "AceFit",
    "AceSettings",
    "FitWeights",
    "LastLayerFit",
    "SiteModel",
    "committee",
    "load",
    "pretrained",
    "pretrained_names",
]
