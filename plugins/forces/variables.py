"""What models know about a structure, as collective variables for OpenMM's and PLUMED's enhanced sampling.

Each is an OpenMM Force whose "energy" is the value (for ``openmm.app.Metadynamics``, openmm-opes, ``CustomCVForce``)
and an argument of PLUMED (``PlumedForce(..., variables={"s": variable})`` and ``EXTRACV NAME=s`` in the script).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import openmm
import torch
from numpy.typing import ArrayLike, NDArray
from openmm import app

from halberd.plugins.forces.carrier import Carrier
from halberd.plugins.forces.python_force import ModuleCallback
from halberd.plugins.forces.topology import checked_atoms, elements_of
from halberd.plugins.forces.variable_module import VARIABLE_MODULES
from halberd.potentials.committees.bias import check_committee, spread_module
from halberd.potentials.committees.uncertainty import CommitteeSigma, LargestForceUncertainty, smooth_twice
from halberd.potentials.constants import EV_IN_KJ_PER_MOL
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.loading import ModelSource, load
from halberd.potentials.mace.descriptor import mace_descriptor
from halberd.potentials.simgen.density import SimilarityDensity
from halberd.potentials.simgen.reference_set import ReferenceSet
from halberd.potentials.simgen.score import SimilarityScore
from halberd.potentials.sites.site_model import Columns, SiteModel
from halberd.potentials.sites.structure_energy import DescriptorProjection, StructureEnergy
from halberd.potentials.sites.torchscript import script


class CollectiveVariable:
    """A number that a model assigns to a geometry, with its gradient.

    Parameters
    ----------
    variable : torch.nn.Module
        Takes positions (N, 3) and box (3, 3) in angstrom and the periodicity; returns a number.
    particles : sequence of int, optional
        Particles that it sees, all if omitted.
    periodic : bool
    scale : float
        What its value is multiplied by.
    name : str
    """

    def __init__(
        self,
        variable: torch.nn.Module,
        particles: Sequence[int] | None,
        periodic: bool,
        scale: float = 1.0,
        name: str = "halberd variable",
    ) -> None:
        index = None if particles is None else torch.tensor(list(particles), dtype=torch.int64)
        module = script(VARIABLE_MODULES[periodic](variable, index, periodic, scale))
        self.name = name
        self.periodic = periodic
        self._callback = ModuleCallback(module, periodic, [], "cpu")

    def force(self, backend: str = "torchforce", forceGroup: int = 0) -> openmm.Force:
        """An OpenMM Force whose energy, in kJ/mol, is the value.

        Parameters
        ----------
        backend : {'torchforce', 'python', 'auto'}
            See :class:`halberd.plugins.forces.builder.ForceOptions`.
        forceGroup : int

        Raises
        ------
        BackendError
            If the backend is not usable here.
        """
        return Carrier(backend, self.periodic, self.name, forceGroup).carry(self._callback.master)

    def evaluate(
        self, positions: NDArray[np.float64], box: NDArray[np.float64] | None = None
    ) -> tuple[float, NDArray[np.float64]]:
        """Value and gradient.

        Parameters
        ----------
        positions : array, shape (N, 3), nm
            Of all particles.
        box : array, shape (3, 3), nm, optional

        Returns
        -------
        value : float
        gradient : array, shape (N, 3), per nm
        """
        value, forces = self._callback.evaluate(np.asarray(positions), box)
        return value, -forces


def committee_sigma(
    model: ModelSource | Sequence[ModelSource],
    topology: app.Topology,
    atoms: Iterable[int] | None = None,
    *,
    skin: float = 0.5,
) -> CollectiveVariable:
    """Standard deviation of the total energy over the members of a committee, kJ/mol.

    Parameters
    ----------
    model : path, name, SiteModel, or a sequence of these
        A committee, or a model with an exact sigma.
    topology : openmm.app.Topology
        Elements of the particles; periodic if it has a box.
    atoms : iterable of int, optional
        Atoms the model sees, all if omitted.
    skin : float, angstrom

    Returns
    -------
    CollectiveVariable

    Raises
    ------
    ConfigurationError
        If the model has neither members nor a sigma, or an atom index is wrong.
    UnknownElementError
        If the model does not know an element.
    """
    loaded = load(model)
    if loaded.columns is not Columns.MEAN_AND_SIGMA:
        check_committee(loaded)
    particles, numbers, periodic = _particles(topology, atoms)
    structure = _structure(loaded, numbers, particles, skin)
    module = CommitteeSigma(structure, spread_module(loaded, numbers))
    return CollectiveVariable(module, particles, periodic, EV_IN_KJ_PER_MOL, f"sigma: {loaded.name}")


def largest_force_uncertainty(
    model: ModelSource | Sequence[ModelSource],
    topology: app.Topology,
    atoms: Iterable[int] | None = None,
    *,
    epsilon: float = 0.2,
    sharpness: float = 0.0,
    skin: float = 0.5,
) -> CollectiveVariable:
    """Largest relative force uncertainty, ``max_i f_i``, ``f_i = dF_i / (|F_i| + epsilon)``; no unit.

    Its gradient takes second derivatives of every member: one evaluation costs several times that of the committee, and
    linear ACE is run without its compiled operator.

    Parameters
    ----------
    model, topology, atoms, skin
        See :func:`committee_sigma`; a model with an exact sigma will not do.
    epsilon : float, eV/angstrom
        Keeps f_i finite where forces vanish.
    sharpness : float
        Replaces the maximum by ``log(sum_i exp(b f_i)) / b``, which has no kinks; 0 leaves the maximum.

    Raises
    ------
    ConfigurationError, UnknownElementError
        See :func:`committee_sigma`.
    """
    if not (epsilon > 0 and sharpness >= 0):
        raise ConfigurationError(f"epsilon is {epsilon}, sharpness {sharpness}; they must be positive, and 0 or more.")
    loaded = smooth_twice(load(model))
    check_committee(loaded)
    particles, numbers, periodic = _particles(topology, atoms)
    structure = _structure(loaded, numbers, particles, skin)
    module = LargestForceUncertainty(structure, float(epsilon), float(sharpness))
    return CollectiveVariable(module, particles, periodic, 1.0, f"largest f: {loaded.name}")


def descriptor_component(
    model: ModelSource,
    topology: app.Topology,
    component: int | ArrayLike,
    of: Iterable[int] | None = None,
    atoms: Iterable[int] | None = None,
    *,
    skin: float = 0.5,
) -> CollectiveVariable:
    """Component of the invariant first-layer features of a MACE, averaged over atoms; no unit.

    Parameters
    ----------
    model : path, name or SiteModel
        A MACE, or any site model whose columns are a descriptor.
    topology, atoms, skin
        See :func:`committee_sigma`.
    component : int, or array of shape (D,)
        Index of a feature, or a direction onto which the features are projected.
    of : iterable of int, optional
        Atoms to average over, all that the model sees if omitted.

    Raises
    ------
    ModelError
        If the model is not a MACE.
    ConfigurationError, UnknownElementError
        See :func:`committee_sigma`; or if there is no such component.
    """
    loaded = load(model)
    descriptor = loaded if loaded.columns is Columns.DESCRIPTOR else mace_descriptor(loaded)
    n_features = int(descriptor.n_columns or 1)
    direction = np.zeros(n_features)
    if isinstance(component, int | np.integer):
        if not 0 <= component < n_features:
            raise ConfigurationError(f"component is {component}; '{loaded.name}' has features 0 to {n_features - 1}.")
        direction[component] = 1.0
    else:
        direction = np.asarray(component, dtype=float)
        if direction.shape != (n_features,) or not np.isfinite(direction).all():
            raise ConfigurationError(f"component has shape {direction.shape}; it must be finite, ({n_features},).")
    particles, numbers, periodic = _particles(topology, atoms)
    structure = _structure(descriptor, numbers, particles, skin)
    module = DescriptorProjection(structure, _chosen(of, particles, topology), torch.tensor(direction))
    return CollectiveVariable(module, particles, periodic, 1.0, f"descriptor: {loaded.name}")


def similarity_log_density(
    model: ModelSource,
    topology: app.Topology,
    references: str | ReferenceSet,
    sigma: float,
    of: Iterable[int] | None = None,
    atoms: Iterable[int] | None = None,
    *,
    skin: float = 0.5,
) -> CollectiveVariable:
    """Mean log density of atoms under SiMGen's kernel: how much they look like atoms of reference molecules; no unit.

    Parameters
    ----------
    model : path, name or SiteModel
        A MACE.
    topology, atoms, skin
        See :func:`committee_sigma`.
    references : str or ReferenceSet
        Set of molecules, by name or file.
    sigma : float
        Noise level, angstrom: how wide the kernel is.
    of : iterable of int, optional
        Heavy atoms to average over, all that are seen if omitted. The kernel compares skeletons: hydrogens are left out
        on both sides.

    Raises
    ------
    ModelError, ConfigurationError, UnknownElementError
        See :func:`descriptor_component` and :class:`halberd.potentials.simgen.score.SimilarityScore`.
    """
    if not 0 <= sigma <= 10:
        raise ConfigurationError(f"sigma is {sigma}; it must be a noise level of 0 to 10 angstrom.")
    loaded = load(model)
    chosen = references if isinstance(references, ReferenceSet) else ReferenceSet.load(references)
    score = SimilarityScore(mace_descriptor(loaded), chosen)
    seen = range(topology.getNumAtoms()) if atoms is None else atoms
    heavy = [atom for atom, z in zip(seen, elements_of(topology, list(seen)), strict=True) if z > 1]
    particles, numbers, periodic = _particles(topology, heavy)
    species = score.descriptor.species_of(numbers, labels=particles)
    chosen_atoms = _chosen(of, particles, topology)
    module = SimilarityDensity(
        score.descriptor, score.kernel, species=species, atoms=chosen_atoms, sigma=float(sigma), skin=skin
    )
    return CollectiveVariable(module, particles, periodic, 1.0, f"similarity: {chosen.name}")


def _particles(topology: app.Topology, atoms: Iterable[int] | None) -> tuple[list[int] | None, list[int], bool]:
    particles = None if atoms is None else checked_atoms(atoms, topology)
    return particles, elements_of(topology, particles), topology.getPeriodicBoxVectors() is not None


def _structure(model: SiteModel, numbers: list[int], particles: list[int] | None, skin: float) -> StructureEnergy:
    return StructureEnergy(model, model.species_of(numbers, labels=particles), skin, torch.get_num_threads())


def _chosen(of: Iterable[int] | None, particles: list[int] | None, topology: app.Topology) -> torch.Tensor:
    """Places, among the particles that a model sees, of the atoms to average over."""
    seen = list(range(topology.getNumAtoms())) if particles is None else particles
    if of is None:
        return torch.arange(len(seen))
    wanted = checked_atoms(of, topology)
    missing = sorted(set(wanted) - set(seen))
    if missing:
        raise ConfigurationError(f"Atom {missing[0]} is averaged over, but not among the atoms the model sees.")
    place = {atom: k for k, atom in enumerate(seen)}
    return torch.tensor([place[atom] for atom in wanted], dtype=torch.int64)
