"""Checkpoints of SevenNet against its own code, which needs an environment of its own:

    pip install --no-deps --target DIR sevenn==0.13.0 e3nn==0.5.6 torch_geometric braceexpand pandas requests ninja \
        aiohttp xxhash psutil fsspec jinja2

    python tests/benchmarks/parity_with_sevennet.py make FOLDER DIR          # small checkpoints of the tests
    python tests/benchmarks/parity_with_sevennet.py evaluate DIR CHECKPOINT[=MODAL]... > reference.json
    python tests/benchmarks/parity_with_sevennet.py compare reference.json               # with halberd

Everything is evaluated in double precision; tables that SevenNet rounds to single precision in its files are computed
anew. ``compare`` prints deviations of energies (eV, and relative) and forces (eV/angstrom). ``make``, and ``evaluate``
of its files, are what the tests compare with, ``tests/potentials/multi_ace/weights/sevennet``.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule

warnings.filterwarnings("ignore")
#: Settings of the small networks: everything that differs between SevenNets in use.
SMALL: dict[str, dict[str, Any]] = {
    "manual": {
        "irreps_manual": ["4x0e", "4x0e+2x1e+2x2e", "4x0e+2x1e+2x2e", "4x0e"], "lmax": 2, "is_parity": False,
        "self_connection_type": "linear",
        "cutoff_function": {"cutoff_function_name": "XPLOR", "cutoff_on": 3.5},
    },
    "parity": {
        "irreps_manual": False, "lmax": 1, "is_parity": True, "self_connection_type": "nequip",
        "cutoff_function": {"cutoff_function_name": "poly_cut", "poly_cut_p_value": 6},
    },
    "modal": {
        "irreps_manual": ["4x0e", "4x0e+2x1e", "4x0e+2x1e", "4x0e"], "lmax": 1, "is_parity": False,
        "self_connection_type": "linear", "use_modality": True, "use_modal_self_inter_intro": True,
        "use_modal_self_inter_outro": True, "use_modal_output_block": True, "use_modal_wise_shift": True,
        "cutoff_function": {"cutoff_function_name": "XPLOR", "cutoff_on": 3.5},
    },
}  # fmt: skip
ELEMENTS = (1, 6, 8)


def frames(numbers: list[int]) -> list[Atoms]:
    """A molecule, and a crystal of elements that a network knows."""
    generator = np.random.default_rng(0)
    one, other = molecule("CH3CH2OH"), bulk("NaCl", "rocksalt", a=4.6, cubic=True)
    if 11 not in numbers:
        other.numbers = np.where(other.numbers == 11, 6, 8)
    for atoms in (one, other):
        atoms.positions += generator.normal(scale=0.08, size=atoms.positions.shape)
    return [one, other]


def make(folder: str, place: str) -> None:
    """Write small checkpoints with random weights."""
    sys.path.insert(0, place)
    from sevenn._const import DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG
    from sevenn.model_build import build_E3_equivariant_model

    Path(folder).mkdir(parents=True, exist_ok=True)
    for seed, (name, own) in enumerate(SMALL.items()):
        torch.manual_seed(seed)
        modal = own.get("use_modality", False)
        config = {
            **DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG, "version": "0.13.0", "_model_type": "E3_equivariant_model",
            "cutoff": 4.0, "channel": 4, "num_convolution_layer": 3, "weight_nn_hidden_neurons": [6, 6],
            "radial_basis": {"radial_basis_name": "bessel", "bessel_basis_num": 5}, "conv_denominator": 6.0,
            "_number_of_species": len(ELEMENTS), "_type_map": {z: n for n, z in enumerate(ELEMENTS)},
            "shift": [[-1.0, -2.0, -3.0], [-1.5, -2.5, -3.5]] if modal else [-1.0, -2.0, -3.0],
            "scale": [1.1, 1.2, 1.3], "use_species_wise_shift_scale": True, "use_modality": False,
            "use_modal_wise_scale": False, "use_modal_wise_shift": False, **own,
        }  # fmt: skip
        if modal:
            config.update({"_number_of_modalities": 2, "_modal_map": {"R2SCAN": 0, "PBE": 1}})
        network = build_E3_equivariant_model(config)
        torch.save({"model_state_dict": network.state_dict(), "config": config}, Path(folder) / f"{name}.pth")


def evaluate(place: str, *checkpoints: str) -> None:
    """Print energies and forces as JSON."""
    sys.path.insert(0, place)
    import sevenn._keys as keys
    from e3nn.o3 import wigner_3j
    from sevenn.atom_graph_data import AtomGraphData
    from sevenn.checkpoint import SevenNetCheckpoint
    from sevenn.train.dataload import unlabeled_atoms_to_graph

    class Graph(dict):  # modals are looked up on the device of this
        x = torch.zeros(1)

    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    close = torch.allclose
    torch.allclose = lambda a, b, **_: close(a.double(), b.double(), atol=1e-6)  # tables against double ones
    results = []
    for checkpoint in checkpoints:
        path, _, modal = checkpoint.partition("=")
        known = SevenNetCheckpoint(path)
        network = known.build_model().double().eval()
        network.set_is_batch_data(False)
        for name, table in network.named_buffers():
            last = name.rpartition(".")[2]
            if last.startswith("_w3j_"):
                table.copy_(wigner_3j(*map(int, last[5:].split("_")), dtype=torch.float64))
        for number, atoms in enumerate(frames(list(known.config["_type_map"]))):
            raw = unlabeled_atoms_to_graph(atoms, known.config["cutoff"])
            graph = AtomGraphData.from_numpy_dict(dict(raw)).to_dict()
            for key, value in graph.items():
                if torch.is_tensor(value) and value.is_floating_point():
                    graph[key] = torch.as_tensor(np.asarray(raw[key], dtype=np.float64)).reshape(value.shape)
            if modal:
                graph[keys.DATA_MODALITY] = modal
            found = network(Graph(graph))
            results.append({
                "checkpoint": path, "modal": modal or None, "frame": number,
                "energy": float(found[keys.PRED_TOTAL_ENERGY]), "forces": found[keys.PRED_FORCE].tolist(),
            })  # fmt: skip
    print(json.dumps(results))


def compare(reference: str) -> None:
    """Print deviations."""
    from halberd.plugins import HalberdCalculator
    from halberd.potentials import load

    for each in json.loads(Path(reference).read_text()):
        model = load(each["checkpoint"], head=each["modal"], precision="double")
        atoms = frames(list(model.atomic_numbers))[each["frame"]]
        found = HalberdCalculator(model.restrict(set(atoms.numbers))).evaluate(atoms)
        energy = found["energy"] - each["energy"]
        forces = np.abs(found["forces"] - np.array(each["forces"])).max()
        name = f"{Path(each['checkpoint']).name} {each['modal'] or ''}"
        print(f"{name:40s} {energy:9.1e} eV {abs(energy / each['energy']):9.1e} {forces:9.1e} eV/angstrom")


if __name__ == "__main__":
    {"make": make, "evaluate": evaluate, "compare": compare}[sys.argv[1]](*sys.argv[2:])
