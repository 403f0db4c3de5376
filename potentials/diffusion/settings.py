"""Choices of a diffusion model."""

from __future__ import annotations

import dataclasses
from typing import Literal

from halberd.potentials.errors import ConfigurationError
from halberd.potentials.multi_ace.settings import MultiAceSettings
from halberd.potentials.sites.elements import atomic_number_of
from halberd.potentials.validation import Count, conform


@dataclasses.dataclass(frozen=True)
class DiffusionSettings:
    """The network that learns an energy of noisy molecules, and the noise it learns it from.

    Attributes
    ----------
    elements : tuple of int or str
        Of the molecules. In noisy ones an atom is of all of them at once, each a number.
    preconditioning : {'edm', 'iddpm'}
        See :mod:`halberd.potentials.diffusion.preconditioning`.
    sigma_data : float, optional
        angstrom; that of the molecules that are trained on if omitted.
    element_scale : float
        What an atom's own element counts as beside coordinates, angstrom; all others are 0. The larger, the earlier
        elements are settled while noise falls.
    noise_mean, noise_std : float
        Logarithms of the noise levels that are trained on, ln(angstrom), are normal.
    cutoff : float
        Atoms of a molecule without noise that are farther apart do not see each other, angstrom.
    layers : int
        T, as what follows of :class:`halberd.potentials.multi_ace.settings.MultiAceSettings`.
    correlation : int
        nu: largest number of factors in a product of one atom's sums over others.
    max_ell : int
        Largest degree of the harmonics of edges.
    hidden : str
        Kinds and channels of features.
    n_radial : int
        Functions of the distance.
    cutoff_power : int
        Of the polynomial envelope.
    radial_widths : tuple of int
        Hidden layers between the functions of the distance and the weights of paths.
    readout_widths : tuple of int
        Hidden layers of the last read-out.
    noise_functions : int
        Waves of c_noise that tell the network the noise level.
    noise_width : int
        Of the hidden layer between them and the first features.

    Raises
    ------
    ConfigurationError
        Names the choices that make no sense.
    """

    elements: tuple[int | str, ...] = ("H", "C", "N", "O", "F")
    preconditioning: Literal["edm", "iddpm"] = "edm"
    sigma_data: float | None = None
    element_scale: float = 0.25
    noise_mean: float = -1.2
    noise_std: float = 1.2
    cutoff: float = 10.0
    layers: Count = 2
    correlation: Count = 3
    max_ell: int = 2
    hidden: str = "64x0e+64x1o"
    n_radial: Count = 16
    cutoff_power: Count = 6
    radial_widths: tuple[Count, ...] = (64, 64)
    readout_widths: tuple[Count, ...] = (64,)
    noise_functions: Count = 16
    noise_width: Count = 64

    def __post_init__(self) -> None:
        conform(self)
        if not self.elements or len(set(self.numbers)) != len(self.elements):
            raise ConfigurationError(f"elements are {self.elements}; name at least one, each once.")
        for name in ("sigma_data", "element_scale", "noise_std", "cutoff"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigurationError(f"{name} is {value}; it must be positive.")
        if self.noise_functions % 2:
            raise ConfigurationError(f"noise_functions is {self.noise_functions}; it must be even: sines and cosines.")
        self.network(1.0)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Atomic numbers, in order."""
        return tuple(sorted(atomic_number_of(each) for each in self.elements))

    def network(self, neighbours: float) -> MultiAceSettings:
        """Of the network, in which all atoms are of one kind: what they are is in their first features.

        Parameters
        ----------
        neighbours : float
            That sums are divided by.
        """
        shared = {field.name for field in dataclasses.fields(MultiAceSettings)} & set(vars(self)) - {"elements"}
        values = {name: getattr(self, name) for name in shared}
        # Distances come in units of sigma_data.
        values["cutoff"] = self.cutoff / (self.sigma_data or 1.0)
        return MultiAceSettings(
            **values,
            elements=("H",),
            neighbours=neighbours,
            first_layer="residual",
            residual="linear",
            product_species=False,
        )
