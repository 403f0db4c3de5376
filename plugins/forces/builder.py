"""One builder that turns any site model into an OpenMM Force."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import openmm
import torch

from halberd.plugins.forces.backends import choose_backend
from halberd.plugins.forces.carrier import Carrier
from halberd.plugins.forces.module import FORCE_MODULES
from halberd.plugins.forces.options import HAL_TAU, ForceOptions
from halberd.plugins.forces.stored_modules import load_built_operators
from halberd.potentials.committees.bias import MeanEnergy, bias_module
from halberd.potentials.constants import EV_IN_KJ_PER_MOL
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.sites.site_model import Columns, SiteModel, dtype_of
from halberd.potentials.sites.structure_energy import StructureEnergy
from halberd.potentials.sites.torchscript import script, set_threads

# Systems read from XML may hold forces that call them.
load_built_operators()


def build_force(
    model: SiteModel,
    atomic_numbers: Sequence[int],
    *,
    atoms: Iterable[int] | None = None,
    periodic: bool = False,
    options: ForceOptions | None = None,
    reduction: torch.nn.Module | None = None,
    scale_parameter: str | None = None,
    scale: float = 1.0,
    name: str | None = None,
) -> openmm.Force:
    """Turn a site model into an OpenMM Force.

    Parameters
    ----------
    model : SiteModel
    atomic_numbers : sequence of int
        Elements of the atoms the model sees, in the order of ``atoms``.
    atoms : iterable of int, optional
        Their particle indices; all particles if omitted.
    periodic : bool
        Whether the force uses the Context's periodic box.
    options : ForceOptions, optional
        ``head``, ``charge`` and ``multiplicity`` are the loader's and not looked at.
    reduction : torch.nn.Module, optional
        Scriptable; turns the K total energies of a committee (eV) into one. The mean if omitted.
    scale_parameter : str, optional
        Name of a context parameter that multiplies the energy.
    scale : float
        Its default value.
    name : str, optional
        Name of the force; ``halberd: MODEL`` if omitted.

    Returns
    -------
    openmm.Force
        An ``openmmtorch.TorchForce`` or an ``openmm.PythonForce``.

    Raises
    ------
    UnknownElementError
        If the model does not know an element.
    BackendError
        If the backend or device is not usable here.
    """
    options = options or ForceOptions()
    backend = choose_backend(options.backend)
    if options.precision is not None:
        model = model.to(dtype_of(options.precision))
    set_threads(options.threads)
    species = model.species_of(atomic_numbers)
    index = None if atoms is None else torch.tensor(list(atoms), dtype=torch.int64)
    if index is not None and len(index) != len(species):
        raise ConfigurationError(f"{len(index)} atoms, but {len(species)} atomic numbers were given.")
    use: str = "nothing"
    parameters: dict[str, float] = {}
    if scale_parameter is not None:
        use, parameters = "scales", {scale_parameter: scale}
    if options.bias is not None:
        if scale_parameter is not None or reduction is not None:
            raise ConfigurationError("A force with a bias cannot be interpolated or reduced; leave out bias=.")
        use, parameters = "biases", {HAL_TAU: 0.0}
        reduction = bias_module(model, list(atomic_numbers), options.bias, options.bias_width)
    insists = options.device is not None and backend == "torchforce"
    module = FORCE_MODULES[periodic, use](
        StructureEnergy(model, species, float(options.skin), torch.get_num_threads(), one_gradient=True),
        index,
        reduction=reduction or MeanEnergy(model.columns is Columns.MEAN_AND_SIGMA),
        offset=_offset(model, atomic_numbers, options.energy),
        periodic=periodic,
        device_type=torch.device(options.device or "cpu").type if insists else "",
    )
    carrier = Carrier(
        backend,
        periodic,
        name or f"halberd: {model.name}",
        group=options.forceGroup,
        parameters=parameters,
        differentiated=() if options.bias is None else (HAL_TAU,),
        device=options.device or "cpu",
    )
    return carrier.carry(script(module))


def _offset(model: SiteModel, atomic_numbers: Sequence[int], energy: str) -> float:
    """Self-energies to add, kJ/mol."""
    return float(np.mean(model.self_energy(atomic_numbers))) * EV_IN_KJ_PER_MOL if energy == "total" else 0.0
