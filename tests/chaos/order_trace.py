"""What strace saw, as calls that begin and end, in order.

A call that another one interrupted stands in two lines; its effect lies somewhere between the two. So the judge is given
both instants: what must be true before a call is true at its beginning, what it promises holds from its end on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# Everything that changes a file or a name, what makes it durable, and `access` and `sendto`, by which processes are heard.
CALLS = (
    "openat open creat mkdir mkdirat rename renameat renameat2 unlink unlinkat rmdir write pwrite64 writev pwritev"
    " ftruncate fallocate fsync fdatasync access faccessat faccessat2 symlink symlinkat link linkat"
)
OPTIONS = ("-f", "--seccomp-bpf", "-y", "-xx", "-s", "1048576", "-e", f"trace={','.join(CALLS.split())}")
MARK = "/seclea-order/"  # a process that asks whether such a path exists says something; see `order_job.say`

_LINE = re.compile(r"^(\d+) +(.*)$")
_RESUMED = re.compile(r"^<\.\.\. \w+ resumed>(.*)$")
_CALL = re.compile(r"^(\w+)\((.*)\) += +(-?\d+)(?:<(.*?)>)?(?: .*)?$")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_DESCRIPTOR = re.compile(r"^(?:AT_FDCWD|\d+)<([^>]*)>")


@dataclass(frozen=True, slots=True)
class Call:
    """One system call. ``paths`` are absolute; ``data`` is what was written, at ``offset`` where the call names one."""

    number: int
    pid: int
    name: str
    paths: tuple[str, ...]
    returned: int
    data: bytes = b""
    offset: int = -1
    flags: str = ""


def _plain(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", "")) if text.startswith("\\x") else text.encode()


def _path(directory: str, text: bytes) -> str:
    name = text.decode("utf-8", "surrogateescape")
    return name if name.startswith("/") else f"{directory}/{name}"


def parse(number: int, pid: int, line: str) -> Call | None:
    """A whole line of strace, None for what is no call (signals, exits) or a call that never returned."""
    match = _CALL.match(line)
    if match is None:
        return None
    name, arguments, returned, opened = match.groups()
    texts = [_plain(text) for text in _TEXT.findall(arguments)]
    outside = _TEXT.sub('""', arguments).split(", ")
    descriptors = [
        _plain(found[1]).decode("utf-8", "surrogateescape") for part in outside if (found := _DESCRIPTOR.match(part))
    ]
    directory = descriptors[0] if descriptors else ""
    data, offset = b"", -1
    if name in ("write", "pwrite64", "writev", "pwritev"):
        data = b"".join(texts)
        if int(returned) >= 0:
            assert len(data) >= int(returned), f"strace cut a write short: {line[:200]}"
            data = data[: int(returned)]
        offset = int(outside[-1]) if name.startswith("p") else -1
        paths: tuple[str, ...] = (directory,)
    elif name in ("ftruncate", "fallocate", "fsync", "fdatasync"):
        paths = (directory,)
        offset = int(outside[-1]) if name == "ftruncate" else -1
    elif opened is not None:
        paths = (_plain(opened).decode("utf-8", "surrogateescape"),)
    else:
        places = descriptors if len(descriptors) == len(texts) else [directory] * len(texts)
        paths = tuple(_path(place, text) for place, text in zip(places, texts, strict=True))
    return Call(number, pid, name, paths, int(returned), data, offset, arguments if name.startswith("open") else "")


def read(lines: Iterable[str]) -> Iterator[tuple[str, Call]]:
    """("begin" or "end", call), in the order of the trace. Calls that never returned have only begun: they are left out."""
    begun: dict[int, tuple[int, str]] = {}
    moments: list[tuple[int, int, str, Call]] = []
    for number, raw in enumerate(lines):
        match = _LINE.match(raw.rstrip("\n"))
        if match is None:
            continue
        pid, line = int(match[1]), match[2]
        if line.endswith("<unfinished ...>"):
            begun[pid] = number, line.removesuffix("<unfinished ...>").rstrip()
            continue
        start = number
        if (resumed := _RESUMED.match(line)) is not None:
            if pid not in begun:
                continue
            start, head = begun.pop(pid)
            line = head + resumed[1]
        if (call := parse(start, pid, line)) is not None:
            moments += [(start, 0, "begin", call), (number, 1, "end", call)]
    for _, _, moment, call in sorted(moments, key=lambda one: one[:2]):
        yield moment, call
