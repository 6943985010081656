"""A training run as the user holds it: `log`, `log_model_state`, `finish`."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from struct import error as struct_error
from typing import TYPE_CHECKING, Any

import msgpack

from seclea.client.validation import check_metrics, check_params, check_step, plain_types
from seclea.director import Pipeline, Progress, Speaker, forget_after_fork, pipeline_of, progress
from seclea.entities import Kind, ModelState, RunStatus
from seclea.errors import LoggingPaused, MetricError, PipelineError, QueueClosed, RunFinishedError, UsageError
from seclea.frames import (
    MAX_FRAME_BYTES,
    MAX_KEY_SETS,
    MAX_KEYS_OF_SET,
    POINTS_HEAD,
    FinishFrame,
    FrameType,
    points_struct,
)
from seclea.records import MAX_KEYS

if TYPE_CHECKING:
    from seclea.client.snapshot.models import ModelSnapshot
    from seclea.contract import Home

# Packs (head, step, time_ns, values…); the head; the pipeline and stream that it is for: in another ring it means another.
_Template = tuple[Callable[..., bytes], bytes, Pipeline, int]

_POINTS = int(FrameType.POINTS)
_packb = msgpack.packb
_time_ns = time.time_ns


class TrainingRun:
    """One training run, which any process of the job may log to. Made by `SecleaAI.start_training_run`.

    May be handed to threads, to forked children and (by pickle) to spawned ones: all speak for the same run, each in a
    stream of its own, with its rank (`launcher_rank`) on each record. Only the process that started it ends it.
    """

    def __init__(self, home: Home, speaker: Speaker, uuid: str, name: str, *, owner: int | None = None) -> None:
        self._home = home
        self._speaker = speaker
        self._owner = os.getpid() if owner is None else owner
        self.uuid = uuid
        self.name = name
        self._steps = (
            itertools.count()
        )  # the next step that nobody named; one call takes it, so no two threads get the same
        self._given: int | None = None  # a step that was named since: the count goes on behind it
        self._counting = threading.RLock()  # re-entrant: a signal handler may log, too
        self._ended: str | None = None
        self._terminated = False
        self._has_final = False  # as far as this process knows
        self._templates: dict[tuple[str, ...], _Template] = {}  # empty while `log` has to look at more than numbers
        self._seen: set[tuple[str, ...]] = set()
        self._bound = False  # a process that is given a run and never logs opens nothing
        if owner is None:
            self._bind()
        forget_after_fork(self)

    def _bind(self) -> None:
        pipeline = pipeline_of(self._home, self._speaker.settings)
        self._pipeline = pipeline
        self._index = pipeline.stream(self._speaker, self.uuid, launcher_rank())
        self._bound = True

    def after_fork_in_child(self) -> None:
        """The ring was the parent's: bind to this process's own at the first call."""
        self._bound = False
        self._counting = threading.RLock()  # another thread of the parent may hold the old one for ever
        self._templates = {}  # not cleared: a call that the fork cut in two may still write to the old ones

    def __repr__(self) -> str:
        return f"TrainingRun({self.name or self.uuid!r}, {self._ended or 'running'})"

    def __reduce__(self) -> tuple[Any, ...]:
        speaker = self._speaker
        return (_rebuild, (os.fspath(self._home.path), speaker, self.uuid, self.name, self._owner, self._ended))

    def __copy__(self) -> TrainingRun:
        return self  # two that count steps and end the run would be one too many

    def __deepcopy__(self, memo: dict[int, Any]) -> TrainingRun:
        return self

    # -- logging -------------------------------------------------------------------------------------------------

    def log(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record numbers at a step. Returns in microseconds; what it returned for survives the death of any process.

        Args:
            metrics: name → number: int, float, bool, or a scalar of numpy or torch. NaN and infinities are kept.
            step: any 64-bit whole number, in any order; by default one more than the last, in each process (no two threads
                get the same).
        Raises:
            MetricError: a value is no number, or a name no text; nothing was recorded.
            RunFinishedError: after `finish` or `terminate`.
            LoggingPaused: a limit is reached and ``when_full = "raise"``.
        """
        if type(metrics) is dict:
            template = self._templates.get(tuple(metrics))
            if template is not None:  # nothing but numbers is new: these names were checked, the run is not over
                pack, head, pipeline, index = template
                now = _time_ns()
                payload = taken = None
                try:
                    # Before any conversion: `float` of a tensor may wait or warn, and is `_log_checked`'s to ask for.
                    for value in metrics.values():
                        if type(value) is not float and type(value) not in plain_types:
                            break
                    else:
                        if type(step) is int:
                            payload = pack(head, step, now, *metrics.values())
                            self._given = step
                        elif step is None:
                            taken = next(self._steps) if self._given is None else self._next_step()
                            payload = pack(head, taken, now, *metrics.values())
                except (struct_error, RuntimeError):  # out of range, or changed meanwhile by another thread
                    if taken is not None:
                        self._given = taken - 1  # a call that raises leaves the count as it was
                if payload is not None:
                    try:
                        if not pipeline.offer(_POINTS, payload, now):
                            pipeline.put(_POINTS, payload, index)
                        return
                    except QueueClosed:  # a signal handler forked: in the child the call goes on, to a ring of its own
                        step = taken if step is None else step
        self._log_checked(metrics, step)

    def _next_step(self) -> int:
        """The step of a call that names none."""
        with self._counting:
            given = self._given
            if given is not None:
                self._steps = itertools.count(given + 1)
                self._given = None  # last: until then others come here, too
        return next(self._steps)

    def _log_checked(self, metrics: Mapping[str, Any], step: int | None) -> None:
        """`log` for the first times that these names come, and for all that needs more than a glance."""
        if self._ended is not None:
            raise self._ended_error()
        found = check_metrics(metrics)
        if step is not None:
            step = self._given = check_step(step)
        else:
            step = self._next_step()
            try:
                check_step(step)
            except MetricError:
                self._given = step - 1
                raise
        while True:
            if not self._bound or not self._pipeline.is_open:
                try:
                    self._bind()
                except PipelineError as error:  # a child whose ring finds no place
                    if self._speaker.settings.limits.when_full == "raise":
                        raise
                    return _say_once(f"log calls of this process are left out: {error}")
            pipeline = self._pipeline
            try:
                return self._hand_over(pipeline, self._index, self._templates, found, step)
            except QueueClosed:
                if pipeline.is_open:
                    raise
                # A signal handler forked meanwhile, and this is the child: once more, to a ring of its own.

    def _hand_over(
        self,
        pipeline: Pipeline,
        index: int,
        templates: dict[tuple[str, ...], _Template],
        found: dict[str, Any],
        step: int,
    ) -> None:
        keys = tuple(found)
        template = templates.get(keys)
        if template is None or template[2] is not pipeline:
            template = self._template(pipeline, index, keys)
        now = _time_ns()
        if template is not None:
            templates[keys] = template
            if self._ended is not None:
                templates.clear()  # another thread ended the run meanwhile
            payload = template[0](template[1], step, now, *found.values())
            pipeline.put(_POINTS, payload, index)
            return
        payload = _packb((index, step, now, found))
        if len(payload) > MAX_FRAME_BYTES and len(found) > MAX_KEYS:
            raise MetricError(
                f"One call takes {MAX_KEYS} metrics, not {len(found)}.", "Log them in parts, at one step."
            )
        pipeline.put_large(FrameType.METRICS, payload, index)

    def _template(self, pipeline: Pipeline, index: int, keys: tuple[str, ...]) -> _Template | None:
        """From the second time on that these names come: how to pack their numbers alone."""
        if len(keys) > MAX_KEYS_OF_SET:
            return None
        if keys not in self._seen:
            if len(self._seen) >= MAX_KEY_SETS:
                self._seen.clear()  # names that change all the time are no reason to grow
            self._seen.add(keys)
            return None
        number = pipeline.key_set(index, keys)
        if number is None:
            return None
        return points_struct(len(keys)).pack, POINTS_HEAD.pack(index, number), pipeline, index

    def log_model_state(
        self,
        model: Any,
        step: int | None = None,
        *,
        final: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> ModelState:
        """Record a model's weights as they are now; what changes after the call is not in the record.

        Args:
            model: fitted; scikit-learn (pipelines too), xgboost, lightgbm, PyTorch (also a ``state_dict``) or Keras (also
                ``weights``).
            step: of the run, for people and curves.
            final: the state that the run ends with; one in a run.
        Returns:
            What was recorded: its uuid, size in bytes and sha256. Where logging is paused and the limits say not to wait
            (longer), the state is left out and counted, and ``metadata["left_out"]`` of what is returned says why.
        Raises:
            UnknownModelError: a model that seclea cannot store.
            RunFinishedError: after `finish` or `terminate`.
            LoggingPaused: a limit is reached and ``when_full = "raise"``.
            TooLargeError: larger than the disk limit.
        """
        from seclea.client.snapshot.files import taking
        from seclea.client.snapshot.models import snapshot_model

        if self._ended is not None:
            raise self._ended_error()
        if not self._bound:
            self._bind()
        if final and self._has_final:
            raise UsageError(
                f"The run {self.name or self.uuid!r} has its final state already.", "Log others without final=True."
            )
        extra = check_params(metadata or {}, "metadata")
        step = None if step is None else check_step(step)
        pipeline = self._pipeline

        def snapshot() -> ModelSnapshot:
            directory, take = pipeline.payloads_of(f"a state of the run {self.name or self.uuid!r}")
            with taking(take):
                return snapshot_model(model, directory)

        try:
            pipeline.wait_for_room()
            taken = pipeline.with_room(lambda: self._index, Kind.MODEL_STATE, snapshot)
            return self._store_state(taken, step, final, extra)
        except LoggingPaused as error:
            if pipeline.limits.when_full == "raise":
                raise
            pipeline.count_left_out(error, self._index, Kind.MODEL_STATE)
            return ModelState(name="", training_run=self.uuid, step=step, metadata={"left_out": error.message})

    def _store_state(
        self, taken: ModelSnapshot, step: int | None, final: bool, metadata: Mapping[str, Any]
    ) -> ModelState:
        state = ModelState(
            name=taken.model_name,
            training_run=self.uuid,
            step=step,
            final_state=final,
            format=taken.format,
            framework=taken.framework,
            metadata={**taken.metadata, **metadata},
            created_ns=time.time_ns(),
            size=taken.size,
            sha256=taken.sha256,
        )
        self._pipeline.store_entity(self._speaker, state, run=self.uuid, payload=taken.path)
        self._has_final = self._has_final or final
        return state

    def finish(self, status: str = RunStatus.FINISHED, *, timeout: float | None = None) -> Progress:
        """End the run. Idempotent; in a process that did not start the run only this process's part of it ends.

        What other processes still log to it is recorded all the same, with its time, which is after the run's end.

        Args:
            status: "finished", "failed" or "preempted".
            timeout: seconds to wait until everything is delivered; None does not wait.
        Returns:
            What is done and what is left.
        """
        if status not in (RunStatus.FINISHED, RunStatus.FAILED, RunStatus.PREEMPTED):
            raise UsageError(f"A run cannot end as {status!r}.", 'Use "finished", "failed" or "preempted".')
        from seclea.client import joining

        if self._ended is None and not joining.repeats():
            if os.getpid() == self._owner:
                if not self._bound:
                    self._bind()
                payload = FinishFrame(self._index, status, _time_ns()).pack()
                self._pipeline.put(FrameType.FINISH, payload, self._index)
                self._end(str(status))
            else:
                self._end(f"{status} as far as this process goes")
        if timeout is None:
            return progress(self._home, self._speaker.destination)
        from seclea.client.waiting import complete

        return complete(self._home, self._speaker.destination, timeout)

    def _terminate(self) -> None:
        self._end(self._ended or "terminated")
        self._terminated = True

    def _end(self, how: str) -> None:
        self._ended = how
        self._templates.clear()
        from seclea.client import joining  # which knows this module

        joining.withdraw(self)

    def _ended_error(self) -> RunFinishedError:
        what = "its client was terminated" if self._terminated else f"it is {self._ended}"
        return RunFinishedError(
            f"Nothing can be logged to the run {self.name or self.uuid!r}: {what}.",
            "Log before finish(), or start another run.",
        )


_said: set[str] = set()


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        with contextlib.suppress(Exception):
            print(f"seclea: {text}", file=sys.stderr, flush=True)


def _rebuild(home: str, speaker: Speaker, uuid: str, name: str, owner: int, ended: str | None) -> TrainingRun:
    from seclea.client import joining
    from seclea.contract import Home

    if owner == os.getpid() and (known := joining.started(uuid)) is not None:
        return known  # pickled and read again in one process, as a cache does

    run = TrainingRun(Home(home), speaker, uuid, name, owner=owner)
    run._ended = ended
    return run


def launcher_rank() -> int:
    """The process's rank as torch.distributed or a launcher (torchrun, Slurm) says it; 0 without. Imports nothing."""
    distributed = sys.modules.get("torch.distributed")
    with contextlib.suppress(Exception):  # built without it, or torn down
        if distributed is not None and distributed.is_available() and distributed.is_initialized():
            return int(distributed.get_rank())
    for name in ("RANK", "SLURM_PROCID"):
        value = os.environ.get(name, "")
        if value.isdigit():
            return int(value)
    return 0
