"""A chain of transformations run again, step by step, and held against the dataset that it is said to lead to.

Rule 1  Nothing is recorded here. Whatever is wrong raises before anything is handed over, and names the step.
Rule 2  Of the steps' tables few are alive at once: input and output of one, and one that waits to be stored.
Rule 3  The functions get copies; what they do to them, and the random numbers that they draw, is nobody else's business.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from seclea.client.lineage.compare import ROWS, Difference, difference, nearest
from seclea.client.lineage.details import DECLARED, REPRODUCED, Input, Step, step_details, step_digest
from seclea.client.lineage.functions import describe_arguments, describe_function
from seclea.client.lineage.known import Found, KnownDatasets
from seclea.client.lineage.parts import Owner, content_of_parts, copied, undisturbed
from seclea.client.snapshot.content import Content
from seclea.client.snapshot.tables import StoredTable, describe
from seclea.errors import DatasetError, TransformationError, UnknownDatasetError, UsageError
from seclea.transformations import INHERIT, DatasetTransformation, role_of

Store = Callable[[Content], "Future[StoredTable]"]


@dataclass(slots=True)
class _Before:
    """What the next step starts from."""

    content: Content
    split: str | None
    metadata: Mapping[str, Any]
    outputs: Mapping[str, Any] | None  # None where the step was not run again


class Chain:
    """One upload's chain. Use `walk`.

    Args:
        final: the content of the dataset that is uploaded, with its table and the roles that the call gave it.
        metadata: the user's, for that dataset.
        store: begins to store the content of an intermediate dataset, as long as its table is there.
    """

    def __init__(
        self,
        transformations: Sequence[DatasetTransformation],
        final: Content,
        metadata: Mapping[str, Any] | None,
        known: KnownDatasets,
        store: Store,
    ) -> None:
        self._all = list(transformations)
        self._final = final
        self._user = metadata
        self._known = known
        self._store = store
        self._steps: list[Step] = []
        self._owner = Owner()
        self._shared: set[str] = set()  # identities on the way from the root

    def walk(self) -> list[Step]:
        """Run, compare and describe every step.

        Raises:
            TransformationError: a step fails, changes nothing or does not lead to the dataset.
            UnknownDatasetError: a table that the chain starts from, or that joins it, is no known dataset.
            UsageError: "inherit" where there is nothing of that name.
        """
        before: _Before | None = None
        for number in range(len(self._all)):
            before = self._step(number, before)
        return self._steps

    # -- one step ------------------------------------------------------------------------------------------------

    def _step(self, number: int, before: _Before | None) -> _Before:
        step, last = self._all[number], number == len(self._all) - 1
        shown = self._shown(number)
        inputs = self._inputs(number, before)
        primary = inputs[0]
        if before is None:
            before = self._start(primary)
        function = describe_function(step.func)
        outputs = self._run(number, inputs, before) if step.reproduce else self._declared(number)
        if outputs is None:  # the last step, not run again: what it gave is what was passed
            content = self._final
        else:
            previous = before.content if before.content.table is not None else None
            try:
                content = content_of_parts(outputs, shown, previous)
            except (DatasetError, UsageError) as error:
                raise TransformationError(
                    f"{shown} returned no table that can be recorded: {error.message}", error.hint
                ) from error
        split = step.split or before.split
        if last:
            content, split = self._arrive(content, outputs is None, split)
        if self._is_same(content, split, before):
            raise TransformationError(
                f"{shown} changes nothing: what it returns is what it was given.",
                "Leave it out, or did it work in place on data that had been changed before?",
            )
        self._check_way_back(shown, primary, content.identity(split))
        metadata = describe(content, self._user if last else None, before.metadata)
        metadata["split"] = split
        made = Step(step, function, inputs, content, split, REPRODUCED if step.reproduce else DECLARED, metadata)
        arguments = describe_arguments(step.kwargs)
        made.details = step_details(made, arguments, before.content, before.split)
        made.digest = step_digest(made, arguments)
        made.known = self._known.by_identity(made.identity)
        if made.known is None and not last:
            made.stored = self._store(content)
        after = _Before(content, split, metadata, outputs)
        for old in self._steps:
            old.content = old.content.let_go()
        for given in inputs:
            given.content = given.content.let_go()
        self._steps.append(made)
        if last:
            made.content = content.let_go()
        return after

    def _is_same(self, content: Content, split: str | None, before: _Before) -> bool:
        """Whether a step changed neither table nor label nor roles. A table that says no roles takes none away."""
        if content.digest != before.content.digest or split != before.split:
            return False
        roles = {"X": list(content.features), "y": list(content.outputs)}
        return not content.has_roles or roles == before.metadata.get("roles")

    def _start(self, primary: Input) -> _Before:
        parent = primary.found.dataset if primary.found is not None else None
        metadata = parent.metadata if parent is not None else {}
        split = metadata.get("split")
        return _Before(primary.content, split if isinstance(split, str) else None, metadata, None)

    def _check_way_back(self, shown: str, primary: Input, identity: str) -> None:
        """A dataset must not come from itself."""
        if not self._shared:
            self._shared = {primary.identity, *self._ancestors(primary.found)}
        if identity in self._shared:
            raise TransformationError(
                f"{shown} gives back the content of a dataset that it comes from.",
                "Leave out the steps that undo each other.",
            )
        self._shared.add(identity)

    def _ancestors(self, found: Found | None) -> set[str]:
        """Identities of what a known dataset comes from, by whatever step."""
        return set() if found is None else self._known.ancestors(found.dataset)

    def _shown(self, number: int) -> str:
        return f"Step {number + 1} of {len(self._all)}, {self._all[number].name!r},"

    # -- what goes in --------------------------------------------------------------------------------------------

    def _inputs(self, number: int, before: _Before | None) -> list[Input]:
        step = self._all[number]
        tables = {name: value for name, value in step.data_kwargs.items() if not _inherits(value)}
        inherited = [name for name, value in step.data_kwargs.items() if _inherits(value)]
        if before is None:
            if inherited:
                raise UsageError(
                    f"{self._shown(number)} inherits {inherited[0]!r}, but no step is before it.",
                    "Pass the table that it was called with: it names the parent.",
                )
            return self._known_inputs(number, tables)
        made = self._all[number - 1].kept
        for name in inherited:
            if name not in made:
                raise UsageError(
                    f"{self._shown(number)} inherits {name!r}, which is no output of {self._all[number - 1].name!r}.",
                    f"Its outputs are {', '.join(map(repr, made))}.",
                )
        taken = [name for name in tables if name in made]
        self._check_passed(number, before, {name: tables.pop(name) for name in taken})
        names = tuple(name for name in step.data_kwargs if name in inherited or name in taken)
        if not names:
            raise UsageError(
                f"{self._shown(number)} takes none of the outputs of {self._all[number - 1].name!r} before it.",
                f'Give it one of {", ".join(map(repr, made))}, for instance as "inherit".',
            )
        identity = before.content.identity(before.split)
        first = Input(names, identity, before.content, inherited=True)
        return [first, *(self._known_inputs(number, tables) if tables else [])]

    def _check_passed(self, number: int, before: _Before, passed: Mapping[str, Any]) -> None:
        """A table that was passed where the step before has an output of that name must be that output."""
        if before.outputs is None:
            return
        for name, table in passed.items():
            if table is before.outputs[name]:  # a step that is not run again: what was passed is its output
                continue
            shown = self._shown(number - 1)
            mine = content_of_parts({name: table}, f"{self._shown(number)} as passed")
            whole = len(before.outputs) == 1
            theirs = before.content if whole else content_of_parts({name: before.outputs[name]}, shown)
            found = difference(mine, theirs, f"what {self._all[number].name!r} was given", "what it returned now")
            if found is not None:
                raise self._differs(
                    f"{shown} does not give the {name!r} that step {number + 1} was given", found, number
                )

    def _known_inputs(self, number: int, tables: Mapping[str, Any]) -> list[Input]:
        """Known datasets: a pair like X and y may be one; else each table is."""
        shown = f"{self._shown(number)} as called"
        names = tuple(tables)
        if len(names) == 2 and {role_of(name) for name in names} == {"X", "y"}:
            together = content_of_parts(tables, shown)
            found = self._known.by_content(together)
            if found is not None:
                return [_input(names, together, found)]
            apart = {name: content_of_parts({name: table}, shown) for name, table in tables.items()}
            if not all(self._known.by_content(content) for content in apart.values()):
                return [self._ask_portal(number, names, together)]
        inputs = []
        for name, table in tables.items():
            content = content_of_parts({name: table}, shown)
            found = self._known.by_content(content)
            inputs.append(_input((name,), content, found) if found else self._ask_portal(number, (name,), content))
        return inputs

    def _ask_portal(self, number: int, names: tuple[str, ...], content: Content) -> Input:
        found, answered = self._known.at_portal([content])
        if found is not None:
            return _input(names, content, found)
        if answered or number > 0:
            raise self._unknown(number, names, content)
        return Input(names, content.identity(None), content)  # found out when it is delivered

    def _unknown(self, number: int, names: tuple[str, ...], content: Content) -> UnknownDatasetError:
        what = " and ".join(map(repr, names))
        relative = nearest(content, self._known.all_here())
        if relative is not None:
            return UnknownDatasetError(
                f"{self._shown(number)} was given {what}, which is no dataset of the project."
                f" Nearest is {relative[0].name!r}, but {what} {relative[1]}.",
                "Pass the table as it was uploaded; was it changed in place since?",
            )
        return UnknownDatasetError(
            f"{self._shown(number)} was given {what}, which is no dataset of the project"
            f" ({content.rows} rows, {len(content.names)} columns).",
            "Upload it first, by upload_dataset(df, name) of the client.",
        )

    # -- what comes out ------------------------------------------------------------------------------------------

    def _run(self, number: int, inputs: Sequence[Input], before: _Before) -> dict[str, Any]:
        step, shown = self._all[number], self._shown(number)
        tables = {}
        for name, value in step.data_kwargs.items():
            if _inherits(value):
                if before.outputs is None:
                    raise UsageError(
                        f"{shown} inherits {name!r} from a step that is not run again (reproduce=False).",
                        "Pass the table itself.",
                    )
                value = before.outputs[name]
            tables[name] = value
        try:
            result = _call(step, tables, self._owner)
        except Exception as error:
            raise TransformationError(
                f"{shown} raised {type(error).__name__} when it was run again{_place(error)}: {error}.",
                "Are its input and arguments what it was called with? (A step that cannot be repeated: reproduce=False.)",
            ) from error
        return _named_outputs(step, result, shown)

    def _declared(self, number: int) -> dict[str, Any] | None:
        """What a step that is not run again gave: the tables passed to the next one, or the dataset (None)."""
        if number == len(self._all) - 1:
            return None
        step, following = self._all[number], self._all[number + 1]
        found = {}
        for name in step.kept:
            if name not in following.data_kwargs:
                raise UsageError(
                    f"{self._shown(number)} is not run again (reproduce=False), and step {number + 2}, {following.name!r},"
                    f" has no argument {name!r} that would say what it gave.",
                    f"Name the output as {following.name!r} takes it, or put None for one that is dropped.",
                )
            value = following.data_kwargs[name]
            if _inherits(value):
                raise UsageError(
                    f"{self._shown(number)} is not run again (reproduce=False), so its output {name!r} must be passed to"
                    f" step {number + 2}.",
                    f'Give {following.name!r} the table itself as {name!r} instead of "inherit".',
                )
            found[name] = value
        return found

    def _arrive(self, content: Content, declared: bool, split: str | None) -> tuple[Content, str | None]:
        """The dataset as passed, where the chain leads to it."""
        final, number = self._final, len(self._all) - 1
        if not declared:
            found = difference(final, content, "the dataset", "the chain")
            if found is not None:
                raise self._differs(
                    f"The chain does not lead to the dataset{self._lost(found)}", found, number, content
                )
        if final.has_roles and content.has_roles:
            for role, wanted, made in (("X", final.features, content.features), ("y", final.outputs, content.outputs)):
                unlike = [name for name in (*wanted, *made) if (name in wanted) != (name in made)]
                if unlike:
                    has, lacks = ("chain", "dataset") if unlike[0] in made else ("dataset", "chain")
                    raise TransformationError(
                        f"The chain does not lead to the dataset: column {unlike[0]!r} is in {role} of the {has}"
                        f" and not in {role} of the {lacks}.",
                        "Pass X and y as the last step returns them.",
                    )
        if not final.has_roles and content.has_roles:
            final = final.with_roles(content.features, content.outputs)
        said = self._user or {}
        return final, said.get("split", split)

    def _differs(self, what: str, found: Difference, steps: int, content: Content | None = None) -> TransformationError:
        """The error for a difference after ``steps`` recorded steps, and one more that gave ``content``."""
        hint = (
            "Is each step what was called: same arguments, outputs, constants and closures, same order?"
            " Random steps need a fixed seed."
        )
        where = ""
        if found.columns and self._steps:
            contents = [self._steps[0].inputs[0].content, *(step.content for step in self._steps[:steps])]
            contents += [content] if content is not None else []
            where = self._last_changed(found.columns[0], contents)
        return TransformationError(f"{what}: {found.words}{where}.", hint)

    def _lost(self, found: Difference) -> str:
        """A part of a step's output that the step after it did not take: its columns end there."""
        for number, step in enumerate(self._all[1:], start=1):
            left = [name for name in self._all[number - 1].kept if name not in step.data_kwargs]
            if left and found.columns and "lacks" in found.words:
                return (
                    f" (step {number + 1}, {step.name!r}, does not take {left[0]!r} of the step before: it ends there;"
                    " take it and return it, too)"
                )
        return ""

    def _last_changed(self, name: str, contents: Sequence[Content]) -> str:
        """Which steps made the differing column, and the rows, what they are."""
        chosen = changed = 0
        for number in range(1, len(contents)):
            before, after = contents[number - 1], contents[number]
            if _rows(before) != _rows(after):
                chosen = number
            elif _column(before, name) != _column(after, name):
                changed = number
        words = []
        if changed and name != ROWS:
            words.append(f"that column was last changed by step {changed}, {self._all[changed - 1].name!r}")
        if chosen > changed:
            words.append(f"the rows were last chosen by step {chosen}, {self._all[chosen - 1].name!r}")
        return f" ({'; '.join(words)})" if words else ""


def _rows(content: Content) -> Any:
    return content.rows, [column.digest for column in content.columns if column.role == "index"]


def _place(error: BaseException) -> str:
    """Where in the user's code it was raised."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = [one for one in frames if one.filename != __file__ and not one.filename.startswith("<")]
    users = [one for one in own if "site-packages" not in one.filename]
    return f" ({os.path.basename(users[-1].filename)}, line {users[-1].lineno})" if users else ""


def _call(step: DatasetTransformation, tables: Mapping[str, Any], owner: Owner) -> Any:
    """Run a step on copies; on real ones where the function writes into memory that pandas shares."""
    with undisturbed():
        try:
            lazy = {name: copied(table) for name, table in tables.items()}
            return owner.function(step.func)(**lazy, **owner.arguments(step.kwargs))
        except ValueError as error:
            if not any(words in str(error) for words in ("read-only", "read only", "WRITEABLE")):
                raise
        real = {name: copied(table, surely=True) for name, table in tables.items()}
        return owner.function(step.func)(**real, **owner.arguments(step.kwargs))


def _column(content: Content, name: str) -> str | None:
    return next((column.digest for column in content.columns if (column.role, column.name) == ("column", name)), None)


def _inherits(value: Any) -> bool:
    return isinstance(value, str) and value == INHERIT


def _input(names: tuple[str, ...], content: Content, found: Found) -> Input:
    return Input(names, found.dataset.digest, content, found)


def _named_outputs(step: DatasetTransformation, result: Any, shown: str) -> dict[str, Any]:
    """The kept values of what a function returned, by name.

    Raises:
        TransformationError: nothing, too few or too many values.
    """
    if result is None:
        raise TransformationError(
            f"{shown} returned None.", "Does it end without return, or change its input in place?"
        )
    names = step.outputs
    values = list(result) if isinstance(result, tuple | list) else [result]
    if len(values) != len(names):
        raise TransformationError(
            f"{shown} returned {len(values)} value{'s' if len(values) != 1 else ''}, outputs names {len(names)}: {names!r}.",
            "Name each value in order, and put None for one that is dropped.",
        )
    found = {name: value for name, value in zip(names, values, strict=True) if name is not None}
    for name, value in found.items():
        if value is None:
            raise TransformationError(f"{shown} returned None as {name!r}.", "Return a table.")
    return found
