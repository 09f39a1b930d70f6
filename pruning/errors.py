"""The exceptions that PruneScope raises on purpose.

A message says what came and what is allowed; the hint says what to do next. One place (`app.errors`) turns them
into what a visitor reads.
"""

from __future__ import annotations


class PruningError(Exception):
    """Something the person can change. `str()` is the whole sentence for the page."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class BudgetError(PruningError):
    """A keep ratio, a count or a schedule that cannot be met."""


class GeometryError(PruningError):
    """Tokens and picture do not fit together."""


class ImageRejectedError(PruningError):
    """A picture that cannot be read or is outside the limits."""


class QuestionRejectedError(PruningError):
    """A question that is empty, too long or holds a control token."""


class UnknownMethodError(PruningError):
    """A method key that is not in the table of methods."""


class ParameterError(PruningError):
    """A method's parameter that is unknown or out of range."""


class ModelUnavailableError(PruningError):
    """Weights that are missing, foreign, or too large for this machine."""


class CompensatorUnavailableError(PruningError):
    """A captioner that is missing, damaged, or made for another model."""


class CaptionRejectedError(PruningError):
    """A caption that does not fit into the model's context, or an unknown way of compensating."""


class SignalMissingError(PruningError):
    """A method asks for a signal that this model cannot give."""

    def __init__(self, method: str, model: str, signal: str, hint: str = "") -> None:
        super().__init__(f"{method} needs {signal}, which {model} does not give.", hint or "Pick another method.")


class PrunerUntrainedError(PruningError):
    """A pruner that has to be trained for a model, and was not, or whose weights are damaged."""


class LinkError(PruningError):
    """A link that asks for something that is not here."""


class RecordFormatError(PruningError):
    """A record file that is not one, is damaged, or comes from a newer version."""


class PlanError(PruningError):
    """A structural plan that is damaged, foreign, made for another model, or would leave a layer without a head."""


class BusyError(PruningError):
    """Too many runs, by one visitor or by all together."""


class WorkerDiedError(PruningError):
    """What was working on a run came to an end without a word, and its replacement as well."""

    def __init__(self) -> None:
        super().__init__(
            "The worker of this run broke off, was started again, and broke off again.",
            "The next run gets a new one: press Run, with a smaller picture or another method.",
        )


class RunStopped(PruningError):  # noqa: N818 (not a failure)
    """The person stopped the run."""

    def __init__(self) -> None:
        super().__init__("Stopped.", "Nothing was changed.")
