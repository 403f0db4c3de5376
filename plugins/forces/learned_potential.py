"""``LearnedPotential``: make OpenMM Systems that run a learned model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import openmm
from openmm import app

from halberd.plugins.forces.builder import build_force
from halberd.plugins.forces.mixed_system import embed
from halberd.plugins.forces.options import ForceOptions
from halberd.plugins.forces.topology import checked_atoms, elements_of
from halberd.potentials.errors import ConfigurationError, GeometryError
from halberd.potentials.loading import ModelSource, check_source, load
from halberd.potentials.sites.site_model import SiteModel

#: Context parameter of mixed systems made with ``interpolate=True``: 0 is pure MM, 1 pure ML.
LAMBDA = "lambda_interpolate"


class LearnedPotential:
    """A learned potential for OpenMM.

    Parameters
    ----------
    model : path, name of a pretrained model, SiteModel, or a sequence of these
        See :func:`halberd.potentials.load`. A sequence is a committee; its mean energy drives the simulation,
        with ``bias=`` minus ``hal_tau`` times its disagreement.
    **options
        Defaults for the keywords of :class:`halberd.plugins.forces.builder.ForceOptions`: ``precision``, ``device``,
        ``forceGroup``, ``backend``, ``skin``, ``threads``, ``head``, ``charge``, ``multiplicity``, ``energy``,
        ``bias``, ``bias_width``. Every method takes them too.

    Raises
    ------
    ModelFileError
        If a model file is missing, damaged or of an unknown kind.
    ConfigurationError
        If a keyword is unknown; the message suggests the closest one.

    Examples
    --------
    >>> from openmm import app
    >>> from halberd.plugins import LearnedPotential
    >>> topology = app.Topology()
    >>> residue = topology.addResidue("HF", topology.addChain())
    >>> for symbol in ("H", "F"):
    ...     _ = topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    >>> system = LearnedPotential("gfn2-chnof").createSystem(topology)
    >>> system.getForce(0).getName()
    'halberd: gfn2-chnof'
    """

    def __init__(self, model: ModelSource | Sequence[ModelSource], **options: Any) -> None:
        self.options = ForceOptions().updated(options)
        self._source = model
        self._loaded: dict[tuple[Any, ...], SiteModel] = {}
        check_source(model)

    def model(self, elements: Iterable[int] | None = None, **options: Any) -> SiteModel:
        """The site model that the forces would use.

        Parameters
        ----------
        elements : iterable of int, optional
            Atomic numbers to cut the model down to.
        **options
            As for the constructor.
        """
        model = self._load(self.options.updated(options))
        return model if elements is None else model.restrict(elements)

    def createSystem(
        self,
        topology: app.Topology,
        *,
        removeCMMotion: bool = True,
        atoms: Iterable[int] | None = None,
        **options: Any,
    ) -> openmm.System:
        """Make a System in which the model computes everything.

        Parameters
        ----------
        topology : openmm.app.Topology
            If it has periodic box vectors, so has the System. Bonds are not used.
        removeCMMotion : bool
            Add a ``CMMotionRemover``.
        atoms : iterable of int, optional
            Atoms the model acts on; all if omitted. The others feel no force from it.
        **options
            See the constructor.

        Returns
        -------
        openmm.System
            Without constraints.

        Raises
        ------
        UnknownElementError
            If an element is not the model's, or an atom has none.
        GeometryError
            If the box is not one OpenMM accepts.
        ConfigurationError
            If a keyword is unknown or an atom index out of range.
        """
        system = openmm.System()
        for atom in topology.atoms():
            system.addParticle(0.0 if atom.element is None else atom.element.mass)
        box = topology.getPeriodicBoxVectors()
        if box is not None:
            try:
                system.setDefaultPeriodicBoxVectors(*box)
            except openmm.OpenMMException as error:
                raise GeometryError(
                    f"The topology's box is not one OpenMM accepts: {error} Use openmm.app's "
                    "reducePeriodicBoxVectors on it first."
                ) from error
        self.addForces(topology, system, atoms=atoms, **options)
        if removeCMMotion:
            system.addForce(openmm.CMMotionRemover())
        return system

    def addForces(
        self,
        topology: app.Topology,
        system: openmm.System,
        atoms: Iterable[int] | None = None,
        *,
        periodic: bool | None = None,
        **options: Any,
    ) -> openmm.Force:
        """Add the model to an existing System.

        Parameters
        ----------
        topology : openmm.app.Topology
        system : openmm.System
            Modified.
        atoms : iterable of int, optional
            Atoms the model acts on; all if omitted.
        periodic : bool, optional
            Defaults to whether the topology has a box.
        **options
            See the constructor.

        Returns
        -------
        openmm.Force
            The one that was added. OpenMM forgets the names of TorchForces and PythonForces when a System is
            copied or serialised; force groups stay.

        Raises
        ------
        UnknownElementError, ConfigurationError, BackendError
            As for :meth:`createSystem`.
        """
        if periodic is None:
            periodic = topology.getPeriodicBoxVectors() is not None
        indices = None if atoms is None else checked_atoms(atoms, topology)
        force = self._force(topology, indices, periodic, self.options.updated(options), None)
        system.addForce(force)
        return force

    def createMixedSystem(
        self,
        topology: app.Topology,
        system: openmm.System,
        atoms: Iterable[int],
        *,
        removeConstraints: bool = True,
        interpolate: bool = False,
        **options: Any,
    ) -> openmm.System:
        """Let the model compute the inside of a region, and a force field everything else.

        Mechanical embedding: bonded and nonbonded interactions within the region are the model's, all others stay
        those of ``system``.

        Parameters
        ----------
        topology : openmm.app.Topology
        system : openmm.System
            A force-field System of the same particles. Not modified.
        atoms : iterable of int
            The region.
        removeConstraints : bool
            Drop constraints between atoms of the region.
        interpolate : bool
            Add the context parameter ``lambda_interpolate``: 0 treats the region with the force field, 1 (default)
            with the model.
        **options
            See the constructor.

        Returns
        -------
        openmm.System

        Raises
        ------
        ConfigurationError
            If the region holds virtual sites or is empty, or a force cannot be split.
        GeometryError
            If the box is too small for the force field's cutoff.
        UnknownElementError, BackendError
            As for :meth:`createSystem`.
        """
        if topology.getNumAtoms() != system.getNumParticles():
            raise ConfigurationError(
                f"The topology has {topology.getNumAtoms()} atoms, the System {system.getNumParticles()} particles."
            )
        indices = checked_atoms(atoms, topology)
        merged = self.options.updated(options)
        mixed = embed(system, indices, removeConstraints, LAMBDA if interpolate else None, merged.forceGroup)
        periodic = system.usesPeriodicBoundaryConditions()
        mixed.addForce(self._force(topology, indices, periodic, merged, LAMBDA if interpolate else None))
        return mixed

    def _force(
        self,
        topology: app.Topology,
        atoms: list[int] | None,
        periodic: bool,
        options: ForceOptions,
        scale_parameter: str | None,
    ) -> openmm.Force:
        numbers = elements_of(topology, atoms)
        model = self._load(options)
        model.species_of(numbers, labels=atoms)
        return build_force(
            model.restrict(set(numbers)),
            numbers,
            atoms=atoms,
            periodic=periodic,
            options=options,
            scale_parameter=scale_parameter,
        )

    def _load(self, options: ForceOptions) -> SiteModel:
        key = (options.head, options.precision, options.charge, options.multiplicity)
        if key not in self._loaded:
            self._loaded[key] = load(
                self._source,
                head=options.head,
                precision=options.precision,
                charge=options.charge,
                multiplicity=options.multiplicity,
            )
        return self._loaded[key]
