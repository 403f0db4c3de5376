"""Pickles are read by a reader that knows MACE models, and runs nothing else."""

from __future__ import annotations

import collections
import os
import shutil
import zipfile

import pytest
import torch

from halberd.potentials.errors import ModelFileError
from halberd.potentials.loading import load
from halberd.potentials.mace.graph_source import check_graph_source
from halberd.potentials.mace.pickles import load_pickled
from halberd.potentials.sites.lennard_jones import lennard_jones


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def poisoned(tmp_path, mace_files, *extra):
    """A model with something beside it that is called while it is unpickled."""
    model = torch.load(mace_files["plain"], map_location="cpu", weights_only=False)
    model.extra = extra
    torch.save(model, tmp_path / "poisoned.model")
    return tmp_path / "poisoned.model"


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda victim: Calls(os.system, f"touch {victim}"), r"posix\.system"),
        (lambda victim: Calls(eval, f"open({str(victim)!r}, 'w')"), r"builtins\.eval"),
        (lambda victim: Calls(getattr, [str(victim)], "append"), r"builtins\.getattr"),
        (lambda victim: Calls(open, str(victim), "w"), r"io\.open|_io\.open"),
        (lambda victim: Calls(shutil.copyfile, "/etc/hostname", str(victim)), r"shutil\.copyfile"),
        (lambda victim: Calls(torch.load, str(victim)), r"torch\.serialization\.load"),
        (lambda victim: Calls(torch.save, 1, str(victim)), r"torch\.serialization\.save"),
        (lambda victim: Calls(torch.hub.load, "a", "b"), r"torch\.hub\.load"),
        (lambda victim: Calls(collections.Counter, [1]), r"collections\.Counter"),
    ],
)
def test_what_is_no_part_of_a_model_is_not_called(make, name, mace_files, tmp_path):
    victim = tmp_path / "victim"
    file = poisoned(tmp_path, mace_files, make(victim))
    with pytest.raises(ModelFileError, match=f"asks for '({name}).*' *.*--trust"):
        load(file)
    assert not victim.exists()


def test_trust_lets_it_run(mace_files, tmp_path):
    victim = tmp_path / "victim"
    file = poisoned(tmp_path, mace_files, Calls(os.system, f"touch {victim}"))
    load(file, trust=True)
    assert victim.exists()


def test_a_decoy_does_not_hide_the_pickle_that_torch_reads(mace_files, tmp_path):
    """torch reads the entry under the archive's own first folder, whatever else is named data.pkl."""
    victim = tmp_path / "victim"
    torch.save({"a": Calls(os.system, f"touch {victim}")}, tmp_path / "evil.pt")
    good = zipfile.ZipFile(mace_files["plain"])
    with zipfile.ZipFile(tmp_path / "evil.pt") as evil, zipfile.ZipFile(tmp_path / "decoy.model", "w") as decoy, good:
        for name in evil.namelist():
            decoy.writestr(name, evil.read(name))
        pickled = next(name for name in good.namelist() if name.endswith("/data.pkl"))
        decoy.writestr("zzz/data.pkl", good.read(pickled))
    with pytest.raises(ModelFileError):
        load(tmp_path / "decoy.model")
    assert not victim.exists()


def test_torchscript_inside_a_pickle_is_looked_at(mace_files, tmp_path, monkeypatch):
    """e3nn's modules carry TorchScript, which is loaded, and so may run, while they are unpickled."""
    monkeypatch.setattr("halberd.potentials.sites.archive.FORBIDDEN", {"reshape"})
    with pytest.raises(ModelFileError, match="'reshape', which reads or writes files"):
        load_pickled(mace_files["plain"])


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("import os\ndef forward(self, x):\n  return os.system('x')", "'import os'"),
        ("from subprocess import run\ndef forward(self, x):\n  return run(x)", "'from subprocess import run'"),
        ("def forward(self, x):\n  return __import__('os')", "a call of '__import__'"),
        ("def forward(self, x):\n  return x.__class__", r"'\.__class__'"),
        ("def forward(self, x):\n  return torch.hub.load('a')", r"a call of 'torch\.hub\.load'"),
        ("def forward(self, x):\n  return torch.save(x, 'a')", r"a call of 'torch\.save'"),
        ("def forward(self, x):\n  y = torch.load\n  return y", r"'torch\.load' that is not called"),
        ("def forward(self, x):\n  return (lambda y: y)(x)", "'Lambda'|a call of an expression"),
        ("def forward(self, x=open('a', 'w')):\n  return x", "a call of 'open'"),
        ("open('a', 'w')\ndef forward(self, x):\n  return x", "a call of 'open'"),
        ("def forward(self, x):\n  return [y for y in x]", "'ListComp'"),
        ("def forward(self, x):\n  return torch.os.system('x')", r"a call of 'torch\.os\.system'"),
        ("def other(self, x):\n  return x", "'def other'"),
        ("def forward(self, x):\n  t = torch\n  t.os.system('x')\n  return x", "'torch' that is not called"),
        (
            "def forward(self, x):\n  t = torch.os\n  t.system('x')\n  return x",
            r"'torch\.os' that is not called|a call of",
        ),
        ("def forward(self, x):\n  return [torch][0].os.system('x')", "'torch' that is not called|a call of"),
        ("from torch import load as device\ndef forward(self, x):\n  return device('x')", "'from torch import load"),
        ("import torch.fx._pytree as fx_pytree\ndef forward(self, x):\n  t = fx_pytree\n  return t", "not called"),
        ("def forward(self, x):\n  return self.weight.numpy().tofile('x')", "a call of '.tofile'|a call of '.numpy'"),
        ("def forward(self, x):\n  return self.weight.untyped_storage().from_file('x', True, 3)", "a call of"),
        ("def forward(self, x):\n  return self.other(x)", r"a call of '\.other'"),
        ("def forward(self, torch):\n  return torch", "an argument 'torch'"),
        ("def forward(self, x):\n  device = x\n  return device(x)", "another 'device'"),
        ("def forward(self, x):\n  self.forward = x\n  return x", r"'\.forward'"),
        ("def forward(self, x", "cannot be read"),
    ],
)
def test_source_of_graph_modules_is_tensor_algebra(source, problem):
    with pytest.raises(ModelFileError, match=problem):
        check_graph_source(source, "'m.model'")


def test_source_that_e3nn_writes_is_fine():
    check_graph_source(
        "import torch\nfrom math import inf\nfrom torch import device\n"
        "def forward(self, x : torch.Tensor, w : torch.Tensor) -> torch.Tensor:\n"
        "    size = x.shape[slice(None, -1, None)]; y = x.reshape(-1, 5);  x = None\n"
        "    z = torch.einsum('ab,bc->ac', y, w) * 0.5\n"
        "    return torch.nn.functional.silu(z).reshape(size + (3,))\n",
        "'m.model'",
    )


def test_pickles_of_other_things_are_refused(tmp_path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "w.model")
    with pytest.raises(ModelFileError, match=r"a pickle of plain data|is not a MACE model"):
        load(tmp_path / "w.model")
    lennard_jones([18]).save(tmp_path / "lj.model")
    assert load(tmp_path / "lj.model").symbols == ("Ar",)
