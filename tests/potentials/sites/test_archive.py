"""Model files: no flipped byte becomes a wrong energy, and no file runs what it should not."""

from __future__ import annotations

import io
import warnings
import zipfile

import numpy as np
import pytest
import torch

from halberd.potentials.errors import ModelFileError
from halberd.potentials.loading import load
from halberd.potentials.pretrained_models import pretrained_path
from halberd.potentials.sites.archive import check_source
from halberd.potentials.sites.lennard_jones import lennard_jones
from halberd.potentials.sites.site_model import SIDECAR, SiteModel


def rewritten(source, target, changes=None, drop=()) -> None:
    """The archive with other entries; checksums are right again."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if not name.endswith(tuple(drop) or ("\0",)):
                new.writestr(name, (changes or {}).get(name, old.read(name)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "lj.pt"
    lennard_jones([18, 36]).save(path)
    return path


@pytest.mark.parametrize("kind", ["flipped bit", "zeroed block", "cut short"])
def test_damaged_files_are_refused_or_unharmed(kind, saved, tmp_path):
    whole = saved.read_bytes()
    truth = SiteModel.load(saved)
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        content = bytearray(whole)
        at = int(generator.integers(len(content)))
        if kind == "flipped bit":
            content[at] ^= 1 << int(generator.integers(8))
        elif kind == "zeroed block":
            content[at : at + 64] = bytes(len(content[at : at + 64]))
        else:
            del content[at:]
        (tmp_path / "damaged.pt").write_bytes(bytes(content))
        try:
            found = load(tmp_path / "damaged.pt")
        except ModelFileError:
            refused += 1
            continue
        assert found.sidecar() == truth.sidecar()
        state, expected = found.module.state_dict(), truth.module.state_dict()
        assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert refused > (30 if kind == "flipped bit" else 40)


def test_a_name_that_is_no_text_any_more(saved, tmp_path):
    content = bytearray(saved.read_bytes())
    content[content.rindex(b"code/")] = 0xDE  # in the directory at the end
    (tmp_path / "damaged.pt").write_bytes(bytes(content))
    for function in (load, SiteModel.load):
        with pytest.raises(ModelFileError, match="is damaged"):
            function(tmp_path / "damaged.pt")


def test_a_file_whose_checksums_were_made_right_again_is_refused(saved, tmp_path):
    """What the zip's own checksums cannot see, the digest does: an entry gone, or another one."""
    with zipfile.ZipFile(saved) as archive:
        sidecar = next(name for name in archive.namelist() if name.endswith(SIDECAR))
        text = archive.read(sidecar).decode()
    rewritten(saved, tmp_path / "a.pt", {sidecar: text.replace('"cutoff": ', '"cutoff": 1')})
    with pytest.raises(ModelFileError, match="digest does not fit"):
        load(tmp_path / "a.pt")


def test_files_from_before_digests_still_load(tmp_path):
    rewritten(pretrained_path("gfn2-chnof"), tmp_path / "a.pt", {}, drop=["halberd.sha256"])
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert not [name for name in archive.namelist() if name.endswith("sha256")]
    assert load(tmp_path / "a.pt").symbols == ("H", "C", "N", "O", "F")


@pytest.mark.parametrize("text", ["{}", "[]", "3", "not json", '{"format_version": "new"}', '{"format_version": 1}'])
def test_sidecars_that_make_no_sense(text, saved, tmp_path):
    with zipfile.ZipFile(saved) as archive:
        sidecar = next(name for name in archive.namelist() if name.endswith(SIDECAR))
    rewritten(saved, tmp_path / "a.pt", {sidecar: text}, drop=["halberd.sha256"])
    with pytest.raises(ModelFileError, match=r"is damaged: its halberd\.json cannot be read"):
        load(tmp_path / "a.pt")


class Writes(torch.nn.Module):
    """A harmless model that writes a file when it is loaded."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        torch.save(torch.zeros(3), self.path)

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        return torch.zeros(species.shape[0], dtype=torch.float64)


def test_a_file_that_writes_while_it_is_loaded_is_refused(tmp_path):
    victim = tmp_path / "victim"
    model = SiteModel(Writes(str(victim)), 3.0, [18], metadata={"name": "harmless"})
    model.save(tmp_path / "m.pt")
    victim.unlink(missing_ok=True)
    with pytest.raises(ModelFileError, match="uses torch's 'save', which reads or writes files"):
        load(tmp_path / "m.pt")
    assert not victim.exists()
    load(tmp_path / "m.pt", trust=True)
    assert victim.exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(x):\n  return torch.from_file('x', True, 3)", "'from_file', which reads"),
        ("def f(x):\n  y = torch.save\n  return y(x, 'p')", "'save', which reads"),
        ("def f(x):\n  return ops.image.read_file('x')", "operator 'image.read_file'"),
        ("def f(x):\n  return ops.aten.from_file('x', True, 3)", "'from_file', which reads"),
        ("def f(x):\n  t = torch\n  return t.add(x, x)", "uses 'torch' otherwise"),
        ("def f(x):\n  t = ops\n  return t.aten.add(x, x)", "uses 'ops' otherwise"),
        ("def f(x):\n  t = ops.aten\n  return t.add(x, x)", r"uses 'ops\.aten' otherwise"),
        ("def f(x):\n  t = torch.add\n  return t(x, x)", r"uses 'torch\.add' otherwise"),
        ("def f(x):\n  return getattr(torch, 'add')(x, x)", "uses 'torch' otherwise"),
        ("def f(x):\n  return (torch if True else torch).add(x, x)", "uses 'torch' otherwise"),
        ("def f(x):\n  return torch.jit.load('p')", "'load', which reads"),
        ("def f(x):\n  return torch.classes.aoti.Runner('p')", r"uses 'torch\.classes"),
        ("def f(x):\n  return __torch__.torch.classes.aoti.Runner('p')", "a class that halberd does not know"),
        ("def f(x):\n  t = __torch__.torch\n  return t.classes.aoti.Runner('p')", "a class that halberd does not know"),
        ("def f(x):\n  t = __torch__\n  return t", "a class that halberd does not know"),
        ("def f(x):\n  return 'p'.from_file(True, 3)", "'from_file', which reads"),
        ("def f(x):\n  g = getattr\n  return g('p', 'from_file')(True, 3)", "'from_file', which reads"),
        ("def f(x:", "cannot be read"),
    ],
)
def test_code_that_reaches_beyond_the_program(source, message):
    with pytest.raises(ModelFileError, match=message):
        check_source(source, "'m.pt'")


def test_code_that_only_computes():
    check_source("def f(self, x):\n  s = self.weight\n  return ops.vesin.neighbors(torch.add(x, s))", "'m.pt'")


def test_an_entry_that_hides_behind_another_is_refused(saved, tmp_path):
    buffer = io.BytesIO(saved.read_bytes())
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a") as archive:
        warnings.simplefilter("ignore")  # Python remarks on the name
        code = next(name for name in archive.namelist() if name.endswith(".py"))
        archive.writestr(code, "def harmless(): pass")
    (tmp_path / "m.pt").write_bytes(buffer.getvalue())
    with pytest.raises(ModelFileError, match=r"is damaged|entries twice"):
        load(tmp_path / "m.pt")
