"""Users, organisations and logins.

Rule 1  Passwords are kept as argon2id, refresh tokens as sha256, access tokens not at all.
Rule 2  A login (session) is a family of refresh tokens. A use gives the next one, and a reply can be lost: so the token
        used last may be used again, however long the outage, until another one of its family was used. From then on,
        after a short grace, whoever comes with it stole it or was robbed: the family is revoked (RFC 9700, 4.14.2).
Rule 3  An access token is good only while its session is, so a logout takes effect at once.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy import Connection, func, insert, select, update

from seclea.entities import new_uuid
from seclea.errors import UsageError
from seclea.portal.config import PortalConfig
from seclea.portal.database import first_row, now_ns
from seclea.portal.tables import memberships, organizations, refresh_tokens, sessions, users

LOCAL = "local"  # the owner of an embedded portal, and the organisation that is always there
AUDIENCE = "seclea-portal"
PASSWORD_CHARACTERS = 1024
SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Organization:
    """One of the caller's organisations: row id, uuid and name."""

    id: int
    uuid: str
    name: str


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and which organisations are theirs. ``session`` is None for the owner at the unix socket."""

    user_id: int
    name: str
    organizations: tuple[Organization, ...]
    session: str | None = None


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a login gives. Never logged: the repr shows neither."""

    access: str = field(repr=False)
    refresh: str = field(repr=False)


# --------------------------------------------------------------------------------------------------------- passwords


class Passwords:
    """Argon2id, at most two at a time (each takes 64 MiB), and as slow for a name that does not exist."""

    def __init__(self) -> None:
        self._hasher = PasswordHash((Argon2Hasher(),))
        self._turn = threading.BoundedSemaphore(2)
        self._nobody: str | None = None

    def hash(self, password: str) -> str:
        """The hash to keep."""
        if not password or len(password) > PASSWORD_CHARACTERS:
            raise UsageError(f"A password has 1 to {PASSWORD_CHARACTERS} characters.")
        with self._turn:
            return self._hasher.hash(password)

    def matches(self, password: str, kept: str | None) -> bool:
        """Whether it is the password. Takes the same time without a ``kept`` hash."""
        if len(password) > PASSWORD_CHARACTERS:
            password, kept = password[:PASSWORD_CHARACTERS], None
        if self._nobody is None:
            self._nobody = self.hash(secrets.token_hex())
        with self._turn:
            return self._hasher.verify(password, kept or self._nobody) and kept is not None


# -------------------------------------------------------------------------------------------------- users and groups


def add_organization(connection: Connection, name: str) -> str:
    """Make an organisation; the owner of the folder is a member of each. Returns its uuid."""
    _check_name(name, 250, "organization")
    if first_row(connection, select(organizations.c.id).where(organizations.c.name == name)) is not None:
        raise UsageError(f"The organization {name!r} already exists.")
    made = new_uuid()
    connection.execute(insert(organizations).values(uuid=made, name=name, created_ns=now_ns()))
    owner = first_row(connection, select(users.c.id).where(users.c.name == LOCAL))
    if owner is not None:
        join(connection, LOCAL, name)
    return made


def add_user(connection: Connection, name: str, password_hash: str | None) -> str:
    """Make a user; without a hash nobody can log in as that user with a password. Returns its uuid."""
    _check_name(name, 150, "user")
    if first_row(connection, select(users.c.id).where(users.c.name == name)) is not None:
        raise UsageError(f"The user {name!r} already exists.")
    made = new_uuid()
    connection.execute(insert(users).values(uuid=made, name=name, password_hash=password_hash, created_ns=now_ns()))
    return made


def join(connection: Connection, user: str, organization: str, role: str = "member") -> None:
    """Make a user a member."""
    user_id = connection.execute(select(users.c.id).where(users.c.name == user)).scalar()
    organization_id = connection.execute(
        select(organizations.c.id).where(organizations.c.name == organization)
    ).scalar()
    if user_id is None or organization_id is None:
        raise UsageError(
            f"There is no {'user ' + repr(user) if user_id is None else f'organization {organization!r}'}."
        )
    there = select(memberships.c.role).where(
        memberships.c.user_id == user_id, memberships.c.organization_id == organization_id
    )
    if first_row(connection, there) is None:
        connection.execute(
            insert(memberships).values(user_id=user_id, organization_id=organization_id, role=role, created_ns=now_ns())
        )


def add_member(connection: Connection, name: str, password_hash: str, organization: str | None) -> str:
    """Make a user and, where an organisation is named, its member. Returns the user's uuid."""
    made = add_user(connection, name, password_hash)
    if organization is not None:
        join(connection, name, organization)
    return made


def ensure_owner(connection: Connection) -> Caller:
    """The owner of the folder, made with an organisation of its own at the first start."""
    if first_row(connection, select(users.c.id).where(users.c.name == LOCAL)) is None:
        add_user(connection, LOCAL, None)
    if first_row(connection, select(organizations.c.id).where(organizations.c.name == LOCAL)) is None:
        add_organization(connection, LOCAL)
    owner_id = connection.execute(select(users.c.id).where(users.c.name == LOCAL)).scalar_one()
    return Caller(owner_id, LOCAL, organizations_of(connection, owner_id))


def organizations_of(connection: Connection, user_id: int) -> tuple[Organization, ...]:
    """A user's organisations, oldest first."""
    rows = connection.execute(
        select(organizations.c.id, organizations.c.uuid, organizations.c.name)
        .join(memberships, memberships.c.organization_id == organizations.c.id)
        .where(memberships.c.user_id == user_id)
        .order_by(organizations.c.id)
    )
    return tuple(Organization(*row) for row in rows)


def _check_name(name: str, limit: int, what: str) -> None:
    if not name.strip() or len(name) > limit or not name.isprintable():
        raise UsageError(f"A name of a {what} has 1 to {limit} printable characters, not {name[:80]!r}.")


# ------------------------------------------------------------------------------------------------------------ logins


class Logins:
    """Gives out tokens and checks them."""

    def __init__(self, config: PortalConfig) -> None:
        self._config = config
        self._secret = _load_secret(config.data / "secret")

    def access_token(self, user_uuid: str, session: str) -> str:
        """A short-lived JWT."""
        now = now_ns() // SECOND
        claims = {
            "sub": user_uuid,
            "sid": session,
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + self._config.access_seconds,
            "jti": secrets.token_hex(8),  # no two are alike, however close together they are made
        }
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def start(self, connection: Connection, user_id: int) -> Tokens:
        """A new session of a user."""
        session = str(uuid.uuid4())
        now = now_ns()
        expires = now + self._config.refresh_seconds * SECOND
        connection.execute(insert(sessions).values(id=session, user_id=user_id, expires_ns=expires, created_ns=now))
        user_uuid = connection.execute(select(users.c.uuid).where(users.c.id == user_id)).scalar_one()
        return Tokens(self.access_token(user_uuid, session), self._refresh_token(connection, session))

    def refresh(self, connection: Connection, token: str) -> Tokens | None:
        """New tokens for a refresh token, or None. Must be committed in both cases (rule 2)."""
        digest = _digest(token)
        row = first_row(
            connection,
            select(refresh_tokens.c.used_ns, refresh_tokens.c.created_ns, refresh_tokens.c.session_id, users.c.uuid)
            .join(sessions, sessions.c.id == refresh_tokens.c.session_id)
            .join(users, users.c.id == sessions.c.user_id)
            .where(refresh_tokens.c.digest == digest, *_is_alive()),
        )
        if row is None:
            return None
        session, now = row["session_id"], now_ns()
        since = row["used_ns"] or row["created_ns"]
        gone_on = connection.execute(  # when the family first went on without this one
            select(func.min(refresh_tokens.c.used_ns)).where(
                refresh_tokens.c.session_id == session,
                refresh_tokens.c.digest != digest,
                refresh_tokens.c.used_ns > since,
            )
        ).scalar()
        if gone_on is not None and now - gone_on > self._config.refresh_grace_seconds * SECOND:
            revoke(connection, session)
            return None
        if row["used_ns"] is None:
            used = update(refresh_tokens).where(refresh_tokens.c.digest == digest)
            connection.execute(used.values(used_ns=self._next_moment(connection, session)))
        return Tokens(self.access_token(row["uuid"], session), self._refresh_token(connection, session))

    def session_of(self, token: str) -> str | None:
        """The session that an access token speaks for; None if it is not ours or has expired."""
        try:
            claims = jwt.decode(
                token, self._secret, algorithms=["HS256"], audience=AUDIENCE, options={"require": ["exp", "sid"]}
            )
        except jwt.InvalidTokenError:
            return None
        session = claims["sid"]
        return session if isinstance(session, str) else None

    def session_of_refresh(self, connection: Connection, token: str) -> str | None:
        """The session that a refresh token belongs to, used or not; None if it is not ours."""
        kept = select(refresh_tokens.c.session_id).where(refresh_tokens.c.digest == _digest(token))
        session: str | None = connection.execute(kept).scalar()
        return session

    def caller(self, connection: Connection, session: str) -> Caller | None:
        """Who that is, while the session lives."""
        row = first_row(
            connection,
            select(users.c.id, users.c.name)
            .join(sessions, sessions.c.user_id == users.c.id)
            .where(sessions.c.id == session, *_is_alive()),
        )
        if row is None:
            return None
        return Caller(row["id"], row["name"], organizations_of(connection, row["id"]), session)

    def _refresh_token(self, connection: Connection, session: str) -> str:
        token = secrets.token_urlsafe(32)
        moment = self._next_moment(connection, session)
        connection.execute(insert(refresh_tokens).values(digest=_digest(token), session_id=session, created_ns=moment))
        return token

    @staticmethod
    def _next_moment(connection: Connection, session: str) -> int:
        """Now, or just after what this family did last: a clock that is set back must not change the order."""
        columns = (func.max(refresh_tokens.c.created_ns), func.max(refresh_tokens.c.used_ns))
        row = connection.execute(select(*columns).where(refresh_tokens.c.session_id == session)).one()
        moments: list[int] = [now_ns(), *(moment + 1 for moment in row if moment is not None)]
        return max(moments)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _is_alive() -> tuple[Any, ...]:
    return (sessions.c.revoked_ns.is_(None), sessions.c.expires_ns > now_ns(), users.c.disabled_ns.is_(None))


def revoke(connection: Connection, session: str) -> None:
    """End a session and all its tokens."""
    connection.execute(
        update(sessions).where(sessions.c.id == session, sessions.c.revoked_ns.is_(None)).values(revoked_ns=now_ns())
    )


def _load_secret(path: Path) -> bytes:
    """The signing key, made 0600 at the first start."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        part = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        os.rename(part, path)
        return path.read_bytes()
    with open(handle, "rb") as file:
        if os.fstat(handle).st_mode & 0o077:
            raise UsageError(
                f"{path} can be read by other users.", f"chmod 600 {path} and think of its tokens as known."
            )
        return file.read()
