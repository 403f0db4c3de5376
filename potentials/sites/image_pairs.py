"""A neighbour search of plain torch functions, for hosts that cannot load vesin: all pairs of atoms and images."""

import torch

from halberd.potentials.errors import ConfigurationError


class ImagePairs(torch.nn.Module):
    """All pairs closer than a cutoff, both directions, images included; no skin, memory grows with N squared.

    Parameters
    ----------
    cutoff : float
        Angstrom.

    Raises
    ------
    ConfigurationError
        If it is not positive.
    """

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        if not cutoff > 0:
            raise ConfigurationError(f"The cutoff must be positive, got {cutoff} angstrom.")
        self.cutoff = float(cutoff)

    def forward(
        self, positions: torch.Tensor, box: torch.Tensor, periodic: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """List the edges and their vectors.

        Parameters
        ----------
        positions : torch.Tensor, shape (N, 3)
            Angstrom; atoms may be outside the box.
        box : torch.Tensor, shape (3, 3)
            Box vectors as rows, angstrom; ignored along open directions.
        periodic : torch.Tensor, bool, shape (3,)

        Returns
        -------
        edge_index : torch.Tensor, int64, shape (2, E)
            Ordered by centre.
        edge_vectors : torch.Tensor, shape (E, 3)
            ``r_j - r_i`` with the image, differentiable with respect to positions and box.
        """
        n = positions.size(0)
        device = positions.device
        flags: list[bool] = periodic.tolist()
        points = positions.detach()
        cell = box.detach().clone()
        for k in range(3):
            if not flags[k]:  # any vector will do that is not in the plane of the others
                others = [cell[(k + 1) % 3], cell[(k + 2) % 3]]
                if not flags[(k + 1) % 3]:
                    others[0] = torch.eye(3, dtype=cell.dtype, device=device)[(k + 1) % 3]
                if not flags[(k + 2) % 3]:
                    others[1] = torch.eye(3, dtype=cell.dtype, device=device)[(k + 2) % 3]
                normal = torch.linalg.cross(others[0], others[1])
                cell[k] = normal / normal.norm()
        inverse = torch.linalg.inv(cell)
        # Rows of the inverse's transpose are normals of the faces, as long as one over the heights.
        reach: list[int] = torch.ceil(self.cutoff * torch.linalg.vector_norm(inverse, dim=0)).to(torch.int64).tolist()
        fractional = points @ inverse
        wrap = -torch.floor(fractional).to(torch.int64)
        ranges: list[torch.Tensor] = []
        for k in range(3):
            if flags[k]:
                ranges.append(torch.arange(-reach[k], reach[k] + 1, device=device))
            else:
                wrap[:, k] = 0
                ranges.append(torch.zeros(1, dtype=torch.int64, device=device))
        shifts = torch.cartesian_prod(ranges[0], ranges[1], ranges[2])
        wrapped = points + wrap.to(cell.dtype) @ cell
        centres: list[torch.Tensor] = []
        neighbours: list[torch.Tensor] = []
        images: list[torch.Tensor] = []
        for shift in shifts:
            offset = shift.to(cell.dtype) @ cell
            square = (wrapped.unsqueeze(0) + offset - wrapped.unsqueeze(1)).square().sum(2)
            near = square < self.cutoff * self.cutoff
            if bool((shift == 0).all()):
                near = near & ~torch.eye(n, dtype=torch.bool, device=device)
            found = torch.nonzero(near)
            centres.append(found[:, 0])
            neighbours.append(found[:, 1])
            images.append(shift.unsqueeze(0).expand(found.size(0), 3))
        centre, neighbour, image = torch.cat(centres), torch.cat(neighbours), torch.cat(images)
        order = torch.argsort(centre, stable=True)
        centre, neighbour, image = centre[order], neighbour[order], image[order]
        whole = image + wrap.index_select(0, neighbour) - wrap.index_select(0, centre)
        vectors = positions.index_select(0, neighbour) - positions.index_select(0, centre)
        moving = torch.tensor(flags, device=device).to(box.dtype).unsqueeze(1) * box
        vectors = vectors + whole.to(box.dtype) @ moving
        return torch.stack([centre, neighbour]), vectors
