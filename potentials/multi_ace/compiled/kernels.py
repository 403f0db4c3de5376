"""CUDA source of one layer: its paths and its products written out, a thread per atom and channel.

Every sum belongs to one thread, or to one group of threads that adds in a fixed order, so that the same edges give the
same bits. Couplings, strides and numbers of weights are constants of the source; what it is compiled by is
:mod:`halberd.potentials.sites.cuda_kernels`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from halberd.potentials.errors import ModelError

_COMMON = Path(__file__).with_name("kernels.cuh")
_HARMONICS = Path(__file__).parents[2] / "sites" / "harmonics.hpp"
#: Sums that one thread keeps at a time; more paths go into another kernel.
_MOST_SUMS = 64
#: Products beyond which a kernel would take minutes to compile.
MOST_PRODUCTS = 20_000


class ConvolutionPath(NamedTuple):
    """Where a path reads and writes, as the operator's table has it.

    Attributes
    ----------
    source, target : int
        First number of the rows that are read, and written.
    channels, rows : int
        Of what is read.
    edge_degree : int
        Of the harmonics.
    stride, target_rows : int
        Channels in a row that is written, and rows.
    weight : int
        First radial weight.
    first, last : int
        Couplings, in the table of all of them.
    """

    source: int
    channels: int
    rows: int
    edge_degree: int
    target: int
    stride: int
    target_rows: int
    weight: int
    first: int
    last: int


class _Coupling(NamedTuple):
    path: ConvolutionPath
    entries: list[tuple[int, int, int, float]]

    def between(self, row: int, target_row: int) -> str:
        """What multiplies a row on its way to another: a sum over the harmonics of an edge."""
        low = self.path.edge_degree**2
        terms = [f"T({v!r}) * y[{low + m2}]" for m1, m2, m3, v in self.entries if (m1, m3) == (row, target_row)]
        return " + ".join(terms)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return sorted({(m1, m3) for m1, _, m3, _ in self.entries})


def _head(max_ell: int) -> str:
    return f"#define HALBERD_MAX_L {max_ell}\n{_HARMONICS.read_text()}\n{_COMMON.read_text()}\n"


def _kernel(name: str, arguments: str, body: Iterable[str]) -> str:
    lines = "\n".join(f"  {line}" for line in body)
    return f'extern "C" __global__ void {name}({arguments}) {{\n{lines}\n}}\nKERNEL({name})\n'


_EDGES = (
    "const Index* __restrict__ start, const Index* __restrict__ order, const Index* __restrict__ other, "
    "const T* __restrict__ harmonics, const Index* __restrict__ row, const T* __restrict__ place, "
    "const T* __restrict__ table"
)


def convolution_source(
    paths: Sequence[Sequence[int]],
    triples: Sequence[Sequence[int]],
    values: Sequence[float],
    *,
    width: int,
    n_outputs: int,
    n_weights: int,
    max_ell: int,
) -> str:
    """CUDA source of a sum over neighbours and of its gradients.

    Parameters
    ----------
    paths : sequence of sequences of 10 int
        As in :class:`ConvolutionPath`.
    triples, values : sequences
        Rows of source, harmonics and target that a coupling joins, and its size.
    width, n_outputs : int
        Numbers per atom that are read, and written.
    n_weights : int
        Radial weights of an edge.
    max_ell : int
    """
    couplings = []
    for each in paths:
        path = ConvolutionPath(*each)
        entries = []
        for n in range(path.first, path.last):
            m1, m2, m3 = triples[n]
            entries.append((m1, m2, m3, values[n]))
        couplings.append(_Coupling(path, entries))
    sizes = (width, n_outputs, n_weights, max(each.path.channels for each in couplings))
    groups = _groups([each.path for each in couplings])
    kernels = [_forward(f"forward_{n}", [couplings[k] for k in group], sizes) for n, group in enumerate(groups)]
    kernels += [_of_edges(couplings, sizes), _of_features(couplings, sizes)]
    return _head(max_ell) + "\n".join(kernels)


def launch_numbers(paths: Sequence[Sequence[int]], max_ell: int) -> list[int]:
    """What the operator must know to call kernels: how many go forward, most channels of a path, and harmonics."""
    named = [ConvolutionPath(*each) for each in paths]
    return [len(_groups(named)), max(path.channels for path in named), (max_ell + 1) ** 2]


def _groups(paths: Sequence[ConvolutionPath]) -> list[list[int]]:
    """Paths that one kernel forward holds the sums of."""
    groups: list[list[int]] = [[]]
    for number, path in enumerate(paths):
        if groups[-1] and sum(paths[k].target_rows for k in groups[-1]) + path.target_rows > _MOST_SUMS:
            groups.append([])
        groups[-1].append(number)
    return groups


_Sizes = tuple[int, int, int, int]


def _edge_loop(n_weights: int) -> list[str]:
    return [
        "for (Index n = start[i]; n < start[i + 1]; ++n) {",
        "  const Index e = order[n];",
        "  const T* __restrict__ y = harmonics + e * LM;",
        f"  const T* __restrict__ c = table + row[e] * {6 * n_weights} + k;",
        "  const T t = place[e];",
    ]


def _only(path: ConvolutionPath, most: int) -> str:
    """Threads without a channel of a path leave it out."""
    return "" if path.channels == most else f"if (k < {path.channels}) "


def _forward(name: str, group: list[_Coupling], sizes: _Sizes) -> str:
    width, n_outputs, n_weights, most = sizes
    body = [
        "const Index i = blockIdx.x;",
        "const int k = blockIdx.y * blockDim.x + threadIdx.x;",
        f"if (k >= {most}) return;",
    ]
    for number, each in enumerate(group):
        body += [f"T a{number}_{m} = 0;" for m in range(each.path.target_rows)]
    body += [*_edge_loop(n_weights), f"  const T* __restrict__ x = features + other[e] * {width} + k;"]
    for number, each in enumerate(group):
        path = each.path
        body += [f"  {_only(path, most)}{{", f"    const T w = spline<{n_weights}>(c + {path.weight}, t);"]
        body += [f"    const T x{m} = w * x[{path.source + m * path.channels}];" for m in range(path.rows)]
        body += [f"    a{number}_{m3} += ({each.between(m1, m3)}) * x{m1};" for m1, m3 in each.pairs]
        body.append("  }")
    body.append("}")
    for number, each in enumerate(group):
        path = each.path
        start = f"T* mine = out + i * {n_outputs} + {path.target} + k;"
        stores = [f"mine[{m * path.stride}] = a{number}_{m};" for m in range(path.target_rows)]
        body += [f"{_only(path, most)}{{", f"  {start}", *(f"  {line}" for line in stores), "}"]
    return _kernel(name, f"{_EDGES}, const T* __restrict__ features, T* __restrict__ out", body)


def _of_edges(couplings: list[_Coupling], sizes: _Sizes) -> str:
    """Gradients of harmonics and distances: a warp per edge, its threads share the channels."""
    width, n_outputs, n_weights, most = sizes
    low = min(each.path.edge_degree for each in couplings) ** 2
    high = (max(each.path.edge_degree for each in couplings) + 1) ** 2
    body = [
        "const Index n = (Index(blockIdx.x) * blockDim.x + threadIdx.x) / WARP;",
        "const int lane = threadIdx.x % WARP;",
        "if (n >= n_edges) return;",
        "const Index e = order[n];",
        "const T* __restrict__ y = harmonics + e * LM;",
        "const T t = place[e];",
        "T of_r = 0;",
        *(f"T g{m} = 0;" for m in range(low, high)),
        f"for (int k = lane; k < {most}; k += WARP) {{",
        f"  const T* __restrict__ c = table + row[e] * {6 * n_weights} + k;",
        f"  const T* __restrict__ x = features + other[e] * {width} + k;",
        f"  const T* __restrict__ in = given + centre[e] * {n_outputs} + k;",
    ]
    for each in couplings:
        path, first = each.path, each.path.edge_degree**2
        degree = range(2 * path.edge_degree + 1)
        body += [f"  {_only(path, most)}{{", *(f"    T h{m} = 0;" for m in degree)]
        body += [f"    const T x{m} = x[{path.source + m * path.channels}];" for m in range(path.rows)]
        body += [f"    const T in{m} = in[{path.target + m * path.stride}];" for m in range(path.target_rows)]
        for m1, m3 in each.pairs:
            body.append(f"    {{ const T p = x{m1} * in{m3};")
            found = [(m2, v) for a, m2, b, v in each.entries if (a, b) == (m1, m3)]
            body += [f"      h{m2} += T({v!r}) * p;" for m2, v in found]
            body.append("    }")
        spline = f"<{n_weights}>(c + {path.weight}, t)"
        body += [f"    const T w = spline{spline}, s = slope{spline};"]
        body += [f"    g{first + m} += w * h{m};" for m in degree]
        body += ["    of_r += s * (" + " + ".join(f"y[{first + m}] * h{m}" for m in degree) + ");", "  }"]
    body += ["}", "T* mine = gradient + e * (LM + 1);"]
    for m in range(low, high):
        body += [f"g{m} = in_warp(g{m});", f"if (lane == {m - low} % WARP) mine[{m}] = g{m};"]
    body += ["of_r = in_warp(of_r);", "if (lane == 0) mine[LM] = of_r;"]
    arguments = (
        f"{_EDGES.replace('const Index* __restrict__ start, ', '')}, const Index* __restrict__ centre, Index n_edges, "
        "const T* __restrict__ features, const T* __restrict__ given, T* __restrict__ gradient"
    )
    return _kernel("of_edges", arguments, body)


def _of_features(couplings: list[_Coupling], sizes: _Sizes) -> str:
    """Gradients of features: edges by their neighbour, which owns the sum."""
    width, n_outputs, n_weights, most = sizes
    paths = [each.path for each in couplings]
    channels = {path.source + m * path.channels: path.channels for path in paths for m in range(path.rows)}
    body = [
        "const Index i = blockIdx.x;",
        "const int k = blockIdx.y * blockDim.x + threadIdx.x;",
        f"if (k >= {most}) return;",
        *(f"T a{offset} = 0;" for offset in channels),
        *_edge_loop(n_weights),
        f"  const T* __restrict__ in = given + other[e] * {n_outputs} + k;",
    ]
    for each in couplings:
        path = each.path
        body += [f"  {_only(path, most)}{{", f"    const T w = spline<{n_weights}>(c + {path.weight}, t);"]
        body += [f"    const T in{m} = w * in[{path.target + m * path.stride}];" for m in range(path.target_rows)]
        body += [
            f"    a{path.source + m1 * path.channels} += ({each.between(m1, m3)}) * in{m3};" for m1, m3 in each.pairs
        ]
        body.append("  }")
    body.append("}")
    for offset, count in channels.items():
        guard = "" if count == most else f"if (k < {count}) "
        body.append(f"{guard}gradient[i * {width} + {offset} + k] = a{offset};")
    return _kernel("of_features", f"{_EDGES}, const T* __restrict__ given, T* __restrict__ gradient", body)


def product_source(
    monomials: Sequence[tuple[tuple[int, ...], int]], *, n_components: int, n_rows: int, channels: int
) -> str:
    """CUDA source of a sum of weighted products and of its gradient.

    Products are nested, ``x_a (w_a + x_b (w_ab + x_c w_abc))``, so that no product is kept.

    Parameters
    ----------
    monomials : sequence of (tuple of int, int)
        Of every weight, in their order, the components that are multiplied, sorted, and the row that it adds to.
    n_components, n_rows, channels : int
        Shapes: (N, n_components, channels) to (N, n_rows, channels).

    Raises
    ------
    ModelError
        If there are so many products that a compiler would take minutes.
    """
    if len(monomials) > MOST_PRODUCTS:
        raise ModelError(f"A layer takes {len(monomials)} products, more than the {MOST_PRODUCTS} of a kernel.")
    place = [
        "const Index thread = Index(blockIdx.x) * blockDim.x + threadIdx.x;",
        f"const Index i = thread / {channels};",
        f"const int k = int(thread % {channels});",
        "if (i >= n_atoms) return;",
        f"const T* __restrict__ x = features + i * {n_components * channels} + k;",
        f"const T* __restrict__ w = weights + (by_species ? species[i] : 0) * {len(monomials) * channels} + k;",
        *(f"const T x{m} = x[{m * channels}];" for m in range(n_components)),
    ]
    arguments = (
        "Index n_atoms, Index by_species, const Index* __restrict__ species, const T* __restrict__ weights, "
        "const T* __restrict__ features"
    )
    forward = list(place)
    for row in range(n_rows):
        own = {monomial: [f"w[{n * channels}]"] for n, (monomial, target) in enumerate(monomials) if target == row}
        forward += ["{", "  T r = 0;"]
        forward += _nested(own, (), "r", None)
        forward += [f"  out[(i * {n_rows} + {row}) * {channels} + k] = r;", "}"]
    backward = [
        *place,
        f"const T* __restrict__ in = given + i * {n_rows * channels} + k;",
        *(f"const T in{m} = in[{m * channels}];" for m in range(n_rows)),
        *(f"T d{m} = 0;" for m in range(n_components)),
    ]
    combined: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for n, (monomial, row) in enumerate(monomials):
        combined[monomial].append(f"in{row} * w[{n * channels}]")
    backward += ["T r = 0;", *_nested(combined, (), "r", "T(1)"), "(void)r;"]
    backward += [f"gradient[(i * {n_components} + {m}) * {channels} + k] = d{m};" for m in range(n_components)]
    kernels = [
        _kernel("products", f"{arguments}, T* __restrict__ out", forward),
        _kernel("of_products", f"{arguments}, const T* __restrict__ given, T* __restrict__ gradient", backward),
    ]
    return _head(0) + "\n".join(kernels)


def _nested(
    terms: dict[tuple[int, ...], list[str]], prefix: tuple[int, ...], into: str, product: str | None
) -> list[str]:
    """Lines that add to a variable the products that begin with some components, divided by these.

    With ``product``, the name of the product of these components, they also add to the gradients of all components.
    """
    depth = len(prefix)
    letters = sorted({monomial[depth] for monomial in terms if len(monomial) > depth and monomial[:depth] == prefix})
    lines = []
    for letter in letters:
        own = (*prefix, letter)
        longer = {monomial: each for monomial, each in terms.items() if monomial[: depth + 1] == own}
        value = f"v{depth}"
        lines += ["{", f"  T {value} = {' + '.join(longer.get(own, ['0']))};"]
        if any(len(monomial) > depth + 1 for monomial in longer):
            name = None
            if product is not None:
                name = f"p{depth}"
                lines.append(f"  const T {name} = {'' if depth == 0 else product + ' * '}x{letter};")
            lines += [f"  {line}" for line in _nested(longer, own, value, name)]
        lines.append(f"  {into} += x{letter} * {value};")
        if product is not None:
            lines.append(f"  d{letter} += {value if depth == 0 else product + ' * ' + value};")
        lines.append("}")
    return lines
