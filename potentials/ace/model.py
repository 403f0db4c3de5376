"""Linear ACE as a :class:`SiteModel`: fitted coefficients put into the evaluator."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from halberd.potentials.ace.basis import AceBasis
from halberd.potentials.ace.compiled_operator import ACE_OPERATOR
from halberd.potentials.ace.embedding import CompiledEmbeddedSites, EmbeddedSites, FinnisSinclair
from halberd.potentials.ace.radial import tabulate
from halberd.potentials.ace.repulsive_core import repulsive_core
from halberd.potentials.ace.sigma_sites import AceSigmaSites, CompiledAceSigmaSites
from halberd.potentials.ace.sites import AceSites, CompiledAceSites
from halberd.potentials.sites.site_model import Columns, SiteModel

#: Values of ``metadata["kind"]`` of models whose CPU evaluation has a compiled form.
LINEAR_ACE = "linear ACE"
ACE_WITH_SIGMA = "linear ACE with sigma"
PACE = "PACE"


def ace_site_model(
    basis: AceBasis,
    coefficients: NDArray[np.float64],
    *,
    e0s: ArrayLike | None = None,
    core_onsets: NDArray[np.float64] | None = None,
    core_strengths: NDArray[np.float64] | None = None,
    sigma_factor: NDArray[np.float64] | None = None,
    metadata: dict[str, Any] | None = None,
) -> SiteModel:
    """Build the evaluator of a linear ACE.

    Parameters
    ----------
    basis : AceBasis
    coefficients : array, shape (n_functions,) or (n_functions, K)
        A second axis makes a committee.
    e0s : array, shape (S,), eV, optional
    core_onsets, core_strengths : arrays, shape (S, S), optional
        Where the repulsive cores begin (angstrom), and factors on the ZBL repulsion. No core if omitted.
    sigma_factor : array, shape (n_functions, r), optional
        L of the covariance ``L L'`` of a single set of coefficients. The model then has two columns, the mean energy
        and one that sums to its exact standard deviation (:mod:`halberd.potentials.ace.sigma_sites`).
    metadata : dict, optional

    Returns
    -------
    SiteModel
        Double precision.
    """
    columns = coefficients[:, None] if coefficients.ndim == 1 else coefficients
    products, weights = basis.product_coefficients(columns)
    table = basis.table.clone()
    if core_onsets is not None:
        strengths = np.ones_like(core_onsets) if core_strengths is None else core_strengths
        elements = basis.settings.elements
        for a, za in enumerate(elements):
            for b, zb in enumerate(elements):
                core = tabulate(repulsive_core(za, zb, float(core_onsets[a, b])), basis.settings.r_max)
                table[a * basis.n_species + b, :, :, 0] = float(strengths[a, b]) * core[:, :, 0]
    reference = AceSites(
        table=table,
        spacing=basis.spacing,
        start=list(basis.layout.start),
        count=list(basis.layout.count),
        n_core=1 + basis.n_pair,
        many_range=basis.many_range,
        products=[torch.from_numpy(index) for index in products],
        weights=[torch.from_numpy(np.ascontiguousarray(weight.transpose(0, 2, 1))) for weight in weights],
        single=coefficients.ndim == 1,
    )
    facts = {"kind": LINEAR_ACE, "settings": basis.settings.to_dict(), **(metadata or {})}
    n_columns, meaning = None if coefficients.ndim == 1 else coefficients.shape[1], None
    module: torch.nn.Module = reference
    if sigma_factor is not None:
        module = AceSigmaSites(reference, basis.coupling_matrix(), sigma_factor)
        facts["kind"] = ACE_WITH_SIGMA
        n_columns, meaning = 2, Columns.MEAN_AND_SIGMA
    model = SiteModel(
        module,
        basis.settings.r_max,
        basis.settings.elements,
        e0s=e0s,
        n_columns=n_columns,
        columns=meaning,
        metadata=facts,
    )
    return with_compiled_sites(model)


def with_compiled_sites(model: SiteModel) -> SiteModel:
    """Let a linear ACE or PACE model be cut to elements, and use the compiled operator on CPUs if it can be had here.

    Other models are returned as they are.

    Compiles it if need be, which takes about 20 s once per machine and version of torch.
    """
    kinds = {LINEAR_ACE: CompiledAceSites, PACE: CompiledEmbeddedSites, ACE_WITH_SIGMA: CompiledAceSigmaSites}
    compiled = kinds.get(model.metadata.get("kind", ""))
    if compiled is CompiledEmbeddedSites and not hasattr(model.module, "embedding"):  # PACE that is linear
        compiled = CompiledAceSites
    if compiled is None:
        return model
    problem = ACE_OPERATOR.problem()
    if problem is None:
        model = model.replaced(compiled(model.module))
    else:
        ACE_OPERATOR.say_once(problem)
    if compiled is not CompiledAceSigmaSites:  # its covariance ties all elements together
        model.restriction = functools.partial(cut_to_elements, model)
    return model


def cut_to_elements(model: SiteModel, atomic_numbers: Sequence[int]) -> SiteModel:
    """Drop elements from a linear ACE or PACE model: products that need them, their radial functions and weights.

    Energies of structures without these elements stay the same to the bit.

    Parameters
    ----------
    model : SiteModel
    atomic_numbers : sequence of int
        Elements to keep, all known to the model.
    """
    keep = torch.tensor([model.atomic_numbers.index(z) for z in atomic_numbers])
    whole: Any = getattr(model.module, "portable", model.module)
    if hasattr(whole, "embedding"):
        rows = [getattr(whole.embedding, name)[keep] for name in FinnisSinclair.BUFFERS]
        module: torch.nn.Module = EmbeddedSites(_kept_sites(whole.sites, keep), FinnisSinclair(*rows))
    else:
        module = _kept_sites(whole, keep)
    return with_compiled_sites(model.replaced(module, atomic_numbers=atomic_numbers, e0s=model.e0s[keep.numpy()]))


def _kept_sites(sites: Any, keep: torch.Tensor) -> AceSites:
    new_number = torch.full((sites.n_species,), -1, dtype=torch.int64)
    new_number[keep] = torch.arange(len(keep))
    products, weights = [], []
    for order in range(1, sites.orders + 1):
        entry = getattr(sites, f"products{order}").to(torch.int64)
        species = new_number[entry // sites.size]
        possible = (species >= 0).all(dim=1)
        products.append((species * sites.size + entry % sites.size)[possible])
        weights.append(getattr(sites, f"weights{order}")[keep][:, :, possible])
    table = sites.table.unflatten(0, (sites.n_species, sites.n_species))[keep][:, keep].flatten(0, 1)
    return AceSites(
        *(table.contiguous(), sites.spacing, list(sites.start), list(sites.count), sites.n_core, sites.many_range),
        *(products, weights, sites.single),
    )
