"""The site-model contract: species and edges in, site energies out.

A site model is a TorchScript-compatible module ::

    forward(species: int64[N], edge_index: int64[2, E], edge_vectors: float[E, 3]) -> float[N] or float[N, K]

``edge_index[0]`` is the centre atom i, ``edge_index[1]`` its neighbour j, ``edge_vectors = r_j - r_i`` in angstrom
with the periodic image included. All pairs closer than ``cutoff`` are listed in both directions, in any order. The
result is the energy of every site in eV, measured from the atomic self-energies ``e0s``; a committee returns one
column per member. A descriptor is the same call returning ``float[N, D]``.

Self-energies stay outside the module, in float64: they are constants of the composition, four orders of magnitude
larger than the differences that matter, and single precision would eat the latter.
"""

from __future__ import annotations

import copy
import enum
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import ase.data
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from halberd.potentials.errors import ConfigurationError, ModelError, ModelFileError, UnknownElementError
from halberd.potentials.files import replacing
from halberd.potentials.signals import undisturbed
from halberd.potentials.sites.archive import DAMAGED, check_archive, check_torchscript, with_digest
from halberd.potentials.sites.elements import atomic_number_of
from halberd.potentials.sites.torchscript import load_operators, quiet_torchscript

#: Entry inside a ``.pt`` file that holds everything but the TorchScript.
SIDECAR = "halberd.json"
FORMAT_VERSION = 1

_DTYPES = {"single": torch.float32, "double": torch.float64}

Restriction = Callable[[Sequence[int]], "SiteModel"]
#: From members' modules, the committee's portable one and the members' species numbers to one module, or none.
Joining = Callable[[Sequence[torch.nn.Module], torch.nn.Module, Sequence[int]], torch.nn.Module | None]


class Columns(enum.Enum):
    """What the columns of a site model mean.

    ``ENERGY``: there is one energy and no second axis. ``MEMBERS``: one energy per member of a committee.
    ``MEAN_AND_SIGMA``: the mean energy, and a column that sums over the sites to its standard deviation.
    ``ENERGY_AND_FEATURES``: the energy, then features. ``DESCRIPTOR``: invariant features and no energy.
    """

    ENERGY = "energy"
    MEMBERS = "members"
    MEAN_AND_SIGMA = "mean, sigma"
    ENERGY_AND_FEATURES = "energy, features"
    DESCRIPTOR = "invariant features"

    @classmethod
    def read(cls, text: str | None, n_columns: int | None) -> Columns:
        """The meaning that a file gives, which is silent about energies and members.

        Raises
        ------
        ModelFileError
            If it is none this halberd knows.
        """
        if text is None:
            return cls.ENERGY if n_columns is None else cls.MEMBERS
        for columns in cls:
            if text == columns.value or (columns is cls.DESCRIPTOR and text.startswith(columns.value)):
                return columns
        raise ModelFileError(f"The columns of a model are '{text}', which this halberd does not know. Upgrade halberd.")


def dtype_of(precision: str | torch.dtype) -> torch.dtype:
    """Translate ``'single'`` or ``'double'`` into a torch dtype.

    Raises
    ------
    ConfigurationError
        For any other word.
    """
    if isinstance(precision, torch.dtype):
        return precision
    try:
        return _DTYPES[precision]
    except (KeyError, TypeError):
        raise ConfigurationError(f"precision is {precision!r}; it must be 'single' or 'double'.") from None


class SiteModel:
    """A site-energy module together with what is needed to use it.

    Parameters
    ----------
    module : torch.nn.Module
        Follows the contract in this module's documentation. Scripted on first need.
    cutoff : float
        Interaction range of one edge, angstrom.
    atomic_numbers : sequence of int
        What species 0, 1, ... stand for.
    e0s : array, shape (S,) or (S, K), eV, optional
        Self-energy of each species; one column per member where committee members differ. Zero if omitted.
    n_columns : int, optional
        Number K of columns. ``None`` means that the module returns shape (N,).
    columns : Columns, optional
        What they mean; the members of a committee if omitted.
    metadata : dict, optional
        JSON-compatible: ``name``, what it was fitted to, citation, version.
    restriction : callable, optional
        Given atomic numbers, returns an equivalent, cheaper model for these elements alone.

    Raises
    ------
    ModelError
        If the parts do not fit together.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        cutoff: float,
        atomic_numbers: Sequence[int],
        *,
        e0s: ArrayLike | None = None,
        n_columns: int | None = None,
        columns: Columns | None = None,
        metadata: dict[str, Any] | None = None,
        restriction: Restriction | None = None,
    ) -> None:
        self.module = module.eval()
        self.cutoff = float(cutoff)
        self.atomic_numbers = tuple(int(z) for z in atomic_numbers)
        self.e0s = np.zeros(len(self.atomic_numbers)) if e0s is None else np.asarray(e0s, dtype=np.float64)
        self.n_columns = n_columns
        self.columns = Columns.read(None, n_columns) if columns is None else Columns(columns)
        self.metadata = dict(metadata or {})
        self.restriction = restriction
        #: Makes the model anew in another precision, where rounding what is there would not do.
        self.conversion: Callable[[torch.dtype], SiteModel] | None = None
        #: How committees of such models are evaluated as one, see :mod:`halberd.potentials.multi_ace.together`; and, of
        #: a committee, what makes its module of that kind: faster for one gradient, slower for one of every column.
        self.joining: Joining | None = None
        self.joined: Callable[[], torch.nn.Module | None] | None = None
        if not np.isfinite(self.cutoff) or self.cutoff <= 0:
            raise ModelError(f"A site model needs a positive cutoff in angstrom, got {cutoff!r}.")
        if len(set(self.atomic_numbers)) != len(self.atomic_numbers) or not self.atomic_numbers:
            raise ModelError(f"atomic_numbers must be distinct and not empty, got {self.atomic_numbers}.")
        if self.e0s.shape[0] != len(self.atomic_numbers):
            raise ModelError(f"e0s must have {len(self.atomic_numbers)} rows, one per species, got {self.e0s.shape}.")
        if not np.isfinite(self.e0s).all():
            bad = ase.data.chemical_symbols[self.atomic_numbers[int(np.argwhere(~np.isfinite(self.e0s))[0][0])]]
            raise ModelError(f"The self-energy of {bad} is no number; every energy would be none. Correct it (e0s).")
        if (self.columns is Columns.ENERGY) != (n_columns is None):
            raise ModelError(f"Columns are {self.columns}, their number is {n_columns}: these do not go together.")
        if "columns" in self.metadata:
            raise ModelError("metadata must not hold 'columns'; say what they mean with columns=.")
        for parameter in self.module.parameters():
            parameter.requires_grad_(False)

    # -- what it is ---------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Name of the model, for force names and messages."""
        return str(self.metadata.get("name", "unnamed"))

    @property
    def symbols(self) -> tuple[str, ...]:
        """Chemical symbols of species 0, 1, ..."""
        return tuple(ase.data.chemical_symbols[z] for z in self.atomic_numbers)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters."""
        for tensor in [*self.module.parameters(), *self.module.buffers()]:
            if tensor.is_floating_point():
                return tensor.dtype
        return torch.float64

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        for tensor in [*self.module.parameters(), *self.module.buffers()]:
            return tensor.device
        return torch.device("cpu")

    def __repr__(self) -> str:
        columns = "" if self.n_columns is None else f", columns: {self.columns.value}"
        if self.columns is Columns.MEMBERS:
            columns = f", {self.n_columns} members"
        precision = "single" if self.dtype == torch.float32 else "double"
        return f"SiteModel({self.name!r}, {' '.join(self.symbols)}, cutoff {self.cutoff:g} A, {precision}{columns})"

    # -- using it -----------------------------------------------------------------------------------------------

    def __call__(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the module; see the contract above for shapes and units."""
        result: torch.Tensor = self.module(species, edge_index, edge_vectors)
        return result

    def species_of(self, atomic_numbers: Iterable[int], labels: Sequence[int] | None = None) -> torch.Tensor:
        """Translate atomic numbers into species indices.

        Parameters
        ----------
        atomic_numbers : iterable of int, length N
        labels : sequence of int, length N, optional
            What to call the atoms in a message; 0, 1, ... if omitted.

        Returns
        -------
        torch.Tensor, int64, shape (N,)

        Raises
        ------
        UnknownElementError
            Names the first atom whose element the model was not made for, and the elements it knows.
        """
        index = {z: s for s, z in enumerate(self.atomic_numbers)}
        species = []
        for atom, z in enumerate(atomic_numbers):
            if int(z) not in index:
                label = atom if labels is None else labels[atom]
                symbol = (
                    ase.data.chemical_symbols[int(z)] if 0 <= int(z) < len(ase.data.chemical_symbols) else str(int(z))
                )
                raise UnknownElementError(
                    f"Atom {label} is {symbol}, which model '{self.name}' was not made for; it knows "
                    f"{', '.join(self.symbols)}. Use another model or change the structure."
                )
            species.append(index[int(z)])
        return torch.tensor(species, dtype=torch.int64)

    def self_energy(self, atomic_numbers: Iterable[int]) -> float | NDArray[np.float64]:
        """Sum of the atomic self-energies E0 of a composition, eV; shape (K,) if members differ."""
        total = self.e0s[self.species_of(atomic_numbers).numpy()].sum(axis=0)
        return float(total) if np.ndim(total) == 0 else np.asarray(total)

    def restrict(self, elements: Iterable[str | int]) -> SiteModel:
        """Return an equivalent model for some of the elements only.

        Models that carry weights per element get smaller and faster; the others are returned as they are. The
        energies of structures made of these elements do not change.

        Parameters
        ----------
        elements : iterable of str or int
            Symbols or atomic numbers to keep.

        Raises
        ------
        UnknownElementError
            If the model does not know one of them.
        """
        wanted = {atomic_number_of(element) for element in elements}
        unknown = wanted - set(self.atomic_numbers)
        if unknown or not wanted:
            asked = ", ".join(ase.data.chemical_symbols[z] for z in sorted(unknown)) or "no element at all"
            raise UnknownElementError(
                f"Model '{self.name}' was asked for {asked}; it knows {', '.join(self.symbols)}. "
                "Ask for some of these, or use another model."
            )
        if self.restriction is None or wanted == set(self.atomic_numbers):
            return self
        return self.restriction(sorted(wanted))

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> SiteModel:
        """Return a copy with other precision or on another device; self if nothing changes."""
        if (dtype is None or dtype == self.dtype) and (device is None or torch.device(device) == self.device):
            return self
        if self.conversion is not None and dtype is not None and dtype != self.dtype:
            return self.conversion(dtype).to(None, device)
        module = copy.deepcopy(self.module).to(device=device, dtype=dtype)
        moved = self.replaced(module)
        if self.restriction is not None:
            restriction = self.restriction
            moved.restriction = lambda elements: restriction(elements).to(dtype, device)
        return moved

    # -- scripting and files ------------------------------------------------------------------------------------

    def scripted(self) -> torch.jit.ScriptModule:
        """The module as TorchScript.

        A module may have a method ``before_scripting()`` that prepares it in place, and a submodule ``portable``
        that does the same work wherever torch runs: files hold that one.

        Raises
        ------
        ModelError
            If torch cannot script it; the message carries torch's own.
        """
        if not isinstance(self.module, torch.jit.ScriptModule):
            try:
                with quiet_torchscript():
                    prepare: Any = getattr(self.module, "before_scripting", None)
                    if prepare is not None:
                        prepare()
                    self.module = torch.jit.script(self.module)
            except Exception as error:  # torch raises half a dozen types here, RuntimeError and OSError among them
                raise ModelError(f"Model '{self.name}' cannot be converted to TorchScript: {error}") from error
        return self.module

    def sidecar(self) -> dict[str, Any]:
        """Everything but the module, as saved inside the ``.pt`` file."""
        told = {} if self.columns in (Columns.ENERGY, Columns.MEMBERS) else {"columns": self.columns.value}
        return {
            "format_version": FORMAT_VERSION,
            "cutoff": self.cutoff,
            "atomic_numbers": list(self.atomic_numbers),
            "e0s": self.e0s.tolist(),
            "n_columns": self.n_columns,
            "metadata": {**self.metadata, **told},
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a self-contained ``.pt`` file: TorchScript, elements, cutoff, self-energies, metadata.

        The file is written under a temporary name and renamed, and loads without the package the model came from.

        Raises
        ------
        OutputError
            If the place cannot be written.
        ModelError
            If the module cannot be scripted.
        """
        bad = [name for name, tensor in self.module.named_parameters() if not bool(torch.isfinite(tensor).all())]
        if bad:
            raise ModelError(f"Model '{self.name}' is not saved: weights of '{bad[0]}' are no numbers. Fit it again.")
        scripted = self.scripted()
        module = getattr(scripted, "portable", scripted)
        with replacing(path) as temporary, quiet_torchscript():
            # By way of a buffer: torch names the folder inside the archive after the file, here a temporary one.
            buffer = _serialise(module, json.dumps(self.sidecar(), sort_keys=True))
            temporary.write_bytes(with_digest(buffer))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, trust: bool = False) -> SiteModel:
        """Read a ``.pt`` file written by :meth:`save`.

        Parameters
        ----------
        path : path-like
        trust : bool
            Run code that halberd does not know, too: see :func:`halberd.potentials.sites.archive.check_torchscript`.

        Raises
        ------
        ModelFileError
            If the file is missing, damaged (checksums and a digest are looked at), not halberd's, or holds code that
            does more than compute.
        """
        path = Path(path)
        extra = {SIDECAR: ""}
        if not path.is_file():
            raise ModelFileError(f"Model file '{path}' does not exist.")
        check_archive(path)
        if not trust:
            check_torchscript(path)
        load_operators()
        try:
            with quiet_torchscript():
                module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
        except (RuntimeError, ValueError, OSError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelFileError(f"'{path}' cannot be read as a halberd model: {first}") from error
        if not extra[SIDECAR]:
            raise ModelFileError(
                f"'{path}' is a TorchScript file, but not a halberd model: it has no {SIDECAR}. "
                "Give the original model file, or export it with 'halberd export'."
            )
        try:
            return cls._from_sidecar(module, json.loads(extra[SIDECAR]), path)
        except (KeyError, TypeError, ValueError, AttributeError, ModelError, RecursionError) as error:
            raise ModelFileError(
                f"'{path}' is damaged: its {SIDECAR} cannot be read ({error}). Make it anew."
            ) from error

    @classmethod
    def _from_sidecar(cls, module: torch.jit.ScriptModule, sidecar: dict[str, Any], path: Path) -> SiteModel:
        if sidecar["format_version"] > FORMAT_VERSION:
            raise ModelFileError(
                f"'{path}' has format {sidecar['format_version']}, this halberd reads up to {FORMAT_VERSION}. "
                "Upgrade halberd."
            )
        columns = Columns.read(sidecar["metadata"].pop("columns", None), sidecar["n_columns"])
        return cls(
            module,
            sidecar["cutoff"],
            sidecar["atomic_numbers"],
            e0s=sidecar["e0s"],
            n_columns=sidecar["n_columns"],
            columns=columns,
            metadata=sidecar["metadata"],
        )

    def replaced(self, module: torch.nn.Module, **changes: Any) -> SiteModel:
        """Return the same model around another module, with other arguments of the constructor where given.

        Its restriction is not carried over: that of the old module would bring the old one back.
        """
        arguments: dict[str, Any] = {
            "cutoff": self.cutoff,
            "atomic_numbers": self.atomic_numbers,
            "e0s": self.e0s,
            "n_columns": self.n_columns,
            "columns": self.columns,
            "metadata": self.metadata,
        }
        return SiteModel(module, **{**arguments, **changes})


def is_halberd_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a zip archive that carries halberd's sidecar."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(f"extra/{SIDECAR}") for name in archive.namelist())
    except DAMAGED:
        return False


def _serialise(module: torch.jit.ScriptModule, sidecar: str) -> bytes:
    buffer = io.BytesIO()
    with undisturbed():
        torch.jit.save(module, buffer, _extra_files={SIDECAR: sidecar})
    return buffer.getvalue()
