"""What a user says of a step between two datasets: a function, what it is given and what becomes of what it returns.

This is the step as it is to be run; what happened is `entities.DatasetTransformation`. Semantics: docs/lineage.md.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from seclea.errors import UsageError

INHERIT = "inherit"  # as a data argument: the output of the same name of the step before
MAX_OUTPUTS = 2  # that are kept: one is the dataset, two are joined by columns
MAX_SPLIT = 100  # characters of a label

_FEATURES = re.compile(r"X(_\w+|[A-Z0-9]\w*|train|test|val|valid|validation)?")
_OUTPUTS = re.compile(r"y(_\w+|[A-Z0-9]\w*|train|test|val|valid|validation)?")


def role_of(name: str) -> str | None:
    """The role that an output's or argument's name says: "X" for ``X``, ``X_train``, …, "y" for ``y``, ``y_test``, …"""
    if _FEATURES.fullmatch(name):
        return "X"
    return "y" if _OUTPUTS.fullmatch(name) else None


class DatasetTransformation:
    """One step of the way from a known dataset to another: ``func(**data_kwargs, **kwargs)``.

    Args:
        func: called again when the dataset is uploaded, on copies, to see that it gives the dataset.
        data_kwargs: argument → table, or "inherit" for the output of the same name of the step before. A DataFrame,
            Series, Arrow or polars table each. In the first step they name the parent; of two arguments named like ``X``
            and ``y`` the parent is the dataset that both make up; a further table is another input (a join).
        kwargs: argument → any other value.
        outputs: names for the returned values, in order; None drops one. At most two may be left: one is the dataset, two are
            joined by columns, with roles where they are named like ``X`` and ``y``. By default the names of `data_kwargs`.
        split: label of the dataset from here on ("train", "test", …).
        reproduce: False for a step that is not to be run again; it is recorded as declared, not verified.
    Raises:
        UsageError: at once, when the call could not work.
    """

    __slots__ = ("data_kwargs", "func", "kwargs", "outputs", "reproduce", "split")

    def __init__(
        self,
        func: Callable[..., Any],
        data_kwargs: Mapping[str, Any],
        kwargs: Mapping[str, Any] | None = None,
        outputs: Sequence[str | None] | None = None,
        split: str | None = None,
        *,
        reproduce: bool = True,
    ) -> None:
        if not callable(func):
            raise UsageError(
                f"A transformation needs a function, not {type(func).__name__}.", "Pass it without calling it."
            )
        self.func = func
        name = self.name
        self.data_kwargs = _named("data_kwargs", data_kwargs, name)
        self.kwargs = _named("kwargs", kwargs or {}, name)
        if not self.data_kwargs:
            raise UsageError(f"The transformation {name!r} has no data_kwargs.", 'For instance data_kwargs={"df": df}.')
        for key, value in self.data_kwargs.items():
            if isinstance(value, str) and value != INHERIT:
                raise UsageError(
                    f"The data argument {key!r} of {name!r} is the text {value!r}.", f'A table, or "{INHERIT}".'
                )
        if both := self.data_kwargs.keys() & self.kwargs.keys():
            raise UsageError(f"{sorted(both)[0]!r} of {name!r} stands in data_kwargs and in kwargs.", "Give it once.")
        self.outputs = _outputs(list(self.data_kwargs) if outputs is None else outputs, name)
        _check_split(split, name)
        self.split = split
        self.reproduce = bool(reproduce)
        self._check_call(name)

    def _check_call(self, name: str) -> None:
        """That the function can be called like this."""
        try:
            signature = inspect.signature(self.func)
        except (ValueError, TypeError):  # compiled functions need not say
            return
        given = [*self.data_kwargs, *self.kwargs]
        try:
            signature.bind(**self.data_kwargs, **self.kwargs)
        except TypeError as error:
            hint = "Check data_kwargs and kwargs."
            for key in given:
                close = difflib.get_close_matches(key, [one for one in signature.parameters if one not in given], 1)
                if key not in signature.parameters and close:
                    hint = f"Did you mean {close[0]!r} instead of {key!r}?"
            raise UsageError(f"{name}{signature} cannot be called with {', '.join(given)}: {error}.", hint) from None

    @property
    def name(self) -> str:
        """The function's name, as intermediate datasets have it."""
        func: Any = self.func
        while isinstance(func, functools.partial):
            func = func.func
        found = str(getattr(func, "__name__", type(func).__name__))
        return "lambda" if found == "<lambda>" else found

    @property
    def kept(self) -> list[str]:
        """The names of the outputs that are not dropped."""
        return [name for name in self.outputs if name is not None]

    def __repr__(self) -> str:
        return f"DatasetTransformation({self.name}, outputs={self.outputs!r}, split={self.split!r})"


def _named(what: str, value: Any, func: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{what} of {func!r} must be a dict of arguments, not {type(value).__name__}.")
    for key in value:
        if not isinstance(key, str):
            raise UsageError(f"{what} of {func!r} has the key {key!r}, which is no text.", "Name the argument.")
    return dict(value)


def _check_split(value: Any, func: str) -> None:
    if value is not None and (not isinstance(value, str) or not 0 < len(value.strip()) <= MAX_SPLIT):
        raise UsageError(f"The split of {func!r} is {value!r}.", f'Use a text of 1 to {MAX_SPLIT} characters: "train".')


def _outputs(value: Any, func: str) -> list[str | None]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise UsageError(f"outputs of {func!r} must be a list of names, not {value!r}.", 'For instance outputs=["df"].')
    names = list(value)
    for name in names:
        if name is not None and (not isinstance(name, str) or not name):
            raise UsageError(f"outputs of {func!r} has {name!r}.", "Use names, and None for a value that is dropped.")
    kept = [name for name in names if name is not None]
    if not 0 < len(kept) <= MAX_OUTPUTS:
        hint = "Keep one, or two that are joined by columns; put None in the place of each value that is dropped."
        raise UsageError(f"outputs of {func!r} keeps {len(kept)} values.", hint)
    if len(set(kept)) < len(kept):
        raise UsageError(f"outputs of {func!r} has {kept[0]!r} twice.", "Give each a name of its own.")
    return names
