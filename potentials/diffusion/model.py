"""Diffusion models: what they say of noisy molecules, and their files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from halberd.potentials.diffusion.energy import NoisyEnergy
from halberd.potentials.diffusion.network import NoisyNetwork
from halberd.potentials.diffusion.preconditioning import Preconditioning
from halberd.potentials.diffusion.settings import DiffusionSettings
from halberd.potentials.errors import DataError, ModelFileError, UnknownElementError
from halberd.potentials.multi_ace.compiled.training_form import training_form
from halberd.potentials.sites.archive import read_state, write_state
from halberd.potentials.sites.block_list import owners, pairs_of_blocks
from halberd.potentials.validation import from_mapping

_FORMAT = "halberd diffusion 1"
#: Models that come with the package, by name: files in its ``data`` folder.
SHIPPED = {"qm9-diffusion": "qm9-diffusion.diffusion"}
#: What reading a file that is no such one may raise.
_UNREADABLE = (ModelFileError, RuntimeError, ValueError, KeyError, TypeError)


@dataclasses.dataclass(frozen=True)
class Noisy:
    """What a model says of noisy molecules.

    Attributes
    ----------
    energy : array, shape (M,)
        Reduced: minus the logarithm of a density, up to a constant of the noise level.
    score : array, shape (N, 3), 1/angstrom
    element_score : array, shape (N, S)
        Per unit of an element.
    denoised : array, shape (N, 3), angstrom
        What the molecules were without noise, each from its own centre.
    elements : array, shape (N, S)
        What atoms were, without noise; 1 and zeros if the model is sure.
    """

    energy: NDArray[np.float64]
    score: NDArray[np.float64]
    element_score: NDArray[np.float64]
    denoised: NDArray[np.float64]
    elements: NDArray[np.float64]


class DiffusionModel:
    """A network that has learnt to take noise out of molecules.

    Parameters
    ----------
    network : NoisyNetwork
    settings : DiffusionSettings
        ``sigma_data`` included.
    neighbours : float
        That sums over neighbours are divided by.
    sizes : mapping of (int, int) to int
        How many molecules of so many heavy atoms, and so many atoms in all, it was trained on.
    metadata : dict
        ``name``, and how it was trained.

    Attributes
    ----------
    atomic_numbers : tuple of int
    energy : NoisyEnergy
    """

    def __init__(
        self,
        network: NoisyNetwork,
        settings: DiffusionSettings,
        neighbours: float,
        sizes: dict[tuple[int, int], int],
        metadata: dict[str, Any],
    ) -> None:
        assert settings.sigma_data is not None
        self.network = network.requires_grad_(False)
        self.settings, self.neighbours, self.sizes, self.metadata = settings, float(neighbours), dict(sizes), metadata
        self.atomic_numbers = settings.numbers
        self.preconditioning = Preconditioning(settings.preconditioning, settings.sigma_data)
        self.energy = NoisyEnergy(network, self.preconditioning, training_form(network))

    @property
    def name(self) -> str:
        """What it is called."""
        return str(self.metadata.get("name", "diffusion"))

    @property
    def epochs(self) -> int:
        """That it was trained for, as far as its file says."""
        return int((self.metadata.get("training") or {}).get("epochs", 0))

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.network.embedding.dtype

    def elements_of(self, numbers: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
        """What atoms of known elements are, shape (N, S): ones and zeros.

        Raises
        ------
        UnknownElementError
            If an element is not among the model's.
        """
        unknown = sorted({int(z) for z in numbers} - set(self.atomic_numbers))
        if unknown:
            raise UnknownElementError(
                f"'{self.name}' does not know the elements with the numbers {unknown}; it knows "
                f"{list(self.atomic_numbers)}."
            )
        return np.equal.outer(np.asarray(numbers, dtype=np.int64), self.atomic_numbers).astype(np.float64)

    def evaluate(
        self,
        positions: NDArray[np.float64],
        elements: NDArray[np.float64],
        sigma: float | NDArray[np.float64],
        sizes: Sequence[int] | None = None,
    ) -> Noisy:
        """Energy, score, and the molecules without their noise.

        Parameters
        ----------
        positions : array, shape (N, 3), angstrom
        elements : array, shape (N, S)
            Of every atom; see :meth:`elements_of`. Their noise is ``sigma / element_scale``.
        sigma : float, or array of shape (M,), angstrom
            Noise level, of all molecules or of every one.
        sizes : sequence of int, optional
            Atoms of the M molecules, one after the other; all of one if omitted.

        Raises
        ------
        DataError
            If shapes do not fit together, a number is not finite, or a noise level not positive.
        """
        counts = [len(positions)] if sizes is None else [int(size) for size in sizes]
        levels = np.broadcast_to(np.asarray(sigma, dtype=np.float64), (len(counts),)).copy()
        places, kinds = np.asarray(positions, dtype=np.float64), np.asarray(elements, dtype=np.float64)
        if sum(counts) != len(places) or kinds.shape != (len(places), len(self.atomic_numbers)):
            raise DataError(
                f"positions are {places.shape}, elements {kinds.shape}, and molecules have {sum(counts)} atoms; give "
                f"(N, 3), (N, {len(self.atomic_numbers)}) and sizes that sum to N."
            )
        if not (np.isfinite(places).all() and np.isfinite(kinds).all() and (levels > 0).all()):
            raise DataError("Positions or elements are no finite numbers, or a noise level is not positive.")
        owner = owners(counts)
        of = owner.numpy()
        scale = self.settings.element_scale
        x, h, s = (torch.tensor(each, dtype=self.dtype) for each in (places, kinds * scale, levels))
        known = (s, pairs_of_blocks(counts), owner)
        with torch.enable_grad():
            x.requires_grad_()
            h.requires_grad_()
            energy = self.energy(x, h, *known)
            gradients = torch.autograd.grad(energy.sum(), (x, h))
        each = levels[of][:, None]
        of_x, of_h = (gradient.double().numpy() for gradient in gradients)
        centre = np.zeros((len(counts), 3))
        np.add.at(centre, of, places)
        centre /= np.array(counts)[:, None]
        # Tweedie: D = x + sigma^2 score.
        return Noisy(
            energy=energy.detach().double().numpy(),
            score=-of_x,
            element_score=-of_h * scale,
            denoised=places - centre[of] - each**2 * of_x,
            elements=kinds - each**2 * of_h / scale,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it, under a temporary name that is then renamed."""
        content = {
            "format": _FORMAT,
            "settings": dataclasses.asdict(self.settings),
            "neighbours": self.neighbours,
            "sizes": [[*key, count] for key, count in sorted(self.sizes.items())],
            "metadata": self.metadata,
            "weights": self.network.state_dict(),
        }
        write_state(content, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DiffusionModel:
        """Read a file that :meth:`save` wrote, or a model that comes with halberd.

        Parameters
        ----------
        path : path-like
            A file, or one of :data:`SHIPPED`.

        Raises
        ------
        ModelFileError
            If it cannot be read, or is no diffusion model.
        """
        file = Path(path)
        if str(path) in SHIPPED and not file.exists():
            file = Path(str(resources.files("halberd.potentials") / "data" / SHIPPED[str(path)]))
        if not file.exists():
            raise ModelFileError(f"There is no file '{file}'; of diffusion models, halberd has {', '.join(SHIPPED)}.")
        try:
            content = read_state(file)
            if content["format"] != _FORMAT:
                raise ValueError(f"its format is '{content['format']}'")
            settings = from_mapping(DiffusionSettings, content["settings"], f"'{file}'")
            network = NoisyNetwork(settings, content["neighbours"])
            network.to(content["weights"]["embedding"].dtype).load_state_dict(content["weights"])
            sizes = {(heavy, atoms): count for heavy, atoms, count in content["sizes"]}
            return cls(network, settings, content["neighbours"], sizes, content["metadata"])
        except _UNREADABLE as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelFileError(f"'{file}' is no diffusion model of halberd, or damaged: {first}.") from error
