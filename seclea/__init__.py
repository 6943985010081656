"""seclea: a record of how a model came to be, made from inside the training job.

Importing this loads none of the modules below; each public name is fetched when it is first used (PEP 562).
"""

TYPE_CHECKING = False  # type checkers take it as true; the module `typing` would be most of what importing seclea costs

if TYPE_CHECKING:
    from seclea.client.module_level import current_run, finish, init, log
    from seclea.client.seclea_ai import SecleaAI
    from seclea.client.training_run import TrainingRun
    from seclea.director import Progress
    from seclea.entities import Dataset, ModelState
    from seclea.errors import (
        AuthenticationError,
        ConfigurationError,
        DatasetError,
        DatasetNotFoundError,
        DuplicateError,
        LedgerDamagedError,
        LedgerError,
        LedgerFullError,
        LedgerTooNewError,
        LoggingPaused,
        MetricError,
        MissingExtraError,
        PipelineError,
        PortalError,
        PortalUnavailable,
        QueueClosed,
        QueueEmpty,
        QueueFull,
        RunFinishedError,
        SecleaError,
        TooLargeError,
        TransformationError,
        UnknownDatasetError,
        UnknownModelError,
        UnknownOrganizationError,
        UsageError,
    )
    from seclea.transformations import DatasetTransformation

__version__ = "0.1.0"

__all__ = [
    "SecleaAI",
    "TrainingRun",
    "DatasetTransformation",
    "Dataset",
    "ModelState",
    "Progress",
    "init",
    "log",
    "finish",
    "current_run",
    "SecleaError",
    "UsageError",
    "ConfigurationError",
    "MetricError",
    "RunFinishedError",
    "UnknownModelError",
    "DatasetError",
    "DatasetNotFoundError",
    "UnknownDatasetError",
    "TransformationError",
    "DuplicateError",
    "UnknownOrganizationError",
    "TooLargeError",
    "AuthenticationError",
    "PortalUnavailable",
    "PortalError",
    "LoggingPaused",
    "QueueFull",
    "QueueEmpty",
    "QueueClosed",
    "LedgerDamagedError",
    "LedgerError",
    "LedgerTooNewError",
    "LedgerFullError",
    "PipelineError",
    "MissingExtraError",
    "__version__",
]

# Where a public name lives. What is not listed here is an error class.
_HOMES = {
    "SecleaAI": "seclea.client.seclea_ai",
    "TrainingRun": "seclea.client.training_run",
    "DatasetTransformation": "seclea.transformations",
    "Dataset": "seclea.entities",
    "ModelState": "seclea.entities",
    "Progress": "seclea.director",
    "init": "seclea.client.module_level",
    "log": "seclea.client.module_level",
    "finish": "seclea.client.module_level",
    "current_run": "seclea.client.module_level",
}

if not TYPE_CHECKING:  # or a misspelt name would pass for `object`

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(_HOMES.get(name, "seclea.errors")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
