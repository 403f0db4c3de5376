"""Real spherical harmonics of edge vectors: of torch functions alone, or sphericart's where it can run.

sphericart's CUDA part is linked against CUDA 12 and cannot be loaded beside a torch of CUDA 13.
"""

import math
from typing import Any

import sphericart.torch
import torch


class SphericalHarmonics(torch.nn.Module):
    """Orthonormal real spherical harmonics of the directions of vectors; degree 1 is (y, z, x).

    Parameters
    ----------
    l_max : int
        Highest degree.
    """

    rise: torch.Tensor
    fall: torch.Tensor
    order: torch.Tensor

    def __init__(self, l_max: int) -> None:
        super().__init__()
        self.l_max = int(l_max)
        # Normalised associated Legendre functions, without the Condon-Shortley phase and over sin^m:
        # P_lm = rise_lm z P_(l-1)m - fall_lm P_(l-2)m, P_mm a constant (Press et al., Numerical Recipes, 3rd ed., 6.7).
        rise, fall, self.top = [], [], [math.sqrt(1 / (4 * math.pi))]
        for degree in range(1, self.l_max + 1):
            up = [math.sqrt((4 * degree**2 - 1) / (degree**2 - m**2)) for m in range(degree)]
            rise += up
            fall += [
                up[m] * math.sqrt(((degree - 1) ** 2 - m**2) / (4 * (degree - 1) ** 2 - 1)) for m in range(degree - 1)
            ]
            self.top.append(self.top[-1] * math.sqrt((2 * degree + 1) / (2 * degree)))
        order = [abs(m) for degree in range(self.l_max + 1) for m in range(-degree, degree + 1)]
        self.factors = (rise, fall)
        self.register_buffer("rise", torch.tensor(rise, dtype=torch.float64))
        self.register_buffer("fall", torch.tensor(fall, dtype=torch.float64))
        self.register_buffer("order", torch.tensor(order))

    @torch.jit.unused
    def _apply(self, *arguments: Any) -> Any:
        """Keep factors in double precision: what was single once would stay rounded."""
        torch.nn.Module._apply(self, *arguments)
        if isinstance(self, torch.jit.ScriptModule):
            return self  # the scripted module, which has borrowed this method, but not the factors
        rise, fall = self.factors
        self.rise = torch.tensor(rise, dtype=torch.float64, device=self.order.device)
        self.fall = torch.tensor(fall, dtype=torch.float64, device=self.order.device)
        return self

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Harmonics, shape (E, (l_max + 1)^2), of vectors, shape (E, 3)."""
        return self.by_recursion(vectors)

    def by_recursion(self, vectors: torch.Tensor) -> torch.Tensor:
        """The harmonics of torch functions."""
        x, y, z = (vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)).unbind(1)
        # sin^m cos(m phi) and sin^m sin(m phi), times the square root of 2 for m > 0.
        cosines, sines = [math.sqrt(2.0) * x], [math.sqrt(2.0) * y]
        for _ in range(1, self.l_max):
            c, s = cosines[-1], sines[-1]
            cosines.append(x * c - y * s)
            sines.append(x * s + y * c)
        one = torch.ones_like(x)
        columns: list[torch.Tensor] = []
        for k in range(self.l_max):
            columns.append(sines[self.l_max - 1 - k])
        columns.append(one)
        for k in range(self.l_max):
            columns.append(cosines[k])
        waves = torch.stack(columns, dim=1)
        z = z.unsqueeze(1)
        rise, fall = self.rise.to(vectors.dtype), self.fall.to(vectors.dtype)
        before = torch.zeros_like(z)
        legendre = self.top[0] * one.unsqueeze(1)
        parts: list[torch.Tensor] = []
        for degree in range(self.l_max + 1):
            if degree > 0:
                first = degree * (degree - 1) // 2
                now = z * legendre * rise.narrow(0, first, degree)
                if degree > 1:
                    first = (degree - 1) * (degree - 2) // 2
                    less = before * fall.narrow(0, first, degree - 1)
                    now = now - torch.nn.functional.pad(less, [0, 1])
                before = legendre
                legendre = torch.nn.functional.pad(now, [0, 1], value=self.top[degree])
            window = self.order.narrow(0, degree * degree, 2 * degree + 1)
            wave = waves.narrow(1, self.l_max - degree, 2 * degree + 1)
            parts.append(legendre.index_select(1, window) * wave)
        return torch.cat(parts, dim=1)


class FastSphericalHarmonics(SphericalHarmonics):
    """The same, by sphericart for tensors on a CPU."""

    def __init__(self, l_max: int) -> None:
        super().__init__(l_max)
        self.compiled = sphericart.torch.SphericalHarmonics(self.l_max)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Harmonics, shape (E, (l_max + 1)^2), of vectors, shape (E, 3)."""
        if vectors.is_cuda:
            return self.by_recursion(vectors)
        return self.compiled(vectors)
