"""An ASE calculator in a process of its own, which is killed and replaced when a label takes too long."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from pathlib import Path

from halberd.plugins.labelling.child_processes import kill_group
from halberd.plugins.labelling.settings import LabelSettings
from halberd.potentials.errors import ConfigurationError, LabelError

#: Seconds a calculator may take to be made (imports, weights).
STARTUP = 600.0


class CalculatorProcess:
    """Keeps an ASE calculator in a process of its own, which is killed and replaced when a label takes too long."""

    def __init__(self, settings: LabelSettings) -> None:
        self._spec = json.dumps({"calculator": settings.calculator, "kwargs": dict(settings.kwargs)})
        self._process: subprocess.Popen[str] | None = None

    def label(self, source: Path, target: Path, timeout: float) -> None:
        """Label a file.

        Raises
        ------
        LabelError
            If the calculator fails, dies, or takes too long.
        ConfigurationError
            If it cannot be made at all.
        """
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(f"{source}\t{target}\n")
            process.stdin.flush()
        except BrokenPipeError:
            self.close()
            raise LabelError("the calculator's process has ended") from None
        answer = self._answer(process, timeout)
        if answer is None:
            self.close()
            raise LabelError(f"no result within {timeout:g} s")
        if answer == "":
            self.close()
            raise LabelError("the calculator's process died")
        if answer != "done":
            raise LabelError(answer.removeprefix("failed: "))

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "halberd.plugins.labelling.worker", self._spec],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                bufsize=1,
                start_new_session=True,
            )
            answer = self._answer(self._process, STARTUP)
            if answer != "ready":
                self.close()
                reason = (answer or "it gave no answer").removeprefix("failed: ")
                raise ConfigurationError(reason if answer else f"The calculator cannot be made: {reason}.")
        return self._process

    @staticmethod
    def _answer(process: subprocess.Popen[str], timeout: float) -> str | None:
        """One line; empty if the process has ended, ``None`` if it took too long."""
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], timeout)
        return process.stdout.readline().rstrip("\n") if ready else None

    def close(self) -> None:
        """End the process and whatever it started."""
        if self._process is not None:
            kill_group(self._process)
            self._process = None
