"""What a portal is started with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may be, in bytes where no other unit is named. The first three are told in capabilities."""

    body_bytes: int = 16 * MEBIBYTE  # of one record: JSON or metrics, unpacked
    chunk_bytes: int = 16 * MEBIBYTE  # clients cut at 4 to 8 MiB; one chunk is held in memory while it is served
    chunks: int = 65_536  # per dataset or model state
    upload_bytes: int = 16 * 1024 * MEBIBYTE  # a base client's multipart body, streamed to disk
    depth: int = 100  # nested containers in JSON; clients stop at 64
    page: int = 1000  # objects per page of a list


@dataclass(frozen=True, slots=True)
class PortalConfig:
    """Where a portal keeps its data and how it is reached.

    Args:
        data: the folder of database, blobs, secret and lock. One portal per folder.
        socket: unix socket of the owner; None puts it into ``data`` (or, where that path is too long, beside it in /tmp).
        host, port: where browsers and other machines reach it; port 0 takes a free one.
        embedded: leave when nobody asks for anything and no pipeline lives.
        idle_timeout_seconds: how long "nobody" is, embedded.
        owner_lock: a flock file that the pipeline's writer holds for life; the portal stays while it is held.
        allowed_hosts: further names that may stand in the Host header. Names of the loopback always may, there.
        secure_cookies: None decides by ``host``: not on the loopback, where there is no TLS.
    """

    data: Path
    socket: Path | None = None
    host: str = "127.0.0.1"
    port: int = 0
    embedded: bool = False
    idle_timeout_seconds: float = 60.0
    owner_lock: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    secure_cookies: bool | None = None
    access_seconds: int = 15 * 60
    refresh_seconds: int = 30 * 24 * 3600
    refresh_grace_seconds: int = 60  # a token that its family has left behind may still come this late
    limits: Limits = field(default_factory=Limits)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the portal."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    @property
    def database_path(self) -> Path:
        """The sqlite file."""
        return self.data / "portal.db"

    @property
    def lock_path(self) -> Path:
        """Held for life by the one portal of this folder; never unlinked."""
        return self.data / "portal.lock"

    @property
    def address_path(self) -> Path:
        """Written once the portal accepts: ``{"url", "pid", "socket"}``, 0600."""
        return self.data / "address.json"
