"""Networks of the family from their settings, with random weights."""

from __future__ import annotations

from typing import Any

import ase.data
import torch

from halberd.potentials.multi_ace.couplings import product_coupling
from halberd.potentials.multi_ace.irreps import Block, Irreps, harmonic_parity, irreps_of, paths_of
from halberd.potentials.multi_ace.layers import Convolution, Gate, Mix, SymmetricProduct
from halberd.potentials.multi_ace.network import EdgeEmbedding, Layer, MultiAce, Readout
from halberd.potentials.multi_ace.radial import AGNESI, SOFT, DistanceTransform, Perceptron, RadialBasis, SpeciesLinear
from halberd.potentials.multi_ace.settings import MultiAceSettings
from halberd.potentials.sites.torchscript import default_dtype


def build(settings: MultiAceSettings, seed: int = 0, dtype: torch.dtype = torch.float64) -> MultiAce:
    """Make a network with random weights.

    Parameters
    ----------
    settings : MultiAceSettings
    seed : int
        Of the weights; the random numbers of torch elsewhere are left as they were.
    dtype : torch.dtype
    """
    with default_dtype(dtype), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(settings)


def _build(settings: MultiAceSettings) -> MultiAce:
    hidden = settings.hidden_irreps
    scalars = next(block for block in hidden if block.kind == (0, 1))
    features: Irreps = (scalars,)
    layers: list[Layer] = []
    readouts: list[Readout] = []
    for number in range(settings.layers):
        last = number == settings.layers - 1
        wanted = (scalars,) if last and settings.scalar_output else hidden
        layer = _layer(settings, features, wanted, first=number == 0)
        layers.append(layer)
        features = layer.outputs
        if last or settings.readouts == "every":
            widths = [scalars.channels, *(settings.readout_widths if last else ()), 1]
            readouts.append(Readout(widths, settings.readout_activation))
    basis = RadialBasis(settings.basis, settings.n_radial, settings.cutoff, settings.trainable_basis)
    edges = EdgeEmbedding(
        basis, settings.max_ell, settings.cutoff, settings.cutoff_power, transform=_transform(settings)
    )
    return MultiAce(torch.randn(len(settings.numbers), scalars.channels), edges, layers, readouts)


def _layer(settings: MultiAceSettings, features: Irreps, wanted: Irreps, first: bool) -> Layer:
    n_species = len(settings.numbers)
    if settings.correlation == 1:
        wanted = _reachable(settings, features, wanted)
    gate = Gate(wanted) if settings.update == "gate" else None
    outputs = wanted
    into = outputs if gate is None else gate.inputs  # what layers add to, and gates take
    targets = into if settings.correlation == 1 else _factors(settings, features, wanted)
    paths = paths_of(features, settings.max_ell, [block.kind for block in targets], settings.inversion)
    convolution = Convolution(features, paths)
    parts: dict[str, Any] = {
        "up": Mix(features, features) if settings.channels_mixed else None,
        "radial": _radial(settings, convolution.n_weights),
        "convolution": convolution,
        "down": Mix(convolution.outputs, targets) if settings.channels_mixed else None,
        "divisor": 1.0 if settings.density else settings.neighbours,
        "density": Perceptron([settings.n_radial, 1]) if settings.density else None,
    }
    residual = settings.residual
    if first:
        residual = residual if settings.first_layer == "residual" else "none"
        if settings.first_layer == "species":
            parts["species_mix"] = Mix(targets, targets, n_species)
    if settings.correlation > 1:
        parts["product"] = _product(settings, targets, outputs)
        parts["update"] = Mix(outputs, into) if settings.channels_mixed or gate is not None else None
    if residual != "none":
        parts["skip"] = Mix(features, into, n_species if residual == "species" else None)
    return Layer(outputs=outputs, gate=gate, **parts)


def _transform(settings: MultiAceSettings) -> DistanceTransform | None:
    if settings.distance == "none":
        return None
    radii = torch.as_tensor(ase.data.covalent_radii[list(settings.numbers)])
    sums = radii[:, None] + radii[None, :]
    if settings.distance == "agnesi":
        return DistanceTransform("agnesi", 0.5 * sums, AGNESI)
    return DistanceTransform("soft", sums, (SOFT,))


def _factors(settings: MultiAceSettings, features: Irreps, wanted: Irreps) -> Irreps:
    """Kinds that products are taken of: all that harmonics make, of both parities where hidden scalars have both."""
    channels = wanted[0].channels
    kinds = [(degree, harmonic_parity(degree, settings.inversion)) for degree in range(settings.max_ell + 1)]
    if any(block.kind == (0, -1) for block in wanted) and len(features) > 1:
        kinds = [(degree, parity) for degree in range(settings.max_ell + 1) for parity in (-1, 1)]
    return irreps_of((*kind, channels) for kind in kinds)


def _reachable(settings: MultiAceSettings, features: Irreps, wanted: Irreps) -> Irreps:
    """Those of the wanted kinds to which there is a path."""
    kinds = {path.kind for path in paths_of(features, settings.max_ell, [b.kind for b in wanted], settings.inversion)}
    return tuple(Block(*block) for block in wanted if block.kind in kinds)


def _radial(settings: MultiAceSettings, n_weights: int) -> torch.nn.Module:
    if settings.radial_species != "none":
        pairs = settings.radial_species == "pair"
        return SpeciesLinear(settings.n_radial, n_weights, len(settings.numbers), pairs)
    return Perceptron([settings.n_radial, *settings.radial_widths, n_weights])


def _product(settings: MultiAceSettings, targets: Irreps, outputs: Irreps) -> SymmetricProduct:
    kinds = [block.kind for block in targets]
    couplings = []
    for block in outputs:
        orders = [
            product_coupling(kinds, order, block.kind, reduced=not settings.redundant_couplings)
            for order in range(1, settings.correlation + 1)
        ]
        couplings.append([each for each in orders if len(each.factors)])
    n_species = len(settings.numbers) if settings.product_species else 1
    return SymmetricProduct(couplings, [block.kind for block in outputs], targets[0].channels, n_species)
