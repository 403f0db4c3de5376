"""Checkpoints of SevenNet, a NequIP trained on many elements, as networks of the family.

References
----------
Park, Kim, Hwang, Han: J. Chem. Theory Comput. 20, 4857 (2024).
"""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from halberd.potentials.errors import ConfigurationError, ModelError, ModelFileError, did_you_mean
from halberd.potentials.multi_ace.blueprint import refusal
from halberd.potentials.multi_ace.couplings import wigner_3j
from halberd.potentials.multi_ace.irreps import Irreps, irreps_of, parse_irreps, paths_of
from halberd.potentials.multi_ace.irreps import Path as CouplingPath
from halberd.potentials.multi_ace.layers import Convolution, Gate, Mix
from halberd.potentials.multi_ace.network import EdgeEmbedding, Layer, MultiAce, Readout
from halberd.potentials.multi_ace.radial import Perceptron, RadialBasis
from halberd.potentials.sites.torchscript import default_dtype

#: What settings of a network must be for the family to hold it.
_HELD = {
    "_model_type": ("E3_equivariant_model",),
    "interaction_type": ("nequip",),
    "self_connection_type": ("linear", "nequip"),
    "act_radial": ("silu",),
    "use_bias_in_linear": (False,),
    "readout_as_fcn": (False,),
    "_normalize_sph": (True,),
}
#: Before it, weights of paths stood in the order in which paths are found.
_SORTED_SINCE = (0, 11, 0)


class SevenNet(NamedTuple):
    """What a checkpoint holds.

    Attributes
    ----------
    network : MultiAce
    numbers : tuple of int
        Atomic numbers of its species.
    e0s : array, shape (S,), eV
    modal : str or None
        Which of several kinds of data it speaks for.
    """

    network: MultiAce
    numbers: tuple[int, ...]
    e0s: np.ndarray
    modal: str | None


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint without running what a pickle might ask for.

    Raises
    ------
    ModelFileError
        If it asks for more than tensors, arrays and devices, or is no checkpoint of SevenNet.
    """
    reconstruct = np.empty(0).__reduce__()[0]
    names = [(reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    kinds = [type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64, np.bool_)]
    allowed: list[Any] = [*names, np.ndarray, np.dtype, torch.device, *kinds]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything
        raise ModelFileError(
            f"'{path}' is damaged, no checkpoint of SevenNet, or asks for code: {refusal(error)}"
        ) from error
    if not isinstance(content, Mapping) or not {"model_state_dict", "config"} <= set(content):
        raise ModelFileError(f"'{path}' is no checkpoint of SevenNet: it has no weights and settings.")
    return dict(content)


def sevennet_of(path: str | os.PathLike[str], modal: str | None = None) -> SevenNet:
    """Rebuild the network of a checkpoint, in double precision, though it was trained in single.

    Parameters
    ----------
    path : path-like
    modal : str, optional
        Of a network that was trained on several kinds of data; needed for these.

    Raises
    ------
    ModelFileError
        As :func:`read_checkpoint`.
    ModelError
        Names the setting that the family does not hold.
    ConfigurationError
        If the modal is unknown or missing.
    """
    content = read_checkpoint(path)
    config, weights = content["config"], content["model_state_dict"]
    for key, known in _HELD.items():
        value = config.get(key, known[0])
        if value not in known:
            raise ModelError(
                f"'{Path(path).name}' has {key}: {value}; halberd reads SevenNet with {' or '.join(map(str, known))}."
            )
    try:
        with default_dtype(torch.float64):
            return _Reader(config, weights, modal).sevennet()
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, ModelError | ConfigurationError):
            raise
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise ModelFileError(f"'{Path(path).name}' does not hold a whole SevenNet: {what}.") from error


class _Reader:
    """Goes through the weights of one checkpoint."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, torch.Tensor], modal: str | None) -> None:
        self.config = config
        self.weights = {
            key.replace(".fc_tensor_product.", ".linear."): value.double() for key, value in weights.items()
        }
        self.numbers = tuple(sorted(config["_type_map"], key=lambda z: config["_type_map"][z]))
        self.modal, self.place = self._find_modal(modal)
        self.n_modals = len(config["_modal_map"]) if self.modal is not None else 0
        self.max_ell = config["lmax_edge"] if config["lmax_edge"] > 0 else config["lmax"]
        self.inversion = bool(config["is_parity"])
        version = str(config.get("version", "0")).split(".")[:3]
        numbers = [int("".join(c for c in part if c.isdigit()) or 0) for part in version]
        self.is_sorted = (*numbers, 0, 0)[:3] >= _SORTED_SINCE

    def _find_modal(self, modal: str | None) -> tuple[str | None, int]:
        known = self.config.get("_modal_map") if self.config.get("use_modality") else None
        if not known:
            if modal is not None:
                raise ConfigurationError(f"This SevenNet knows no modal; leave '{modal}' out.")
            return None, 0
        if modal not in known:
            asked = "names no modal" if modal is None else f"has no modal '{modal}'"
            raise ConfigurationError(
                f"This SevenNet was trained on several kinds of data, and the call {asked}: choose one with head=: "
                f"{', '.join(known)}.{did_you_mean(str(modal), list(known))}"
            )
        return modal, int(known[modal])

    def sevennet(self) -> SevenNet:
        irreps = self._irreps()
        with torch.no_grad():
            embedding = self.weights["onehot_to_feature_x.linear.weight"].view(len(self.numbers), -1).clone()
            layers = [self._layer(t, *pair) for t, pair in enumerate(itertools.pairwise(irreps))]
            shift, scale = (self.weights[f"rescale_atomic_energy.{name}"] for name in ("shift", "scale"))
            shift, scale = (each[self.place] if each.ndim > 1 else each for each in (shift, scale))
            per_species = len(self.numbers)
            network = MultiAce(
                embedding, self._edges(), layers, [self._readout(irreps[-1])], scale=scale.expand(per_species).clone()
            )
            return SevenNet(network, self.numbers, shift.double().expand(per_species).numpy().copy(), self.modal)

    def _irreps(self) -> list[Irreps]:
        """Features between layers."""
        manual = self.config.get("irreps_manual")
        if manual:
            return [parse_irreps(str(each)) for each in manual]
        channels = int(self.config["channel"])
        lmax = self.config["lmax_node"] if self.config["lmax_node"] > 0 else self.config["lmax"]
        collected = [parse_irreps(f"{channels}x0e")]
        for t in range(self.config["num_convolution_layer"]):
            last = t == self.config["num_convolution_layer"] - 1
            kinds = [(0, 1)] if last else [(degree, parity) for degree in range(lmax + 1) for parity in (-1, 1)]
            found = {path.kind for path in paths_of(collected[-1], self.max_ell, kinds, self.inversion)}
            collected.append(irreps_of((*kind, channels) for kind in found))
        return collected

    def _edges(self) -> EdgeEmbedding:
        cutoff = float(self.config["cutoff"])
        numbers = self.weights["edge_embedding.basis_function.coeffs"]
        if self.config["radial_basis"]["radial_basis_name"] != "bessel":
            raise ModelError(f"This SevenNet has the basis {self.config['radial_basis']}; halberd reads 'bessel'.")
        basis = RadialBasis("bessel", len(numbers), cutoff)
        basis.numbers.copy_(numbers)
        basis.prefactor = 2.0 / cutoff
        envelope = self.config["cutoff_function"]
        name = envelope["cutoff_function_name"]
        if name not in ("XPLOR", "poly_cut"):
            raise ModelError(f"This SevenNet has the envelope '{name}'; halberd reads 'XPLOR' and 'poly_cut'.")
        return EdgeEmbedding(
            basis,
            self.max_ell,
            cutoff,
            int(envelope.get("poly_cut_p_value", 6)),
            onset=float(envelope["cutoff_on"]) if name == "XPLOR" else None,
            towards_centre=False,
        )

    def _layer(self, t: int, features: Irreps, outputs: Irreps) -> Layer:
        gate = Gate(outputs)
        targets = [block.kind for block in outputs]
        paths = paths_of(features, self.max_ell, targets, self.inversion)
        convolution = Convolution(features, paths)
        own = self.config["self_connection_type"]
        kind = own if isinstance(own, str) else own[t]
        up = self._mix(f"{t}_self_interaction_1", features, features, "use_modal_self_inter_intro")
        down = self._mix(f"{t}_self_interaction_2", convolution.outputs, gate.inputs, "use_modal_self_inter_outro")
        return Layer(
            outputs=outputs,
            up=up,
            radial=self._radial(t, features, paths),
            convolution=convolution,
            down=down,
            divisor=float(self.weights[f"{t}_convolution.denominator"]),
            skip=self._mix(f"{t}_self_connection_intro", features, gate.inputs, by_species=kind == "nequip"),
            gate=gate,
        )

    def _radial(self, t: int, features: Irreps, paths: tuple[CouplingPath, ...]) -> Perceptron:
        """Radial weights, their last layer in our order of paths and with our signs of couplings."""
        name = f"{t}_convolution.weight_nn.layer"
        layers = [self.weights[f"{name}{n}.weight"] for n in range(sum(key.startswith(name) for key in self.weights))]
        found = paths if self.is_sorted else sorted(paths, key=lambda path: (path.source, path.edge_degree, path.kind))
        pieces, position = {}, 0
        for path in found:
            count = features[path.source].channels
            piece = layers[-1][:, position : position + count]
            degrees = (features[path.source].degree, path.edge_degree, path.kind[0])
            stored = self.weights.get(
                f"{t}_convolution.convolution._compiled_main_left_right._w3j_{'_'.join(map(str, degrees))}"
            )
            if stored is not None and float((stored.double() * torch.as_tensor(wigner_3j(*degrees))).sum()) < 0:
                piece = -piece
            pieces[path] = piece
            position += count
        layers[-1] = torch.cat([pieces[path] for path in paths], dim=1)
        radial = Perceptron([layers[0].shape[0], *(layer.shape[1] for layer in layers)])
        for mine, layer in zip(radial.weights, layers, strict=True):
            mine.copy_(layer)
        return radial

    def _mix(
        self, name: str, inputs: Irreps, outputs: Irreps, with_modal: str | None = None, by_species: bool = False
    ) -> Mix:
        """A linear map of e3nn, whose last inputs may be the one-hot vector of the modal."""
        flat = self.weights[f"{name}.linear.weight"]
        modals = self.n_modals if with_modal is not None and self.config.get(with_modal) else 0
        mix = Mix(inputs, outputs, len(self.numbers) if by_species else None)
        position = mix.take(flat)
        for number, block in enumerate(outputs):
            if modals and block.kind == (0, 1):
                mapping: Any = mix.maps[number]
                rest = flat[position:].view(modals, block.channels)
                mapping.scale = 1.0 / math.sqrt(mapping.weight.shape[0] + modals)
                mapping.bias = torch.nn.Parameter(rest[self.place] * mapping.scale)
                position = flat.numel()
        if position != flat.numel():
            raise ModelError(f"'{name}' of this SevenNet has {flat.numel()} weights, not {position}.")
        return mix

    def _readout(self, features: Irreps) -> Readout:
        scalars = features[0].channels
        first = self.weights["reduce_input_to_hidden.linear.weight"]
        hidden = scalars // 2
        modals = self.n_modals if self.config.get("use_modal_output_block") else 0
        matrix = first.view(scalars + modals, hidden)
        readout = Readout([scalars, hidden, 1], "none")
        readout.weights[0].copy_(matrix[:scalars])
        readout.weights[1].copy_(self.weights["reduce_hidden_to_energy.linear.weight"].view(hidden, 1))
        if modals:
            readout.scales[0] = 1.0 / math.sqrt(scalars + modals)
            readout.bias = torch.nn.Parameter(matrix[scalars + self.place] * readout.scales[0])
        return readout
