"""Reading model files of any kind halberd knows into a :class:`SiteModel`."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickletools
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch

from halberd.potentials.ace.model import with_compiled_sites
from halberd.potentials.committees.committee import committee
from halberd.potentials.errors import (
    ConfigurationError,
    HalberdError,
    ModelFileError,
    did_you_mean,
    missing_dependency,
)
from halberd.potentials.mace.on_the_family import mace_family_model, on_operators
from halberd.potentials.multi_ace.weights.sevennet_model import CHECKPOINTS, load_sevennet, sevennet_path
from halberd.potentials.pace.file import is_pace_file
from halberd.potentials.pace.model import load_pace
from halberd.potentials.pretrained_models import is_pretrained, pretrained_names, pretrained_path
from halberd.potentials.sites.archive import check_archive, records
from halberd.potentials.sites.elements import atomic_number_of
from halberd.potentials.sites.site_model import SiteModel, dtype_of, is_halberd_file

ModelSource: TypeAlias = str | os.PathLike[str] | SiteModel
#: What may run a mace-torch file.
IMPLEMENTATIONS = ("multi-ace", "mace-torch")


def load(
    source: ModelSource | Sequence[ModelSource],
    *,
    elements: Iterable[str | int] | None = None,
    head: str | None = None,
    precision: str | None = None,
    charge: float | None = None,
    multiplicity: int | None = None,
    implementation: str | None = None,
    trust: bool = False,
) -> SiteModel:
    """Load a model, or a committee of models.

    Parameters
    ----------
    source : path, name of a pretrained model, SiteModel, or a sequence of these
        A halberd ``.pt`` file; a mace-torch ``.model`` file (MACE or ScaleShiftMACE, with or without ZBL, with one
        or several heads); a PACE potential (``.yace``, or B-basis ``.yaml``); a checkpoint of SevenNet (``.pth``), or
        the name of one that is installed with it, as ``"sevennet-0"``; a name such as ``"gfn2-chnof"``. A sequence
        becomes a committee with one shared neighbour list and one column per member.
        What a file may do while it is loaded is on the page "What runs what".
    elements : iterable of str or int, optional
        Keep these elements only; models with weights per element get smaller and faster.
    head : str, optional
        Head of a multi-head model; modal of a SevenNet that was trained on several kinds of data.
    precision : {'single', 'double'}, optional
        Convert to this precision; the file's own if omitted.
    charge, multiplicity : number, optional
        Total charge (e) and spin multiplicity, for models that take them.
    implementation : {'multi-ace', 'mace-torch'}, optional
        What runs a mace-torch ``.model`` file: halberd's own network with the same weights
        (:mod:`halberd.potentials.multi_ace`), several times faster on CPUs, or the modules of mace-torch, its
        reference. ``multi-ace`` if omitted.
    trust : bool
        Load files that ask for more than halberd knows MACE models and TorchScript to need. They may run anything.

    Returns
    -------
    SiteModel

    Raises
    ------
    ModelFileError
        If a file is missing, damaged, not a model halberd knows, or would do more than compute.
    UnknownElementError
        If the model does not know one of ``elements``.
    ConfigurationError
        If the head is unknown or missing, an option does not apply, or a committee cannot be formed.

    Examples
    --------
    >>> from halberd.potentials import load
    >>> load("gfn2-chnof").symbols
    ('H', 'C', 'N', 'O', 'F')
    """
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ConfigurationError(
            f"There is no implementation {implementation!r}; there are {' and '.join(IMPLEMENTATIONS)}."
            f"{did_you_mean(str(implementation), IMPLEMENTATIONS)}"
        )
    options: dict[str, Any] = {
        **{"head": head, "charge": charge, "multiplicity": multiplicity},
        "implementation": implementation,
    }
    wanted = None if elements is None else [atomic_number_of(element) for element in elements]
    dtype = None if precision is None else dtype_of(precision)
    if isinstance(source, (list, tuple)):
        members = [load(each, elements=wanted, precision=precision, trust=trust, **options) for each in source]
        return committee(members)
    model = _load_one(source, options, dtype, trust)
    if wanted is not None:
        model = model.restrict(wanted)
    return model.to(dtype)


def check_source(source: ModelSource | Sequence[ModelSource]) -> None:
    """Check, without loading anything, that a model could be loaded.

    Raises
    ------
    ModelFileError, ConfigurationError
        As :func:`load` would.
    """
    if isinstance(source, (list, tuple)):
        for each in source:
            check_source(each)
        return
    if isinstance(source, SiteModel):
        return
    if not isinstance(source, (str, os.PathLike)):
        raise ConfigurationError(
            "A model is given by a path, the name of a pretrained model, a SiteModel, or a list of these; "
            f"got {type(source).__name__}."
        )
    path = Path(source)
    if path.is_file():
        if not is_halberd_file(path) and not is_pace_file(path) and path.suffix != ".pth":
            _pickled_model_class(path)
    elif str(source) in CHECKPOINTS:
        sevennet_path(str(source))
    elif not is_pretrained(str(source)):
        what = "is a folder" if path.is_dir() else "does not exist"
        names = [*pretrained_names(), *CHECKPOINTS]
        raise ModelFileError(
            f"Model file '{path}' {what}. Give a .pt, .model, .yace or .pth file, or the name of a pretrained model: "
            f"{', '.join(names)}.{did_you_mean(str(source), names)}"
        )


def _load_one(source: Any, options: dict[str, Any], dtype: Any, trust: bool) -> SiteModel:
    check_source(source)
    if isinstance(source, SiteModel):
        _refuse(options, f"model '{source.name}', which is loaded already")
        return source
    path = Path(source)
    if str(source) in CHECKPOINTS or path.suffix == ".pth":
        _refuse({"implementation": options.pop("implementation")}, f"'{source}', a SevenNet")
        return load_sevennet(str(source), dtype or torch.float32, **options)
    if not path.is_file():
        _refuse(options, f"the pretrained model '{source}'")
        return on_operators(SiteModel.load(pretrained_path(str(source))))
    if is_halberd_file(path):
        _refuse(options, f"'{path}', whose head and charge were fixed when it was exported")
        return on_operators(with_compiled_sites(SiteModel.load(path, trust=trust)))
    if is_pace_file(path):
        _refuse(options, f"'{path}', a PACE potential")
        return load_pace(path)
    return _load_mace(path, options, dtype, trust)


def _refuse(options: dict[str, Any], what: str) -> None:
    given = [key for key, value in options.items() if value is not None]
    if given:
        raise ConfigurationError(f"{', '.join(given)} cannot be chosen for {what}. Leave out {', '.join(given)}.")


def _load_mace(path: Path, options: dict[str, Any], dtype: Any, trust: bool) -> SiteModel:
    kind = _pickled_model_class(path)
    import_mace(f"read '{path}'")
    from halberd.potentials.mace.network import mace_site_model
    from halberd.potentials.mace.pickles import load_pickled

    check_archive(path)
    try:
        model = load_pickled(path, trust)
    except HalberdError:
        raise
    except Exception as error:  # a pickle may raise anything
        raise ModelFileError(
            f"'{path}' holds a {kind} but cannot be unpickled ({type(error).__name__}: {error}). "
            "It may be damaged, or written by an incompatible version of mace-torch."
        ) from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    source = {"file": path.name, "sha256": digest}
    make = mace_site_model if options.pop("implementation") == "mace-torch" else mace_family_model
    try:
        return make(model, name=path.stem, dtype=dtype, source=source, **options)
    except HalberdError:
        raise
    except (AttributeError, KeyError) as error:
        raise ModelFileError(
            f"'{path}' holds a {kind} that lacks a part halberd needs ({error}). "
            "It was probably written by an incompatible version of mace-torch."
        ) from error


def import_mace(purpose: str) -> Any:
    """Import mace-torch without its greetings, which would end up in machine-readable output.

    mace comes before e3nn: it sets the environment variable that e3nn 0.4.4 needs to import.

    Raises
    ------
    MissingDependencyError
        If mace-torch is not installed.
    """
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            import mace.modules
    except ImportError as error:
        raise missing_dependency("mace-torch", "cpu", purpose) from error
    return mace


def _pickled_model_class(path: Path) -> str:
    """Name the MACE class inside a torch pickle without running the pickle.

    Raises
    ------
    ModelFileError
        If the file is not a torch archive, is damaged, or holds something else.
    """
    advice = "Give a halberd .pt file or a mace-torch .model file."
    if not zipfile.is_zipfile(path):
        raise ModelFileError(f"'{path}' is neither a halberd model nor a torch file, or it is damaged. {advice}")
    entries = records(path)
    if "data.pkl" not in entries:
        raise ModelFileError(f"'{path}' is a zip archive, but not a model. {advice}")
    if "constants.pkl" in entries:
        raise ModelFileError(
            f"'{path}' is a TorchScript file of another program. {advice} "
            "(mace-torch's compiled models cannot be converted; give the .model file they were made from.)"
        )
    try:
        classes = [
            str(argument).split(" ", 1)
            for opcode, argument, _ in pickletools.genops(io.BytesIO(entries["data.pkl"]))
            if opcode.name == "GLOBAL"
        ]
    except (ValueError, EOFError, IndexError) as error:
        raise ModelFileError(f"'{path}' is damaged: {error}. Copy or train it again.") from error
    for module, name in classes:
        if module.startswith("mace.") and "MACE" in name.upper():
            return str(name)
    found = f"a pickled {classes[0][0]}.{classes[0][1]}" if classes else "a pickle of plain data"
    raise ModelFileError(f"'{path}' is not a MACE model: it holds {found}. {advice}")
