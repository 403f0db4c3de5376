"""How long a person waits on the page, and what ten rooms weigh.

    python tests/benchmarks/bench_web.py [--seeds 0 1 2 3 4] [--chromium chromium]

A server is started as ``halberd web`` does it, a browser without a window opens the page, draws a curve of three points
and asks for two molecules of eight heavy atoms, once per seed; times are from the click. The null row is ``halberd
generate`` with the same settings in a terminal, its start included. Memory is what the server and its worker hold, in
proportion where pages are shared (PSS).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

_APP = [sys.executable, "-W", "ignore", "-m", "halberd.plugins.commands.app"]


def memory(process: int) -> float:
    """Of a process and those it started, MB."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    children = [child for file in tasks for child in file.read_text().split()]
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    own = int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE).group(1)) / 1024  # type: ignore[union-attr]
    return own + sum(memory(int(child)) for child in children)


def person(page: Any, seed: int) -> tuple[float, float]:
    """Seconds from the click to the first frame, and to finished molecules."""
    box = page.locator("#viewer").bounding_box()
    for x, y in ((-120, 20), (0, -70), (120, 20)):
        page.mouse.click(box["x"] + box["width"] / 2 + x, box["y"] + box["height"] / 2 + y)
    page.get_by_label("Seed").fill(str(seed))
    page.evaluate(
        "window.first = null; new MutationObserver(() => { const text = document.querySelector('#reading').textContent;"
        "if (text.startsWith('σ')) window.first ??= performance.now(); }).observe(document.querySelector('#reading'), "
        "{childList: true})"
    )
    begun = page.evaluate("performance.now()")
    page.get_by_role("button", name="Generate").click()
    page.locator("#job-1 a[href$='files/sdf']").wait_for()
    ended = page.evaluate("performance.now()")
    return (page.evaluate("window.first") - begun) / 1000, (ended - begun) / 1000


def terminal(archive: Path) -> float:
    """Seconds of the same by ``halberd generate``."""
    folder = archive.with_suffix("")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    flags = ["generate", "--config", "settings.yaml", "-o", "out.sdf", "--no-picture", "--no-metrics"]
    begun = time.perf_counter()
    subprocess.run([*_APP, *flags], cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - begun


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--chromium", default="chromium")
    arguments = parser.parse_args()
    rows, command_line = [], []
    with tempfile.TemporaryDirectory() as folder:
        command = [*_APP, "web", "--no-browser", "--port", "0", "--folder", f"{folder}/web"]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert server.stderr is not None
        address = re.search(r"http://\S+", server.stderr.readline()).group()  # type: ignore[union-attr]
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which(arguments.chromium),
                args=["--no-sandbox", "--enable-unsafe-swiftshader"],
            )
            empty = None
            for seed in arguments.seeds:
                context = browser.new_context(viewport={"width": 1500, "height": 860}, accept_downloads=True)
                page = context.new_page()
                page.set_default_timeout(300_000)
                page.goto(address)
                page.get_by_text("Ready. Model").wait_for()
                empty = empty or memory(server.pid)
                rows.append(person(page, seed))
                with page.expect_download() as download:
                    page.get_by_role("link", name="settings").click()
                archive = Path(folder) / f"seed-{seed}.zip"
                download.value.save_as(archive)
                context.close()
                command_line.append(terminal(archive))
            while len(list((Path(folder) / "web" / "rooms").iterdir())) < 10:
                page = browser.new_context().new_page()
                page.goto(address)
                page.get_by_text("Ready. Model").wait_for()
            print(f"memory of the server and one worker: {empty:.0f} MB, with ten rooms {memory(server.pid):.0f} MB")
            browser.close()
        server.terminate()
        server.communicate()
    print(f"{len(rows)} seeds, {os.cpu_count()} cores; median (range), seconds from the click")
    for name, values in (
        ("first frame", [first for first, _ in rows]),
        ("two molecules of 8 heavy atoms", [last for _, last in rows]),
        ("null: halberd generate in a terminal", command_line),
    ):
        print(f"{name} | {np.median(values):.2f} ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main()
