"""Settings of the page's server, and what may be asked of it."""

from __future__ import annotations

import dataclasses
import os
from typing import Annotated, Literal

from annotated_types import Ge, Le

from halberd.potentials.errors import ConfigurationError
from halberd.potentials.sites.elements import atomic_number_of
from halberd.potentials.validation import Count, Seed, conform

#: Bytes of an upload, and atoms in it.
MOST_BYTES, MOST_UPLOADED = 1_000_000, 500
#: Drawn things of a scene, and points of one of them.
MOST_DRAWN, MOST_KNOTS = 100, 500
#: Picoseconds of dynamics.
LONGEST_DYNAMICS = 20.0


@dataclasses.dataclass(frozen=True)
class WebSettings:
    """How the page is served.

    Attributes
    ----------
    folder : str
        Where rooms and what was made in them are kept; a server that is started again finds them there.
    host : str
        Address to listen on. Whoever reaches it and knows the token can compute on this machine.
    port : int
        0 takes one that is free.
    workers : int
        Jobs that run at the same time, each in a process of its own.
    threads : int, optional
        Of every worker; all cores shared out if omitted.
    model : str
        MACE whose descriptors and forces are used: a pretrained name or a file.
    job_seconds : float
        After which a job is ended.
    most_molecules : int
        Of one job.
    most_atoms : int
        Heavy atoms of a molecule that is generated.
    most_waiting : int
        Jobs of one room that wait at a time.
    most_rooms : int
        After which no more are opened.
    """

    folder: str = "halberd-web"
    host: str = "127.0.0.1"
    port: Annotated[int, Ge(0), Le(65535)] = 8765
    workers: Count = 1
    threads: Count | None = None
    model: str = "gfn2-chnof@1"
    job_seconds: float = 900.0
    most_molecules: Count = 50
    most_atoms: Count = 60
    most_waiting: Count = 10
    most_rooms: Count = 1000

    def __post_init__(self) -> None:
        conform(self)
        if not self.job_seconds > 0:
            raise ConfigurationError(f"job_seconds is {self.job_seconds}; it must be positive.")

    @property
    def threads_each(self) -> int:
        """Of every worker."""
        return self.threads or max(1, (os.cpu_count() or 1) // self.workers)


@dataclasses.dataclass(frozen=True)
class JobRequest:
    """What the page asks for.

    Attributes
    ----------
    kind : {'generate', 'link', 'hydrogenate', 'relax', 'md'}
        The last three take the fragment as it is.
    n : int
        Molecules wanted.
    heavy_atoms : str
        ``8``, or a range ``7:9``; without the fragment's.
    elements : tuple of str
        Of what is generated.
    seed : int
    picoseconds : float
        Of dynamics.
    temperature : float
        K, of dynamics.
    """

    kind: Literal["generate", "link", "hydrogenate", "relax", "md"]
    n: Count = 4
    heavy_atoms: str = "8"
    elements: tuple[str, ...] = ("C", "N", "O")
    seed: Seed = 0
    picoseconds: float = 2.0
    temperature: float = 300.0

    def __post_init__(self) -> None:
        conform(self)
        for element in self.elements:
            atomic_number_of(element)  # raises if it is none
        if not 0 < self.picoseconds <= LONGEST_DYNAMICS:
            raise ConfigurationError(f"picoseconds is {self.picoseconds}; it must lie in 0 to {LONGEST_DYNAMICS:g}.")
        if not 0 < self.temperature <= 2000:
            raise ConfigurationError(f"temperature is {self.temperature}; it must lie in 0 to 2000 K.")
