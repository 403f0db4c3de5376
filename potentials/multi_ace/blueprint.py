"""Networks in and out of a tensor of bytes, so that the TorchScript of a model file brings its network along.

TorchScript holds what a network does, not how it is built: to compile, cut or train a network again it takes the
network itself. Bytes are read with an allow-list: they hold modules of the family, tensors and plain values, no code.
"""

from __future__ import annotations

import collections
import io
import pickle
import re

import torch

from halberd.potentials.errors import ModelFileError
from halberd.potentials.multi_ace import irreps, layers, network, radial
from halberd.potentials.sites.harmonics import SphericalHarmonics

_ALLOWED = (
    *(irreps.Block, irreps.Path),
    *(
        layers.ChannelMix,
        layers.SpeciesChannelMix,
        layers.Mix,
        layers.Convolution,
        layers.SymmetricProduct,
        layers.Gate,
    ),
    *(network.EdgeEmbedding, network.Layer, network.Readout, network.MultiAce),
    *(radial.RadialBasis, radial.DistanceTransform, radial.ScaledLayers, radial.Perceptron),
    *(radial.EmbeddedPerceptron, radial.SpeciesLinear, radial.PairRepulsion),
    SphericalHarmonics,
    *(torch.nn.ModuleList, torch.nn.ParameterList, torch.nn.Identity, torch.nn.Sequential, torch.nn.Linear),
    *(torch.nn.LayerNorm, torch.nn.SiLU),
    collections.OrderedDict,
)


def bytes_of(model: network.MultiAce) -> torch.Tensor:
    """A network as a tensor, uint8, one-dimensional.

    Raises
    ------
    ModelFileError
        If the network could not be read again.
    """
    buffer = io.BytesIO()
    torch.save(model, buffer)
    blueprint = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
    network_of(blueprint)
    return blueprint


def network_of(blueprint: torch.Tensor) -> network.MultiAce:
    """The network that :func:`bytes_of` was given.

    Raises
    ------
    ModelFileError
        If it is something else, or asks for anything that is not a part of a network.
    """
    buffer = io.BytesIO(blueprint.cpu().numpy().tobytes())
    try:
        with torch.serialization.safe_globals(list(_ALLOWED)):
            found = torch.load(buffer, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        why = refusal(error)
        raise ModelFileError(f"The network in a model file cannot be read: {why} Make the file anew.") from error
    if not isinstance(found, network.MultiAce):
        raise ModelFileError(f"A model file holds a {type(found).__name__} in place of its network. Make it anew.")
    return found


def refusal(error: Exception) -> str:
    """What torch does not read of a pickle; its advice on how to read it all the same is not ours."""
    unsupported = re.search(r"[Uu]nsupported (?:global|GLOBAL|operand|class).*|Can only .*", str(error))
    return unsupported.group(0) if unsupported else f"{type(error).__name__}."
