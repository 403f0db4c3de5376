"""A basis as large as the data and the time are good for: counts, choices that machines agree on, costs."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from halberd.potentials.ace import sizing
from halberd.potentials.ace.basis import AceBasis, count_functions
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.ace.sizing import chosen_for, cost_of, rows_of, sized, with_degree
from halberd.potentials.frames.labelled import Frame


def frames_of(symbols, count, cells=2, virial=True):
    generator = np.random.default_rng(0)
    frames = []
    for _ in range(count):
        atoms = bulk("Cu", cubic=True) * (cells, cells, cells)
        atoms.symbols[:] = generator.choice(symbols, len(atoms))
        atoms.rattle(0.05, rng=generator)
        forces = generator.normal(size=(len(atoms), 3))
        frames.append(Frame(atoms, 0.0, forces, np.zeros((3, 3)) if virial else None, "default"))
    return frames


@pytest.mark.parametrize(
    ("elements", "choices"),
    [
        (("Cu",), {}),
        (("Cu", "Au"), {"order": 4, "degree": (9, 8, 6, 5)}),
        (("H", "C", "O"), {"order": 2, "degree": 8, "pair_degree": 0}),
    ],
)
def test_functions_are_counted_as_they_are_made(elements, choices):
    settings = AceSettings(elements, **choices)
    assert count_functions(settings) == AceBasis(settings).n_functions


def test_sizes_are_those_around_the_default():
    settings = AceSettings(("Si",))
    assert with_degree(settings, 12) == settings
    assert with_degree(settings, 17).degrees == (25, 21, 17)
    assert with_degree(settings, 17).pair_degree == 25
    kept = AceSettings(("Si",), pair_degree=7)
    assert with_degree(kept, 17).pair_degree == 7
    assert with_degree(AceSettings(("Si",), pair_degree=0), 17).pair_degree == 0
    found = sized(settings, 1000)
    assert found.degrees == (25, 21, 17)  # 1016 functions, the published larger basis
    counts = [count_functions(sized(settings, n)) for n in (50, 300, 1000, 3000)]
    assert all(n < 1.1 * wanted for n, wanted in zip(counts, (50, 300, 1000, 3000), strict=True))
    assert count_functions(sized(settings, 0)) == count_functions(with_degree(settings, sizing.SMALLEST))


def test_the_basis_grows_with_the_data_and_is_shared_by_elements():
    few, many = frames_of(["Cu"], 20), frames_of(["Cu"], 200)
    assert rows_of(many) == 200 * (1 + 96 + 6)
    settings = AceSettings(("Cu",), cutoff=4.0)
    small, large = (count_functions(chosen_for(settings, frames, 1e6, 512.0)) for frames in (few, many))
    assert small == pytest.approx(5 * np.sqrt(rows_of(few)), rel=0.25)
    assert large == pytest.approx(5 * np.sqrt(rows_of(many)), rel=0.25)
    alloy = AceSettings(("Cu", "Ag", "Au"), cutoff=4.0)
    three = count_functions(chosen_for(alloy, frames_of(["Cu", "Ag", "Au"], 200), 1e6, 512.0))
    assert three / 3 < large
    assert three > large


def test_time_and_memory_bound_it(monkeypatch):
    frames = frames_of(["Cu"], 100)
    settings = AceSettings(("Cu",), cutoff=5.0)
    free = count_functions(chosen_for(settings, frames, 1e6, 512.0))
    hurried = chosen_for(settings, frames, 1.0, 512.0)
    assert count_functions(hurried) < 0.7 * free
    assert chosen_for(settings, frames, 1.0, 512.0) == hurried
    assert count_functions(chosen_for(settings, frames, 1e-6, 512.0)) == count_functions(sized(settings, 0))
    monkeypatch.setattr(sizing, "memory_of_machine_mb", lambda: 1.0)
    assert count_functions(chosen_for(settings, frames, 1e6, 512.0)) == count_functions(sized(settings, 0))


def test_costs_are_told():
    cost = cost_of(AceSettings(("Cu",), degree=8, cutoff=4.0), frames_of(["Cu"], 10), 100.0)
    assert cost.n_functions == 54
    assert cost.n_rows == 10 * 103
    assert 0 < cost.seconds < 60
    assert 550 < cost.memory_mb < 600
    assert str(cost).startswith("54 functions for 1030 rows: about ")
    hours = sizing.Cost(10, 10, 7300.0, 2345.0)
    assert str(hours) == "10 functions for 10 rows: about 2.0 h and 2.3 GB"
