"""Loading: what is recognised, what is refused, and how it says so."""

from __future__ import annotations

import pickle
import zipfile

import numpy as np
import pytest
import torch

from halberd.potentials import SiteModel, load, pretrained, pretrained_names
from halberd.potentials.errors import ConfigurationError, ModelFileError, OutputError, UnknownElementError
from halberd.potentials.loading import check_source
from halberd.potentials.sites.lennard_jones import lennard_jones


def test_pretrained_by_name_and_by_function():
    assert load("gfn2-chnof").atomic_numbers == pretrained("gfn2-chnof").atomic_numbers == (1, 6, 7, 8, 9)
    assert pretrained(precision="double").dtype == torch.float64
    assert "gfn2-chnof" in pretrained_names()
    assert load("gfn2-chnof@1").symbols == load("gfn2-chnof").symbols
    with pytest.raises(ConfigurationError, match=r"there is gfn2-chnof, gfn2-chnof@1"):
        pretrained("gfn2-chnof@9")
    with pytest.raises(ConfigurationError, match="Did you mean 'gfn2-chnof'"):
        pretrained("gfn2-chno")


def test_precision_is_converted(mace_files):
    assert load(mace_files["plain"]).dtype == torch.float64
    assert load(mace_files["plain"], precision="single").dtype == torch.float32
    with pytest.raises(ConfigurationError, match="'single' or 'double'"):
        load(mace_files["plain"], precision="float16")


@pytest.mark.parametrize("precision", ["single", "double"])
def test_halberd_file_round_trip(precision, mace_files, tmp_path):
    model = load(mace_files["plain"], precision=precision)
    model.save(tmp_path / "a.pt")
    again = load(tmp_path / "a.pt")
    assert again.dtype == model.dtype
    assert again.metadata["sha256"] == model.metadata["sha256"]
    np.testing.assert_array_equal(again.e0s, model.e0s)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.pt"]  # no temporary file stays


def test_saving_where_one_cannot(tmp_path):
    with pytest.raises(OutputError, match="does not exist"):
        lennard_jones([18]).save(tmp_path / "nowhere" / "model.pt")
    with pytest.raises(OutputError, match="is a folder"):
        lennard_jones([18]).save(tmp_path)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(ModelFileError, match=r"does not exist.*Did you mean 'gfn2-chnof'"):
        load("gfn2-chnoff")
    with pytest.raises(ModelFileError, match="is a folder"):
        load(tmp_path)


def _write(path, kind, mace_files):
    if kind == "text":
        path.write_text("not a model")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "hello")
    elif kind == "plain pickle":
        path.write_bytes(pickle.dumps({"a": 1}))
    elif kind == "state dict":
        torch.save({"weight": torch.zeros(3)}, path)
    elif kind == "other module":
        torch.save(torch.nn.Linear(2, 2), path)
    elif kind == "truncated model":
        data = mace_files["plain"].read_bytes()
        path.write_bytes(data[: len(data) // 2])
    elif kind == "flipped bytes":
        data = bytearray(mace_files["plain"].read_bytes())
        at = data.index(b"mace.modules")
        data[at : at + 4] = b"\xff\xff\xff\xff"
        path.write_bytes(bytes(data))
    elif kind == "other torchscript":
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    elif kind == "truncated pt":
        load(mace_files["plain"]).save(path)
        path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", "neither a halberd model nor a torch file"),
        ("empty", "neither a halberd model nor a torch file"),
        ("zip", "not a model"),
        ("plain pickle", "neither a halberd model nor a torch file"),
        ("state dict", "not a MACE model"),
        ("other module", "it holds a pickled torch.nn.modules.linear.Linear"),
        ("truncated model", "damaged|neither a halberd"),
        ("flipped bytes", "damaged"),
        ("other torchscript", "TorchScript file of another program"),
        ("truncated pt", "damaged|neither a halberd"),
    ],
)
def test_files_that_are_no_models(kind, message, tmp_path, mace_files):
    path = tmp_path / "bad.model"
    _write(path, kind, mace_files)
    for function in (load, check_source):
        with pytest.raises(ModelFileError, match=message):
            function(path)


def test_a_pickle_that_is_no_model_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"trap": Trap()}, tmp_path / "trap.model")
    with pytest.raises(ModelFileError, match="not a MACE model"):
        load(tmp_path / "trap.model")
    assert not (tmp_path / "sprung").exists()


def test_options_that_do_not_apply_are_refused(mace_files, tmp_path):
    load(mace_files["plain"]).save(tmp_path / "a.pt")
    with pytest.raises(ConfigurationError, match="head cannot be chosen"):
        load(tmp_path / "a.pt", head="dft")
    with pytest.raises(ConfigurationError, match="charge cannot be chosen"):
        load("gfn2-chnof", charge=1.0)
    with pytest.raises(ConfigurationError, match="got int"):
        load(3)


def test_a_list_is_a_committee(mace_files):
    model = load([mace_files[f"member{k}"] for k in range(3)], elements=["H", "C"])
    assert model.n_columns == 3
    assert model.e0s.shape == (2, 3)
    with pytest.raises(ConfigurationError, match="the list is empty"):
        load([])


def test_committee_of_unlike_members(mace_files):
    """Other element order, another cutoff: each column equals the member on its own."""
    members = [load(mace_files["member0"]), load(mace_files["other-order"])]
    both = load(members)
    assert both.symbols == ("H", "C", "O")
    assert both.cutoff == 4.0
    from halberd.potentials.conformance import edges, random_environment

    species, positions = random_environment(both)
    sites = both.scripted()(species, *edges(both, positions))
    for k, member in enumerate(members):
        own = member.species_of([both.atomic_numbers[s] for s in species])
        torch.testing.assert_close(
            sites[:, k], member.scripted()(own, *edges(member, positions)), rtol=1e-10, atol=1e-10
        )


def test_committees_that_cannot_be(mace_files):
    with pytest.raises(ConfigurationError, match="no element in common"):
        load([lennard_jones([18]), lennard_jones([10])])
    with pytest.raises(ConfigurationError, match="different precisions"):
        load([mace_files["plain"], mace_files["single-precision"]])
    load([mace_files["plain"], mace_files["single-precision"]], precision="double")
    with pytest.raises(ConfigurationError, match="committee already"):
        load([load([lennard_jones([18])]), lennard_jones([18])])


def test_unknown_element_names_the_atom():
    with pytest.raises(UnknownElementError, match=r"Atom 1 is Si.*it knows H, C, N, O, F"):
        pretrained().species_of([1, 14, 8])
    with pytest.raises(UnknownElementError, match="'Xx' is not a chemical element"):
        load("gfn2-chnof", elements=["Xx"])


def test_newer_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("halberd.potentials.sites.site_model.FORMAT_VERSION", 99)
    lennard_jones([18]).save(tmp_path / "future.pt")
    monkeypatch.undo()
    with pytest.raises(ModelFileError, match="has format 99"):
        SiteModel.load(tmp_path / "future.pt")
