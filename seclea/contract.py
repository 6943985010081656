"""What stages say to each other: outcomes of an attempt, messages between writer and sender, and places in a home.

Data only. The writer and the sender never import each other; they meet in these values, in queues and in the ledger.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

LOCAL = "local"  # platform_url of the home's own portal
PROTOCOL_VERSION = 1  # of the home's socket; a hello with another one is refused


class Clock(Protocol):
    """Time, passed in so that tests can hold it still. Seconds, monotonic over all processes of one boot."""

    def __call__(self) -> float: ...


class Verdict(StrEnum):
    """What one attempt to send came to. The rows of DESIGN section 7, as one word each."""

    DELIVERED = "delivered"  # receipt in hand
    ADOPTED = "adopted"  # the portal has the same content already, under ``remote_id``
    KEPT_LOCALLY = "kept locally"  # a base-only portal has no place for it
    REFUSED = "refused"  # this record, for good
    UNKNOWN = "unknown"  # no answer: the same request again, with backoff
    UNAVAILABLE = "unavailable"  # 5xx, refused, DNS: backoff and breaker
    WAIT = "wait"  # the portal named a time, or is still at it
    HOLD = "hold"  # the whole destination, until a person does something
    GAP = "gap"  # the portal expects ``expected`` first
    MISSING = "missing"  # the portal lacks a parent or chunks: send these first


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict on one attempt, with what is needed to act on it.

    Attributes:
        status: HTTP status, 0 without a reply.
        detail: the portal's words, or the network's, for people; never holds a token.
        remote_id: the portal's id of the entity (DELIVERED, ADOPTED).
        receipt: what the portal acknowledged, JSON-ready.
        retry_after_seconds: the portal's own wish, None without one.
        expected: the sequence that the portal wants next (GAP).
        missing: sha256 of chunks or uuid of the parent (MISSING).
    """

    verdict: Verdict
    status: int = 0
    detail: str = ""
    remote_id: str | None = None
    receipt: dict[str, Any] | None = None
    retry_after_seconds: float | None = None
    expected: int | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Destination:
    """Where records go: a portal and an organization there. ``id`` is the ledger's number, 0 before it has one."""

    platform_url: str
    auth_url: str
    organization: str
    id: int = 0

    @property
    def is_local(self) -> bool:
        """Whether this is the home's own portal."""
        return self.platform_url == LOCAL


class Home:
    """The places in a home directory, and the runtime places that belong to it. Computes paths, touches nothing."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(path))
        # Short and stable: names the home in directories that many homes share.
        self.name = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        self.ledger = self.path / "ledger.sqlite"
        self.damaged = self.path / "damaged"  # ledgers that were moved aside, whole
        self.suspicion = self.path / "damaged.txt"  # why the next writer salvages the ledger
        self.spool = self.path / "spool"
        self.incoming = self.spool / "incoming"  # payloads that clients have written, not yet in the ledger
        self.making = self.spool / "making"  # payloads that clients are writing, by ring
        self.chunks = self.spool / "chunks"
        self.rings = self.path / "rings"
        self.queues = self.path / "queues"
        self.logs = self.path / "logs"
        self.tokens = self.path / "tokens"
        self.portal = self.path / "portal"
        self.start_lock = self.path / "start.lock"
        self.writer_lock = self.path / "writer.lock"
        self.sender_lock = self.path / "sender.lock"
        self.identity = self.path / "home.json"
        self.socket_link = self.path / "writer.sock"  # to where the writer listens: see `runtime`

    def __repr__(self) -> str:
        return f"Home({str(self.path)!r})"

    @property
    def shared_rings(self) -> Path:
        """The directory of this home's rings in shared memory; used when roomy and not in a container."""
        return Path("/dev/shm") / f"seclea-{os.getuid()}" / self.name  # noqa: S108  (0700, owner checked)

    @property
    def runtime(self) -> Path:
        """The directory for sockets made by this process: at most 107 bytes with a file name in it, 0700.

        Two jobs of one home may have different ones (a login session has ``XDG_RUNTIME_DIR``, cron has not), or that of
        another user (sudo). So look for the writer by its link.
        """
        base = os.environ.get("XDG_RUNTIME_DIR")
        if base and os.path.isabs(base) and len(os.fsencode(base)) <= 60 and _is_own(base):
            return Path(base) / "seclea"
        return Path("/tmp") / f"seclea-{os.getuid()}"  # noqa: S108  (0700, owner checked)

    @property
    def socket(self) -> Path:
        """The writer's unix socket."""
        return self.runtime / f"{self.name}.sock"

    @property
    def portal_socket(self) -> Path:
        """The embedded portal's unix socket."""
        return self.runtime / f"{self.name}.portal.sock"


def _is_own(directory: str) -> bool:
    try:
        return os.stat(directory).st_uid == os.getuid() and os.access(directory, os.W_OK | os.X_OK)
    except OSError:
        return False
