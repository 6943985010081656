"""The tables that go from step to step as the user's functions see them, and what they make up as a dataset."""

from __future__ import annotations

import contextlib
import copy
import random
import sys
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


def copied(table: Any) -> Any:
    """A copy that can be changed without the original seeing it. Where pandas copies on write it costs nothing yet."""
    pandas: Any = sys.modules.get("pandas")
    if pandas is not None and isinstance(table, pandas.DataFrame | pandas.Series):
        lazy = int(pandas.__version__.partition(".")[0]) >= 3 or pandas.options.mode.copy_on_write is True
        return table.copy(deep=not lazy)
    root = type(table).__module__.partition(".")[0]
    return table if root in ("pyarrow", "polars") else copy.deepcopy(table)  # those cannot be changed in place


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Run the user's functions without moving the random numbers that their training will draw."""
    numpy: Any = sys.modules.get("numpy")
    torch: Any = sys.modules.get("torch")
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
