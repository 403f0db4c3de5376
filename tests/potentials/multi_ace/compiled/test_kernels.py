"""CUDA kernels of message passing, compiled as C++ and run on a CPU, against the network in plain torch.

What this cannot see is the driver and the exchange of numbers within a warp; ``tests/gpu`` runs them on a GPU.
"""

from __future__ import annotations

import subprocess

import pytest
import torch

from halberd.potentials.multi_ace.building import build
from halberd.potentials.multi_ace.compiled.network import CompiledNetwork
from halberd.potentials.multi_ace.compiled.operators import MULTI_ACE_OPERATOR
from halberd.potentials.sites.compiled_operators import compiler
from halberd.potentials.sites.cuda_kernels import PRECISIONS, NotCompiledError, compiled, nvrtc
from tests.potentials.multi_ace.compiled.test_network import atoms_in_a_box, energies_and_gradient
from tests.potentials.multi_ace.test_family import SMALL, small

pytestmark = pytest.mark.skipif(
    MULTI_ACE_OPERATOR.problem() is not None, reason=f"no compiled operator: {MULTI_ACE_OPERATOR.problem()}"
)


def emulate(network, folder):
    """Let the operators run the kernels of a compiled network on the CPU."""
    precision = "double" if network.network.embedding.dtype == torch.float64 else "float"
    for key, source in network.for_gpus().items():
        file, library = folder / f"{key}.cpp", folder / f"{key}.so"
        file.write_text(source)
        command = [compiler(), "-std=c++17", "-O1", "-shared", "-fPIC", "-DHALBERD_EMULATED", "-DWARP=1"]
        subprocess.run([*command, f"-DPRECISION={precision}", str(file), "-o", str(library)], check=True)
        torch.ops.halberd.emulate_kernels(f"{key}-{precision}", str(library))


@pytest.mark.parametrize("name", [*SMALL, "density", "gates after products", "no inversion", "pairs", "four factors"])
def test_kernels_equal_the_network(name, tmp_path):
    species, edge_index, positions = atoms_in_a_box()
    network = build(small(name)).double()
    compiled = CompiledNetwork(network)
    expected = energies_and_gradient(network, species, edge_index, positions, torch.float64)
    on_cpu = energies_and_gradient(compiled, species, edge_index, positions, torch.float64)
    emulate(compiled, tmp_path)
    found = energies_and_gradient(compiled, species, edge_index, positions, torch.float64)
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).abs().max()) < 1e-9 * float(other.abs().max())
    assert not torch.equal(found[1], on_cpu[1])  # it was the kernels that ran


def test_cuda_compiles_them():
    """As CUDA, for a GPU that need not be here."""
    try:
        library = nvrtc()
    except NotCompiledError as error:
        pytest.skip(str(error))
    for source in CompiledNetwork(build(small("density")).float()).for_gpus().values():
        for precision in PRECISIONS:
            assert compiled(library, source, precision, (9, 0)).startswith(b"\x7fELF")
    with pytest.raises(NotCompiledError, match="error"):
        compiled(library, "nonsense", "float", (9, 0))
