"""Networks in and out of a tensor of bytes, so that the TorchScript of a model file brings its network along.

TorchScript holds what a network does, not how it is built: to compile, cut or train a network again it takes the
network itself. Bytes are read with an allow-list: they hold modules of the family, tensors and plain values, no code.
"""

from __future__ import annotations

import collections
import io
import pickle

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
    """A network as a tensor, uint8, one-dimensional."""
    buffer = io.BytesIO()
    torch.save(model, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


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
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelFileError(f"The network in a model file cannot be read: {first}") from error
    if not isinstance(found, network.MultiAce):
        raise ModelFileError(f"A model file holds a {type(found).__name__} in place of its network. Make it anew.")
    return found
