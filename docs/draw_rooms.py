"""Draw the rooms and folders of halberd from the table that the tests hold: ``python docs/draw_rooms.py``.

Boxes are folders, arrows what they import within their room; what follows from other arrows is left out. A room may use
those below it.
"""

from __future__ import annotations

import runpy
from graphlib import TopologicalSorter
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).parent.parent
HOUSE = runpy.run_path(str(ROOT / "tests" / "test_house.py"))
GROUND, MAY_IMPORT, ROOMS = HOUSE["GROUND"], HOUSE["MAY_IMPORT"], HOUSE["ROOMS"]
COLORS = {"potentials": "#dce8f2", "plugins": "#e6efdc", "samplers": "#f4e4d8"}
RULES = {
    "potentials": "physics: species and edges in, site energies out; knows no engine",
    "plugins": "doors: OpenMM, PLUMED, RDKit, reference calculators, hosts, the shell",
    "samplers": "algorithms that move atoms",
}
WIDTH, HEIGHT = 1.75, 0.42


def reduced(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same graph without arrows that follow from others."""

    def reach(node: str) -> set[str]:
        return set().union(*({below} | reach(below) for below in graph[node])) if graph[node] else set()

    return {node: {b for b in below if not any(b in reach(o) for o in below - {b})} for node, below in graph.items()}


def layers(graph: dict[str, set[str]]) -> list[list[str]]:
    """Rows of boxes, lowest first: right below what uses a box, or right above what it uses."""
    order = tuple(TopologicalSorter(graph).static_order())
    level: dict[str, int] = {}
    for name in order:
        level[name] = max((level[below] + 1 for below in graph[name]), default=0)
    for name in reversed(order):
        users = [level[user] for user, below in graph.items() if name in below]
        level[name] = min(users) - 1 if users else level[name]
    return [[name for name in graph if level[name] == k] for k in range(max(level.values()) + 1)]


def main() -> None:
    """Write ``docs/figures/rooms.svg``."""
    figure = Figure()
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    bottom = 0.1
    for room in ROOMS:
        names = [name for name in MAY_IMPORT if name.startswith(f"{room}/")]
        graph = reduced({name: {b for b in MAY_IMPORT[name] if b.startswith(f"{room}/")} for name in names})
        rows = layers(graph)
        height = 0.75 + 0.78 * len(rows) + (0.45 if room in GROUND else 0.0)
        axes.add_patch(
            FancyBboxPatch((0.1, bottom), 9.3, height - 0.12, boxstyle="round,pad=0,rounding_size=0.1",
                           facecolor=COLORS[room], edgecolor="none")
        )  # fmt: skip
        axes.text(0.25, bottom + height - 0.42, room, fontsize=13, weight="bold")
        axes.text(1.6, bottom + height - 0.42, RULES[room], fontsize=9, color="#444444")
        base = bottom + 0.2
        if room in GROUND:
            axes.text(0.25, base, "below all: " + ", ".join(GROUND[room]), fontsize=8.5, color="#444444")
            base += 0.4
        place = {}
        for k, row in enumerate(rows):
            for i, name in enumerate(row):
                place[name] = (9.5 * (i + 0.5) / len(row), base + 0.78 * k + HEIGHT / 2)
        for name, below in graph.items():
            for other in below:
                axes.annotate(
                    "", (place[other][0], place[other][1] + HEIGHT / 2), (place[name][0], place[name][1] - HEIGHT / 2),
                    arrowprops={"arrowstyle": "-|>", "color": "#777777", "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0},
                )  # fmt: skip
        for name, (x, y) in place.items():
            axes.add_patch(
                FancyBboxPatch((x - WIDTH / 2, y - HEIGHT / 2), WIDTH, HEIGHT, zorder=3, facecolor="white",
                               boxstyle="round,pad=0,rounding_size=0.06", edgecolor="#555555", linewidth=0.9)
            )  # fmt: skip
            axes.text(x, y, name.partition("/")[2], ha="center", va="center", fontsize=9.5, zorder=4)
        bottom += height
    figure.set_size_inches(9.5, bottom)
    axes.set(xlim=(0, 9.5), ylim=(0, bottom))
    figure.savefig(ROOT / "docs" / "figures" / "rooms.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
