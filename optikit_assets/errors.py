"""Every error that OptiKIT raises on purpose.

::

    OptikitError
    ├── SpecError                 a file in recipes/ is wrong (all of its problems at once)
    ├── UnknownNameError          a model, recipe, SLO, suite or search space that does not exist
    ├── ModelError                a model folder that cannot be used (truncated, pickle only, …)
    ├── MachineError              the machine failed, not what ran on it
    │   ├── EnvironmentMissingError   a stage environment is not installed
    │   ├── AcceleratorError          no accelerator could be leased or used
    │   ├── StorageError              the artifact store or the disk refused a write
    │   │   ├── DamagedArtifactError      … holds something that is not what was put there
    │   │   └── PermissionDeniedError     … or a server, said no
    │   ├── ChangedInputError         an input changed while it was used
    │   └── WorkerKilledError         somebody else ended a worker
    │       └── NodeLostError             … with the node that it ran on
    ├── HistoryError              the trial history cannot be read or written
    ├── StageError                a worker failed
    │   ├── StageTimeoutError     … by running past its limit
    │   └── ResultMissingError    … to say what it did, although it ended well
    ├── ServerStartError          the inference server did not come up
    ├── EndpointError             an endpoint under test cannot be used at all
    ├── CompressionError          a recipe cannot be applied to this model
    ├── EvaluationError           a suite cannot be run or its results do not fit together
    └── TuningError               a study that cannot go on

A message says what happened, the observed values and the next step. Only the standard library is
imported here: the set-up program uses these errors before any dependency exists.

A `MachineError` is never a result: it keeps its class on the way from a worker, ends the stage, and
the next run tries again. Every other error of a worker says something about the trial, the
candidate or the configuration, and is recorded as its outcome. Accelerator memory that runs out is
of the second kind, and so is memory of the host as long as it goes to the process that holds the
model: more of it is what that trial asks for. So is a time limit: an engine that hangs hangs again.
Memory of a card that another process holds is of the first kind.
"""

__all__ = [
    "AcceleratorError",
    "ChangedInputError",
    "CompressionError",
    "DamagedArtifactError",
    "EndpointError",
    "EnvironmentMissingError",
    "EvaluationError",
    "HistoryError",
    "MachineError",
    "ModelError",
    "NodeLostError",
    "OptikitError",
    "PermissionDeniedError",
    "ResultMissingError",
    "ServerStartError",
    "SpecError",
    "StageError",
    "StageTimeoutError",
    "StorageError",
    "SuiteError",
    "TuningError",
    "UnknownNameError",
    "WorkerKilledError",
    "one_line",
    "reason_of",
]

_LINE_CHARACTERS = 600


class OptikitError(Exception):
    """Root of the tree; the command line prints it as one line and exits with a non-zero code."""


class SpecError(OptikitError):
    """A spec file is wrong.

    Parameters
    ----------
    file
        The file as the user knows it, or ``"<argument>"`` for a value that came without a file.
    problems
        One line per problem, each naming key path, value and allowed range.
    """

    def __init__(self, file: str, problems: list[str]) -> None:
        self.file = file
        self.problems = list(problems)
        super().__init__("; ".join(f"{file}: {problem}" for problem in self.problems))


class UnknownNameError(OptikitError):
    """A name that no file or registry entry carries.

    Parameters
    ----------
    kind
        ``"model"``, ``"recipe"``, ``"SLO"``, …
    name
        What was asked for.
    known
        The names that exist.
    hint
        The next step, if there is one beyond choosing a known name.
    """

    def __init__(self, kind: str, name: str, known: list[str], hint: str = "") -> None:
        self.kind = kind
        self.name = name
        self.known = sorted(known)
        listing = ", ".join(self.known) if self.known else "none"
        super().__init__(
            f"unknown {kind} {name!r}; known: {listing}" + (f". {hint}" if hint else "")
        )


class ModelError(OptikitError):
    """A model folder that cannot be used."""


class MachineError(OptikitError):
    """The machine or what a stage reads failed, not what ran on it: it is never a result.

    Made of a message alone, to travel by it.
    """


class EnvironmentMissingError(MachineError):
    """A stage environment is not installed or not complete."""


class AcceleratorError(MachineError):
    """No accelerator could be leased within the limit, too many were asked for, or one broke."""


class StorageError(MachineError):
    """The artifact store could not keep what it was given (disk full, not writable)."""


class DamagedArtifactError(StorageError):
    """An artifact is not what was put into the store; it was moved to the quarantine."""


class PermissionDeniedError(StorageError):
    """A server that keeps models answered, and said no."""


class ChangedInputError(MachineError):
    """An input changed while it was used, so that nobody can say what the result is of."""


class WorkerKilledError(MachineError):
    """A worker was ended by a signal that neither it nor its owner sent."""


class NodeLostError(WorkerKilledError):
    """A worker was lost with its node, or with what ran it there; another node can do its work."""


class HistoryError(OptikitError):
    """The trial history could not be read or written, or a query was refused."""


class StageError(OptikitError):
    """A worker failed; carries the end of its log."""

    def __init__(self, message: str, log_tail: str = "") -> None:
        self.log_tail = log_tail
        super().__init__(message)


class StageTimeoutError(StageError):
    """A worker ran past its limit and was killed."""


class ResultMissingError(StageError):
    """A worker ended well and no result arrived; what it finished is in the artifact store."""


class ServerStartError(OptikitError):
    """The inference server did not come up.

    Parameters
    ----------
    message
        What happened and what to do.
    log_tail
        The last lines of the server's log.
    reason
        Short machine-readable class: ``"exited"``, ``"timeout"``, ``"port_in_use"``,
        ``"out_of_memory"``.
    """

    def __init__(self, message: str, log_tail: str = "", reason: str = "exited") -> None:
        self.log_tail = log_tail
        self.reason = reason
        super().__init__(message)


class EndpointError(OptikitError):
    """An endpoint under test cannot be used at all (down, model unknown, not OpenAI-compatible)."""


class CompressionError(OptikitError):
    """A recipe cannot be applied to this model."""


class EvaluationError(OptikitError):
    """A suite cannot be run, or its results do not fit together."""


class SuiteError(MachineError, EvaluationError):
    """The items or the judge of a suite cannot be had now: it is no result of any candidate."""


class TuningError(OptikitError):
    """A study that cannot go on."""


def reason_of(error: BaseException, most: int = 200) -> str:
    """Return what an error says, in one line of `most` characters; its class if that is nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def one_line(error: BaseException) -> str:
    """Return an error in one readable line: ours by its message, others with their class."""
    text = " ".join(str(error).split())
    if len(text) > _LINE_CHARACTERS:
        text = text[: _LINE_CHARACTERS - 3] + "..."
    if isinstance(error, OptikitError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
