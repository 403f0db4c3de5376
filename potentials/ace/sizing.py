"""How many functions the data, the time and the memory are good for.

A basis of one element and a few hundred frames wants about a thousand functions; as many for each of four elements are
more than the same number of frames determines. What is aimed at is ``5 sqrt(rows elements)``. The choice counts
operations, at a speed that is always the same, so that all machines of enough memory choose alike; what is told is
measured.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence

import numpy as np
import torch

from halberd.potentials.ace.basis import AceBasis, count_functions
from halberd.potentials.ace.design_rows import DesignAssembler
from halberd.potentials.ace.settings import DEFAULT_DEGREES, AceSettings
from halberd.potentials.frames.labelled import Frame
from halberd.potentials.regression.bayesian_ridge import DIRECT
from halberd.potentials.regression.calibration import MANY_ROWS, MOST_FRAMES
from halberd.potentials.regression.compressed_rows import BLOCK, at_once
from halberd.potentials.sites.verlet_list import NeighborList, edges_of_atoms

#: Degrees of orders 1, 2, ... above the last of three, in all sizes that are chosen from.
OFFSETS = tuple(degree - DEFAULT_DEGREES[2] for degree in DEFAULT_DEGREES)
#: Degrees of order 3 to choose from.
SMALLEST, LARGEST, STEP = 3.0, 40.0, 1.0
#: Of the square root of rows times elements.
PER_ROOT = 5.0
#: What a fit holds at once, at worst (measured): MB of programs, and square matrices of few functions.
_PROGRAMS, _MATRICES = 450.0, 15
#: Operations per second of the core that choices are made for, and per edge and function beside products.
_NOMINAL, _PER_EDGE = 4e9, 30.0
#: Floating-point operations of a singular value decomposition of M functions, in M^3, and of the factors of a kernel.
_DECOMPOSITION, _FACTORS = 11.0, 4.5


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a fit will take, about.

    Attributes
    ----------
    n_functions, n_rows : int
    seconds : float
    memory_mb : float
    """

    n_functions: int
    n_rows: int
    seconds: float
    memory_mb: float

    def __str__(self) -> str:
        spent = f"{self.seconds:.0f} s" if self.seconds < 90 else f"{self.seconds / 60:.0f} min"
        if self.seconds > 5400:
            spent = f"{self.seconds / 3600:.1f} h"
        return f"{self.n_functions} functions for {self.n_rows} rows: about {spent} and {self.memory_mb / 1000:.1f} GB"


def rows_of(frames: Sequence[Frame]) -> int:
    """Rows that the labels of frames make."""
    return sum(
        (frame.energy is not None) + (0 if frame.forces is None else frame.forces.size) + 6 * (frame.virial is not None)
        for frame in frames
    )


def with_degree(settings: AceSettings, degree: float) -> AceSettings:
    """Settings with the degrees of one size: that of order 3, and others as far from it as by default.

    The number of pair functions follows, unless it was chosen.
    """
    degrees = tuple(max(1.0, degree + offset) for offset in OFFSETS[: settings.order])
    follows = settings.pair_degree == int(max(settings.degrees))
    return dataclasses.replace(settings, degree=degrees, pair_degree=None if follows else settings.pair_degree)


def sized(settings: AceSettings, n_functions: float) -> AceSettings:
    """The largest of the sizes with about so many functions, or the smallest of all.

    Parameters
    ----------
    settings : AceSettings
        Their degrees are replaced.
    n_functions : float
    """
    found = with_degree(settings, SMALLEST)
    # Upwards: what is far too large takes long to count.
    for degree in np.arange(SMALLEST + STEP, LARGEST + STEP / 2, STEP):
        larger = with_degree(settings, float(degree))
        if count_functions(larger) > 1.1 * n_functions:
            break
        found = larger
    return found


def cost_of(
    settings: AceSettings, frames: Sequence[Frame], memory_mb: float, *, solves: int = 1, folds: int = 0
) -> Cost:
    """Measure what a fit will take: rows of a few frames are made, and a small factor is computed.

    Parameters
    ----------
    settings : AceSettings
    frames : sequence of Frame
    memory_mb : float
        Of the rows that wait, see :class:`halberd.potentials.ace.fit.AceFit`.
    solves : int
        Decompositions of the whole.
    folds : int
        Of a cross-validation, each with as many.
    """
    assembler = DesignAssembler(AceBasis(settings), memory_mb)
    n_rows, functions = rows_of(frames), assembler.n_columns
    n_atoms = np.array([len(frame.atoms) for frame in frames])
    order = np.argsort(n_atoms, kind="stable")
    # Of middling size and a large one, the first to warm up.
    chosen = [frames[order[int(share * (len(order) - 1))]] for share in (0.5, 0.5, 0.9)]
    spent = 0.0
    for number, frame in enumerate(chosen):
        begun = time.perf_counter()
        assembler.rows([frame.atoms])
        if number:
            spent += time.perf_counter() - begun
    assembly = spent / sum(len(frame.atoms) for frame in chosen[1:]) * float(n_atoms.sum())
    merged = folds * folds * functions if folds else 0  # rows of the factors of the others, for every fold
    solving = _solving(n_rows + merged, functions, memory_mb, solves * (1 + folds)) / _operations_per_second()
    held = _held_mb(n_rows, len(frames), functions, memory_mb) + folds * functions**2 * 8e-6
    return Cost(functions, n_rows, float(assembly + solving), held)


def chosen_for(
    settings: AceSettings, frames: Sequence[Frame], budget: float, memory_mb: float, *, per_root: float = PER_ROOT
) -> AceSettings:
    """Settings with a basis as large as the data and the time are good for.

    Parameters
    ----------
    settings : AceSettings
        Their degrees are replaced.
    frames : sequence of Frame
    budget : float, s
    memory_mb : float
        Of the rows that wait.
    per_root : float
        Functions that are aimed at, over the square root of rows times elements.
    """
    n_rows = rows_of(frames)
    wanted = per_root * float(np.sqrt(n_rows * len(settings.elements)))
    n_edges = _edges(settings, frames)
    while True:
        found = sized(settings, wanted)
        basis = AceBasis(found)
        per_edge = 6.0 * DesignAssembler(basis, memory_mb).n_nonzero / basis.n_species + _PER_EDGE * basis.n_site
        seconds = (n_edges * per_edge + _solving(n_rows, basis.n_functions, memory_mb, 1)) / _NOMINAL
        smaller = max(
            seconds / budget,
            _held_mb(n_rows, len(frames), basis.n_functions, memory_mb) / (0.7 * memory_of_machine_mb()),
        )
        if smaller <= 1.0 or found == with_degree(settings, SMALLEST):
            return found
        wanted = basis.n_functions * float(np.clip(1 / np.sqrt(smaller), 0.3, 0.85))


def smaller_sizes(settings: AceSettings, count: int = 5) -> list[AceSettings]:
    """These settings and sizes with about a half, a quarter ... of their functions, the smallest first."""
    whole = count_functions(settings)
    found = {settings.degrees: settings}
    for number in range(1, count):
        size = sized(settings, whole / 2**number)
        found[size.degrees] = size
    return sorted(found.values(), key=count_functions)


def _edges(settings: AceSettings, frames: Sequence[Frame]) -> float:
    """Pairs within the many-body cutoff, from some of the frames."""
    search = NeighborList(settings.cutoff, 0.0)
    chosen = [frames[k].atoms for k in np.unique(np.linspace(0, len(frames) - 1, min(len(frames), 50)).astype(int))]
    found = sum(edges_of_atoms(search, atoms)[0].shape[1] for atoms in chosen)
    return found / sum(map(len, chosen)) * sum(len(frame.atoms) for frame in frames)


def _solving(n_rows: int, functions: int, memory_mb: float, solves: int) -> float:
    """Operations of folding rows and of decompositions."""
    if functions <= DIRECT:
        folded = n_rows + functions * np.ceil(n_rows / at_once(functions + 1, memory_mb))
    else:
        folded = 1.5 * n_rows if n_rows > functions else 0.0
    if functions <= DIRECT:
        solved = _DECOMPOSITION * functions**3
    else:
        side = min(n_rows, functions)
        solved = side**2 * (functions + _FACTORS * side)
    return float(2.0 * folded * functions**2 + solves * solved)


def _held_mb(n_rows: int, n_frames: int, functions: int, memory_mb: float) -> float:
    """What is held at most, in folding rows or in solving."""
    side = min(n_rows, functions)
    waiting = min(at_once(functions + 1, memory_mb), n_rows)
    if functions <= DIRECT:
        numbers = _MATRICES * functions**2 + 3 * (waiting + functions) * functions
    else:
        copies = 2 if n_rows > functions else 1  # one with the rows of the restraint below it
        numbers = max(side + waiting, copies * side) * functions + side**2 + 4 * BLOCK * functions
    left_out = min(MANY_ROWS, MOST_FRAMES * n_rows / n_frames)
    return _PROGRAMS + memory_mb + (numbers + 2 * left_out * functions) * 8e-6


def memory_of_machine_mb() -> float:
    """Physical memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6


def _operations_per_second() -> float:
    matrix = torch.from_numpy(np.random.default_rng(0).normal(size=(1500, 500)))
    torch.linalg.qr(matrix, mode="r")
    begun = time.perf_counter()
    torch.linalg.qr(matrix, mode="r")
    return 2.0 * 1500 * 500**2 / (time.perf_counter() - begun)
