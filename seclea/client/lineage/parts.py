"""The tables that go from step to step as the user's functions see them, and what they make up as a dataset."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import random
import sys
import threading
import types
from collections.abc import Iterator, Mapping
from typing import Any

from seclea.client.snapshot.content import (
    Content,
    column_names,
    content_of,
    join,
    memory_content,
    split_content,
    to_arrow,
)
from seclea.transformations import role_of

Parts = Mapping[str, Any]  # one or two tables by name


def content_of_parts(parts: Parts, shown: str, previous: Content | None = None) -> Content:
    """One part is the dataset; two are joined by columns, with roles where their names say X and y.

    Raises:
        DatasetError, UsageError: as `memory_content` and `split_content`.
    """
    if len(parts) == 1:
        ((name, table),) = parts.items()
        return memory_content(table, f"{name!r} of {shown}", previous)
    (first, left), (second, right) = parts.items()
    roles = {role_of(first): first, role_of(second): second}
    if roles.keys() == {"X", "y"}:
        return split_content(parts[str(roles["X"])], parts[str(roles["y"])], shown, previous)
    (one, framework), (other, _) = to_arrow(left, f"{first!r} of {shown}"), to_arrow(right, f"{second!r} of {shown}")
    return content_of(join(one, other, (first, second), shown), framework, shown, previous)


def columns_of(table: Any) -> list[str]:
    """Names of a table's columns."""
    return column_names(to_arrow(table)[0])


_PLAIN_CELLS = frozenset(
    {"string", "integer", "floating", "boolean", "empty", "decimal", "date", "datetime", "time", "bytes"}
)


def copied(table: Any, *, surely: bool = False) -> Any:
    """A copy of a table for a user's function, which must not see the original change.

    Where pandas copies on write the values are not copied yet, but read-only: a function that writes past pandas into them
    raises, and is then to be given a copy that is ``surely`` one.
    """
    pandas: Any = sys.modules.get("pandas")
    if pandas is not None and isinstance(table, pandas.DataFrame | pandas.Series):
        if not surely and int(pandas.__version__.partition(".")[0]) >= 3:
            try:
                return _read_only(table, pandas)
            except (AttributeError, TypeError, ValueError):  # a pandas whose inside looks different
                pass
        return _with_own_cells(table.copy(deep=True), pandas)
    root = type(table).__module__.partition(".")[0]
    if root == "polars":
        return table.clone()
    return table if root == "pyarrow" else copy.deepcopy(table)  # Arrow tables cannot be changed in place


def _read_only(table: Any, pandas: Any) -> Any:
    """A lazy copy whose numpy memory is read-only. Its extension arrays and objects are copied: those can be written to."""
    made = table.copy(deep=False)
    for block in made._mgr.blocks:
        if type(block.values).__module__ == "numpy" and not block.values.dtype.hasobject:
            values = block.values
            # Behind a memoryview numpy has no way to make it writable again.
            bits = values.view(f"i{values.dtype.itemsize}") if values.dtype.kind in "mM" else values
            block.values = sys.modules["numpy"].asarray(memoryview(bits).toreadonly()).view(values.dtype)
        else:
            block.values = block.values.copy()
    return _with_own_cells(made, pandas)


def _with_own_cells(table: Any, pandas: Any) -> Any:
    """The same table with objects in its cells (lists, dicts) copied, too."""
    if isinstance(table, pandas.Series):
        changeable = table.dtype.kind == "O" and pandas.api.types.infer_dtype(table, skipna=True) not in _PLAIN_CELLS
        return table.map(copy.deepcopy) if changeable else table
    for number, dtype in enumerate(table.dtypes):
        if getattr(dtype, "kind", "") == "O" and type(dtype).__module__.startswith("numpy"):
            column = table.iloc[:, number]
            if pandas.api.types.infer_dtype(column, skipna=True) not in _PLAIN_CELLS:
                table.isetitem(number, column.map(copy.deepcopy))
    return table


class Owner:
    """Makes copies of the other things that a chain's functions are given, as far as they can be copied.

    One for a chain: what is one thing in several places (a random generator, a sentinel) is one thing in the copies, too.
    """

    def __init__(self) -> None:
        self._memo: dict[int, Any] = {}

    def arguments(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Copies of a step's other arguments."""
        return {name: self.copy(value) for name, value in arguments.items()}

    def function(self, func: Any) -> Any:
        """A function whose object (of a method), or bound arguments (of a partial), are copies."""
        if isinstance(func, functools.partial):
            arguments = self.arguments(func.keywords)
            return functools.partial(self.function(func.func), *map(self.copy, func.args), **arguments)
        if isinstance(func, types.MethodType) and not isinstance(func.__self__, type | types.ModuleType):
            return types.MethodType(func.__func__, self.copy(func.__self__))
        plain = isinstance(func, type | types.FunctionType | types.BuiltinFunctionType | types.MethodType)
        return func if plain or hasattr(func, "__wrapped__") else self.copy(func)

    def copy(self, value: Any) -> Any:
        """A copy, or the thing itself where it has no state or cannot be copied."""
        if type(value) is object:  # a sentinel is itself
            return value
        try:
            return copy.deepcopy(value, self._memo)
        except Exception:  # locks, files, modules: other people's objects raise what they like
            return value


_one_at_a_time = threading.RLock()  # the random numbers of libraries are the process's, not a thread's


def _after_fork_in_child() -> None:
    global _one_at_a_time
    _one_at_a_time = threading.RLock()  # another thread of the parent may hold the old one for ever


os.register_at_fork(after_in_child=_after_fork_in_child)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Run the user's functions without moving the random numbers that their training will draw.

    Python's, numpy's and PyTorch's (on the CPU). Another thread that draws meanwhile draws the same numbers again.
    """
    numpy: Any = sys.modules.get("numpy")
    torch: Any = sys.modules.get("torch")
    with _one_at_a_time:
        state = random.getstate()
        numpy_state = numpy.random.get_state() if numpy is not None else None
        torch_state = torch.random.get_rng_state() if torch is not None and hasattr(torch, "random") else None
        try:
            yield
        finally:
            random.setstate(state)
            if numpy_state is not None:
                numpy.random.set_state(numpy_state)
            if torch_state is not None:
                torch.random.set_rng_state(torch_state)
