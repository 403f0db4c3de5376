"""Rooms on disk."""

from __future__ import annotations

import pytest

from halberd.potentials.errors import ConfigurationError, DataError
from halberd.samplers.web.drawing import Drawn
from halberd.samplers.web.fragment import Fragment
from halberd.samplers.web.orders import order
from halberd.samplers.web.rooms import Room, Rooms
from halberd.samplers.web.settings import JobRequest, WebSettings
from tests.samplers.web.conftest import sdf_of

POINT = Drawn("curve", ((0.0, 0.0, 0.0), (3.0, 0.0, 0.0)))


def test_a_room_is_what_it_was_after_a_restart(tmp_path):
    room = Rooms(tmp_path, 10).open()
    room.change(drawn=[POINT], form={"n": 3}, fragment=Fragment.from_upload("a.sdf", sdf_of("CCO").encode()))
    for state in ("done", "running", "waiting"):
        job = order(room, JobRequest("generate"), WebSettings())
        room.update(job.number, state=state, trace=[(1.0, None), (0.5, -2.0)])
    again = Rooms(tmp_path, 10).find(room.name)
    assert again.scene() == room.scene()
    assert [again.jobs[k].state for k in (1, 2, 3)] == ["done", "failed", "failed"]
    assert "stopped while this ran" in again.jobs[2].message
    assert again.jobs[1].trace == [[1.0, None], [0.5, -2.0]]
    assert order(again, JobRequest("generate"), WebSettings()).number == 4


def test_damaged_files_are_put_aside(tmp_path):
    room = Rooms(tmp_path, 10).open()
    room.change(drawn=[POINT], form={"n": 3})
    for _ in range(3):
        room.update(order(room, JobRequest("generate"), WebSettings()).number, state="done")
    (room.folder / "scene.json").write_text('{"drawn": [')
    (room.job_folder(2) / "job.json").write_text("[]")
    (room.job_folder(3) / "job.json").write_text("{}")
    again = Rooms(tmp_path, 10).find(room.name)
    assert (again.drawn, list(again.jobs)) == ((), [1])
    assert (again.folder / "scene.damaged").read_text() == '{"drawn": ['
    assert order(again, JobRequest("generate"), WebSettings()).number == 4  # not into the folder of another


def test_rooms_cannot_be_guessed_or_walked_out_of(tmp_path):
    rooms = Rooms(tmp_path / "rooms", 10)
    (tmp_path / "secret").mkdir()
    names = {rooms.open().name for _ in range(5)}
    assert len(names) == 5
    assert min(map(len, names)) == 22
    for name in ("../secret", "..", "", ".", "x" * 22, "../rooms/" + min(names)):
        assert rooms.find(name) is None
    for _ in range(5):
        rooms.open()
    with pytest.raises(ConfigurationError, match="10 rooms already"):
        rooms.open()


def test_jobs_are_removed_with_their_files_once_they_are_over(tmp_path):
    room = Rooms(tmp_path, 10).open()
    number = order(room, JobRequest("generate"), WebSettings()).number
    with pytest.raises(ConfigurationError, match="not over"):
        room.remove(number)
    room.update(number, state="failed")
    room.remove(number)
    assert not room.job_folder(number).exists()
    with pytest.raises(DataError, match="no job 1"):
        room.job(number)
    room.update(number, done=0.5)  # what a worker tells afterwards is for nobody
    assert Room(room.folder).jobs == {}


def test_orders_are_files_that_generate_takes(tmp_path):
    room = Rooms(tmp_path, 10).open()
    fragment = Fragment.from_upload("a.sdf", sdf_of("CCO").encode())
    room.change(drawn=[POINT], fragment=fragment.chosen([0, 1], [0]))
    job = order(room, JobRequest("generate", n=2, heavy_atoms="3:4", elements=("C", "O"), seed=7), WebSettings())
    folder = room.job_folder(job.number)
    assert sorted(file.name for file in folder.iterdir()) == [
        "job.json", "scaffold.sdf", "settings.yaml", "shape.csv",
    ]  # fmt: skip
    text = (folder / "settings.yaml").read_text()
    assert "seed: 7" in text
    assert "heavy_atoms: '3:4'" in text or "heavy_atoms: 3:4" in text
    assert "\n- C\n" in text.replace("  ", "")
    points = [[float(x) for x in row.split(",")] for row in (folder / "shape.csv").read_text().split()]
    assert min(abs(row[0]) for row in points) >= 0.0
    assert len(points) < 17  # those at the fragment's atoms are left out


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (JobRequest("relax"), "no fragment yet"),
        (JobRequest("link"), "0 atoms are marked"),
        (JobRequest("generate", heavy_atoms="auto"), "for linkers"),
        (JobRequest("generate", heavy_atoms="7:"), "heavy_atoms"),
        (JobRequest("generate", heavy_atoms="61"), "too much"),
        (JobRequest("generate", n=51), "too much"),
        (JobRequest("generate", elements=()), "elements is empty"),
    ],
)
def test_orders_that_cannot_be_carried_out_leave_nothing(tmp_path, request_, said):
    room = Rooms(tmp_path, 10).open()
    with pytest.raises(ConfigurationError, match=said):
        order(room, request_, WebSettings())
    assert not room.jobs
    assert not list(room.folder.glob("job*"))


def test_a_linker_fills_the_gap_between_two_marks(tmp_path):
    room = Rooms(tmp_path, 10).open()
    fragment = Fragment.from_upload("two.sdf", sdf_of("CCCCCCO").encode())
    ends = [0, 6]
    fragment = fragment.chosen(ends, ends)
    room.change(fragment=fragment)
    job = order(room, JobRequest("link", heavy_atoms="auto"), WebSettings())
    folder = room.job_folder(job.number)
    points = [[float(x) for x in row.split(",")] for row in (folder / "shape.csv").read_text().split()]
    assert points[0] == pytest.approx(fragment.outlet(0).tolist(), abs=1e-3)
    assert points[-1] == pytest.approx(fragment.outlet(6).tolist(), abs=1e-3)
    length = sum((a - b) ** 2 for a, b in zip(fragment.outlet(0), fragment.outlet(6), strict=True)) ** 0.5
    size = int(next(row for row in (folder / "settings.yaml").read_text().splitlines() if "heavy" in row).split("'")[1])
    assert 1.2 * length <= size < 1.2 * length + 1


def test_messages_of_a_slow_browser(tmp_path):
    import asyncio

    room = Rooms(tmp_path, 10).open()

    async def look() -> list[dict]:
        with room.listening() as mailbox:
            for k in range(600):
                room.tell({"type": "frame", "k": k})
            room.tell({"type": "job", "job": "last"})
            await asyncio.sleep(0)
            events = []
            while (event := await mailbox.get(0.01)) is not None:
                events.append(event)
            for k in range(600):
                room.tell({"type": "job", "job": k})
            await asyncio.sleep(0)
            with pytest.raises(EOFError):  # it connects again, and gets the whole state
                await mailbox.get(0.01)
            return events

    events = asyncio.run(look())
    assert len(events) == 500
    assert events[0]["type"] == "state"
    assert events[1] == {"type": "frame", "k": 1}  # one made room for what must not be lost
    assert events[-1] == {"type": "job", "job": "last"}
    assert not room._listeners
