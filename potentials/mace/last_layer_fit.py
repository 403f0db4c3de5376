"""A committee from a single MACE: Bayesian linear regression on its last-layer features, without retraining.

The regression is of what the network gets wrong on labelled frames, ``E - E_MACE``, so its mean is a correction and
its posterior says which energies the frames leave open. Frames can be added one by one, as to a linear ACE.

The prior of every coefficient is isotropic in features scaled to unit size over the first frames added.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from halberd.potentials.errors import ConfigurationError, DataError
from halberd.potentials.frames.labelled import Frame
from halberd.potentials.mace.last_layer_features import mace_features
from halberd.potentials.mace.last_layer_sites import LastLayerSigmaSites, LastLayerSites, over_features
from halberd.potentials.regression.calibration import LeftOut
from halberd.potentials.regression.linear_fit import FittedLinear, LinearFit, Progress
from halberd.potentials.regression.linear_system import LinearSystem
from halberd.potentials.regression.solvers import solve
from halberd.potentials.regression.state import DAMAGED, read_state
from halberd.potentials.regression.weighted_rows import VOIGT, FitWeights, FrameDesign
from halberd.potentials.sites.site_model import Columns, SiteModel
from halberd.potentials.sites.structure_energy import StructureEnergy
from halberd.potentials.sites.torchscript import script


@dataclasses.dataclass(frozen=True, kw_only=True)
class FittedLastLayer(FittedLinear):
    """A solved fit of a correction; see :class:`halberd.potentials.regression.linear_fit.FittedLinear`.

    Attributes
    ----------
    features : SiteModel
        Site energies and features that the coefficients belong to.
    """

    features: SiteModel

    def with_exact_sigma(self) -> SiteModel:
        """The mean with the exact standard deviation of its energy, instead of a committee that samples it.

        Raises
        ------
        ConfigurationError
            If the solver gave no posterior.
        """
        dtype = self.features.dtype
        mean, factor = (torch.from_numpy(x).to(dtype) for x in (self.coefficients, self.covariance_factor))
        module = over_features(self.features.scripted(), lambda sites: LastLayerSigmaSites(sites, mean, factor))
        e0s = np.tile(self.model.e0s[:, :1], (1, 2))
        return self.model.replaced(module, e0s=e0s, n_columns=2, columns=Columns.MEAN_AND_SIGMA)


class LastLayerFit(LinearFit):
    """Bayesian regression on the last-layer features of a MACE.

    Parameters
    ----------
    base : SiteModel
        A MACE.
    weights : FitWeights, optional
        Energy 5, forces 1, virial 5 if omitted: what is left by a network that fits energies well.
    e0s : mapping, 'isolated', 'average' or None
        Self-energies to add to those of the base model; see
        :func:`halberd.potentials.frames.training_set.self_energies`. Fixed by the first frames added; by
        default what is left of their energies on average.

    Raises
    ------
    ModelError
        If ``base`` is not a MACE with read-outs of the usual kind.
    """

    def __init__(
        self, base: SiteModel, weights: FitWeights | None = None, e0s: Mapping[str | int, float] | str | None = None
    ) -> None:
        if base.n_columns is not None:
            raise ConfigurationError(f"'{base.name}' is a committee; give a single model, or run the committee itself.")
        self.base = base
        self.features = mace_features(base)
        super().__init__(
            base.atomic_numbers,
            int(self.features.n_columns or 1) - 1,
            cutoff=base.cutoff,
            weights=weights or FitWeights(energy=5.0, virial=5.0),
            e0s="average" if e0s is None else e0s,
        )
        self.scale: NDArray[np.float64] | None = None

    def _add(self, frames: Sequence[Frame], progress: Progress) -> None:
        designs = []
        for done, frame in enumerate(frames, start=1):
            designs.append(self.design(frame))
            progress(done, len(frames))
        if self.e0s is None:
            left = [dataclasses.replace(f, energy=self._left(f, d)) for f, d in zip(frames, designs, strict=True)]
            self._fix_e0s(left)
            sizes = np.sqrt(
                np.mean([(d.forces[:, :, 1:].reshape(-1, self.n_functions) ** 2).mean(axis=0) for d in designs], axis=0)
            )
            self.scale = np.where(sizes > 1e-12 * sizes.max(), sizes, sizes.max() or 1.0)
        for frame, design in zip(frames, designs, strict=True):
            rows = self._weighted(frame, design)
            self._rows.add(rows)
            self._kept.remember(frame, rows)  # few functions, whose derivatives take long

    def _left(self, frame: Frame, design: FrameDesign) -> float | None:
        """Energy that the base model does not explain, eV."""
        if frame.energy is None:
            return None
        return float(frame.energy - design.energy[0] - float(self.base.self_energy(frame.atoms.numbers)))

    def _weighted(self, frame: Frame, design: FrameDesign) -> NDArray[np.float64]:
        energy, forces, virial = design
        left = dataclasses.replace(
            frame,
            energy=self._left(frame, design),
            forces=None if frame.forces is None else frame.forces - forces[:, :, 0],
            virial=None if frame.virial is None else frame.virial - _full(virial[:, 0]),
        )
        return super()._weighted(left, FrameDesign(energy[1:], forces[:, :, 1:], virial[:, 1:]))

    def design(self, frame: Frame) -> FrameDesign:
        """Energy of the network, in the first column, and of every feature, for a frame."""
        atoms = frame.atoms
        species = self.features.species_of(atoms.numbers)
        module = script(StructureEnergy(self.features, species, 0.0, torch.get_num_threads()))
        positions = torch.tensor(atoms.positions, requires_grad=True)
        strain = torch.zeros((3, 3), dtype=torch.float64, requires_grad=True)
        deformation = torch.eye(3, dtype=torch.float64) + 0.5 * (strain + strain.T)
        cell = torch.tensor(atoms.cell.array, dtype=torch.float64)
        totals = module(positions @ deformation, cell @ deformation, torch.tensor(np.asarray(atoms.pbc))).sum(0)
        forces = np.zeros((len(atoms), 3, len(totals)))
        virial = np.zeros((6, len(totals)))
        for k, total in enumerate(totals):
            gradient, slope = torch.autograd.grad(
                total, [positions, strain], retain_graph=k + 1 < len(totals), materialize_grads=True
            )
            forces[:, :, k] = -gradient.numpy()
            virial[:, k] = [-float(slope[a, b]) for a, b in VOIGT]
        return FrameDesign(totals.detach().numpy(), forces, virial)

    def system(self) -> LinearSystem:
        """The least-squares problem as it stands.

        Raises
        ------
        DataError
            If no frame has been added.
        """
        return self._system(np.ones(self.n_functions) if self.scale is None else self.scale)

    def solve(
        self,
        solver: str = "blr",
        *,
        committee: int = 0,
        seed: int = 0,
        correction: bool = False,
        calibrate: bool = True,
        name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        **options: float,
    ) -> FittedLastLayer:
        """Solve for the posterior of the last layer and build the model.

        Parameters
        ----------
        solver : {'blr', 'ridge', 'svd', 'ard'}
            See :func:`halberd.potentials.regression.solvers.solve`, also for ``options``.
        committee : int
            Members to draw from the posterior; 0 for the mean alone. Their average is the mean.
        seed : int
        correction : bool
            Whether the mean is the network plus the fitted correction, self-energies included. If not, it is the
            network as it was trained, and only the spread is the posterior's: right where the labels are of the level
            that the network was trained on, and few.
        calibrate : bool
            Whether the posterior is made as wide as the errors of frames that are left out, see
            :mod:`halberd.potentials.regression.calibration`; with fewer than four frames it is left as it is.
        name : str, optional
        metadata : mapping, optional

        Returns
        -------
        FittedLastLayer

        Raises
        ------
        ConfigurationError, DataError
            See :func:`halberd.potentials.regression.solvers.solve`.
        """
        posterior = solve(self.system(), solver, **options)
        if not correction:
            posterior = dataclasses.replace(posterior, mean=np.zeros_like(posterior.mean))
        leave_one_out: dict[str, LeftOut] = {}
        if calibrate:
            posterior, leave_one_out = self._calibrated(posterior, fitted=correction)
        members = posterior.draw(committee, seed) if committee else None
        columns = posterior.mean[:, None] if members is None else members
        assert self.e0s is not None
        e0s = self.base.e0s + self.e0s if correction else self.base.e0s
        weights = torch.from_numpy(columns).to(self.features.dtype)
        model = SiteModel(
            over_features(self.features.scripted(), lambda sites: LastLayerSites(sites, weights)),
            self.base.cutoff,
            self.elements,
            e0s=np.tile(e0s[:, None], (1, weights.shape[1])),
            n_columns=weights.shape[1],
            metadata={
                **self.base.metadata,
                "name": name or f"{self.base.name}-last-layer",
                "base": self.base.name,
                "fitted_to": f"{self.n_frames} frames, {self.n_rows} rows",
                "solver": solver,
                **posterior.details,
                **(metadata or {}),
            },
        )
        return FittedLastLayer(
            model=model,
            coefficients=posterior.mean,
            members=members,
            posterior=posterior,
            notes=[],
            leave_one_out=leave_one_out,
            features=self.features,
        )

    # -- files --------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything but the base model needed to go on later.

        Raises
        ------
        OutputError
            If the place cannot be written.
        """
        self._write(path, {"base": self.base.name}, scale=self.scale)

    @classmethod
    def load(cls, path: str | os.PathLike[str], base: SiteModel) -> LastLayerFit:
        """Read what :meth:`save` wrote.

        Raises
        ------
        DataError
            If the file is missing, damaged, or belongs to another model.
        """
        header, arrays = read_state(path)
        try:
            fit = cls(base, FitWeights(**header["weights"]))
            if header["base"] != base.name or arrays["factor"].shape[1] != fit.n_functions + 1:
                raise DataError(f"'{path}' is the state of a fit to '{header['base']}', not to '{base.name}'.")
            fit._restore(header, arrays)
            fit.scale = arrays["scale"] if len(arrays["scale"]) else None
        except DataError:
            raise
        except DAMAGED as error:
            raise DataError(
                f"'{path}' is not the state of a last-layer fit: {type(error).__name__} {error}."
            ) from error
        return fit


def _full(voigt: NDArray[np.float64]) -> NDArray[np.float64]:
    full = np.zeros((3, 3))
    for value, (a, b) in zip(voigt, VOIGT, strict=True):
        full[a, b] = full[b, a] = value
    return full
