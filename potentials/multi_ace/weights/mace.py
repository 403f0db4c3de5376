"""Networks of mace-torch as networks of the family, weight by weight."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from halberd.potentials.errors import ModelError
from halberd.potentials.multi_ace.couplings import ProductCoupling, merged_products
from halberd.potentials.multi_ace.irreps import Irreps, parse_irreps, paths_of, written
from halberd.potentials.multi_ace.layers import Convolution, Gate, Mix, SymmetricProduct
from halberd.potentials.multi_ace.network import EdgeEmbedding, Layer, MultiAce, Readout
from halberd.potentials.multi_ace.radial import (
    DistanceTransform,
    EmbeddedPerceptron,
    PairRepulsion,
    Perceptron,
    RadialBasis,
)
from halberd.potentials.sites.torchscript import default_dtype

#: Interactions of mace-torch that the family holds.
INTERACTIONS = (
    "RealAgnosticInteractionBlock",
    "RealAgnosticResidualInteractionBlock",
    "RealAgnosticDensityInteractionBlock",
    "RealAgnosticDensityResidualInteractionBlock",
    "RealAgnosticResidualNonLinearInteractionBlock",
)


def multi_ace_of(network: Any, head: int = 0) -> MultiAce:
    """Rebuild a network of mace-torch.

    Parameters
    ----------
    network : mace.modules.MACE or mace.modules.ScaleShiftMACE
        Without embeddings of charge or spin.
    head : int
        Which head's energies.

    Returns
    -------
    MultiAce
        Of the network's precision; its energies equal the network's interaction energies to rounding.

    Raises
    ------
    ModelError
        Names what the family does not hold.
    """
    with default_dtype(next(network.parameters()).dtype), torch.no_grad():
        return _Reader(network, head).network_()


class _Reader:
    """Goes through the blocks of one network."""

    def __init__(self, network: Any, head: int) -> None:
        self.source = network
        self.head = head
        self.n_heads = len(getattr(network, "heads", None) or ["Default"])
        self.numbers = [int(z) for z in network.atomic_numbers]
        self.inversion = not getattr(network, "use_so3", False)
        self.max_ell = int(network.spherical_harmonics.irreps_out.lmax)
        self.n_radial = int(network.radial_embedding.out_dim)

    def network_(self) -> MultiAce:
        source = self.source
        embedding = source.node_embedding
        shift = getattr(embedding, "shift", None)
        weight = getattr(embedding, "embedding", embedding).linear.weight.view(len(self.numbers), -1).clone()
        if shift is not None:
            weight += shift * np.sqrt(len(self.numbers))
        blocks = zip(source.interactions, source.products, strict=True)
        layers = [self._layer(interaction, product) for interaction, product in blocks]
        scale, moved = 1.0, 0.0
        if hasattr(source, "scale_shift"):
            scale, moved = (
                float(torch.atleast_1d(each)[self.head if each.numel() > 1 else 0])
                for each in (source.scale_shift.scale, source.scale_shift.shift)
            )
        repulsion = self._repulsion() if hasattr(source, "pair_repulsion_fn") else None
        readouts = [self._readout(each) for each in source.readouts]
        return MultiAce(weight, self._edges(), layers, readouts, scale=scale, shift=moved, repulsion=repulsion)

    def _edges(self) -> EdgeEmbedding:
        block = self.source.radial_embedding
        kind = {"BesselBasis": "bessel", "ChebychevBasis": "chebyshev", "GaussianBasis": "gaussian"}.get(
            type(block.bessel_fn).__name__
        )
        if kind is None:
            raise _unknown("radial basis", block.bessel_fn)
        cutoff = float(self.source.r_max)
        basis = RadialBasis(kind, self.n_radial, cutoff)
        if kind == "bessel":
            basis.numbers.copy_(block.bessel_fn.bessel_weights)
        return EdgeEmbedding(
            basis,
            self.max_ell,
            cutoff,
            int(block.cutoff_fn.p),
            transform=self._transform(block.distance_transform) if hasattr(block, "distance_transform") else None,
            envelope_on_basis=bool(getattr(block, "apply_cutoff", True)),
        )

    def _radii(self, table: torch.Tensor) -> torch.Tensor:
        radii = table[torch.tensor(self.numbers)]
        return radii[:, None] + radii[None, :]

    def _transform(self, block: Any) -> DistanceTransform:
        sums = self._radii(block.covalent_radii)
        if type(block).__name__ == "AgnesiTransform":
            return DistanceTransform("agnesi", 0.5 * sums, [float(block.q), float(block.p), float(block.a)])
        if type(block).__name__ == "SoftTransform":
            return DistanceTransform("soft", sums, [float(block.alpha)])
        raise _unknown("transform of distances", block)

    def _repulsion(self) -> PairRepulsion:
        block = self.source.pair_repulsion_fn
        return PairRepulsion(
            self.numbers,
            self._radii(block.covalent_radii),
            int(block.p),
            float(block.a_exp),
            float(block.a_prefactor),
            amplitudes=block.c.tolist(),
        )

    # -- layers -----------------------------------------------------------------------------------------------

    def _layer(self, block: Any, product: Any) -> Layer:
        kind = type(block).__name__
        if kind not in INTERACTIONS:
            raise _unknown("interaction", block)
        incoming, sent, targets = (
            parse_irreps(str(each))
            for each in (block.linear_up.irreps_in, block.linear_up.irreps_out, block.target_irreps)
        )
        paths = paths_of(sent, self.max_ell, [each.kind for each in targets], self.inversion)
        convolution = Convolution(sent, paths)
        if convolution.n_weights != block.conv_tp.weight_numel:
            raise ModelError(
                f"A convolution of this network has {block.conv_tp.weight_numel} weights per edge, not "
                f"the {convolution.n_weights} of its irreps {written(sent)}."
            )
        parts: dict[str, Any] = {"up": self._mix(block.linear_up, incoming, sent), "convolution": convolution}
        if kind == "RealAgnosticResidualNonLinearInteractionBlock":
            parts.update(self._non_linear(block, convolution, sent, targets))
        else:
            parts["radial"] = self._perceptron(block.conv_tp_weights)
            parts["down"] = self._mix(block.linear, convolution.outputs, targets)
            parts["divisor"] = float(block.avg_num_neighbors)
            if "Density" in kind:
                parts.update(divisor=1.0, density=self._perceptron(block.density_fn))
        hidden = self._product(product, targets, parts)
        if "Residual" in kind:
            by_species = kind != "RealAgnosticResidualNonLinearInteractionBlock"
            if product.use_sc:
                parts["skip"] = self._mix(block.skip_tp, incoming, hidden, by_species)
        else:
            parts["species_mix"] = self._mix(block.skip_tp, targets, targets, by_species=True)
        return Layer(outputs=hidden, **parts)

    def _non_linear(self, block: Any, convolution: Convolution, sent: Irreps, targets: Irreps) -> dict[str, Any]:
        functions = block.equivariant_nonlin
        gate = Gate(targets, "sigmoid", (float(functions._scalar_cst), 1.0, float(functions._gate_cst)))
        return {
            "radial": self._embedded(block.conv_tp_weights, block),
            "density": self._embedded(block.density_fn, block),
            "divisor": float(block.alpha),
            "density_weight": float(block.beta),
            "down": self._mix(block.linear_1, convolution.outputs, gate.inputs),
            "own": self._mix(block.linear_res, sent, gate.inputs),
            "inner_gate": gate,
            "after": self._mix(block.linear_2, targets, targets),
        }

    def _product(self, block: Any, targets: Irreps, parts: dict[str, Any]) -> Irreps:
        contractions = block.symmetric_contractions.contractions
        hidden = parse_irreps(str(block.symmetric_contractions.irreps_out))
        n_species = 1 if getattr(block, "use_agnostic_product", False) else len(self.numbers)
        couplings, weights = [], []
        for each, target in zip(contractions, hidden, strict=True):
            orders: list[ProductCoupling] = []
            for order in range(1, each.correlation + 1):
                # One number per product, component and coupling; the weights of lower orders are kept from high to low.
                weight = each.weights_max if order == each.correlation else each.weights[each.correlation - 1 - order]
                coupling = _sparse(getattr(each, f"U_matrix_{order}"), order, target.degree)
                if len(coupling.factors):
                    orders.append(coupling)
                    weights.append(weight)
            couplings.append(orders)
        kinds = [each.kind for each in hidden]
        product = SymmetricProduct(couplings, kinds, targets[0].channels, n_species)
        for mine, weight in zip(product.weights, weights, strict=True):
            mine.copy_(weight)
        parts["product"] = product
        parts["update"] = self._mix(block.linear, hidden, hidden)
        return hidden

    # -- maps -------------------------------------------------------------------------------------------------

    def _mix(self, linear: Any, inputs: Irreps, outputs: Irreps, by_species: bool = False) -> Mix:
        """A linear map of e3nn, or a product with the one-hot vectors of species."""
        mix = Mix(inputs, outputs, len(self.numbers) if by_species else None)
        flat = linear.weight.detach()
        position = mix.take(flat)
        if position != flat.numel():
            raise ModelError(
                f"A linear map from {written(inputs)} to {written(outputs)} has {flat.numel()} weights, not {position}."
            )
        return mix

    def _perceptron(self, block: Any) -> Perceptron:
        layers = [each for each in block.children() if hasattr(each, "weight")]
        widths = [layers[0].weight.shape[0], *(each.weight.shape[1] for each in layers)]
        constants = [each.act.cst for each in layers if getattr(each, "act", None) is not None]
        mine = Perceptron(widths, constant=constants[0]) if constants else Perceptron(widths)
        for weight, layer in zip(mine.weights, layers, strict=True):
            weight.copy_(layer.weight)
        return mine

    def _embedded(self, block: Any, interaction: Any) -> EmbeddedPerceptron:
        tables = [
            each.weight.view(len(self.numbers), -1) / np.sqrt(len(self.numbers))
            for each in (interaction.source_embedding, interaction.target_embedding)
        ]
        mine = EmbeddedPerceptron([int(each) for each in block.hs], len(self.numbers), tables[0].shape[1])
        mine.net.load_state_dict(block.net.state_dict())
        mine.of_neighbour.copy_(tables[0])
        mine.of_centre.copy_(tables[1])
        return mine

    def _readout(self, block: Any) -> Readout:
        """The part of a read-out that one head sees."""
        name = type(block).__name__
        if name == "LinearReadoutBlock":
            scalars = _scalars(block.linear.irreps_in)
            readout = Readout([scalars, 1])
            readout.weights[0].copy_(block.linear.weight.view(scalars, self.n_heads)[:, [self.head]])
            return readout
        if name != "NonLinearReadoutBlock":
            raise _unknown("read-out", block)
        scalars = _scalars(block.linear_1.irreps_in)
        hidden = block.linear_1.weight.numel() // scalars
        own = slice(self.head * hidden // self.n_heads, (self.head + 1) * hidden // self.n_heads)
        first = block.linear_1.weight.view(scalars, hidden)[:, own]
        second = block.linear_2.weight.view(hidden, self.n_heads)[own][:, [self.head]]
        readout = Readout([scalars, first.shape[1], 1], constant=_constants(block.non_linearity)[0])
        readout.scales[1] = 1.0 / math.sqrt(hidden)
        readout.weights[0].copy_(first)
        readout.weights[1].copy_(second)
        return readout


def _sparse(dense: torch.Tensor, order: int, degree: int) -> ProductCoupling:
    """Couplings of mace-torch, a dense tensor, as those products that occur."""
    values = dense.detach().double().numpy()
    if values.ndim == order + 1:
        values = values[None]
    values = np.moveaxis(values, 0, -2)  # factors, component, coupling
    if values.shape[-2] != 2 * degree + 1:
        raise ModelError(f"A product basis has {values.shape[-2]} components for degree {degree}.")
    places = np.stack(np.nonzero(np.abs(values).max(axis=(-2, -1)) > 1e-12), axis=1)
    return merged_products(places, values[tuple(places.T)])


def _constants(block: Any) -> list[float]:
    """Factors on the activations of a block of e3nn, in order."""
    found = [each.cst for each in block.modules() if hasattr(each, "cst")]
    return [float(each) for each in found]


def _scalars(irreps: Any) -> int:
    return sum(block.channels for block in parse_irreps(str(irreps)) if block.kind == (0, 1))


def _unknown(what: str, block: Any) -> ModelError:
    return ModelError(
        f"The network has the {what} '{type(block).__name__}', which halberd's own networks do not hold; load it with "
        'implementation="mace-torch".'
    )
