"""The portal's interface: what is asked, what is sent, and what its answers come to (PORTAL_API.md, docs/wire.md).

Rule 1  `send`, `put_chunk` and `chunks_missing` are for the sender: whatever the network or the portal does is an
        `Outcome`. The others are for whoever waits for an answer: they raise, and `replies.outcome_of` turns such an
        error into an outcome.
Rule 2  Projects and models are asked for by name before they are made; every other kind only where the portal has no
        idempotency keys, and where a create says "already exists".
Rule 3  A portal is taken for base-only when it has no capabilities *and* answers as a portal: a 404 of something in
        front of it must not make us keep records back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import msgpack

from seclea.api import base_bodies, packing
from seclea.api.auth import AuthService
from seclea.api.base_bodies import ReadChunk
from seclea.api.base_portal import BasePortal, Surroundings
from seclea.api.exchange import Exchange, json_of, text_of
from seclea.api.lookup import Lookup
from seclea.api.reading import Reply
from seclea.api.replies import NOT_JSON, check_receipt, classify, clean, error_of, is_duplicate, outcome_of, strange
from seclea.api.session import Session
from seclea.contract import Destination, Outcome, Verdict
from seclea.entities import Kind
from seclea.errors import AuthenticationError, PortalError, PortalUnavailable, UnknownOrganizationError
from seclea.records import Record, RecordKind

PATHS: Mapping[str, str] = {
    RecordKind.PROJECT: "/collection/projects",
    RecordKind.DATASET: "/collection/datasets",
    RecordKind.DATASET_TRANSFORMATION: "/collection/dataset-transformations",
    RecordKind.MODEL: "/collection/models",
    RecordKind.TRAINING_RUN: "/collection/training-runs",
    RecordKind.MODEL_STATE: "/collection/model-states",
    RecordKind.METRICS: "/collection/metrics",
    RecordKind.TOMBSTONE: "/collection/tombstones",
}
# The extension that takes a kind of record; entities need streams only.
_EXTENSIONS: Mapping[RecordKind, str] = {
    RecordKind.METRICS: "metrics",
    RecordKind.TOMBSTONE: "tombstones",
    RecordKind.FINISH: "finish",
}
_ASKED_FIRST = frozenset({RecordKind.PROJECT, RecordKind.MODEL})
_ASK_CHUNKS = 1000  # in one question: 70 kB
_MAX_PAGES = 1000  # of one list; a portal whose pages never end is stopped here


class Api:
    """One destination: its portal through ``session``, logged in through ``auth``. Not shared between threads.

    Args:
        auth: None only with ``local``.
        local: the home's own portal behind its unix socket, which knows its user without tokens.
    """

    def __init__(
        self, session: Session, auth: AuthService | None, destination: Destination, *, local: bool = False
    ) -> None:
        self._session = session
        self._exchange = Exchange(session, None if local else auth)
        self._base = BasePortal(self._exchange, self)
        self._local = local
        self.destination = destination
        self._capabilities: dict[str, Any] | None = None
        self._capabilities_known = False
        self._packing: tuple[str, packing.Pack] | None = None

    def __repr__(self) -> str:
        return f"Api({self._session.name!r}, {self.destination.organization!r})"

    def close(self) -> None:
        """Drop the connections."""
        self._session.close()

    def login_generation(self) -> int:
        """Of the login that there is now: grows with each renewal; 0 without one, -1 with one that cannot be read."""
        return self._exchange.login_generation()

    def generation_used(self) -> int:
        """The same, of the login that the last request had."""
        return self._exchange.generation_used()

    # -- asking --------------------------------------------------------------------------------------------------------

    def capabilities(self) -> dict[str, Any] | None:
        """What the portal can do beyond the base interface, None for a base-only one. Asked once per object.

        Raises:
            PortalUnavailable, PortalError: it does not say.
        """
        if not self._capabilities_known:
            outcome, reply = self._exchange.call("GET", "/api/capabilities", login=False)
            if reply is not None and reply.status == 404:
                outcome, reply = self._exchange.call("GET", "/organization/", login=False)
                if reply is None or (reply.status not in (401, 403) and not isinstance(json_of(reply), list)):
                    raise error_of(outcome, f"{self._session.name} does not answer as a portal does", of_portal=True)
                self._capabilities = None
            else:
                body = self._answer(outcome, reply, of_portal=True)
                if not isinstance(body, dict) or not isinstance(body.get("extensions"), list):
                    raise strange(f"{self._session.name} describes its capabilities in an unknown way.", outcome.status)
                self._capabilities = body
                # Not for the home's own portal: packing costs both sides time, and a unix socket nothing.
                self._packing = None if self._local else packing.choose(body.get("encodings"))
            self._capabilities_known = True
        return self._capabilities

    def speaks(self, extension: str) -> bool:
        """Whether the portal has the extension ("streams", "chunks", "metrics", ...).

        Raises:
            PortalUnavailable, PortalError: as `capabilities`, only when that was not asked before.
        """
        capabilities = self.capabilities()
        return capabilities is not None and extension in capabilities["extensions"]

    def organization_uuid(self, name: str) -> str:
        """The portal's uuid of the organization with exactly this name.

        Raises:
            UnknownOrganizationError: there is none for this login; names those that there are.
            AuthenticationError, PortalUnavailable, PortalError: no answer.
        """
        found = self._list("/organization/", {"name": name})
        if not any(item.get("name") == name for item in found):
            found = self._list("/organization/", {})  # for the message; and a filter may not be what we think
        for item in found:
            if item.get("name") == name and isinstance(item.get("uuid"), str):
                return str(item["uuid"])
        names = sorted({clean(str(item.get("name"))) for item in found})
        raise UnknownOrganizationError(
            f"{self._session.name} knows no organization {name!r} for this login.",
            f"There are: {', '.join(names)}." if names else "This login belongs to no organization.",
        )

    def find(self, kind: Kind | RecordKind, **filters: str) -> list[dict[str, Any]]:
        """All objects of a kind that match, page after page. ``organization`` and ``project`` are filters too.

        Raises:
            AuthenticationError, PortalUnavailable, PortalError: no answer.
        """
        return self._list(PATHS[kind], filters)

    def get(self, kind: Kind | RecordKind, uuid: str, **filters: str) -> dict[str, Any] | None:
        """One object, None where the portal has none of that id.

        Raises:
            AuthenticationError, PortalUnavailable, PortalError: no answer.
        """
        outcome, reply = self._exchange.call("GET", f"{PATHS[kind]}/{quote(uuid, safe='')}", params=filters)
        if reply is not None and reply.status == 404:
            return None
        body = self._answer(outcome, reply)
        if not isinstance(body, dict):
            raise strange(f"{self._session.name} answers with something that is no {kind}.", outcome.status)
        return body

    def _list(self, path: str, filters: Mapping[str, str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        params = dict(filters)
        for _ in range(_MAX_PAGES):
            outcome, reply = self._exchange.call("GET", path, params=params)
            page = self._answer(outcome, reply, of_portal=path == "/organization/")
            if not isinstance(page, list) or reply is None:
                raise strange(f"{self._session.name}{path} answers with something that is no list.", outcome.status)
            found += [item for item in page if isinstance(item, dict)]
            cursor = _next_cursor(reply)
            if cursor is None or cursor == params.get("cursor"):
                return found
            params["cursor"] = cursor
        raise PortalError(f"{self._session.name}{path} answers with a list that does not end.")

    def _answer(self, outcome: Outcome, reply: Reply | None, *, of_portal: bool = False) -> Any:
        if reply is None or outcome.verdict is not Verdict.DELIVERED:
            raise error_of(outcome, self._session.name, of_portal=of_portal)
        return json_of(reply)

    # -- sending -------------------------------------------------------------------------------------------------------

    def send(
        self,
        record: Record,
        *,
        organization: str,
        references: Mapping[str, str],
        project: str | None = None,
        read_chunk: ReadChunk | None = None,
        hashes: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Send one record, once. (A base-only portal is asked before, and may be told in a second dialect.)

        Args:
            organization: the portal's uuid of it.
            references: our uuid → the portal's, where they differ.
            project: our uuid of the project, where the body does not name it; left out of the query without it.
            read_chunk: gives the payload's chunks for a portal without chunks.
            hashes: our uuid of a dataset → its hash, for a portal that knows datasets by these; it is asked for others.
        Raises:
            LedgerError: ``read_chunk`` did; nothing complete was sent.
        """
        try:
            extended = self.speaks("streams")
            if extended and not self.speaks(_EXTENSIONS.get(record.kind, "streams")):
                return _kept_locally(record)
        except (PortalError, PortalUnavailable, AuthenticationError) as error:
            return outcome_of(error)
        if not extended and record.kind not in base_bodies.KINDS:
            return _kept_locally(record)
        lookup = Lookup(self, record, organization, references, project)
        if record.kind in _ASKED_FIRST or not extended:
            known = lookup.existing()
            # Ours already: with streams it is sent all the same, for the receipt that moves the stream's head.
            if known is not None and not (extended and known.remote_id == lookup.uuid):
                return known
        if extended:
            outcome, reply = self._send_extended(record, lookup.scope)
            outcome = check_receipt(outcome, record)
        else:
            around = Surroundings(organization, lookup.scope, references, hashes or {}, read_chunk)
            outcome, reply = self._base.create(record, _create_path(record), around)
        if outcome.verdict is Verdict.MISSING:
            return _for_good(record, outcome)
        if outcome.verdict is not Verdict.REFUSED or reply is None:
            return outcome
        is_there = is_duplicate(reply.status, json_of(reply), text_of(reply))
        return (lookup.existing() if is_there else None) or outcome

    def send_metrics(
        self, records: Sequence[Record], *, organization: str, project: str | None = None
    ) -> list[Outcome] | None:
        """Send batches of metrics that follow one another in a stream, in one request.

        Returns:
            What became of each up to the first that was not taken; or of the request, as if it were the first's, where no
            portal took it. None where the portal wants them one by one (also this time only): nothing of it is known.
        """
        first = records[0]
        packed = [[one.first, one.last, one.chain, one.key, one.body] for one in records]
        body = bytes(msgpack.packb({"v": 1, "stream": _uuid_text(first.stream), "records": packed}))
        headers = {}
        if self._packing is not None:
            headers["Content-Encoding"], pack = self._packing
            body = pack(body)
        outcome, reply = self._exchange.call(
            "POST",
            "/collection/metric-batches",
            params={"organization": organization} | ({"project": project} if project else {}),
            content=body,
            content_type="application/msgpack",
            headers=headers,
        )
        if outcome.verdict in (Verdict.REFUSED, Verdict.MISSING, Verdict.GAP):
            return None  # it is not the records that are at fault, as far as one can see
        if outcome.verdict is not Verdict.DELIVERED or reply is None:
            return [outcome]
        answers = json_of(reply)
        if not isinstance(answers, list) or not answers:
            return [Outcome(Verdict.UNKNOWN, outcome.status, "the portal's answers are no list")]
        return [_answer_to(record, answer) for record, answer in zip(records, answers, strict=False)]

    def lookup_adopted(
        self, record: Record, *, organization: str, references: Mapping[str, str], project: str | None = None
    ) -> Outcome | None:
        """What the portal has in the place of this record.

        ADOPTED when it is the same, REFUSED when another content has its name, None when there is nothing; the verdict
        of the failure when the portal does not say.
        """
        return Lookup(self, record, organization, references, project).existing()

    def chunks_missing(self, sha256: Sequence[str], *, organization: str) -> list[str] | Outcome:
        """Those of these chunks that the portal lacks, in the order given; an outcome when it does not say."""
        names = list(dict.fromkeys(sha256))
        lacking: set[Any] = set()
        for start in range(0, len(names), _ASK_CHUNKS):
            outcome, reply = self._exchange.call(
                "POST",
                "/collection/chunks/missing",
                params={"organization": organization},
                json=names[start : start + _ASK_CHUNKS],
            )
            if outcome.verdict is not Verdict.DELIVERED or reply is None:
                return outcome
            answer = json_of(reply)
            if not isinstance(answer, list):
                return Outcome(Verdict.UNKNOWN, outcome.status, "the portal's list of chunks is no list")
            lacking.update(item for item in answer if isinstance(item, str))
        return [name for name in names if name in lacking]

    def head(self, stream: bytes, lane: str, *, organization: str) -> tuple[int, bytes] | Outcome:
        """The last sequence that the portal has of a stream's lane and the chain after it; an outcome when it does not say."""
        params = {"organization": organization, "stream": _uuid_text(stream)}
        outcome, reply = self._exchange.call("GET", "/collection/receipts", params=params)
        if outcome.verdict is not Verdict.DELIVERED or reply is None:
            return outcome
        answer = json_of(reply)
        for item in answer if isinstance(answer, list) else ():
            if isinstance(item, dict) and item.get("lane") == lane:
                sequence, chain = item.get("sequence"), str(item.get("chain"))
                if type(sequence) is int and re.fullmatch(r"[0-9a-f]{64}", chain):
                    return sequence, bytes.fromhex(chain)
        if isinstance(answer, list):
            return Outcome(Verdict.MISSING, outcome.status, "the portal has nothing of this lane")
        return Outcome(Verdict.UNKNOWN, outcome.status, "the portal's list of receipts is no list")

    def put_chunk(self, sha256: str, content: bytes, *, organization: str) -> Outcome:
        """Send one chunk; the portal refuses bytes that do not hash to the name."""
        outcome, _ = self._exchange.call(
            "PUT",
            f"/collection/chunks/{quote(sha256, safe='')}",
            params={"organization": organization},
            content=content,
            content_type="application/octet-stream",
        )
        return outcome

    def _send_extended(self, record: Record, params: Mapping[str, str]) -> tuple[Outcome, Reply | None]:
        span = str(record.first) if record.first == record.last else f"{record.first}-{record.last}"
        headers = {
            "Seclea-Stream": _uuid_text(record.stream),
            "Seclea-Lane": record.lane.value,
            "Seclea-Sequence": span,
            "Seclea-Chain": record.chain.hex(),
            "Idempotency-Key": record.key,
        }
        body = record.body
        if self._packing is not None and len(body) >= packing.WORTH_BYTES:
            headers["Content-Encoding"], pack = self._packing
            body = pack(body)
        return self._exchange.call(
            "POST",
            _create_path(record),
            params=params,
            content=body,
            content_type="application/msgpack" if record.kind is RecordKind.METRICS else "application/json",
            headers=headers,
            kind=record.kind,
        )


# ----------------------------------------------------------------------------------------------------------------------


def _answer_to(record: Record, answer: Any) -> Outcome:
    """One of the answers to many batches, judged as if it had come alone."""
    answer = answer if isinstance(answer, dict) else {}
    status, text = answer.get("status"), str(answer.get("body", ""))
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = NOT_JSON
    outcome = classify(status if type(status) is int else 0, {}, body, record.kind, text=text)
    return check_receipt(outcome, record)


def _kept_locally(record: Record) -> Outcome:
    return Outcome(Verdict.KEPT_LOCALLY, detail=f"the portal has no place for {record.kind}")


def _for_good(record: Record, outcome: Outcome) -> Outcome:
    """A parent that the client named by its digest only, because the portal did not answer then: nobody here will send it."""
    if record.kind not in (RecordKind.DATASET, RecordKind.TRAINING_RUN):
        return outcome
    body = json.loads(record.body)
    named = {body.get("parent_hash"), *(one for one in body.get("datasets", ()) if "-" not in one)}
    unknown = [digest for digest in outcome.missing if digest in named]
    if not unknown:
        return outcome
    what = f"the portal has no dataset {unknown[0]}, which this {record.kind.replace('_', ' ')} names"
    return Outcome(Verdict.REFUSED, outcome.status, f"{what}: upload that one, and then this one again")


def _create_path(record: Record) -> str:
    if record.kind is RecordKind.FINISH:
        return f"{PATHS[RecordKind.TRAINING_RUN]}/{quote(record.run or '', safe='')}/finish"
    return PATHS[record.kind]


def _uuid_text(value: bytes) -> str:
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _next_cursor(reply: Reply) -> str | None:
    """The cursor in `Link: <...>; rel="next"`. Only the cursor: the address in it is not ours to follow."""
    for link in reply.headers.get("Link", "").split(","):
        target, _, parameters = link.strip().partition(">")
        if target.startswith("<") and 'rel="next"' in parameters.replace(" ", ""):
            return next(iter(parse_qs(urlsplit(target[1:]).query).get("cursor", [])), None)
    return None
