"""Message passing of MACE without the edge-sized intermediates.

The convolution of a MACE layer is, for centre i, channel c and output component (l3, m3) of one path,

    A_i,c,m3 = sum_j  R_c(r_ij) sum_{m1,m2} C^{l3 m3}_{l1 m1, l2 m2} h_j,c,m1 Y_m2(r_ij)

(Batatia et al., MACE, arXiv 2206.07697, Eq. 8). mace-torch evaluates the summand for every edge, an array of
E x channels x 9 or 16 numbers per layer that is written, scattered and gathered again in the backward pass; on a
CPU that traffic is half of a force call. Here the neighbours of an atom form one padded row, Y is coupled first
(it has no channel index), and the sum over j becomes a batched matrix product, so that only E x channels x paths
numbers are ever written. (On a GPU, where memory is fast and the length of the longest row would have to be asked for
at every layer, the summands are formed and added up as usual.)

The module fits mace-torch's own ``conv_fusion`` hook. Numbers equal the original's to rounding.
"""

from typing import Any

import torch


class FusedConvolution(torch.nn.Module):
    """Channel-wise tensor product of neighbour features and harmonics, summed over neighbours.

    Parameters
    ----------
    paths : list of (tuple of int)
        For each path, in the order of the output blocks: its block in the features, that block's dimension
        ``2 l1 + 1``, number of channels, its block in the harmonics.
    feature_sizes, harmonic_sizes : list of int
        Lengths of the blocks.
    couplings : list of torch.Tensor, shape (2 l1 + 1, 2 l2 + 1, 2 l3 + 1)
        Coupling coefficients times the path's normalisation.

    See Also
    --------
    fused_convolution : builds one from an e3nn tensor product.
    """

    couplings: torch.Tensor

    def __init__(
        self,
        paths: list[tuple[int, int, int, int]],
        feature_sizes: list[int],
        harmonic_sizes: list[int],
        couplings: list[torch.Tensor],
    ) -> None:
        super().__init__()
        self.paths = paths
        self.feature_sizes = feature_sizes
        self.harmonic_sizes = harmonic_sizes
        self.rows = True
        self.weight_sizes = [path[2] for path in paths]
        self.weight_numel = sum(path[2] for path in paths)
        self.coupling_dims: list[tuple[int, int, int]] = [tuple(c.shape) for c in couplings]  # type: ignore[misc]
        # (2 l2 + 1) x ((2 l1 + 1) (2 l3 + 1)), so that harmonics couple by one small matrix product. One flat buffer,
        # since TorchScript cannot index a list of buffers.
        flat = [c.permute(1, 0, 2).reshape(-1) for c in couplings]
        self.register_buffer("couplings", torch.cat(flat))

    def places(self, receiver: torch.Tensor, n_atoms: int) -> tuple[torch.Tensor, int]:
        """Place of every edge among the padded rows of its receiver, and the length of a row."""
        counts = torch.bincount(receiver, minlength=n_atoms)
        width = int(counts.max()) if receiver.shape[0] > 0 else 1
        starts = torch.cumsum(counts, 0) - counts
        rank = torch.arange(receiver.shape[0], device=receiver.device) - starts.index_select(0, receiver)
        return receiver * width + rank, width

    def forward(
        self,
        node_feats: torch.Tensor,
        edge_attrs: torch.Tensor,
        tp_weights: torch.Tensor,
        edge_index: torch.Tensor,
    ) -> torch.Tensor:
        """Messages, shape (N, sum of channels x (2 l3 + 1)), in mace-torch's channel-major layout.

        Parameters
        ----------
        node_feats : torch.Tensor, shape (N, features)
        edge_attrs : torch.Tensor, shape (E, harmonics)
        tp_weights : torch.Tensor, shape (E, paths x channels)
            Radial weights R_c.
        edge_index : torch.Tensor, int64, shape (2, E)
            Sender (neighbour) and receiver (centre); receivers in ascending order.
        """
        n_atoms = node_feats.shape[0]
        sender = edge_index[0]
        receiver = edge_index[1]
        n_edges = receiver.shape[0]
        rows = self.rows and not node_feats.is_cuda
        slot, width = self.places(receiver, n_atoms) if rows else (receiver, 1)

        # Split, not sliced: the gradient of a slice is an array of zeros as large as the whole, per path.
        radial_blocks = torch.split(tp_weights, self.weight_sizes, dim=1)
        feature_blocks = torch.split(node_feats, self.feature_sizes, dim=1)
        harmonic_blocks = torch.split(edge_attrs, self.harmonic_sizes, dim=1)
        blocks: list[torch.Tensor] = []
        coupling_offset = 0
        for index, path in enumerate(self.paths):
            block1, dim1, channels, block2 = path
            _, dim2, dim3 = self.coupling_dims[index]
            size = dim1 * dim2 * dim3
            coupling = self.couplings[coupling_offset : coupling_offset + size].view(dim2, dim1 * dim3)
            coupling_offset += size
            radial = radial_blocks[index]
            coupled = torch.matmul(harmonic_blocks[block2], coupling)  # (E, dim1 * dim3)
            features = feature_blocks[block1]
            if dim1 == 1:
                weighted = radial * features.index_select(0, sender)  # (E, channels)
            else:
                features = features.view(n_atoms, channels, dim1).transpose(1, 2).contiguous()
                neighbours = features.view(n_atoms, dim1 * channels).index_select(0, sender)
                weighted = (radial.unsqueeze(1) * neighbours.view(n_edges, dim1, channels)).view(
                    n_edges, dim1 * channels
                )
            if rows:
                padded_x = torch.zeros(
                    (n_atoms * width, dim1 * channels), dtype=weighted.dtype, device=weighted.device
                ).index_copy(0, slot, weighted)
                padded_y = torch.zeros(
                    (n_atoms * width, dim1 * dim3), dtype=coupled.dtype, device=coupled.device
                ).index_copy(0, slot, coupled)
                message = torch.bmm(
                    padded_x.view(n_atoms, width * dim1, channels).transpose(1, 2),
                    padded_y.view(n_atoms, width * dim1, dim3),
                )  # (N, channels, dim3)
            else:
                summands = torch.bmm(
                    weighted.view(n_edges, dim1, channels).transpose(1, 2), coupled.view(n_edges, dim1, dim3)
                )
                message = torch.zeros(
                    (n_atoms, channels, dim3), dtype=summands.dtype, device=summands.device
                ).index_add(0, receiver, summands)
            blocks.append(message.reshape(n_atoms, channels * dim3))
        return torch.cat(blocks, dim=1)


def fused_convolution(tensor_product: Any) -> FusedConvolution | None:
    """Build the fused form of an e3nn ``TensorProduct`` as mace-torch uses it.

    Parameters
    ----------
    tensor_product : e3nn.o3.TensorProduct
        With instructions of mode ``uvu``, one set of harmonics, and one output block per instruction.

    Returns
    -------
    FusedConvolution or None
        ``None`` if the product is not of that form; the original then serves.
    """
    from e3nn import o3

    irreps_in1, irreps_in2, irreps_out = (
        tensor_product.irreps_in1,
        tensor_product.irreps_in2,
        tensor_product.irreps_out,
    )
    instructions = list(tensor_product.instructions)
    if [instruction.i_out for instruction in instructions] != list(range(len(irreps_out))):
        return None
    compiled = getattr(tensor_product, "_compiled_main_left_right", tensor_product)
    paths: list[tuple[int, int, int, int]] = []
    couplings = []
    for instruction in instructions:
        first = irreps_in1[instruction.i_in1]
        second = irreps_in2[instruction.i_in2]
        out = irreps_out[instruction.i_out]
        if instruction.connection_mode != "uvu" or not instruction.has_weight:
            return None
        if second.mul != 1 or first.mul != out.mul:
            return None
        # The product's own coefficients where it keeps any: a model trained in single precision rounds them.
        wigner = getattr(compiled, f"_w3j_{first.ir.l}_{second.ir.l}_{out.ir.l}", None)
        if wigner is None:
            wigner = o3.wigner_3j(first.ir.l, second.ir.l, out.ir.l, dtype=torch.float64)
        paths.append((instruction.i_in1, first.ir.dim, first.mul, instruction.i_in2))
        couplings.append(wigner.detach().to("cpu", torch.float64) * instruction.path_weight)
    dtype = next((b.dtype for b in tensor_product.buffers() if b.is_floating_point()), torch.get_default_dtype())
    return FusedConvolution(
        paths,
        [block.dim for block in irreps_in1],
        [block.dim for block in irreps_in2],
        [coupling.to(dtype) for coupling in couplings],
    )
