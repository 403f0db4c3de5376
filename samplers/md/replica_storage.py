"""The storage of replica exchange: what it is of, and a copy of it for when a disk is full or a process killed.

openmmtools keeps everything in two netCDF files, which are written in place: whoever is killed in the middle of that,
or has no room, may be left with files that nobody can read or write any more.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from halberd.potentials.errors import OutputError, RestartError
from halberd.potentials.files import replacing
from halberd.samplers.runs.restart import check_fingerprint

STORAGE = "replicas.nc"
#: Says what the replicas are of.
FINGERPRINT = "replicas.json"
#: Seconds between copies, and how much longer than a copy takes that must be at least.
_INTERVAL, _RATIO = 600.0, 50.0


class StorageError(OutputError):
    """The storage can neither be read nor written."""


class ReplicaStorage:
    """Files of replica exchange in a run's folder.

    Parameters
    ----------
    folder : pathlib.Path

    Attributes
    ----------
    path, copy : pathlib.Path
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / STORAGE
        self.copy = folder / "replicas.zip"
        self._files = (self.path, self.path.with_name(f"{self.path.stem}_checkpoint.nc"))
        self._copied = 0.0
        self._took = 0.0

    def describe(self, fingerprint: dict[str, Any]) -> None:
        """Write down what the replicas are of."""
        with replacing(self.folder / FINGERPRINT) as temporary:
            temporary.write_text(json.dumps(fingerprint, indent=2), encoding="utf-8")

    def check(self, fingerprint: dict[str, Any]) -> bool:
        """Refuse to go on with replicas of another run.

        Returns
        -------
        bool
            Whether there is anything to go on with; if the run ended while its storage was made, that is removed.

        Raises
        ------
        RestartError
            Names what differs.
        """
        file = self.folder / FINGERPRINT
        if not file.exists() and not self.copy.exists():
            for part in self._files:
                part.unlink(missing_ok=True)
            return False
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(stored, dict):
                raise TypeError("it holds no keys and values")
        except (OSError, ValueError, TypeError) as error:
            raise RestartError(
                f"'{file}', which says what the replicas of this folder are, cannot be read: {error}. Put it back, or "
                "start anew in another folder."
            ) from error
        check_fingerprint(stored, fingerprint, file)
        return True

    @contextlib.contextmanager
    def watched(self, reporter: Any) -> Iterator[None]:
        """Say in one sentence what netCDF has to say.

        Raises
        ------
        StorageError
        """
        try:
            yield
        except (RuntimeError, OSError) as error:
            if isinstance(error, OutputError) or not (isinstance(error, OSError) or "NetCDF" in str(error)):
                raise
            # Its destructor would try to write once more, and say so in a traceback.
            reporter._storage_analysis = reporter._storage_checkpoint = None
            raise StorageError(
                f"The storage of replicas '{self.path}' cannot be written or read ({error}). Make room or mend the "
                "disk, and go on with --restart."
            ) from error

    def keep(self, reporter: Any, *, now: bool = False) -> None:
        """Copy the storage if the last copy is old enough, so that copies take at most a fiftieth of the time."""
        since = time.monotonic() - self._copied
        if not now and since < max(_INTERVAL, _RATIO * self._took):
            return
        begun = time.monotonic()
        reporter.sync()
        with replacing(self.copy) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for file in self._files:
                archive.write(file, file.name)
        self._copied = time.monotonic()
        self._took = self._copied - begun

    def restore(self) -> None:
        """Put the copy in the place of the storage.

        Raises
        ------
        RestartError
            If the copy is damaged, too.
        """
        try:
            with zipfile.ZipFile(self.copy) as archive:
                for file in self._files:
                    with archive.open(file.name) as source, replacing(file) as temporary, open(temporary, "wb") as sink:
                        shutil.copyfileobj(source, sink)
        except (KeyError, EOFError, UnicodeDecodeError, zlib.error, zipfile.BadZipFile) as error:
            raise RestartError(f"'{self.copy}' is damaged: {error}. Start anew in another folder.") from error
