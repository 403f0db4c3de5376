"""A person's path through the page, in a browser. ``HALBERD_FILM=film.gif`` keeps a film of it."""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import os
import shutil
import signal
from pathlib import Path

import pytest
from PIL import Image
from rdkit import Chem

from tests.samplers.web.conftest import TOKEN, sdf_of

#: Pixels of the window, seconds that something may take, milliseconds between pictures of the film.
_SIZE, _LONG, _BETWEEN = (1500, 860), 60_000, 250
_CHROMIUM = os.environ.get("HALBERD_CHROMIUM") or next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def chromium():
    """A browser without a window."""
    if _CHROMIUM is None:
        reason = "no Chromium: apt-get install chromium, or name one in HALBERD_CHROMIUM"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Without a GPU it draws by itself, and root has no sandbox.
        found = playwright.chromium.launch(
            executable_path=_CHROMIUM, args=["--no-sandbox", "--enable-unsafe-swiftshader"]
        )
        yield found
        found.close()


@contextlib.contextmanager
def window(chromium, port: int):
    """A page of a browser of its own; what went wrong in it fails the test."""
    context = chromium.new_context(viewport={"width": _SIZE[0], "height": _SIZE[1]}, accept_downloads=True)
    context.set_default_timeout(_LONG)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    page.on("request", lambda sent: problems.append(sent.url) if "127.0.0.1" not in sent.url[:25] and "data:" not in
            sent.url[:5] and "blob:" not in sent.url[:5] else None)  # fmt: skip
    page.goto(f"http://127.0.0.1:{port}/?token={TOKEN}")
    page.get_by_text("Ready. Model").wait_for()
    page.problems = problems
    yield page
    context.close()
    # A refused request is written to the console by the browser itself.
    assert not [each for each in problems if "status of 400" not in each], problems


@pytest.fixture
def page(chromium, served):
    """One person's."""
    with window(chromium, served[0]) as found:
        yield found


def click_at(page, x: float, y: float) -> None:
    """Click into the scene, pixels from its middle."""
    box = page.locator("#viewer").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2 + x, box["y"] + box["height"] / 2 + y)


def drawn(page) -> list[dict]:
    return page.evaluate("halberdViewer.drawn")


def upload(page, name: str, data: str | bytes) -> None:
    data = data if isinstance(data, bytes) else data.encode()
    page.get_by_label("SDF, MOL, PDB or XYZ").set_input_files({"name": name, "mimeType": "x/y", "buffer": data})


class Film:
    """What a page shows, as the browser paints it."""

    def __init__(self, page) -> None:
        self.pictures: list[tuple[float, bytes]] = []
        self.session = page.context.new_cdp_session(page)
        self.session.on("Page.screencastFrame", self._came)
        self.session.send("Page.startScreencast", {"format": "png", "maxWidth": 1000, "maxHeight": 600})

    def _came(self, frame) -> None:
        self.pictures.append((frame["metadata"]["timestamp"], base64.b64decode(frame["data"])))
        self.session.send("Page.screencastFrameAck", {"sessionId": frame["sessionId"]})

    def write(self, path: Path) -> int:
        """As a GIF that goes on for ever; returns the number of its pictures."""
        self.session.send("Page.stopScreencast")
        chosen = [self.pictures[0]]
        for time, data in self.pictures[1:]:
            if 1000 * (time - chosen[-1][0]) >= _BETWEEN:
                chosen.append((time, data))
        chosen += [self.pictures[-1]] if chosen[-1] != self.pictures[-1] else []
        times = [time for time, _ in chosen]
        lengths = [min(1000.0, 1000 * (b - a)) for a, b in itertools.pairwise(times)] + [2000.0]
        first, *others = [Image.open(io.BytesIO(data)).convert("RGB").quantize(48) for _, data in chosen]
        first.save(path, save_all=True, append_images=others, duration=lengths, loop=0, optimize=True)
        return len(chosen)


def test_draw_generate_look_and_download(page, tmp_path):
    film = Film(page)
    for x, y in ((-120, 20), (0, -70), (120, 20)):
        click_at(page, x, y)
        page.wait_for_timeout(_BETWEEN)
    (curve,) = drawn(page)
    assert len(curve["points"]) == 3
    # What was clicked at is where it was drawn.
    for (x, y), place in zip(((-120, 20), (0, -70), (120, 20)), curve["points"], strict=True):
        at = page.evaluate("([x, y, z]) => halberdViewer.view.modelToScreen({x, y, z})", place)
        box = page.locator("#viewer").bounding_box()
        assert abs(at["x"] - box["x"] - box["width"] / 2 - x) < 2
        assert abs(at["y"] - box["y"] - box["height"] / 2 - y) < 2
    page.get_by_label("Molecules", exact=True).fill("2")
    page.get_by_label("Heavy atoms").fill("8")
    page.get_by_role("button", name="Generate").click()
    course = page.locator("#plot polyline")
    page.evaluate(
        "window.seen = []; new MutationObserver(() => seen.push(document.querySelector('#reading').textContent))"
        ".observe(document.querySelector('#reading'), {childList: true})"
    )
    while page.locator("#job-1 a[href$='files/sdf']").count() == 0:
        assert page.locator("#job-1 .failed").count() == 0, page.locator("#job-1").inner_text()
        page.wait_for_timeout(_BETWEEN)
    sigmas = [float(text.split()[1]) for text in page.evaluate("seen") if text.startswith("σ")]
    assert len(sigmas) >= 20  # frames came while it was being made
    assert sigmas[0] > 0.9
    assert min(sigmas) < 0.005
    assert course.count() == 2
    cards = page.locator("#job-1 .card")
    assert cards.count() == 2
    page.wait_for_timeout(1000)
    assert film.write(Path(os.environ.get("HALBERD_FILM") or tmp_path / "film.gif")) >= 8
    with page.expect_download() as download:
        page.get_by_role("link", name="SDF").click()
    molecules = list(Chem.SDMolSupplier(str(download.value.path()), removeHs=False))
    assert [mol.GetNumHeavyAtoms() for mol in molecules] == [8, 8]
    shown = [cards.nth(k).locator("code").inner_text() for k in range(2)]
    assert [mol.GetProp("smiles") for mol in molecules] == shown
    # The gallery's pictures came, and the first molecule is in the scene.
    assert page.evaluate("[...document.querySelectorAll('.card img')].every((each) => each.naturalWidth > 0)")
    assert page.evaluate("halberdViewer.models.made.selectedAtoms({}).length") == molecules[0].GetNumAtoms()
    # Everything is there after a reload, and after coming back without the address.
    page.reload()
    page.locator("#job-1 .card code").nth(1).wait_for()
    assert drawn(page) == [curve]
    assert [cards.nth(k).locator("code").inner_text() for k in range(2)] == shown
    assert page.get_by_label("Heavy atoms").input_value() == "8"
    page.goto(page.url.split("#")[0])
    page.locator("#job-1 .card").first.wait_for()


def test_two_browsers_two_rooms(page, chromium, served):
    click_at(page, 50, 50)
    page.get_by_text("curve, 1 point").wait_for()
    with window(chromium, served[0]) as other:
        assert drawn(other) == []
        assert other.url != page.url
    page.get_by_role("button", name="New room").click()
    page.locator("#drawn li").first.wait_for(state="detached")


def test_a_fragment_is_chosen_by_clicks_and_by_keys(page):
    upload(page, "propanol.sdf", sdf_of("CCCO"))
    page.get_by_text("propanol.sdf: 12 atoms, 4 of 4 heavy ones kept.").wait_for()
    place = page.evaluate("halberdViewer.view.modelToScreen(((p) => ({x: p[0], y: p[1], z: p[2]}))"
                          "(halberdViewer.fragment.positions[0]))")  # fmt: skip
    page.get_by_label("Keep or drop atoms").check()
    page.mouse.click(place["x"], place["y"])
    page.get_by_text("3 of 4 heavy ones kept.").wait_for()
    # The same without a mouse: names of atoms are buttons, tools are radio buttons.
    page.get_by_label("Keep or drop atoms").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_label("Mark atoms to grow from").is_checked()
    page.get_by_role("button", name="Atom 2, C, kept").focus()
    page.keyboard.press("Enter")
    page.get_by_text("3 of 4 heavy ones kept, 1 to grow from.").wait_for()
    assert page.evaluate("document.activeElement.dataset.key") == "atom-1"  # the focus stays
    page.reload()
    page.get_by_text("3 of 4 heavy ones kept, 1 to grow from.").wait_for()


def test_points_are_drawn_and_jobs_started_by_keys(page):
    page.get_by_label("x", exact=True).fill("1.5")
    page.get_by_label("x", exact=True).press("Enter")
    page.get_by_text("curve, 1 point").wait_for()
    assert drawn(page)[0]["points"] == [[1.5, 0, 0]]
    for kind, words in (("sphere", "sphere, radius 2"), ("ring", "ring, radius 2"), ("line", "curve, 2 points")):
        page.get_by_label("Add a").select_option(kind)
        page.get_by_label("length or radius").fill("2")
        page.get_by_role("button", name="Add").press("Enter")
        page.get_by_text(words).wait_for()
    assert len(drawn(page)) == 4
    page.get_by_role("button", name="Clear").press("Enter")
    page.locator("#drawn li").first.wait_for(state="detached")
    page.get_by_role("button", name="Link").press("Enter")
    page.get_by_role("alert").get_by_text("mark the two that are to be linked").wait_for()


def test_what_the_server_refuses_is_taken_back(page):
    page.get_by_label("Add a").select_option("ring")
    page.get_by_label("length or radius").fill("3")
    page.get_by_role("button", name="Add").click()
    page.get_by_text("ring, radius 3").wait_for()
    page.get_by_label("Add a").select_option("sphere")
    page.get_by_label("length or radius").fill("25")
    page.get_by_role("button", name="Add").click()
    page.get_by_role("button", name="Generate").click()
    page.get_by_role("alert").get_by_text("radius of 0 to 20").wait_for()
    page.locator("#drawn li").nth(1).wait_for(state="detached")
    assert [each["kind"] for each in drawn(page)] == ["ring"]
    page.wait_for_timeout(300)
    assert page.locator("#jobs li").count() == 0  # nothing was made of what was not drawn


def test_everything_that_can_be_used_has_a_name(page):
    upload(page, "a.sdf", sdf_of("CO"))
    page.get_by_text("2 of 2 heavy ones kept.").wait_for()
    page.get_by_role("button", name="Relax").click()
    page.locator("#job-1 .card").wait_for()
    page.get_by_role("button", name="Run 2 ps of MD").click()
    page.locator("#job-2 progress").wait_for()
    nameless = page.evaluate(
        "[...document.querySelectorAll('input, select, button, a, img, [role=img], progress, svg')].filter((each) => "
        "!(each.labels?.length || each.alt || each.textContent.trim() || "
        "each.getAttribute('aria-label'))).map((e) => e.outerHTML)"
    )
    assert nameless == []
    assert page.evaluate("document.documentElement.lang") == "en"
    # Text on its background, by the formula of WCAG 2: 4.5 is asked for.
    contrast = page.evaluate(
        """() => {
        const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map((x) => x / 255).map((x) =>
            x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const under = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
            if (!c.endsWith(', 0)')) return c; } return 'rgb(255, 255, 255)'; };
        return Math.min(...[...document.querySelectorAll('p, button, label, legend, h1, h2, a')].map((e) => {
            const [a, b] = [light(getComputedStyle(e).color), light(under(e))].sort();
            return (b + 0.05) / (a + 0.05); }));
        }"""
    )
    assert contrast > 4.5


def test_wrong_files_get_a_message_and_run_nothing(page):
    name = "<img src=x onerror=document.title='caught'>.sdf"
    upload(page, name, "hello")
    alert = page.get_by_role("alert")
    alert.get_by_text("cannot be read as an SDF file").wait_for()
    assert "<img" in alert.inner_text()  # as text
    for bad, data, said in (
        ("a.sdf", b"", "is empty"),
        ("big.sdf", b"x" * 1_200_000, "more than 1000 kB"),
        ("binary.sdf", bytes(range(256)), "no text file"),
        ("many.xyz", ("10000\n\n" + "C 0 0 0\n" * 10000).encode(), "10000 atoms"),
        ("a.exe", b"x", "of no format"),
    ):
        upload(page, bad, data)
        alert.get_by_text(said).wait_for()
    # A name that is markup stays a name where it is shown for long.
    upload(page, "<b onclick=document.title='caught'>x</b>.sdf", sdf_of("CO"))
    page.get_by_text("2 of 2 heavy ones kept.").wait_for()
    assert page.locator("#fragment b").count() == 0
    assert not alert.is_visible()
    assert page.title().startswith("halberd")


def test_a_worker_that_dies_is_told_and_the_next_job_works(page, served):
    page.get_by_label("Molecules", exact=True).fill("40")
    page.get_by_role("button", name="Generate").click()
    page.locator("#job-1 .running").wait_for()
    os.kill(served[1].queue.slots[0].process.pid, signal.SIGKILL)
    page.locator("#job-1").get_by_text("ended unexpectedly").wait_for()
    page.get_by_label("Molecules", exact=True).fill("1")
    page.get_by_label("Heavy atoms").fill("4")
    page.get_by_role("button", name="Generate").click()
    page.locator("#job-2 .card").wait_for()
    page.get_by_role("button", name="Generate").click()
    page.get_by_label("Molecules", exact=True).fill("40")
    page.get_by_role("button", name="Generate").click()
    page.locator("#job-4").get_by_role("button", name="Cancel").click()
    page.locator("#job-4 .cancelled").first.wait_for()


def test_from_atoms_without_hydrogens_to_a_trajectory(page):
    upload(page, "bare.xyz", "3\n\nC 0 0 0\nC 1.51 0 0\nO 2.0 1.33 0\n")
    page.get_by_text("bonds are not known").wait_for()
    page.get_by_role("button", name="Hydrogenate").click()
    page.get_by_text("9 atoms, 3 of 3 heavy ones kept.").wait_for()  # the fragment goes on from there
    page.get_by_role("button", name="Relax").click()
    page.get_by_text("job 2, molecule 1: 9 atoms").wait_for()
    page.get_by_role("button", name="Run 2 ps of MD").click()
    page.get_by_role("link", name="trajectory").wait_for()
    with page.expect_download() as download:
        page.get_by_role("link", name="trajectory").click()
    assert Path(download.value.path()).read_text().count("time_ps") == 100


def test_strangers_are_refused(chromium, served):
    context = chromium.new_context()
    page = context.new_page()
    answer = page.goto(f"http://127.0.0.1:{served[0]}/")
    assert answer.status == 403
    assert "needs its token" in page.inner_text("body")
    context.close()
