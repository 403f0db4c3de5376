"""What the server lets people do, and what not; jobs from the click to the file."""

from __future__ import annotations

import http.client
import io
import json
import os
import shutil
import signal
import subprocess
import time
import zipfile

import ase.io
import numpy as np
import pytest
from rdkit import Chem

from halberd.plugins.molecules.bonding import canonical_smiles
from tests.samplers.web.conftest import TOKEN, Person, running, sdf_of

JOB = {"kind": "generate", "n": 1, "heavy_atoms": "5", "seed": 3}


def upload(person: Person, name: str, data: bytes):
    return person.ask("POST", f"{person.room}/fragment?name={name}", data)


def submit(person: Person, **values) -> int:
    status, _, made = person.ask("POST", f"{person.room}/jobs", values)
    assert status == 201, made
    return made["number"]


# -- who comes in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/?token=wrong", "/?token=", "/page/main.js", "/limits", "/rooms/x"])
def test_without_the_token_nothing_is_shown(served, path):
    status, headers, text = Person(served[0]).ask("GET", path)
    assert status == 403
    assert b"needs its token" in text
    assert "set-cookie" not in headers
    assert Person(served[0], cookie=f"halberd-8765={TOKEN[:-1]}").ask("GET", path)[0] == 403
    assert Person(served[0]).ask("POST", "/rooms")[0] == 403


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_do_not_get(served):
    status, headers, _ = Person(served[0]).ask("GET", f"/?token={TOKEN}")
    assert status == 303
    assert headers["location"] == "/"
    for part in ("HttpOnly", "SameSite=strict"):
        assert part.lower() in headers["set-cookie"].lower()


def test_pages_of_other_servers_may_not_ask(person):
    for origin in ("http://127.0.0.1:9", "http://evil.example", "null"):
        assert person.ask("POST", "/rooms", origin=origin)[0] == 403
    assert person.ask("POST", "/rooms", origin=f"http://127.0.0.1:{person.port}")[0] == 201
    assert TOKEN not in person.cookie  # which other servers of this machine are sent


def test_pages_load_nothing_from_elsewhere_and_run_no_markup(person):
    status, headers, page = person.ask("GET", "/")
    assert status == 200
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "script-src" not in headers["content-security-policy"]  # so 'self' holds, without inline scripts
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert b"http://" not in page
    assert b"https://" not in page


def test_rooms_are_their_owners_alone(served):
    first, second = Person(served[0]).enter(), Person(served[0]).enter()
    assert first.room != second.room
    first.ask("PUT", f"{first.room}/scene", {"drawn": [{"kind": "curve", "points": [[0, 0, 0]]}]})
    assert len(first.ask("GET", first.room)[2]["scene"]["drawn"]) == 1
    assert second.ask("GET", second.room)[2]["scene"]["drawn"] == []
    for path in ("/rooms", "/rooms/", "/rooms/../", "/rooms/" + "A" * 22):
        assert second.ask("GET", path)[0] in (404, 405), path


# -- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "status", "said"),
    [
        ("a.sdf", b"", 400, "is empty"),
        ("a.sdf", b"x" * 1_500_000, 400, "more than 1000 kB"),
        ("a.sdf", b"x" * 5_000_000, 413, "More than"),
        ("a.xyz", b"\x00\x01", 400, "no text file"),
        ("%3Cscript%3Ealert(1)%3C%2Fscript%3E.sdf", b"hello", 400, "script>.sdf' cannot be read"),
        ("..%2F..%2Fa.py", b"import os", 400, "'a.py' is of no format"),
    ],
)
def test_wrong_uploads_change_nothing(person, name, data, status, said):
    before = person.ask("GET", person.room)[2]
    found, _, answer = upload(person, name, data)
    assert found == status
    assert said in answer["error"]
    assert person.ask("GET", person.room)[2] == before


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "/jobs", {"kind": "explode"}, 400, "kind"),
        ("POST", "/jobs", {"kind": "generate", "n": -1}, 400, "n"),
        ("POST", "/jobs", {"kind": "generate", "n": 1e9}, 400, "too much"),
        ("POST", "/jobs", {"kind": "generate", "heavy_atom": 3}, 400, "Did you mean 'heavy_atoms'"),
        ("POST", "/jobs", {"kind": "generate", "elements": ["Xx"]}, 400, "Xx"),
        ("POST", "/jobs", {"kind": "md", "picoseconds": 1e9}, 400, "picoseconds"),
        ("POST", "/jobs", {"kind": "relax"}, 400, "no fragment yet"),
        ("POST", "/jobs", [1], 400, "JSON object"),
        ("POST", "/jobs", b"{", 415, "JSON"),
        ("PUT", "/scene", {"drawn": 3}, 400, "list"),
        ("PUT", "/scene", {"drawn": ["x"]}, 400, "list"),
        ("PUT", "/scene", {"drawn": [{"kind": "curve", "points": [[0, 0, "x"]]}]}, 400, "points"),
        ("PUT", "/scene", {"drawn": [{"kind": "curve", "points": [[0, 0, 0]]}] * 101}, 400, "101 things"),
        ("PUT", "/scene", {"form": {"heavy_atoms": "y" * 3000}}, 400, "small form"),
        ("PUT", "/scene", {"form": {"heavy_atoms": "\ud800"}}, 400, "small form"),
        ("PUT", "/scene", {"form": {"x": 1}}, 400, "small form"),
        ("PUT", "/scene", {"form": {"n": 1e300}}, 400, "small form"),
        (
            "PUT",
            "/scene",
            {"drawn": [{"kind": "ring", "points": [[0, 0, 0]], "radius": 1, "normal": [1e-320, 0, 0]}]},
            400,
            "normal",
        ),
        ("POST", "/jobs", {"kind": "generate", "heavy_atoms": "references"}, 400, "heavy_atoms"),
        ("POST", "/jobs/9/cancel", None, 400, "no job 9"),
        ("DELETE", "/jobs/9", None, 400, "no job 9"),
        ("GET", "/jobs/9/files/sdf", None, 400, "no job 9"),
        ("GET", "/nothing", None, 404, ""),
    ],
)
def test_requests_that_make_no_sense(person, method, path, body, status, said):
    found, _, answer = person.ask(method, person.room + path, body)
    assert found == status
    assert said in answer["error"]
    assert "Traceback" not in json.dumps(answer)


def test_json_that_is_none(person):
    for body in (b"{", b"[" * 100_000, b'{"form": {"n": NaN}}', b'{"form": {"n": Infinity}}', b"\xff"):
        status, _, answer = person.ask("PUT", f"{person.room}/scene", body, content_type="application/json")
        assert status == 400, body[:10]
        assert "JSON" in answer["error"]


# -- jobs -------------------------------------------------------------------------------------------------------------


def test_from_drawn_points_to_a_file_and_the_same_in_a_terminal(person, tmp_path):
    drawn = [{"kind": "curve", "points": [[-2, 0, 0], [0, 1, 0], [2, 0, 0]]}]
    assert person.ask("PUT", f"{person.room}/scene", {"drawn": drawn})[0] == 200
    number = submit(person, **{**JOB, "n": 2})
    job = person.wait(number)
    assert job["state"] == "done", job["message"]
    assert len(job["molecules"]) == 2
    sigmas = [row[0] for row in job["trace"]]
    assert sigmas[:25] == sorted(sigmas[:25], reverse=True)  # of the first batch
    _, headers, text = person.ask("GET", f"{person.room}/jobs/{number}/files/sdf")
    assert "attachment" in headers["content-disposition"]
    molecules = list(Chem.ForwardSDMolSupplier(io.BytesIO(text), removeHs=False))
    assert [canonical_smiles(mol) for mol in molecules] == [each["smiles"] for each in job["molecules"]]
    _, _, extended = person.ask("GET", f"{person.room}/jobs/{number}/files/extxyz")
    frames = ase.io.read(io.StringIO(extended.decode()), ":", format="extxyz")
    np.testing.assert_allclose(frames[1].positions, molecules[1].GetConformer().GetPositions(), atol=1e-3)
    _, _, picture = person.ask("GET", f"{person.room}/jobs/{number}/molecules/1.svg")
    assert picture.startswith(b"<?xml")
    # What was drawn, once more, by the command.
    _, _, packed = person.ask("GET", f"{person.room}/jobs/{number}/files/settings")
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert sorted(archive.namelist()) == ["settings.yaml", "shape.csv"]
        archive.extractall(tmp_path)
    command = ["halberd", "generate", "--config", "settings.yaml", "-o", "again.sdf", "--no-picture", "--no-metrics"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    again = list(Chem.SDMolSupplier(str(tmp_path / "again.sdf"), removeHs=False))
    assert [canonical_smiles(mol) for mol in again] == [each["smiles"] for each in job["molecules"]]
    np.testing.assert_array_equal(
        again[0].GetConformer().GetPositions(), molecules[0].GetConformer().GetPositions()
    )  # to the digits of the file


def test_frames_arrive_while_the_noise_falls(person):
    connection = http.client.HTTPConnection("127.0.0.1", person.port, timeout=60)
    connection.request("GET", f"{person.room}/events", headers={"cookie": person.cookie})
    answer = connection.getresponse()
    assert answer.headers["content-type"].startswith("text/event-stream")
    number = submit(person, **JOB)
    events: list[dict] = []
    while not (events and events[-1]["type"] == "job" and events[-1]["job"]["state"] in ("done", "failed")):
        line = answer.fp.readline()
        if line.startswith(b"data: "):
            events.append(json.loads(line[6:]))
    answer.close()
    connection.close()
    assert events[0]["type"] == "state"
    assert events[-1]["job"]["state"] == "done", events[-1]["job"]["message"]
    kinds = [event["type"] for event in events]
    frames = [event for event in events if event["type"] == "frame"]
    assert len(frames) >= 25
    assert kinds.index("frame") < len(kinds) - 25
    assert all(frame["number"] == number and len(frame["symbols"]) == len(frame["positions"]) == 5 for frame in frames)
    assert frames[0]["point"][0] > 0.9
    assert frames[24]["point"][0] < 0.002
    assert frames[24]["point"][1] > frames[0]["point"][1]  # similar in the end, not in the beginning


def neighbours(made, place) -> set[int]:
    """Heavy atoms bonded to the atom at a place."""
    gaps = np.linalg.norm(np.array(made["positions"]) - place, axis=1)
    here = int(gaps.argmin())
    assert gaps[here] < 1e-3  # it did not move
    bonds = [(i, j) for i, j, _ in made["bonds"] if here in (i, j)]
    return {j if i == here else i for i, j in bonds if made["symbols"][j if i == here else i] != "H"}


def test_a_fragment_grows_where_something_was_dropped(person):
    status, _, scene = upload(person, "toluene.sdf", sdf_of("Cc1ccccc1").encode())
    assert status == 200
    kept, places = [1, 2, 3, 4, 5, 6], np.array(scene["fragment"]["positions"])
    person.ask("PUT", f"{person.room}/scene", {"drawn": [], "kept": kept, "anchors": [1]})
    number = submit(person, **{**JOB, "heavy_atoms": "3", "n": 3})
    job = person.wait(number)
    assert job["state"] == "done", job["message"]
    for index in range(len(job["molecules"])):
        made = person.ask("GET", f"{person.room}/jobs/{number}/molecules/{index}")[2]
        assert len([symbol for symbol in made["symbols"] if symbol != "H"]) == 9
        assert all(made["symbols"][int(np.linalg.norm(np.array(made["positions"]) - places[k], axis=1).argmin())] == "C"
                   for k in kept)  # fmt: skip
        assert [len(neighbours(made, places[k])) for k in kept] == [3, 2, 2, 2, 2, 2]


def test_a_link_joins_the_two_atoms_that_were_marked(person):
    two = Chem.CombineMols(Chem.MolFromMolBlock(sdf_of("c1ccccc1"), removeHs=False),
                           Chem.MolFromMolBlock(sdf_of("C1CC1"), removeHs=False))  # fmt: skip
    conformer = two.GetConformer()
    for k in range(12, two.GetNumAtoms()):
        x, y, z = conformer.GetAtomPosition(k)
        conformer.SetAtomPosition(k, (x + 7.0, y, z))
    upload(person, "two.sdf", (Chem.MolToMolBlock(two) + "$$$$\n").encode())
    places = conformer.GetPositions()
    heavy = [atom.GetIdx() for atom in two.GetAtoms() if atom.GetAtomicNum() > 1]
    marks = [min(heavy[:6], key=lambda k: -places[k, 0]), min(heavy[6:], key=lambda k: places[k, 0])]
    person.ask("PUT", f"{person.room}/scene", {"drawn": [], "kept": heavy, "anchors": marks})
    number = submit(person, **{**JOB, "kind": "link", "heavy_atoms": "auto"})
    job = person.wait(number)
    assert job["state"] == "done", job["message"]
    made = person.ask("GET", f"{person.room}/jobs/{number}/molecules/0")[2]
    assert "." not in job["molecules"][0]["smiles"]
    assert [len(neighbours(made, places[k])) for k in heavy] == [3 if k in marks else 2 for k in heavy]


def test_hydrogenate_relax_and_run(person):
    bare = b"3\n\nC 0 0 0\nC 1.51 0 0\nO 2.0 1.33 0\n"  # ethanol's heavy atoms
    assert upload(person, "bare.xyz", bare)[0] == 200
    for kind in ("relax", "md", "generate"):
        status, _, answer = person.ask("POST", f"{person.room}/jobs", {**JOB, "kind": kind})
        assert status == 400
        assert "ydrogenate it first" in answer["error"]
    number = submit(person, kind="hydrogenate")
    job = person.wait(number)
    assert (job["state"], job["message"]) == ("done", "6 hydrogens")
    assert job["molecules"][0]["smiles"] == "CCO"
    assert person.ask("POST", f"{person.room}/jobs/{number}/molecules/0/edit")[0] == 200
    relaxed = person.wait(submit(person, kind="relax"))
    assert relaxed["state"] == "done", relaxed["message"]
    assert float(relaxed["message"].split()[0]) > 0  # lower than it was
    run = submit(person, kind="md", picoseconds=0.1, seed=5)
    job = person.wait(run)
    assert job["state"] == "done", job["message"]
    assert [row[0] for row in job["trace"]] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    _, _, text = person.ask("GET", f"{person.room}/jobs/{run}/files/trajectory")
    frames = ase.io.read(io.StringIO(text.decode()), ":", format="extxyz")
    assert len(frames) == 5
    assert frames[-1].get_chemical_formula() == "C2H6O"
    moved = np.abs(frames[-1].positions - frames[0].positions).max()
    assert 1e-3 < moved < 2.0
    # A mean energy of kT / 2 per degree of freedom above rest is 0.35 eV; much more is not possible so soon.
    energies = np.array([row[1] for row in job["trace"]])
    assert (
        (energies - relaxed["molecules"][0]["energy"] > 0.0) & (energies - relaxed["molecules"][0]["energy"] < 1)
    ).all()
    assert job["molecules"][0]["smiles"] == "CCO"


@pytest.mark.parametrize("smiles", ["O", "C", "C#N"])
def test_small_molecules_hold_or_are_said_to_break(person, smiles):
    """Those of three atoms and fewer lie above the energy of their parts: a jump over the barrier would end them."""
    upload(person, "a.sdf", sdf_of(smiles).encode())
    job = person.wait(submit(person, kind="md", picoseconds=0.1))
    if job["state"] == "failed":
        assert "broke after" in job["message"]
    else:
        text = person.ask("GET", f"{person.room}/jobs/{job['number']}/files/trajectory")[2].decode()
        frames = ase.io.read(io.StringIO(text), ":", format="extxyz")
        assert max(frame.get_all_distances().max() for frame in frames) < 2.6


def test_what_is_no_whole_molecule_is_not_relaxed(person):
    upload(person, "heavy.sdf", sdf_of("c1ccccc1", hydrogens=False).encode())
    for kind in ("relax", "md"):
        status, _, answer = person.ask("POST", f"{person.room}/jobs", {"kind": kind})
        assert (status, "ydrogenate it first" in answer["error"]) == (400, True)
    upload(person, "nitro.xyz", b"7\n\nC 0 0 0\nN 1.49 0 0\nO 2.05 1.08 0\nO 2.05 -1.08 0\nH -0.36 1.03 0\n"
           b"H -0.36 -0.51 0.89\nH -0.36 -0.51 -0.89\n")  # fmt: skip
    job = person.wait(submit(person, kind="hydrogenate"))
    assert job["state"] == "failed"
    assert "nitro group" in job["message"]


def test_relaxing_keeps_what_was_chosen(person):
    upload(person, "propanol.sdf", sdf_of("CCCO").encode())
    person.ask("PUT", f"{person.room}/scene", {"drawn": [], "kept": [1, 2, 3], "anchors": [1]})
    number = submit(person, kind="relax")
    assert person.wait(number)["state"] == "done"
    _, _, scene = person.ask("POST", f"{person.room}/jobs/{number}/molecules/0/edit")
    assert (scene["fragment"]["kept"], scene["fragment"]["anchors"]) == ([1, 2, 3], [1])


def test_indices_are_numbers(person):
    upload(person, "a.sdf", sdf_of("CO").encode())
    for kept in ([False, True], [0.0], ["0"], [-1], [10**30]):
        assert person.ask("PUT", f"{person.room}/scene", {"kept": kept, "anchors": []})[0] == 400


def test_drawings_of_any_size_become_few_points(person):
    zigzag = {"kind": "curve", "points": [[90 * (-1) ** k, k % 90, 0] for k in range(500)]}
    assert person.ask("PUT", f"{person.room}/scene", {"drawn": [zigzag] * 100})[0] == 200
    number = submit(person, **JOB)
    _, _, packed = person.ask("GET", f"{person.room}/jobs/{number}/files/settings")
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert archive.read("shape.csv").count(b"\n") == 500
    person.ask("POST", f"{person.room}/jobs/{number}/cancel")
    assert person.wait(number)["state"] == "cancelled"


def test_limits_hold_when_everything_is_asked_for_at_once(person):
    from concurrent.futures import ThreadPoolExecutor

    long = {**JOB, "n": 40, "heavy_atoms": "9"}
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: person.ask("POST", f"{person.room}/jobs", long), range(16)))
    taken = [made["number"] for status, _, made in found if status == 201]
    assert 3 <= len(taken) <= 4  # three wait, and one may run already
    for number in taken:
        person.ask("POST", f"{person.room}/jobs/{number}/cancel")
    assert {person.wait(number)["state"] for number in taken} == {"cancelled"}


def test_a_room_that_is_lost_while_its_job_runs_harms_no_other(person, served):
    lost = Person(served[0]).enter()
    number = submit(lost, **{**JOB, "n": 40, "heavy_atoms": "9"})
    lost.wait(number, ("running",))
    shutil.rmtree(served[1].rooms.folder / lost.room.split("/")[-1])
    mine = submit(person, **JOB)
    assert lost.wait(number)["state"] == "failed"
    assert person.wait(mine)["state"] == "done"


def test_bonds_that_are_known_decide_about_hydrogens(person):
    upload(person, "a.sdf", sdf_of("C1=CC=CC=C1C#N", hydrogens=False).encode())
    job = person.wait(submit(person, kind="hydrogenate"))
    assert (job["state"], job["message"]) == ("done", "5 hydrogens")
    assert job["molecules"][0]["smiles"] == "N#Cc1ccccc1"


def test_a_killed_worker_costs_its_job_alone(person, served):
    slot = served[1].queue.slots[0]
    number = submit(person, **{**JOB, "n": 40, "heavy_atoms": "9"})
    person.wait(number, ("running",))
    waiting = submit(person, **JOB)
    time.sleep(0.3)
    os.kill(slot.process.pid, signal.SIGKILL)
    job = person.wait(number)
    assert job["state"] == "failed"
    assert "ended unexpectedly" in job["message"]
    after = person.wait(waiting)
    assert after["state"] == "done", after["message"]


def test_cancelling_what_runs_and_what_waits(person):
    running_, waiting = (submit(person, **{**JOB, "n": 40, "heavy_atoms": "9"}) for _ in range(2))
    person.wait(running_, ("running",))
    assert "Place 1" in person.job(waiting)["message"]
    assert person.ask("POST", f"{person.room}/jobs/{waiting}/cancel")[0] == 204
    assert person.job(waiting)["state"] == "cancelled"
    assert person.ask("POST", f"{person.room}/jobs/{running_}/cancel")[0] == 204
    assert person.wait(running_, seconds=20)["state"] == "cancelled"
    assert person.ask("POST", f"{person.room}/jobs/{running_}/cancel")[0] == 204  # again: nothing
    assert person.job(running_)["state"] == "cancelled"
    assert person.ask("DELETE", f"{person.room}/jobs/{running_}")[0] == 204
    assert [job["number"] for job in person.ask("GET", person.room)[2]["jobs"]] == [waiting]


def test_queues_have_ends_and_rooms_their_turns(person, served):
    other = Person(served[0]).enter()
    first = submit(person, **{**JOB, "n": 40, "heavy_atoms": "9"})
    person.wait(first, ("running",))
    mine = [submit(person, **{**JOB, "n": 40, "heavy_atoms": "9"}) for _ in range(3)]
    status, _, answer = person.ask("POST", f"{person.room}/jobs", JOB)
    assert status == 400
    assert "3 jobs of this room wait already" in answer["error"]
    theirs = submit(other, **JOB)
    person.ask("POST", f"{person.room}/jobs/{first}/cancel")
    # One room waits longer, but has just been served.
    assert other.wait(theirs)["state"] == "done"
    assert all(person.job(number)["state"] in ("waiting", "running") for number in mine)
    for number in mine:
        person.ask("POST", f"{person.room}/jobs/{number}/cancel")
    for number in mine:
        assert person.wait(number)["state"] == "cancelled"


def test_jobs_end_when_their_time_is_over_and_failures_say_why(tmp_path):
    from halberd.samplers.web.settings import WebSettings

    with running(WebSettings(folder=str(tmp_path), threads=1, job_seconds=1.0)) as (port, _):
        person = Person(port).enter()
        number = submit(person, **{**JOB, "n": 40, "heavy_atoms": "9"})
        job = person.wait(number)
        assert job["state"] == "failed"
        assert "Ended after 1 s" in job["message"]
        upload(person, "salt.sdf", sdf_of("C[Si](C)(C)C").encode())
        job = person.wait(submit(person, kind="relax"))
        assert job["state"] == "failed"
        assert "Si" in job["message"]
    with running(WebSettings(folder=str(tmp_path), threads=1)) as (port, _):
        again = Person(port, person.cookie)
        again.room = person.room
        assert [job["state"] for job in again.ask("GET", again.room)[2]["jobs"]] == ["failed", "failed"]
        assert again.ask("GET", again.room)[2]["scene"]["fragment"]["name"] == "salt.sdf"


def test_a_model_that_does_not_load_is_told_by_the_job(tmp_path):
    from halberd.samplers.web.settings import WebSettings

    with running(WebSettings(folder=str(tmp_path), model="nonsense")) as (port, _):
        person = Person(port).enter()
        job = person.wait(submit(person, **JOB))
        assert job["state"] == "failed"
        assert "nonsense" in job["message"]
