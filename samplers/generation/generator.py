"""Molecules by similarity: annealed skeletons, finished, counted, and written.

Every attempt has a random stream of its own, made of the seed and the number of the attempt, so what comes out does not
depend on how attempts are put into batches. After every batch what is done is kept beside the output; the same call
goes on from there when it was interrupted.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from halberd.plugins.forces.options import check_device
from halberd.plugins.molecules.bonding import atoms_of, import_rdkit
from halberd.plugins.molecules.files import check_molecule_file, write_molecules
from halberd.plugins.molecules.repair import raw_molecule
from halberd.plugins.molecules.shapes import parse_shape, read_host
from halberd.potentials.errors import ConfigurationError, RestartError
from halberd.potentials.files import check_writable, replacing
from halberd.potentials.loading import load
from halberd.potentials.locks import locked
from halberd.potentials.mace.descriptor import mace_descriptor
from halberd.potentials.simgen.guidance import GaussianPrior, HostWall, PointCloudPrior
from halberd.potentials.simgen.score import SimilarityScore
from halberd.potentials.sites.site_model import SiteModel
from halberd.samplers.generation.annealing import SimilaritySampler, Snapshot
from halberd.samplers.generation.denoised import DenoisedGenerator
from halberd.samplers.generation.element_sweep import ElementSweep
from halberd.samplers.generation.finisher import Finisher
from halberd.samplers.generation.references import load_references
from halberd.samplers.generation.scaffold import Scaffold
from halberd.samplers.generation.settings import GenerationSettings

#: Cause of failure beside those of :mod:`halberd.samplers.generation.finishing`.
DUPLICATE = "duplicate"
#: Told what is being done, and the part of it that is.
Progress = Callable[[str, float], None]


class Watcher:
    """Sees molecules of similarity while they are made; does nothing unless a subclass does."""

    def snapshot(self, snapshot: Snapshot) -> None:
        """A batch on its way."""

    def found(self, mol: Any) -> None:
        """A molecule that will be among the results."""


@dataclasses.dataclass
class Generated:
    """What a run has made.

    Attributes
    ----------
    molecules : list of rdkit.Chem.Mol
        With hydrogens, bonds, a conformer (angstrom), and the properties ``attempt``, ``smiles``, ``energy_eV``,
        ``log_density``, ``largest_force_eV_A``, ``particle`` (0 for the most similar), ``moved_A`` and
        ``bonds_changed`` (:func:`halberd.plugins.molecules.repair.note_repair`). By diffusion without densities, and
        without energies if not repaired, but with ``certainty``, of the element that the model was least sure of.
    attempts : int
        Until the last of them was found.
    failures : dict
        Cause -> attempts that ended with it.
    seconds : dict
        ``anneal``, ``finish`` and ``total``, of this call.
    """

    molecules: list[Any]
    attempts: int
    failures: dict[str, int]
    seconds: dict[str, float]

    @property
    def atoms(self) -> list[Atoms]:
        """The molecules as ASE structures."""
        return [atoms_of(mol) for mol in self.molecules]

    @property
    def distinct_attempts(self) -> int:
        """Attempts that did not end as duplicates."""
        return self.attempts - self.failures.get(DUPLICATE, 0)

    @property
    def raw(self) -> list[Any]:
        """The molecules as they were annealed, without bonds: hydrogens placed by rules, nothing relaxed."""
        return [raw_molecule(mol) for mol in self.molecules]

    def repair(self) -> dict[str, float | None]:
        """What finishing did: medians ``moved_A`` of heavy atoms, mean share ``bonds_changed``, and ``first_particle``.

        The last is the share of molecules that were made of the most similar particle, without another try.
        """
        if not self.molecules:
            return {"moved_A": None, "bonds_changed": None, "first_particle": None}
        return {
            "moved_A": float(np.median([mol.GetDoubleProp("moved_A") for mol in self.molecules])),
            "bonds_changed": float(np.mean([mol.GetDoubleProp("bonds_changed") for mol in self.molecules])),
            "first_particle": float(np.mean([mol.GetIntProp("particle") == 0 for mol in self.molecules])),
        }

    def rates(self) -> dict[str, float]:
        """``validity`` of the attempts and ``uniqueness`` of the valid, duplicates that were left out included."""
        duplicates = self.failures.get(DUPLICATE, 0)
        valid = len(self.molecules) + duplicates
        different = len({mol.GetProp("smiles") for mol in self.molecules})
        return {
            "validity": valid / self.attempts if self.attempts else 0.0,
            "uniqueness": different / valid if valid else 0.0,
        }


class Generator:
    """Everything a run needs, made once from its settings.

    Parameters
    ----------
    settings : GenerationSettings

    Raises
    ------
    ConfigurationError, DataError, GeometryError, ModelError, ModelFileError, UnknownElementError
        For whatever cannot be read or does not fit together.
    """

    def __init__(self, settings: GenerationSettings) -> None:
        import_rdkit()
        self.settings = settings
        check_device(settings.device)
        model = load(settings.model_or_default, precision=settings.precision)
        self.force_field: SiteModel = model.to(device=settings.device)
        self.scaffold = Scaffold.from_file(settings.scaffold) if settings.scaffold else None
        held = len(self.scaffold.numbers) if self.scaffold else 0
        largest = 0 if settings.sizes is None else max(settings.sizes) + held
        self.references = load_references(settings.references, largest)
        #: Heavy atoms to choose from, each as often as it is to come.
        self.sizes = np.array(settings.sizes or [len(each) for each in self.references.numbers])
        self.wall = HostWall(*read_host(settings.host)) if settings.host else None
        self.score = SimilarityScore(
            mace_descriptor(self.force_field),
            self.references,
            widths={str(element): width for element, width in settings.widths.items()},
            coverage=settings.coverage,
            inverse_width=settings.inverse_width,
            balance=settings.balance,
        )
        sweep = ElementSweep(self.force_field, self.score, settings.sampler.elements) if settings.sweep else None
        self.finisher = Finisher(
            self.force_field, self.score, settings.finish, scaffold=self.scaffold, wall=self.wall, sweep=sweep
        )
        scaffold = None
        if self.scaffold is not None:
            scaffold = (self.scaffold.numbers, self.scaffold.positions)
            if self.scaffold.open_valences < 1:
                raise ConfigurationError(f"Scaffold '{settings.scaffold}' has no atom that could take a bond.")
        self.prior = self._prior()
        self.sampler = SimilaritySampler(self.score, self.prior, settings.sampler, scaffold=scaffold, wall=self.wall)

    def _prior(self) -> GaussianPrior | PointCloudPrior:
        prior = parse_shape(self.settings.shape, self.settings.beta)
        if self.scaffold is not None and isinstance(prior, GaussianPrior):
            # Around the marks of the scaffold, or around its middle.
            marks = self.scaffold.anchors if len(self.scaffold.anchors) else self.scaffold.positions
            prior = GaussianPrior(prior.covariance, marks.mean(axis=0))
        capacity = prior.capacity()
        if self.sizes.max() > capacity:
            warnings.warn(
                f"halberd: shape '{self.settings.shape}' has room for about {capacity:.0f} heavy atoms, and "
                f"{self.sizes.max()} were asked for. Molecules will bulge out of it; make it larger or ask for "
                "fewer atoms.",
                stacklevel=4,
            )
        return prior

    def size_of(self, attempt: int) -> int:
        """Heavy atoms of an attempt, drawn from the range asked for."""
        return int(np.random.default_rng([self.settings.seed, attempt, 1]).choice(self.sizes))

    def attempt(
        self, attempts: range, progress: Progress | None = None, watcher: Watcher | None = None
    ) -> tuple[list[Any], dict[str, float]]:
        """Make a batch of attempts.

        Parameters
        ----------
        attempts : range
            Their numbers.
        progress : callable, optional
        watcher : Watcher, optional

        Returns
        -------
        results : list of rdkit.Chem.Mol or str
            A molecule, or why there is none, per attempt.
        seconds : dict
        """
        tell = progress or (lambda _what, _part: None)
        started = time.perf_counter()
        seeds = [[self.settings.seed, k] for k in attempts]
        skeletons = self.sampler.run(
            [self.size_of(k) for k in attempts],
            seeds,
            lambda part: tell("annealing", part),
            **({} if watcher is None else {"watch": watcher.snapshot}),
        )
        annealed = time.perf_counter()
        results = self.finisher.run(skeletons, attempts, tell)
        done = time.perf_counter()
        return results, {"anneal": annealed - started, "finish": done - annealed}


def generate(
    settings: GenerationSettings | None = None,
    *,
    output: str | Path | None = None,
    progress: Progress | None = None,
    watcher: Watcher | None = None,
    **keywords: Any,
) -> Generated:
    """Generate molecules.

    Parameters
    ----------
    settings : GenerationSettings, optional
    output : path, optional
        ``.sdf``, ``.extxyz``, ``.xyz`` or ``.pdb``. What is done is kept in ``OUTPUT.part`` until the file is written;
        the same call goes on from it.
    progress : callable, optional
        Told what is being done and the part of it that is, 0 to 1.
    watcher : Watcher, optional
        Shown the molecules while they are made; of similarity alone.
    **keywords
        Settings, in place of an object.

    Returns
    -------
    Generated

    Raises
    ------
    ConfigurationError, DataError, GeometryError, ModelError, ModelFileError, UnknownElementError, OutputError
        For whatever cannot be read, does not fit together, or cannot be written, and if another run is making the same
        file.
    RestartError
        If ``OUTPUT.part`` is another run's, or damaged.

    Examples
    --------
    >>> from halberd.samplers.generation.generator import generate
    >>> made = generate(n=1, heavy_atoms="5", references="qm9-small", seed=1)
    >>> made.molecules[0].GetNumHeavyAtoms()
    5
    """
    if settings is None or keywords:
        given = {} if settings is None else {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
        settings = GenerationSettings.from_mapping({**given, **keywords}, "the arguments")
    if output is None:
        return _generate(settings, None, progress, watcher)
    output = Path(output)
    check_molecule_file(output)
    check_writable(output)
    part = output.with_name(f"{output.name}.part")
    with locked(output.parent, f".{output.name}.lock"):
        generated = _generate(settings, part, progress, watcher)
        write_molecules(output, generated.molecules)
        part.unlink(missing_ok=True)
    return generated


@contextlib.contextmanager
def _unfused() -> Iterator[None]:
    """Keep TorchScript from fusing operators after some calls, which rounds otherwise from then on.

    A run that was interrupted would differ in the last digits from one that was not. It costs nothing measurable.
    """
    before = torch.jit.set_fusion_strategy([])
    try:
        yield
    finally:
        torch.jit.set_fusion_strategy(before)


@_unfused()
def _generate(
    settings: GenerationSettings, part: Path | None, progress: Progress | None, watcher: Watcher | None
) -> Generated:
    """Make the molecules; what is done is kept in ``part`` after every batch."""
    generator = DenoisedGenerator(settings) if settings.method == "diffusion" else Generator(settings)
    started = time.perf_counter()
    seconds: collections.Counter[str] = collections.Counter()
    results = _read_part(part, settings)
    seen = set(_smiles(results))

    def tell(what: str, fraction: float) -> None:
        if progress is not None:
            have = _count_molecules(results)
            # Annealing is most of the work of a batch.
            whole = have + (min(settings.batch, settings.n - have) * fraction if what == "annealing" else 0)
            progress(f"{have} of {settings.n} molecules, {what}", min(1.0, whole / settings.n))

    while _count_molecules(results) < settings.n and len(results) < settings.attempts:
        batch = range(len(results), min(len(results) + settings.batch, settings.attempts))
        if watcher is None or isinstance(generator, DenoisedGenerator):
            made, took = generator.attempt(batch, tell)
        else:
            made, took = generator.attempt(batch, tell, watcher)
        for result in made:
            is_known = settings.unique and not isinstance(result, str) and result.GetProp("smiles") in seen
            results.append(DUPLICATE if is_known else result)
            if watcher is not None and not isinstance(results[-1], str) and _count_molecules(results) <= settings.n:
                watcher.found(result)
            seen.update(_smiles([result]))
        seconds.update(took)
        if part is not None:
            _write_part(part, settings, results)
    return count_results(settings, results, {**dict(seconds), "total": time.perf_counter() - started})


def count_results(settings: GenerationSettings, results: list[Any], seconds: dict[str, float]) -> Generated:
    """Take the molecules that were wanted, and count the attempts until the last of them.

    Parameters
    ----------
    settings : GenerationSettings
    results : list of rdkit.Chem.Mol or str
        Of every attempt.
    seconds : dict
    """
    made: list[Any] = []
    attempts = 0
    failures: collections.Counter[str] = collections.Counter()
    for result in results:
        if len(made) == settings.n:
            break
        attempts += 1
        if isinstance(result, str):
            failures[result] += 1
        else:
            made.append(result)
    return Generated(made, attempts, dict(failures), seconds)


def _smiles(results: list[Any]) -> list[str]:
    return [result.GetProp("smiles") for result in results if not isinstance(result, str)]


def _count_molecules(results: list[Any]) -> int:
    return sum(not isinstance(result, str) for result in results)


def _write_part(part: Path, settings: GenerationSettings, results: list[Any]) -> None:
    import base64

    Chem = import_rdkit()
    # Coordinates too, or what is read back is rounded to single precision.
    keep = Chem.PropertyPickleOptions.AllProps | Chem.PropertyPickleOptions.CoordsAsDouble
    rows = [r if isinstance(r, str) else [base64.b64encode(r.ToBinary(int(keep))).decode()] for r in results]
    with replacing(part) as temporary:
        temporary.write_text(json.dumps({"settings": settings.fingerprint(), "results": rows}), encoding="utf-8")


def _read_part(part: Path | None, settings: GenerationSettings) -> list[Any]:
    if part is None or not part.exists():
        return []
    import base64

    Chem = import_rdkit()
    try:
        data = json.loads(part.read_text(encoding="utf-8"))
        theirs, rows = data["settings"], data["results"]
        results = [row if isinstance(row, str) else Chem.Mol(base64.b64decode(row[0])) for row in rows]
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise RestartError(f"'{part}' is damaged: {error}. Delete it to start again.") from error
    ours = json.loads(json.dumps(settings.fingerprint()))
    if theirs != ours:
        different = [key for key in ours if theirs.get(key) != ours[key]]
        raise RestartError(
            f"'{part}' was left by a run with other settings ({', '.join(different)}). Repeat those to go on with it, "
            "delete it to start again, or choose another output."
        )
    return results
