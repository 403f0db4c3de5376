"""SevenNet as a site model: universal potentials whose checkpoints come with its package."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import torch

from halberd.potentials.errors import ConfigurationError, MissingDependencyError
from halberd.potentials.multi_ace.model import multi_ace_model
from halberd.potentials.multi_ace.restriction import restricted
from halberd.potentials.multi_ace.weights.sevennet import sevennet_of
from halberd.potentials.sites.site_model import SiteModel

#: Name -> checkpoint within the package.
CHECKPOINTS = {
    "sevennet-0": "SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
    "sevennet-l3i5": "SevenNet_l3i5/checkpoint_l3i5.pth",
    "sevennet-mf-0": "SevenNet_MF_0/checkpoint_sevennet_mf_0.pth",
}
_CITATION = "Park et al., J. Chem. Theory Comput. 20, 4857 (2024)"


def sevennet_path(name: str) -> Path:
    """The checkpoint of a name; nothing of the package is run.

    Raises
    ------
    MissingDependencyError
        If the package is not installed.
    """
    package = importlib.util.find_spec("sevenn")
    file = None
    if package is not None and package.origin is not None:
        file = Path(package.origin).parent / "pretrained_potentials" / CHECKPOINTS[name]
    if file is None or not file.is_file():
        raise MissingDependencyError(
            f"'{name}' comes with SevenNet, which is not installed: pip install --no-deps sevenn==0.13.0 (only its "
            "files are needed)."
        )
    return file


def load_sevennet(
    source: str | Path,
    dtype: torch.dtype = torch.float32,
    *,
    head: str | None = None,
    charge: float | None = None,
    multiplicity: int | None = None,
) -> SiteModel:
    """Read a checkpoint.

    Parameters
    ----------
    source : str or path
        One of :data:`CHECKPOINTS`, or a ``.pth`` file.
    dtype : torch.dtype
        SevenNets are trained in single precision.
    head : str, optional
        Modal of a network that was trained on several kinds of data.
    charge, multiplicity : None
        SevenNet takes neither.

    Raises
    ------
    ConfigurationError, MissingDependencyError, ModelError, ModelFileError
        As :func:`sevennet_path` and :func:`halberd.potentials.multi_ace.weights.sevennet.sevennet_of`.
    """
    if charge is not None or multiplicity is not None:
        raise ConfigurationError(
            f"'{source}' is a SevenNet, which takes neither charge nor multiplicity. Leave them out."
        )
    path = sevennet_path(str(source)) if str(source) in CHECKPOINTS else Path(source)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    metadata: dict[str, Any] = {"citation": _CITATION, "file": path.name, "sha256": digest}
    if head is not None:
        metadata["head"] = head
    found = sevennet_of(path, head)
    order = sorted(range(len(found.numbers)), key=lambda place: found.numbers[place])
    return multi_ace_model(
        restricted(found.network, order).to(dtype),
        [found.numbers[place] for place in order],
        e0s=found.e0s[order],
        name=str(source) if str(source) in CHECKPOINTS else path.stem,
        metadata=metadata,
    )
