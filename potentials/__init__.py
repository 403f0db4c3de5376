"""Physics: species and edges in, site energies out. Knows no simulation engine."""

from halberd.potentials.committee import committee
from halberd.potentials.loading import load
from halberd.potentials.pretrained import pretrained, pretrained_names
from halberd.potentials.site_model import SiteModel

__all__ = ["SiteModel", "committee", "load", "pretrained", "pretrained_names"]
