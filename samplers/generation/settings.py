"""Settings of a generation run."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from halberd.potentials.errors import ConfigurationError
from halberd.potentials.validation import Seed, changed, conform, from_mapping
from halberd.samplers.generation.annealing import SamplerOptions
from halberd.samplers.generation.diffusion import DenoisingOptions
from halberd.samplers.generation.finishing import FinishOptions

#: Models that come with halberd, by the method.
MODELS = {"simgen": "gfn2-chnof@1", "diffusion": "qm9-diffusion"}
#: Far beyond what annealing makes sensible molecules of, and still something that fits into memory.
MOST_HEAVY_ATOMS = 1000
#: Settings of similarity alone, and of finishing.
_SIMGEN = ("shape", "beta", "scaffold", "host", "coverage", "widths", "inverse_width", "balance", "sweep", "sampler")
_FINISHING = ("precision", "device", "references", "finish")


@dataclasses.dataclass(frozen=True)
class GenerationSettings:
    """What to generate.

    Attributes
    ----------
    n : int
        Molecules wanted.
    method : {'simgen', 'diffusion'}
        By similarity to references, or by a diffusion model, which has no use for ``shape``, ``beta``, ``scaffold``,
        ``host``, ``coverage``, ``widths``, ``inverse_width``, ``balance``, ``sweep`` and ``sampler``.
    heavy_atoms : str
        ``8``, or a range ``7:9`` with both ends, from which the size of each molecule is drawn, or ``references``:
        sizes as often as they occur in the reference set. Without the scaffold's.
    shape : str
        See :func:`halberd.plugins.molecules.shapes.parse_shape`.
    beta : float
        How exclusively the nearest points of a cloud attract, 1/angstrom^2.
    scaffold : str, optional
        File of a fragment, or several, that every molecule holds and that does not move.
    host : str, optional
        File of a host or pocket whose atoms are kept clear of. Give its cavity as ``shape``.
    model : str, optional
        MACE whose descriptors and forces are used: a pretrained name or a file; ``gfn2-chnof@1`` if omitted. Of
        ``diffusion``, the file that ``halberd train`` made; ``qm9-diffusion`` if omitted.
    precision : {'single', 'double'}, optional
        Of the model; its own if omitted.
    device : str
        Where relaxation and scores outside the Context are computed: ``cpu``, or ``cuda`` beside
        ``sampler: {platform: CUDA}``.
    references : str
        Shipped reference set or a file of molecules; ``auto`` takes ``qm9`` up to 9 heavy atoms (the
        scaffold's included), and ``joined`` above.
    coverage : float
        Weight of the coverage sum of the score, 0 to 1.
    widths : mapping
        Element -> width of the kernel.
    inverse_width : float, optional
        A constant inverse square width of the kernel.
    balance : float
        How far the weights of the elements are evened out, 0 to 1.
    seed : int
    batch : int
        Molecules that are generated together.
    max_attempts : int, optional
        After which to stop; three times ``n`` if omitted.
    unique : bool
        Whether to keep one of each molecule only; the others count as duplicates.
    sweep : bool
        Whether to sweep over the elements by energy in the end.
    sampler : SamplerOptions
    finish : FinishOptions
    denoising : DenoisingOptions
        Of ``diffusion``.
    start : str, optional
        Of ``diffusion``: file of molecules, with all their hydrogens. Every attempt begins with one of them, to which
        noise of ``denoising.sigma_max`` is added, and so becomes a variation of it.
    repair : bool
        Of ``diffusion``: keep the heavy atoms that the model made, and give them bonds, hydrogens and a relaxation as
        skeletons of ``simgen`` get them. If not, molecules are as the model made them, its hydrogens included.
    """

    n: int = 100
    method: Literal["simgen", "diffusion"] = "simgen"
    heavy_atoms: str = "7:9"
    shape: str = "gaussian"
    beta: float = 5.0
    scaffold: str | None = None
    host: str | None = None
    model: str | None = None
    precision: str | None = None
    device: str = "cpu"
    references: str = "auto"
    coverage: float = 0.0
    widths: Mapping[str, float] = dataclasses.field(default_factory=dict)
    inverse_width: float | None = None
    balance: float = 0.25
    seed: Seed = 0
    batch: int = 50
    max_attempts: int | None = None
    unique: bool = True
    sweep: bool = False
    sampler: SamplerOptions = dataclasses.field(default_factory=SamplerOptions)
    finish: FinishOptions = dataclasses.field(default_factory=FinishOptions)
    denoising: DenoisingOptions = dataclasses.field(default_factory=DenoisingOptions)
    start: str | None = None
    repair: bool = True

    def __post_init__(self) -> None:
        conform(self)
        if self.n < 1 or self.batch < 1:
            raise ConfigurationError(f"n and batch must be at least 1, got {self.n} and {self.batch}.")
        if self.seed < 0:
            raise ConfigurationError(f"seed is {self.seed}; it must be 0 or more.")
        if self.max_attempts is not None and self.max_attempts < 1:
            raise ConfigurationError(f"max_attempts is {self.max_attempts}; it must be at least 1.")
        self._check_method()
        self.sizes  # noqa: B018  (raises if they are not understood)

    def _check_method(self) -> None:
        """Refuse what belongs to the other method."""
        for name in changed(self, _SIMGEN if self.method == "diffusion" else ("denoising", "repair", "start")):
            raise ConfigurationError(f"{name} is not for method {self.method}: leave it out, or change method.")
        if self.start is not None and changed(self, ("heavy_atoms",)):
            raise ConfigurationError("start brings its own sizes: leave heavy_atoms out, or start.")
        for name in () if self.repair else changed(self, _FINISHING):
            raise ConfigurationError(f"{name} is for what is repaired, and repair is false: leave one of them out.")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], origin: str = "the settings") -> GenerationSettings:
        """Build settings from nested keys and values; a single size may be a number.

        Raises
        ------
        ConfigurationError
            If a key is unknown (suggests the closest), or a value makes no sense.
        """
        built = dict(values)
        if isinstance(built.get("heavy_atoms"), int):
            built["heavy_atoms"] = str(built["heavy_atoms"])
        return from_mapping(cls, built, origin)

    @property
    def model_or_default(self) -> str:
        """The model, or what the method takes if none was named."""
        return MODELS[self.method] if self.model is None else self.model

    @property
    def sizes(self) -> range | None:
        """Heavy atoms to choose from; ``None`` for those of the reference set.

        Raises
        ------
        ConfigurationError
            If ``heavy_atoms`` is not a number or a range, or beyond :data:`MOST_HEAVY_ATOMS`.
        """
        if self.heavy_atoms == "references":
            return None
        parts = str(self.heavy_atoms).split(":")
        try:
            low, high = int(parts[0]), int(parts[-1])
        except ValueError:
            low = high = 0
        if len(parts) > 2 or not 1 <= low <= high <= MOST_HEAVY_ATOMS:
            raise ConfigurationError(
                f"heavy_atoms is '{self.heavy_atoms}'; write a number such as 8, a range such as 7:9, or 'references'; "
                f"{MOST_HEAVY_ATOMS} are the most."
            )
        return range(low, high + 1)

    @property
    def attempts(self) -> int:
        """Molecules to try at most."""
        return 3 * self.n if self.max_attempts is None else self.max_attempts

    def fingerprint(self) -> dict[str, Any]:
        """What a continued run must share: everything but how many molecules are wanted, and in what batches."""
        values = dataclasses.asdict(self)
        for name in ("n", "batch", "max_attempts"):
            values.pop(name)
        values["model"] = self.model_or_default
        if self.start is not None and Path(self.start).is_file():
            values["start"] = hashlib.sha256(Path(self.start).read_bytes()).hexdigest()
        return values
