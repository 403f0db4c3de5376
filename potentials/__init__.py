"""Physics: species and edges in, site energies out. Knows no simulation engine."""

from halberd.potentials.ace.fit import AceFit
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.committees.committee import committee
from halberd.potentials.loading import load
from halberd.potentials.mace.last_layer_fit import LastLayerFit
from halberd.potentials.pretrained import pretrained, pretrained_names
from halberd.potentials.regression.weighted_rows import FitWeights
from halberd.potentials.sites.site_model import SiteModel

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
