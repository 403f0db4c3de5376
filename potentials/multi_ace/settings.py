"""Choices that make a network of the family, and the presets of the papers."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from halberd.potentials.errors import ConfigurationError, did_you_mean
from halberd.potentials.multi_ace.irreps import Irreps, parse_irreps
from halberd.potentials.sites.elements import atomic_number_of
from halberd.potentials.validation import Count, conform


@dataclasses.dataclass(frozen=True)
class MultiAceSettings:
    """A network of the family.

    Attributes
    ----------
    elements : tuple of int or str
    cutoff : float
        angstrom.
    layers : int
        T. A site sees atoms within ``layers * cutoff``.
    correlation : int
        nu: largest number of factors in a product of one atom's sums over neighbours; 1 takes no products.
    max_ell : int
        Largest degree of the harmonics of edges.
    hidden : str
        Kinds and channels of features, as ``128x0e + 128x1o``. Products need as many channels of every kind.
    scalar_output : bool
        The last layer keeps its even scalars alone.
    inversion : bool
        Whether parities count; without them all kinds are even.
    basis : {'bessel', 'chebyshev', 'gaussian'}
    distance : {'none', 'agnesi', 'soft'}
        How distances are transformed before the basis sees them, see
        :class:`halberd.potentials.multi_ace.radial.DistanceTransform`. Chebyshev polynomials need ``agnesi``.
    n_radial : int
        Functions of the distance.
    trainable_basis : bool
    cutoff_power : int
        Of the polynomial envelope.
    radial_widths : tuple of int
        Hidden layers between the functions of the distance and the weights of paths; none makes these linear.
    radial_species : {'none', 'neighbour', 'pair'}
        Whether these weights depend on species; only if they are linear.
    neighbours : float
        That sums are divided by.
    density : bool
        Divide by a learned density instead.
    first_layer : {'species', 'residual', 'plain'}
        Messages of the first layer are mixed by the species of the atom, or what the atom itself knew is added, or
        neither. Without a residual, energies of one layer are functions of the neighbours alone.
    residual : {'species', 'linear', 'none'}
        How features of a layer are added to those of the next.
    product_species : bool
        Whether weights of products depend on the species of the atom.
    redundant_couplings : bool
        All couplings of the MACE paper, instead of the independent ones.
    update : {'linear', 'gate'}
        What becomes of messages.
    channels_mixed : bool
        Mix channels before they are sent.
    readouts : {'every', 'last'}
        Layers that energies are read out of.
    readout_widths : tuple of int
        Hidden layers of the last read-out.
    readout_activation : {'silu', 'none'}

    Raises
    ------
    ConfigurationError
        Names the choices that do not go together.
    """

    elements: tuple[int | str, ...]
    cutoff: float = 5.0
    layers: Count = 2
    correlation: Count = 3
    max_ell: int = 3
    hidden: str = "128x0e+128x1o"
    scalar_output: bool = True
    inversion: bool = True
    basis: Literal["bessel", "chebyshev", "gaussian"] = "bessel"
    distance: Literal["none", "agnesi", "soft"] = "none"
    n_radial: Count = 8
    trainable_basis: bool = False
    cutoff_power: Count = 5
    radial_widths: tuple[Count, ...] = (64, 64, 64)
    radial_species: Literal["none", "neighbour", "pair"] = "none"
    neighbours: float = 10.0
    density: bool = False
    first_layer: Literal["species", "residual", "plain"] = "species"
    residual: Literal["species", "linear", "none"] = "species"
    product_species: bool = True
    redundant_couplings: bool = False
    update: Literal["linear", "gate"] = "linear"
    channels_mixed: bool = True
    readouts: Literal["every", "last"] = "every"
    readout_widths: tuple[Count, ...] = (16,)
    readout_activation: Literal["silu", "none"] = "silu"

    def __post_init__(self) -> None:
        conform(self)
        if not self.elements or len(set(self.numbers)) != len(self.elements):
            raise ConfigurationError(f"elements are {self.elements}; name at least one, each once.")
        if not self.cutoff > 0 or not self.neighbours > 0:
            raise ConfigurationError(f"cutoff is {self.cutoff}, neighbours {self.neighbours}; both must be positive.")
        if not 0 <= self.max_ell <= 8 or self.correlation > 4:
            raise ConfigurationError(
                f"max_ell is {self.max_ell}, correlation {self.correlation}; degrees go to 8, products to 4 factors."
            )
        hidden = self.hidden_irreps
        if (0, 1) not in {block.kind for block in hidden}:
            raise ConfigurationError(f"hidden is '{self.hidden}'; energies are read out of even scalars, as '32x0e'.")
        if self.correlation > 1 and len({block.channels for block in hidden}) > 1:
            raise ConfigurationError(
                f"hidden is '{self.hidden}'; products multiply channel by channel, so give every kind as many, or "
                "take correlation: 1."
            )
        if self.layers > 1 and self.correlation > 1 and not self.channels_mixed and len(hidden) > 1:
            raise ConfigurationError(
                f"hidden is '{self.hidden}'; products after the first layer need channels_mixed, or scalars alone."
            )
        if not self.inversion and any(block.parity < 0 for block in hidden):
            raise ConfigurationError(f"hidden is '{self.hidden}'; without inversion all kinds are even, as '32x1e'.")
        if self.basis == "chebyshev" and self.distance != "agnesi":
            raise ConfigurationError("Chebyshev polynomials are of numbers below 1: take distance: agnesi with them.")
        if self.radial_widths and self.radial_species != "none":
            raise ConfigurationError(
                "Radial weights depend on species only if they are linear: leave radial_widths empty, or "
                "radial_species at none."
            )

    @property
    def numbers(self) -> tuple[int, ...]:
        """Atomic numbers, in order."""
        return tuple(sorted(atomic_number_of(each) for each in self.elements))

    @property
    def hidden_irreps(self) -> Irreps:
        """Kinds and channels, by degree, odd before even."""
        return tuple(sorted(parse_irreps(self.hidden), key=lambda block: block.kind))

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible values, which make the same settings again."""
        values = {**dataclasses.asdict(self), "elements": self.numbers}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


#: Choices of the papers; everything else is as they leave it, or as the data ask for.
PRESETS: dict[str, dict[str, Any]] = {
    "mace": {"hidden": "256x0e+256x1o+256x2e", "redundant_couplings": True, "first_layer": "residual"},
    "botnet": {
        "layers": 5, "correlation": 1, "cutoff": 4.0, "cutoff_power": 6,
        "hidden": "80x0o+80x0e+80x1o+80x1e+80x2o+80x2e+80x3o+80x3e", "radial_widths": (),
        "radial_species": "neighbour", "scalar_output": False,
    },
    "nequip": {
        "layers": 5, "correlation": 1, "cutoff": 4.0, "cutoff_power": 6,
        "hidden": "64x0o+64x0e+64x1o+64x1e+64x2o+64x2e+64x3o+64x3e", "first_layer": "residual", "update": "gate",
        "readouts": "last", "readout_widths": (16,), "readout_activation": "none", "scalar_output": False,
        "trainable_basis": True,
    },
    "nequip_linear": {
        "layers": 5, "correlation": 1, "cutoff": 4.0, "cutoff_power": 6,
        "hidden": "64x0o+64x0e+64x1o+64x1e+64x2o+64x2e+64x3o+64x3e", "first_layer": "residual",
        "readouts": "last", "readout_widths": (16,), "readout_activation": "none", "scalar_output": False,
    },
    "ace": {
        "layers": 1, "correlation": 3, "hidden": "64x0e", "radial_widths": (), "radial_species": "pair",
        "first_layer": "plain", "channels_mixed": False, "readout_widths": (),
    },
}  # fmt: skip


def preset(name: str, elements: tuple[int | str, ...], **changes: Any) -> MultiAceSettings:
    """Settings of a paper's network.

    Parameters
    ----------
    name : {'mace', 'botnet', 'nequip', 'nequip_linear', 'ace'}
    elements : tuple of int or str
    **changes
        Of single choices.

    Raises
    ------
    ConfigurationError
        If there is no such preset or choice.
    """
    if name not in PRESETS:
        raise ConfigurationError(
            f"There is no preset '{name}'; there are {', '.join(PRESETS)}.{did_you_mean(name, PRESETS)}"
        )
    known = [field.name for field in dataclasses.fields(MultiAceSettings)]
    for key in changes:
        if key not in known:
            raise ConfigurationError(f"Unknown choice '{key}'.{did_you_mean(key, known)}")
    return MultiAceSettings(elements, **{**PRESETS[name], **changes})
