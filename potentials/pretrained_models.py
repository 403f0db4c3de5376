"""Models that come with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from halberd.potentials.errors import ConfigurationError, did_you_mean
from halberd.potentials.mace.on_the_family import on_operators
from halberd.potentials.sites.site_model import SiteModel, dtype_of

#: Name -> files of its versions in the package's ``data`` folder, the first one first.
_MODELS = {"gfn2-chnof": ("gfn2-chnof.pt", "gfn2-chnof-2.pt")}


def _files() -> dict[str, str]:
    """Name -> file: the last version has the name alone, every version ``NAME@1`` and so on."""
    found = {name: files[-1] for name, files in _MODELS.items()}
    for name, files in _MODELS.items():
        found.update({f"{name}@{number}": file for number, file in enumerate(files, start=1)})
    return found


def is_pretrained(name: str) -> bool:
    """Whether halberd ships a model of this name."""
    return name in _files()


def pretrained_names() -> tuple[str, ...]:
    """Names that :func:`pretrained` knows, those of versions last."""
    return tuple(_files())


def pretrained_path(name: str) -> Path:
    """Where the file of a shipped model is.

    Raises
    ------
    ConfigurationError
        If there is no such model.
    """
    files = _files()
    if name not in files:
        raise ConfigurationError(
            f"There is no pretrained model '{name}'; there is {', '.join(files)}.{did_you_mean(name, files)}"
        )
    return Path(str(resources.files("halberd.potentials") / "data" / files[name]))


def pretrained(name: str = "gfn2-chnof", precision: str | None = None) -> SiteModel:
    """Load a model that comes with halberd.

    ``"gfn2-chnof"`` is a small MACE (two layers, 64 scalar and 64 vector channels, cutoff 4.5 angstrom) for molecules
    of H, C, N, O and F and their liquids, trained on GFN2-xTB labels; ``"gfn2-chnof@1"`` is the first version, of 64
    scalar channels, which has seen molecules alone. Good for trying things out, not for quantitative energetics; errors
    and data are in ``docs/models.md``.

    Parameters
    ----------
    name : str
        One of :func:`pretrained_names`.
    precision : {'single', 'double'}, optional
        The model's own, single, if omitted.

    Returns
    -------
    SiteModel

    Raises
    ------
    ConfigurationError
        If there is no such model.
    """
    model = on_operators(SiteModel.load(pretrained_path(name)))
    return model if precision is None else model.to(dtype_of(precision))
