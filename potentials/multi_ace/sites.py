"""Networks of the family by the contract of site models: recorded for TorchScript, and compiled where that can be done.

What comes out is one of three: energies, energies with the features of the last layer, or the scalars of the first.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch

from halberd.potentials.errors import ModelError
from halberd.potentials.multi_ace.blueprint import bytes_of, network_of
from halberd.potentials.multi_ace.compiled.network import CompiledNetwork
from halberd.potentials.multi_ace.compiled.operators import MULTI_ACE_OPERATOR
from halberd.potentials.multi_ace.network import MultiAce
from halberd.potentials.sites.cuda_kernels import make_kernels


class Energies(torch.nn.Module):
    """Site energies, shape (N,).

    Parameters
    ----------
    evaluator : MultiAce or CompiledNetwork
    """

    def __init__(self, evaluator: Any) -> None:
        super().__init__()
        self.evaluator = evaluator

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract."""
        collected = self.evaluator.features(species, edge_index, edge_vectors)
        energies: torch.Tensor = self.evaluator.whole.energies_of(collected, species, edge_index, edge_vectors)
        return energies


class LastLayerFeatures(torch.nn.Module):
    """Site energies, and what the last maps of all read-outs are linear in, shape (N, 1 + D)."""

    def __init__(self, evaluator: Any) -> None:
        super().__init__()
        self.evaluator = evaluator

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract."""
        collected = self.evaluator.features(species, edge_index, edge_vectors)
        network = self.evaluator.whole
        energies = network.energies_of(collected, species, edge_index, edge_vectors)
        return torch.cat([energies.unsqueeze(1), *network.read_features(collected)], dim=1)


class FirstLayerScalars(torch.nn.Module):
    """Scalar features after the first layer, shape (N, D); pairs closer than ``closest`` look as if they were there."""

    def __init__(self, evaluator: Any, closest: float) -> None:
        super().__init__()
        self.evaluator = evaluator
        self.closest = closest

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract, as a descriptor."""
        # Two atoms at one place have no direction, but are to have finite features.
        square = edge_vectors.square().sum(1, keepdim=True)
        moved = edge_vectors + 1e-9 * (square < 1e-20).to(edge_vectors.dtype)
        directions = moved / torch.linalg.vector_norm(moved, dim=1, keepdim=True)
        lengths = torch.sqrt(square + 1e-12).clamp(min=self.closest)
        (first,) = self.evaluator.features(species, edge_index, directions * lengths, 1)
        scalars: torch.Tensor = self.evaluator.whole.scalars_of(first, 0)
        return scalars


#: What a network may give, by the name that files know it by.
ENERGIES, LAST_LAYER, FIRST_LAYER = "energies", "last layer", "first layer"


def _outputs(evaluator: Any, what: str, closest: float) -> torch.nn.Module:
    if what == FIRST_LAYER:
        return FirstLayerScalars(evaluator, closest)
    return Energies(evaluator) if what == ENERGIES else LastLayerFeatures(evaluator)


class MultiAceSites(torch.nn.Module):
    """A network, recorded for TorchScript.

    Parameters
    ----------
    network : MultiAce
    what : {'energies', 'last layer', 'first layer'}
    closest : float
        Of the first layer: distances below are raised to it, angstrom.

    Attributes
    ----------
    blueprint : tensor, uint8
        The network itself, for whoever reads a file; see :mod:`halberd.potentials.multi_ace.blueprint`.
    """

    def __init__(self, network: Any, what: str = ENERGIES, closest: float = 0.0) -> None:
        super().__init__()
        self.what = what
        self.closest = float(closest)
        self.outputs = _outputs(network, what, self.closest)
        self.register_buffer("blueprint", torch.zeros(0, dtype=torch.uint8))

    @torch.jit.unused
    def before_scripting(self) -> None:
        """Record the network's operations."""
        network = network_in(self)
        if network is not None and not isinstance(self.outputs, torch.jit.ScriptModule):
            self.blueprint = bytes_of(network)
            self.outputs = recorded(self.outputs, network)

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract."""
        return self.outputs(species, edge_index, edge_vectors)


class CompiledMultiAceSites(torch.nn.Module):
    """As :class:`MultiAceSites`, with the compiled operators, on GPUs with kernels, once it is scripted.

    Parameters
    ----------
    portable : MultiAceSites
        Scripted or not; it is what model files hold.
    """

    def __init__(self, portable: torch.nn.Module) -> None:
        super().__init__()
        self.portable = portable
        self.compiled: torch.nn.Module | None = None
        self.on_gpu: torch.nn.Module | None = None

    @torch.jit.unused
    def before_scripting(self) -> None:
        """Record the network's operations, and compile it if that can be done here (a minute, once per machine)."""
        portable: Any = self.portable
        network = network_in(portable)
        assert network is not None
        if isinstance(portable, MultiAceSites):
            portable.before_scripting()
        problem = MULTI_ACE_OPERATOR.problem()
        try:
            if problem is None:
                evaluator = CompiledNetwork(network, 1 if portable.what == FIRST_LAYER else None)
                outputs = _outputs(evaluator, portable.what, portable.closest)
                self.compiled = recorded(outputs, network)
                self.on_gpu = on_kernels(evaluator, lambda again: _outputs(again, portable.what, portable.closest))
        except ModelError as error:
            problem = str(error)
        if problem is not None:
            MULTI_ACE_OPERATOR.say_once(problem)

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract."""
        if edge_vectors.is_cuda:
            if self.on_gpu is not None:
                return self.on_gpu(species, edge_index, edge_vectors)
        elif self.compiled is not None:
            return self.compiled(species, edge_index, edge_vectors)
        return self.portable(species, edge_index, edge_vectors)


def network_in(module: Any) -> MultiAce | None:
    """The network of a module of this file, scripted or not, or read from a file; ``None`` if it has none."""
    portable = getattr(module, "portable", module)
    network = getattr(getattr(portable, "outputs", None), "evaluator", None)
    if isinstance(network, MultiAce):
        return network
    blueprint = getattr(portable, "blueprint", None)
    return network_of(blueprint) if isinstance(blueprint, torch.Tensor) and blueprint.numel() else None


def networks_in(module: Any) -> list[tuple[MultiAce, list[int]]] | None:
    """The networks of a committee's module, with the number that each gives the committee's species.

    ``None`` if a member is no network of the family, or the module no committee.
    """
    portable = getattr(module, "portable", module)
    members, maps = getattr(portable, "members", None), getattr(portable, "species_maps", None)
    if not isinstance(members, torch.nn.Module) or not isinstance(maps, torch.Tensor):
        return None
    networks = [network_in(member) for _, member in members.named_children()]
    found = [(network, each) for network, each in zip(networks, maps.tolist(), strict=True) if network is not None]
    return found if len(found) == len(networks) else None


def on_kernels(
    evaluator: CompiledNetwork, outputs: Callable[[CompiledNetwork], torch.nn.Module]
) -> torch.nn.Module | None:
    """A recording that calls kernels, compiled for the GPU of this machine; ``None`` if it has none, or they fail.

    Parameters
    ----------
    evaluator : CompiledNetwork
    outputs : callable
        What is recorded, given a network on kernels.
    """
    if not torch.cuda.is_available():
        return None
    evaluator = copy.deepcopy(evaluator)
    try:
        problem = make_kernels(evaluator.for_gpus())
    except ModelError as error:
        problem = str(error)
    if problem is not None:
        MULTI_ACE_OPERATOR.say_once(problem, "GPUs")
        return None
    return recorded(outputs(evaluator), evaluator.network)


def recorded(module: torch.nn.Module, network: MultiAce) -> torch.nn.Module:
    """A module as TorchScript of the operations that it does; none depends on values, so any graph will do."""
    like = network.embedding
    vectors = torch.tensor([[1.0, 0.3, 0.2], [-1.0, -0.3, -0.2]], dtype=like.dtype, device=like.device)
    edge_index = torch.tensor([[0, 1], [1, 0]], device=like.device)
    species = torch.zeros(2, dtype=torch.int64, device=like.device)
    with torch.no_grad():
        recorded: torch.nn.Module = torch.jit.trace(module, (species, edge_index, vectors), check_trace=False)
    return recorded
