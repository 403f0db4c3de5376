"""The similarity kernel of SiMGen: how much an atom looks like one of many reference atoms.

With chi the descriptor of an atom, chi_j that of reference atom j, l2 the mean square norm of the references, s_z a
width of the atom's element, w_j a weight of the reference and m(sigma) the inverse square of the kernel's width at
noise level sigma ::

    log k_i   = ln sum_j w_j exp(-m(sigma) |chi_i - chi_j|^2 / (2 l2 s_z))    direct: atom i resembles some reference
    log k_j   = ln sum_i exp(-m(sigma) |chi_i - chi_j|^2 / (2 l2 s_z))        coverage: reference j is represented
    E_direct  = -sum_i log k_i ,     E_coverage = -sum_j log k_j

Both are reduced energies, without a unit; their negative gradient with respect to positions is the score that drives
generation. Neither is divided by the number of references: that would only shift it by a constant.

The gradient is formed together with the value, in blocks, so that memory grows with the number of atoms times the size
of a block and never with the number of references times that of features. (It works on ``.data``: freezing a module,
as TorchForce does, drops ``detach``.) Second derivatives are therefore not there.

References
----------
Elijosius et al.: Zero shot molecular generation via similarity kernels, Nat. Commun. 16 (2025), arXiv 2402.08708; the
width as a function of the noise is that of the authors' code.
"""

from collections.abc import Mapping, Sequence

import torch

from halberd.potentials.errors import ConfigurationError
from halberd.potentials.sites.elements import atomic_number_of

#: Numbers of a distance block, atoms times references.
BLOCK = 1 << 20


class SimilarityKernel(torch.nn.Module):
    """Kernel sums against a set of reference environments.

    Parameters
    ----------
    references : torch.Tensor, shape (M, D)
        Descriptors of the reference atoms.
    atomic_numbers : sequence of int
        What species 0, 1, ... stand for.
    widths : mapping, optional
        Element (symbol or atomic number) -> width s_z, default 1; divides the squared distance.
    inverse_width : float, optional
        A constant m in place of the one that depends on sigma.
    weights : torch.Tensor, shape (M,), optional
        Positive weights w_j of the references, 1 if omitted.

    Raises
    ------
    ConfigurationError
        If there is no reference, they are not finite, or a width or weight is not positive.
    """

    references: torch.Tensor
    log_weights: torch.Tensor
    widths: torch.Tensor

    def __init__(
        self,
        references: torch.Tensor,
        atomic_numbers: Sequence[int],
        widths: Mapping[str | int, float] | None = None,
        inverse_width: float | None = None,
        weights: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        if references.dim() != 2 or not len(references):
            raise ConfigurationError(f"References must have shape (M, D) with M > 0, not {tuple(references.shape)}.")
        if not bool(torch.isfinite(references).all()):
            raise ConfigurationError("Descriptors of the references are not finite; check their geometries.")
        if inverse_width is not None and not inverse_width > 0:
            raise ConfigurationError(f"inverse_width is {inverse_width}; it must be positive.")
        if weights is not None and (weights.shape != references.shape[:1] or not bool((weights > 0).all())):
            raise ConfigurationError(f"weights must be positive, one for each of {len(references)} references.")
        self.register_buffer("references", references.detach().clone())
        logarithms = torch.zeros_like(references[:, 0]) if weights is None else torch.log(weights).to(references)
        self.register_buffer("log_weights", logarithms)
        factors = torch.ones(len(atomic_numbers), dtype=references.dtype)
        numbers = list(atomic_numbers)
        for element, width in (widths or {}).items():
            if not width > 0:
                raise ConfigurationError(f"The kernel width of {element} is {width}; it must be positive.")
            if atomic_number_of(element) in numbers:
                factors[numbers.index(atomic_number_of(element))] = float(width)
        self.register_buffer("widths", factors)
        #: Mean square norm of the references.
        self.scale = float(references.square().sum(1).mean())
        self.constant = 0.0 if inverse_width is None else float(inverse_width)
        self.block = BLOCK

    def inverse_width(self, sigma: torch.Tensor) -> torch.Tensor:
        """m(sigma): 120 without noise, 53 at 1 angstrom, 1 from 10 angstrom on."""
        if self.constant > 0:
            return torch.full_like(sigma, self.constant)
        return 119.0 * (1.0 - (sigma.clamp(0.0, 10.0) / 10.0) ** 0.25) + 1.0

    def direct(self, features: torch.Tensor, species: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Log density of every atom.

        Parameters
        ----------
        features : torch.Tensor, shape (N, D)
        species : torch.Tensor, int64, shape (N,)
        sigma : torch.Tensor, shape ()
            Noise level, angstrom.

        Returns
        -------
        torch.Tensor, shape (N,)
            Differentiable once with respect to the features.
        """
        points = features.data
        factor = self.inverse_width(sigma.detach()).to(points.dtype) / (
            self.scale * self.widths.index_select(0, species)
        )
        # Exponents up to what is the same for all references of an atom: one product of matrices.
        left = torch.cat([points * factor.unsqueeze(1), factor.unsqueeze(1), torch.ones_like(points[:, :1])], 1)
        square_norms = self.references.square().sum(1, keepdim=True)
        right = torch.cat([self.references, -0.5 * square_norms, self.log_weights.unsqueeze(1)], 1).t()
        constant = -0.5 * factor * points.square().sum(1)
        rows = max(1, self.block // self.references.shape[0])
        values, gradients = [], []
        for start in range(0, points.shape[0], rows):
            exponents = torch.matmul(left[start : start + rows], right)
            peak = exponents.amax(1, keepdim=True)
            weights = exponents.sub_(peak).exp_()
            sums = weights.sum(1, keepdim=True)
            values.append((peak + torch.log(sums)).squeeze(1) + constant[start : start + rows])
            pull = torch.matmul(weights, self.references) / sums - points[start : start + rows]
            gradients.append(factor[start : start + rows].unsqueeze(1) * pull)
        return attached(torch.cat(values), features, torch.cat(gradients))

    def coverage(
        self, features: torch.Tensor, species: torch.Tensor, sigma: torch.Tensor, owner: torch.Tensor, count: int
    ) -> torch.Tensor:
        """Summed log density of the references in every molecule.

        Parameters
        ----------
        features, species, sigma
            As in :meth:`direct`.
        owner : torch.Tensor, int64, shape (N,)
            Molecule of each atom, 0 to ``count - 1``; none may be empty.
        count : int

        Returns
        -------
        torch.Tensor, shape (N,)
            Every atom's share, chosen by its weight in each reference; the shares of a molecule add up to
            ``sum_j log k_j``. Differentiable once with respect to the features, as a sum over a molecule: the
            gradient of single shares is not.
        """
        points = features.data
        factor = self.inverse_width(sigma.detach()).to(points.dtype) / (
            self.scale * self.widths.index_select(0, species)
        )
        columns = max(1, self.block // max(points.shape[0], 1))
        shares = torch.zeros_like(points[:, 0])
        gradient = torch.zeros_like(points)
        for start in range(0, self.references.shape[0], columns):
            some = self.references[start : start + columns]
            exponents = -0.5 * factor.unsqueeze(1) * self.square_distances(points, some)
            index = owner.unsqueeze(1).expand_as(exponents)
            peak = torch.full([count, some.shape[0]], -float("inf"), dtype=points.dtype, device=points.device)
            peak = peak.scatter_reduce(0, index, exponents, "amax")
            sums = torch.zeros_like(peak).scatter_add(0, index, torch.exp(exponents - peak.gather(0, index)))
            log_density = (peak + torch.log(sums)).gather(0, index)
            weights = torch.exp(exponents - log_density)
            shares = shares + (weights * log_density).sum(1)
            gradient = gradient + torch.matmul(weights, some) - weights.sum(1, keepdim=True) * points
        return attached(shares, features, factor.unsqueeze(1) * gradient)

    def vote(
        self, features: torch.Tensor, species: torch.Tensor, labels: torch.Tensor, count: int, inverse_width: float
    ) -> torch.Tensor:
        """Logarithm of the share of the kernel sum that comes from the references with each label.

        Parameters
        ----------
        features, species
            As in :meth:`direct`.
        labels : torch.Tensor, int64, shape (M,)
            A class of every reference, 0 to ``count - 1``; such as its number of hydrogens.
        count : int
        inverse_width : float
            m of this vote; sharper than for generation, since positions are known.

        Returns
        -------
        torch.Tensor, shape (N, count)
        """
        factor = inverse_width / (self.scale * self.widths.index_select(0, species))
        rows = max(1, self.block // self.references.shape[0])
        results = []
        for start in range(0, features.shape[0], rows):
            strength = factor[start : start + rows].unsqueeze(1)
            exponents = -0.5 * strength * self.square_distances(features[start : start + rows], self.references)
            classes = [
                torch.logsumexp(exponents.masked_fill((labels != label).unsqueeze(0), -1e9), 1)
                for label in range(count)
            ]
            results.append(torch.log_softmax(torch.stack(classes, 1), 1))
        return torch.cat(results)

    def square_distances(self, points: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Squared distances, shape (N, M), without a copy of all differences."""
        norms = points.square().sum(1, keepdim=True) + others.square().sum(1).unsqueeze(0)
        return torch.addmm(norms, points, others.t(), alpha=-2.0).clamp(min=0.0)


def attached(values: torch.Tensor, features: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Known values whose known gradient with respect to the features autograd will find."""
    return values + ((features - features.data) * gradient).sum(1)
