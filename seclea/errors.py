"""Every error that seclea raises, in one tree. The class says what the caller can do about it.

SecleaError
├── UsageError (ValueError)                fix the call
│   ├── ConfigurationError                 fix the RC file, the environment or the argument
│   ├── MetricError (TypeError)            a metric that is not a number, a key that is not text
│   ├── RunFinishedError                   log before finish
│   ├── UnknownModelError (TypeError)      a model type that cannot be recorded
│   ├── DatasetError                       a table that cannot be recorded
│   │   ├── DatasetNotFoundError (FileNotFoundError)
│   │   ├── UnknownDatasetError            upload it first
│   │   └── TransformationError            a step that does not lead to the dataset
│   ├── DuplicateError                     another name, or the same content
│   ├── UnknownOrganizationError           another organization, or another login
│   └── TooLargeError                      larger than the limit allows
├── AuthenticationError                    log in
├── PortalUnavailable (ConnectionError)    wait
├── PortalError                            the portal answered, but not in a way that can be used
├── LoggingPaused                          make room (only with when_full = "raise")
├── QueueFull (queue.Full)                 make room
├── QueueEmpty (queue.Empty)               wait
├── QueueClosed (ValueError)               the queue was closed
├── LedgerError                            the home's ledger cannot be used
│   ├── LedgerTooNewError                  upgrade seclea
│   ├── LedgerDamagedError                 move it away whole
│   └── LedgerFullError                    make room on the disk
├── PipelineError                          the background processes cannot be reached
└── MissingExtraError (ImportError)        install an extra
"""

from __future__ import annotations

import queue
from typing import Any


class SecleaError(Exception):
    """Base of all errors of seclea.

    Args:
        message: what happened, naming the thing and its state.
        hint: what to do about it, an imperative sentence; empty where there is nothing to add.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # Some bases (OSError) pickle in their own way and would lose the hint.
        return (type(self), (self.message, self.hint))


class UsageError(SecleaError, ValueError):
    """The call is wrong; nothing was recorded."""


class ConfigurationError(UsageError):
    """A setting is unknown or has a wrong value; the message names where it stands."""


class MetricError(UsageError, TypeError):
    """A metric that cannot be recorded: the value is no number, or the key no text."""


class RunFinishedError(UsageError):
    """The training run was finished (or the client terminated) before this call."""


class UnknownModelError(UsageError, TypeError):
    """The model is of a type that seclea cannot store."""


class DatasetError(UsageError):
    """The dataset cannot be recorded as it is."""


class DatasetNotFoundError(DatasetError, FileNotFoundError):
    """A dataset file does not exist."""


class UnknownDatasetError(DatasetError):
    """A table that should be known (a parent, the data of a run) is in no dataset of the project."""


class TransformationError(DatasetError):
    """A step of a chain fails, changes nothing, or does not give the dataset; the message says which step, and where."""


class DuplicateError(UsageError):
    """Something of the same name, but with other content, is recorded already."""


class UnknownOrganizationError(UsageError):
    """The portal knows no organization of that name for this login."""


class TooLargeError(UsageError):
    """One item is larger than the limits ever allow."""


class AuthenticationError(SecleaError):
    """The portal refused the login, or there is none."""


class PortalUnavailable(SecleaError, ConnectionError):
    """The portal cannot be reached right now. Nothing is lost: records wait in the ledger."""


class PortalError(SecleaError):
    """The portal answered with something that is not its interface."""


class LoggingPaused(SecleaError):
    """A limit is reached and ``when_full = "raise"`` is set; the record was not taken."""


class QueueFull(SecleaError, queue.Full):
    """A queue or ring has no room."""


class QueueEmpty(SecleaError, queue.Empty):
    """A queue has nothing to give."""


class QueueClosed(UsageError):
    """The queue was closed in this process."""


class LedgerError(SecleaError):
    """The ledger cannot be opened or used."""


class LedgerTooNewError(LedgerError):
    """The ledger was written by a newer seclea; it is left untouched."""


class LedgerDamagedError(LedgerError):
    """The ledger's file is damaged, or is not the one that was opened; nothing more is written to it."""


class LedgerFullError(LedgerError):
    """The disk has no room for the ledger; nothing was written."""


class PipelineError(SecleaError):
    """The background processes of the home cannot be started or do not answer."""


class MissingExtraError(SecleaError, ImportError):
    """An optional part of seclea is not installed."""
