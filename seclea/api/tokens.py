"""Tokens at rest and in memory.

Rule 1  A token is a `Token` everywhere but in the file and in the request's header, and prints as ***, whoever prints.
Rule 2  One file per auth server in a 0700 directory of ours. A file is born 0600 (`O_CREAT | O_EXCL`, never a chmod)
        under a temporary name and takes its place by a rename, so it is never wider and never half.
Rule 3  A file that others can read or that is not ours is refused. Logging in again replaces it.
Rule 4  Whoever reads and then writes holds the store's lock (a flock, never unlinked); see `AuthService.refresh`.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import hmac
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock, Timeout

from seclea.api.age import NEVER, Instant, instant_now, seconds_between
from seclea.errors import AuthenticationError, PortalUnavailable

LOGIN_HINT = "Run `seclea login`."
_MAX_FILE_BYTES = 64 * 1024  # two tokens and a name; more was not written by us
_FOR_A_WHILE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EIO})


class Token:
    """A secret that does not show: text, messages, logs and tracebacks have *** instead. `reveal` gives it out."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself, for the one line that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Token):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a token is not sent to other processes: they read the token store")


@dataclass(frozen=True, slots=True)
class Tokens:
    """What one login gave.

    Attributes:
        obtained: when we got them; with ``expires_in`` only a hint to refresh early, never a verdict.
        expires_in: seconds that the access token lives, None where nobody says.
        generation: another number after every write; 0 before the first.
        source: digest of the token file that was read last, also where a login came since; None without one.
    """

    auth_url: str
    access: Token
    refresh: Token | None = None
    username: str | None = None
    obtained: Instant = NEVER
    expires_in: float | None = None
    generation: int = 0
    source: str | None = None

    def is_ageing(self, now: Instant) -> bool:
        """Whether four fifths of its life are over. Where nobody can tell how old it is: no."""
        age = seconds_between(self.obtained, now)
        return self.expires_in is not None and age is not None and age > 0.8 * self.expires_in


def lifetime_of(token: Token, now_ns: int) -> float | None:
    """Seconds that a JWT lives: `exp` less `iat` (both the server's clock), else less ours. None for any other token.

    The signature is not checked: only the server can, and a wrong answer costs one refresh.
    """
    parts = token.reveal().split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        start = claims["iat"] if "iat" in claims else now_ns * 1e-9
        lifetime = float(claims["exp"]) - float(start)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return lifetime if 0 < lifetime < 10 * 365 * 86_400 else None


class TokenStore:
    """The tokens of this user, one file per auth server in ``directory``, which is made when first written to."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self._seen: dict[str, tuple[tuple[int, ...], Tokens]] = {}

    def __repr__(self) -> str:
        return f"TokenStore({str(self.directory)!r})"

    def path(self, auth_url: str) -> Path:
        """The file of one auth server."""
        return self.directory / f"{hashlib.sha256(auth_url.encode()).hexdigest()[:16]}.json"

    def read(self, auth_url: str) -> Tokens | None:
        """The tokens for ``auth_url``, None when there is no login.

        Raises:
            AuthenticationError: the file can be read by others, is not ours, or is damaged.
            PortalUnavailable: this process has no descriptor or memory left to read it.
        """
        path = self.path(auth_url)
        try:
            self._check_directory()
            # O_NONBLOCK: a FIFO in its place must not hang us.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in _FOR_A_WHILE:  # no reason to ask for a login
                raise _unreadable(path, error) from None
            raise _unusable(path, f"cannot be opened ({error.strerror})") from None
        try:
            facts = os.fstat(descriptor)
            _check_file(path, facts)
            identity = (facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_size)
            known = self._seen.get(auth_url)
            if known is not None and known[0] == identity:
                return known[1]
            with open(descriptor, "rb", closefd=False) as file:  # which reads on after a short read
                content = file.read(_MAX_FILE_BYTES + 1)
        except OSError as error:
            raise _unreadable(path, error) from None
        finally:
            with contextlib.suppress(OSError):  # it was read
                os.close(descriptor)
        tokens = _parse(content, auth_url)
        if tokens is None:
            raise _unusable(path, "is damaged")
        self._seen[auth_url] = (identity, tokens)
        return tokens

    def write(
        self,
        auth_url: str,
        access: Token,
        refresh: Token | None,
        username: str | None = None,
        *,
        expires_in: float | None = None,
        now: Instant | None = None,
        obtained: Instant | None = None,
        source: str | None = None,
    ) -> Tokens:
        """Put tokens in the place of what was there; durable once this returns. Takes the lock.

        Args:
            obtained: when they were made, now by default.
            source: the token file they come from; by default what was noted before stays.
        Raises:
            AuthenticationError: the directory is not ours alone.
            PortalUnavailable: another process holds the lock for a minute.
            OSError: the disk has no room, or no right to write.
        """
        now = instant_now() if now is None else now
        with self.lock(auth_url):
            before = self._last(auth_url)
            # The wall clock keeps it new after a logout, the comparison after the clock was set back.
            generation = max(now.wall_ns, (before.generation if before else 0) + 1)
            tokens = Tokens(
                auth_url,
                access,
                refresh,
                username,
                obtained or now,
                expires_in or lifetime_of(access, now.wall_ns),
                generation,
                source or (before.source if before else None),
            )
            self._replace(self.path(auth_url), _render(tokens))
        return tokens

    def delete(self, auth_url: str) -> bool:
        """Forget the login; whether there was one."""
        self._seen.pop(auth_url, None)
        if not self.directory.is_dir():
            return False
        with self.lock(auth_url):
            try:
                os.unlink(self.path(auth_url))
            except FileNotFoundError:
                return False
            _sync_directory(self.directory)
        return True

    def generation(self, auth_url: str) -> int:
        """A number that is another one after each write, 0 without a login: how a waiting sender sees a new login.

        Raises:
            AuthenticationError: as `read`.
        """
        tokens = self.read(auth_url)
        return 0 if tokens is None else tokens.generation

    @contextlib.contextmanager
    def lock(self, auth_url: str, timeout_seconds: float = 60.0) -> Iterator[None]:
        """Hold this auth server's lock: one process and thread of the machine at a time. Not re-entrant for others.

        Raises:
            PortalUnavailable: held by somebody else for the whole ``timeout_seconds``. The login is none the worse.
        """
        self._make_directory()
        lock = self._lock_of(auth_url)
        try:
            lock.acquire(timeout=timeout_seconds, poll_interval=0.01)
        except Timeout:
            raise PortalUnavailable(
                f"Another process has been renewing the login for {auth_url} for over {timeout_seconds:.0f} s.",
                "Try again; if it stays so, look for a seclea process that hangs.",
            ) from None
        try:
            yield
        finally:
            lock.release()

    def _lock_of(self, auth_url: str) -> FileLock:
        # One object per path with a state per thread: re-entrant within a thread (refresh writes), exclusive between.
        return FileLock(str(self.path(auth_url).with_suffix(".lock")), mode=0o600, is_singleton=True)

    def _last(self, auth_url: str) -> Tokens | None:
        try:
            return self.read(auth_url)
        except AuthenticationError:  # whatever is there is about to be replaced
            return None

    def _make_directory(self) -> None:
        try:
            os.makedirs(self.directory.parent, mode=0o700, exist_ok=True)
            os.mkdir(self.directory, 0o700)
        except FileExistsError:
            self._check_directory()
        else:
            # The home's own name is synced by its writer; without one there is nobody to use the login.
            _sync_directory(self.directory.parent)

    def _check_directory(self) -> None:
        facts = os.lstat(self.directory)
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
            raise AuthenticationError(
                f"{self.directory} is not a directory of this user.", "Remove it and log in again."
            )
        if stat.S_IMODE(facts.st_mode) & 0o077:
            raise AuthenticationError(
                f"{self.directory} is open to other users (mode {stat.S_IMODE(facts.st_mode):04o}).",
                f"If nobody else could use it: chmod 700 {self.directory}. Else remove it and log in again.",
            )

    def _replace(self, path: Path, content: bytes) -> None:
        for leftover in self.directory.glob(f".{path.name}.*"):  # of a process that died here; we hold the lock
            with contextlib.suppress(FileNotFoundError):
                os.unlink(leftover)
        temporary = self.directory / f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_directory(self.directory)


# ------------------------------------------------------------------------------------------------------------------


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_file(path: Path, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise _unusable(path, "is no plain file")
    if facts.st_uid != os.geteuid():
        raise _unusable(path, f"belongs to another user (uid {facts.st_uid})")
    if stat.S_IMODE(facts.st_mode) & 0o077:
        raise _unusable(
            path, f"can be read by other users (mode {stat.S_IMODE(facts.st_mode):04o}), who may know the tokens in it"
        )


def _unusable(path: Path, why: str) -> AuthenticationError:
    return AuthenticationError(f"The token file {path} {why}.", "Remove it and run `seclea login`.")


def _unreadable(path: Path, error: OSError) -> PortalUnavailable:
    return PortalUnavailable(f"The token file {path} cannot be read just now: {error.strerror}.")


def _render(tokens: Tokens) -> bytes:
    body = {
        "auth_url": tokens.auth_url,
        "username": tokens.username,
        "access_token": tokens.access.reveal(),
        "refresh_token": tokens.refresh.reveal() if tokens.refresh is not None else None,
        "obtained_ns": tokens.obtained.wall_ns,
        "boot_id": tokens.obtained.boot_id,
        "up_ns": tokens.obtained.up_ns,
        "expires_in": tokens.expires_in,
        "generation": tokens.generation,
        "source": tokens.source,
    }
    return json.dumps(body, indent=1).encode("utf-8") + b"\n"


def _parse(content: bytes, auth_url: str) -> Tokens | None:
    try:
        value: Any = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or value.get("auth_url") != auth_url or not value.get("access_token"):
        return None
    access, refresh = value["access_token"], value.get("refresh_token")
    expires_in, username = value.get("expires_in"), value.get("username")
    numbers = (value.get("obtained_ns"), value.get("generation"), value.get("up_ns", 0))
    boot_id, source = value.get("boot_id"), value.get("source")
    if not isinstance(access, str) or not all(type(number) is int and number >= 0 for number in numbers):
        return None
    return Tokens(
        auth_url,
        Token(access),
        Token(refresh) if isinstance(refresh, str) and refresh else None,
        username if isinstance(username, str) else None,
        obtained=Instant(value["obtained_ns"], boot_id if isinstance(boot_id, str) else "", numbers[2]),
        expires_in=float(expires_in) if isinstance(expires_in, int | float) else None,
        generation=value["generation"],
        source=source if isinstance(source, str) else None,
    )
