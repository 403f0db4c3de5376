"""The fused convolution against e3nn's tensor product and a scatter."""

from __future__ import annotations

import pytest
import torch
from mace.modules.irreps_tools import tp_out_irreps_with_instructions

from halberd.potentials.mace.fused_convolution import fused_convolution


def product(features: str, harmonics: str, target: str):
    from e3nn import o3

    irreps1, irreps2 = o3.Irreps(features), o3.Irreps(harmonics)
    out, instructions = tp_out_irreps_with_instructions(irreps1, irreps2, o3.Irreps(target))
    torch.set_default_dtype(torch.float64)
    try:
        return o3.TensorProduct(
            irreps1, irreps2, out, instructions=instructions, shared_weights=False, internal_weights=False
        )
    finally:
        torch.set_default_dtype(torch.float32)


CASES = {
    "scalars": ("7x0e", "1x0e+1x1o+1x2e", "7x0e+7x1o+7x2e"),
    "vectors": ("4x0e+4x1o", "1x0e+1x1o+1x2e+1x3o", "4x0e+4x1o+4x2e+4x3o"),
    "up to l = 2": ("3x0e+3x1o+3x2e", "1x0e+1x1o+1x2e+1x3o", "3x0e+3x1o+3x2e+3x3o"),
}


@pytest.mark.parametrize("rows", [True, False], ids=["rows", "as on a GPU"])
@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("n_edges", [0, 1, 40])
def test_equals_e3nn(case, n_edges, rows):
    reference = product(*CASES[case])
    fused = fused_convolution(reference)
    fused.rows = rows
    scripted = torch.jit.script(fused)
    generator = torch.Generator().manual_seed(3)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)

    n_atoms = 6
    receiver = torch.randint(0, n_atoms - 1, (n_edges,), generator=generator).sort().values  # the last has no edge
    sender = torch.randint(0, n_atoms, (n_edges,), generator=generator)
    features, harmonics = random(n_atoms, reference.irreps_in1.dim), random(n_edges, reference.irreps_in2.dim)
    weights = random(n_edges, reference.weight_numel)
    assert fused.weight_numel == reference.weight_numel
    messages = reference(features[sender], harmonics, weights)
    expected = torch.zeros((n_atoms, messages.shape[1]), dtype=torch.float64).index_add(0, receiver, messages)
    found = scripted(features, harmonics, weights, torch.stack([sender, receiver]))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    if n_edges == 0:
        return
    direction = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    inputs = (features, harmonics, weights)
    for ours, theirs in zip(
        torch.autograd.grad((found * direction).sum(), inputs),
        torch.autograd.grad((expected * direction).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_other_products_are_left_to_e3nn():
    from e3nn import o3

    assert fused_convolution(o3.FullyConnectedTensorProduct("2x0e", "1x0e+1x1o", "2x0e+2x1o")) is None
