"""The one exception tree of halberd.

Every class is also a built-in exception, so code that knows nothing of halberd can still catch it. Messages say
what is wrong, where, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HalberdError(Exception):
    """Base of everything halberd raises on purpose."""


class ConfigurationError(HalberdError, ValueError):
    """An option, keyword or configuration file asks for something that cannot be done."""


class ModelFileError(HalberdError, OSError):
    """A model file is missing, damaged, or not a model that halberd knows."""


class ModelError(HalberdError, RuntimeError):
    """A model breaks the site-model contract, or cannot do what was asked of it."""


class UnknownElementError(HalberdError, ValueError):
    """A structure holds an element the model was not made for."""


class GeometryError(HalberdError, ValueError):
    """Positions or box vectors that no simulation can start from."""


class StabilityError(HalberdError, ArithmeticError):
    """A running simulation produced positions, energies or forces that are not finite."""


class BackendError(HalberdError, RuntimeError):
    """A force backend, platform or device is not usable here."""


class MissingDependencyError(HalberdError, ImportError):
    """An optional package is needed; the message names the extra that brings it."""


class DataError(HalberdError, ValueError):
    """A data file lacks the labels, frames or format that the task needs."""


class LabelError(HalberdError, RuntimeError):
    """A structure could not be labelled by the reference; active learning records why and goes on."""


class OutputError(HalberdError, OSError):
    """A result cannot be written where it was asked for."""


class RunStopped(HalberdError, RuntimeError):  # noqa: N818  (nothing went wrong)
    """A rule that was asked to watch a run has ended it; the simulation is whole and can go on."""


class RestartError(HalberdError, RuntimeError):
    """Restart files are missing, damaged, or belong to another system."""


class TrainingError(HalberdError, ArithmeticError):
    """A training has diverged."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest choice, or an empty string.

    Parameters
    ----------
    word : str
        What the user wrote.
    choices : iterable of str
        What would have been understood.

    Returns
    -------
    str
        A sentence with a leading blank, or ``""`` when nothing is close.
    """
    by_lower_case = {choice.lower(): choice for choice in choices}
    matches = difflib.get_close_matches(word.lower(), list(by_lower_case), n=1, cutoff=0.6)
    return f" Did you mean '{by_lower_case[matches[0]]}'?" if matches else ""


def missing_dependency(package: str, extra: str, purpose: str) -> MissingDependencyError:
    """Build the error for an optional package that is not installed.

    Parameters
    ----------
    package : str
        Import name of the missing package.
    extra : str
        halberd's extra that installs it.
    purpose : str
        What it is needed for, to follow the word "to".

    Returns
    -------
    MissingDependencyError
        Ready to raise.
    """
    return MissingDependencyError(
        f"The package '{package}' is needed to {purpose} and is not installed. "
        f"Install it with: pip install 'halberd-md[{extra}]'"
    )
