"""Sending records over real sockets to a portal that answers what it is told to: the wire, and what each answer comes to."""

import gzip
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from seclea.api.api import PATHS, Api
from seclea.api.auth import AuthService, Token, TokenStore
from seclea.api.replies import outcome_of
from seclea.api.session import Session
from seclea.contract import Destination, Outcome, Verdict
from seclea.entities import new_uuid
from seclea.errors import AuthenticationError, LedgerError, PortalError, PortalUnavailable, UnknownOrganizationError
from seclea.records import RecordKind
from tests.contract.fault_portal import (
    ORGANIZATION,
    Answer,
    Asked,
    Fault,
    FaultPortal,
    fault_portal,
    page,
    receipted,
    unused_port,
)
from tests.contract.records_made import CHUNK, CONTENT, RecordMaker

CANARY = "canary-5f3759df"
THEIRS = "01900000-0000-7000-8000-0000000000bb"
ENTITIES = [kind for kind in RecordKind if kind not in (RecordKind.METRICS, RecordKind.FINISH, RecordKind.TOMBSTONE)]


@dataclass
class Rig:
    """A portal that answers what it is told to, and an `Api` that is logged in to it."""

    portal: FaultPortal
    api: Api
    auth: AuthService
    store: TokenStore
    maker: RecordMaker

    def path(self, kind: RecordKind) -> str:
        return f"/collection/training-runs/{self.maker.run}/finish" if kind is RecordKind.FINISH else PATHS[kind]

    def send(self, kind: RecordKind, references: dict[str, str] | None = None, **changes: Any) -> Outcome:
        record = self.maker.make(kind, **changes)
        return self.api.send(
            record,
            organization=ORGANIZATION,
            references=references or {},
            read_chunk=lambda name: {CHUNK: CONTENT}[name],
        )


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with fault_portal() as portal:
        store = TokenStore(tmp_path / "tokens")
        store.write(portal.url, Token(CANARY), Token("refresh"), "ann")
        session = Session(portal.url)
        auth = AuthService(session, store)
        portal.extended().on("POST", "/collection/training-runs/x/finish", receipted)
        maker = RecordMaker()
        portal.on("POST", f"/collection/training-runs/{maker.run}/finish", receipted)
        yield Rig(portal, Api(session, auth, Destination(portal.url, portal.url, "Acme")), auth, store, maker)
        session.close()


def lists(portal: FaultPortal, name: str, *items: dict[str, Any]) -> None:
    """Answer a list as a portal does that knows its filters."""

    def answer(asked: Asked) -> Answer:
        wanted = {key: values[0] for key, values in asked.query.items() if key not in ("organization", "project")}
        return Answer(
            200, [item for item in items if all(str(item.get(key)) == value for key, value in wanted.items())]
        )

    portal.on("GET", f"/collection/{name}", answer)


# -- the wire of the extensions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(RecordKind))
def test_every_kind_goes_to_its_place_with_its_headers_and_its_body_as_it_is(rig: Rig, kind: RecordKind) -> None:
    record = rig.maker.make(kind)
    outcome = rig.api.send(record, organization=ORGANIZATION, references={})
    assert outcome.verdict is Verdict.DELIVERED
    asked = rig.portal.last("POST", rig.path(kind))
    headers = asked.headers
    body = gzip.decompress(asked.body) if headers.get("content-encoding") == "gzip" else asked.body
    assert hashlib.sha256(body).digest() == record.digest
    assert headers["idempotency-key"] == record.key
    assert headers["seclea-stream"].replace("-", "") == record.stream.hex()
    assert headers["seclea-lane"] == record.lane
    assert headers["seclea-sequence"] == ("1-500" if kind is RecordKind.METRICS else "1")
    assert headers["seclea-chain"] == record.chain.hex()
    assert headers["content-type"] == ("application/msgpack" if kind is RecordKind.METRICS else "application/json")
    assert asked.query["organization"] == [ORGANIZATION]
    named = kind in (RecordKind.MODEL, RecordKind.DATASET, RecordKind.TRAINING_RUN, RecordKind.MODEL_STATE)
    assert asked.query.get("project") == ([rig.maker.project] if named else None)
    assert asked.cookies == {"access_token": CANARY}


def test_a_receipt_and_the_portals_id_come_back(rig: Rig) -> None:
    outcome = rig.send(RecordKind.PROJECT)
    assert outcome.remote_id == rig.maker.project
    assert outcome.receipt is not None
    assert (outcome.receipt["lane"], outcome.receipt["sequence"]) == ("ordered", 1)


def test_the_same_record_is_the_same_request_byte_for_byte_at_every_attempt(rig: Rig) -> None:
    record = rig.maker.metrics()
    for _ in range(2):
        rig.api.send(record, organization=ORGANIZATION, references={})
    first, second = (asked for asked in rig.portal.asked if asked.path == "/collection/metrics")
    assert (first.headers, first.body) == (second.headers, second.body)


def test_a_large_body_is_compressed_only_where_the_portal_takes_it(rig: Rig) -> None:
    rig.send(RecordKind.METRICS)
    assert rig.portal.last("POST", "/collection/metrics").headers["content-encoding"] == "gzip"
    rig.portal.on("GET", "/api/capabilities", Answer(200, {"version": "1", "extensions": ["streams", "metrics"]}))
    api = Api(Session(rig.portal.url), rig.auth, rig.api.destination)
    api.send(rig.maker.metrics(), organization=ORGANIZATION, references={})
    assert "content-encoding" not in rig.portal.last("POST", "/collection/metrics").headers
    api.close()


def test_zstd_is_taken_before_gzip_where_the_portal_and_the_extra_have_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    zstd = pytest.importorskip("backports.zstd")
    takes_both = Answer(200, {"version": "1", "extensions": ["streams", "metrics"], "encodings": ["gzip", "zstd"]})
    rig.portal.on("GET", "/api/capabilities", takes_both)
    record = rig.maker.metrics()
    bodies = []
    for installed in (True, False):
        if not installed:
            monkeypatch.setitem(sys.modules, "backports.zstd", None)
            monkeypatch.setitem(sys.modules, "compression.zstd", None)
        api = Api(Session(rig.portal.url), rig.auth, rig.api.destination)
        api.send(record, organization=ORGANIZATION, references={})
        asked = rig.portal.last("POST", "/collection/metrics")
        bodies.append((asked.headers["content-encoding"], asked.body))
        api.close()
    (first, packed), (second, zipped) = bodies
    assert (first, second) == ("zstd", "gzip")
    assert zstd.decompress(packed) == gzip.decompress(zipped) == record.body


def test_the_project_in_the_query_is_the_portals_where_it_has_another_id(rig: Rig) -> None:
    rig.send(RecordKind.MODEL, {rig.maker.project: THEIRS})
    asked = rig.portal.last("POST", "/collection/models")
    assert asked.query["project"] == [THEIRS]
    assert asked.json["project"] == rig.maker.project  # the body is chained and stays
    record = rig.maker.make(RecordKind.TOMBSTONE)
    rig.api.send(record, organization=ORGANIZATION, references={rig.maker.project: THEIRS}, project=rig.maker.project)
    assert rig.portal.last("POST", "/collection/tombstones").query["project"] == [THEIRS]


def test_capabilities_are_asked_once_and_without_the_token(rig: Rig) -> None:
    rig.send(RecordKind.PROJECT)
    rig.send(RecordKind.MODEL)
    assert rig.portal.count("GET", "/api/capabilities") == 1
    assert rig.portal.last("GET", "/api/capabilities").cookies == {}


@pytest.mark.parametrize("kind", [RecordKind.METRICS, RecordKind.FINISH, RecordKind.TOMBSTONE])
def test_a_portal_without_just_one_extension_is_not_sent_that_kind(rig: Rig, kind: RecordKind) -> None:
    rig.portal.on("GET", "/api/capabilities", Answer(200, {"version": "1", "extensions": ["streams", "chunks"]}))
    assert rig.send(kind).verdict is Verdict.KEPT_LOCALLY
    assert rig.portal.count("POST", rig.path(kind)) == 0


# -- each answer -------------------------------------------------------------------------------------------------------

ANSWERS: dict[str, tuple[Answer, Verdict]] = {
    "400": (Answer(400, {"detail": "name is too long"}), Verdict.REFUSED),
    "402": (Answer(402, {}), Verdict.HOLD),
    "404": (Answer(404, {"detail": "Not found."}), Verdict.HOLD),
    "404 parent": (Answer(404, {"code": "missing_parent", "missing": "p"}), Verdict.MISSING),
    "405": (Answer(405, {}), Verdict.HOLD),
    "408": (Answer(408, {}), Verdict.UNKNOWN),
    "409 running": (Answer(409, {"code": "running"}), Verdict.WAIT),
    "409 gap": (Answer(409, {"code": "gap", "expected": 4}), Verdict.GAP),
    "409 conflict": (Answer(409, {"code": "conflict"}), Verdict.REFUSED),
    "409 chunks": (Answer(409, {"code": "missing_chunks", "missing": ["c"]}), Verdict.MISSING),
    "410": (Answer(410, {}), Verdict.HOLD),
    "413": (Answer(413, b"<html>nginx</html>"), Verdict.REFUSED),
    "422": (Answer(422, {"detail": "another body"}), Verdict.REFUSED),
    "425": (Answer(425, {}), Verdict.WAIT),
    "429": (Answer(429, {}, {"Retry-After": "7"}), Verdict.WAIT),
    "500": (Answer(500, b"oops"), Verdict.UNAVAILABLE),
    "502": (Answer(502, b"<html>"), Verdict.UNAVAILABLE),
    "503": (Answer(503, {}), Verdict.UNAVAILABLE),
    "503 with a time": (Answer(503, {}, {"Retry-After": "7"}), Verdict.WAIT),
    "504": (Answer(504, {}), Verdict.UNAVAILABLE),
    "302": (Answer(302, b"", {"Location": "https://sso.example.com/x"}), Verdict.HOLD),
    "a login page with 200": (page(), Verdict.UNKNOWN),
    "200 without a body": (Answer(200), Verdict.UNKNOWN),
    "201 that is no JSON": (Answer(201, b"{", {"Content-Type": "application/json"}), Verdict.UNKNOWN),
    "201 without a receipt": (Answer(201, {"uuid": "u"}), Verdict.UNKNOWN),
    "201 with a list": (Answer(201, []), Verdict.UNKNOWN),
    "204": (Answer(204), Verdict.UNKNOWN),
    "reset": (Answer(fault=Fault.RESET), Verdict.UNKNOWN),
    "reply lost": (Answer(201, {}, fault=Fault.LOST), Verdict.UNKNOWN),
    "truncated": (Answer(201, {"uuid": "u", "receipt": {}}, fault=Fault.TRUNCATED), Verdict.UNKNOWN),
}


@pytest.mark.parametrize("kind", [RecordKind.PROJECT, RecordKind.METRICS, RecordKind.DATASET, RecordKind.FINISH])
@pytest.mark.parametrize("name", ANSWERS)
def test_each_answer_comes_to_its_verdict_after_one_request_and_then_the_record_goes_through(
    rig: Rig, name: str, kind: RecordKind
) -> None:
    answer, verdict = ANSWERS[name]
    rig.portal.on("POST", rig.path(kind), answer, receipted)
    record = rig.maker.make(kind)
    outcome = rig.api.send(record, organization=ORGANIZATION, references={})
    assert outcome.verdict is verdict, outcome
    assert rig.portal.count("POST", rig.path(kind)) == 1
    assert verdict is Verdict.DELIVERED or outcome.detail
    assert rig.api.send(record, organization=ORGANIZATION, references={}).verdict is Verdict.DELIVERED
    keys = {asked.headers["idempotency-key"] for asked in rig.portal.asked if asked.method == "POST"}
    assert keys == {record.key}


def test_a_portal_that_is_not_there_is_unavailable_and_a_silent_one_leaves_the_outcome_unknown(rig: Rig) -> None:
    rig.api.capabilities()
    rig.portal.on("POST", "/collection/metrics", Answer(fault=Fault.STALLED))
    rig.api._session._read_timeout = 0.05
    assert rig.send(RecordKind.METRICS).verdict is Verdict.UNKNOWN
    nobody = Session(f"http://127.0.0.1:{unused_port()}")
    api = Api(nobody, None, rig.api.destination, local=True)
    outcome = api.send(rig.maker.metrics(), organization=ORGANIZATION, references={})
    assert outcome.verdict is Verdict.UNAVAILABLE
    assert "cannot be reached" in outcome.detail
    assert api.chunks_missing([CHUNK], organization=ORGANIZATION) == outcome
    assert api.put_chunk(CHUNK, CONTENT, organization=ORGANIZATION) == outcome


def test_a_receipt_for_another_record_is_not_believed(rig: Rig) -> None:
    other = RecordMaker().make(RecordKind.TOMBSTONE)
    wrong = {"stream": other.stream.hex(), "lane": "ordered", "sequence": 1, "chain": other.chain.hex()}
    rig.portal.on("POST", "/collection/tombstones", Answer(201, {"receipt": wrong}))
    assert rig.send(RecordKind.TOMBSTONE).verdict is Verdict.HOLD


# -- logins ------------------------------------------------------------------------------------------------------------


def refreshes(rig: Rig, name: str = "next") -> None:
    rig.portal.on("POST", "/api/token/refresh/", Answer(200, {}, cookies={"access_token": name}))


def test_401_is_answered_by_one_refresh_and_the_same_request(rig: Rig) -> None:
    refreshes(rig)
    path = "/collection/metrics"
    rig.portal.on(
        "POST", path, lambda asked: receipted(asked) if asked.cookies["access_token"] == "next" else Answer(401, {})
    )
    assert rig.send(RecordKind.METRICS).verdict is Verdict.DELIVERED
    assert rig.portal.count("POST", "/api/token/refresh/") == 1
    first, second = (asked for asked in rig.portal.asked if asked.path == path)
    assert first.body == second.body
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]


def test_a_401_that_stays_holds_the_destination_and_tells_to_log_in(rig: Rig) -> None:
    refreshes(rig)
    rig.portal.on("POST", "/collection/metrics", Answer(401, {"detail": f"bad token {CANARY} next"}))
    outcome = rig.send(RecordKind.METRICS)
    assert outcome.verdict is Verdict.HOLD
    assert "seclea login" in outcome.detail
    assert rig.portal.count("POST", "/collection/metrics") == 2
    assert rig.portal.count("POST", "/api/token/refresh/") == 1


def test_a_401_with_a_spent_login_holds_after_one_request(rig: Rig) -> None:
    rig.portal.on("POST", "/api/token/refresh/", Answer(401, {}))
    rig.portal.on("POST", "/collection/metrics", Answer(401, {}))
    outcome = rig.send(RecordKind.METRICS)
    assert (outcome.verdict, outcome.status) == (Verdict.HOLD, 401)
    assert "seclea login" in outcome.detail
    assert rig.portal.count("POST", "/collection/metrics") == 1


def test_a_refresh_that_the_network_swallows_is_an_outage_and_not_a_lost_login(rig: Rig) -> None:
    rig.portal.on("POST", "/collection/metrics", Answer(401, {}))
    rig.portal.on("POST", "/api/token/refresh/", Answer(fault=Fault.RESET), Answer(503, {}))
    assert rig.send(RecordKind.METRICS).verdict is Verdict.UNKNOWN
    assert rig.send(RecordKind.METRICS).verdict is Verdict.UNAVAILABLE


def test_403_is_answered_by_one_refresh_for_good_and_then_waits(rig: Rig) -> None:
    refreshes(rig)
    rig.portal.on("POST", "/collection/metrics", Answer(403, {"detail": "not your project"}))
    for _ in range(4):
        outcome = rig.send(RecordKind.METRICS)
        assert outcome.verdict is Verdict.WAIT
        assert "not your project" in outcome.detail
    assert rig.portal.count("POST", "/api/token/refresh/") == 1
    assert rig.portal.count("POST", "/collection/metrics") == 5


def test_403_with_a_login_that_cannot_be_renewed_still_waits(rig: Rig) -> None:
    rig.portal.on("POST", "/api/token/refresh/", Answer(401, {}))
    rig.portal.on("POST", "/collection/metrics", Answer(403, {}))
    assert [rig.send(RecordKind.METRICS).verdict for _ in range(3)] == [Verdict.WAIT] * 3
    assert rig.portal.count("POST", "/api/token/refresh/") == 1


def test_without_a_login_nothing_is_asked_and_the_hold_tells_how_to_log_in(rig: Rig) -> None:
    rig.auth.forget()
    outcome = rig.send(RecordKind.METRICS)
    assert (outcome.verdict, outcome.status) == (Verdict.HOLD, 401)
    assert "seclea login" in outcome.detail
    assert rig.portal.count("POST", "/collection/metrics") == 0
    rig.store.write(rig.portal.url, Token("again"), None)
    assert rig.send(RecordKind.METRICS).verdict is Verdict.DELIVERED


def test_a_token_file_that_others_can_read_holds_and_says_so(rig: Rig) -> None:
    rig.store.path(rig.portal.url).chmod(0o644)
    outcome = rig.send(RecordKind.METRICS)
    assert outcome.verdict is Verdict.HOLD
    assert "other users" in outcome.detail


def test_a_portal_that_repeats_the_token_does_not_get_it_into_an_outcome(rig: Rig) -> None:
    rig.portal.on("POST", "/collection/metrics", Answer(400, {"detail": f"Cookie: access_token={CANARY}"}))
    outcome = rig.send(RecordKind.METRICS)
    assert outcome.detail == "Cookie: access_token=***"


def test_the_homes_own_portal_is_spoken_to_without_tokens(tmp_path: Path) -> None:
    with fault_portal(tmp_path / "p.sock") as portal:
        portal.extended()
        session = Session("local", unix_socket=portal.unix_socket)
        api = Api(session, None, Destination("local", "local", "local"), local=True)
        outcome = api.send(RecordMaker().metrics(), organization=ORGANIZATION, references={})
        assert outcome.verdict is Verdict.DELIVERED
        asked = portal.last("POST", "/collection/metrics")
        assert asked.cookies == {}
        assert "content-encoding" not in asked.headers  # nothing to save on this machine
        session.close()


# -- asked before, and adopted -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), [(RecordKind.PROJECT, "projects"), (RecordKind.MODEL, "models")])
def test_a_project_or_model_of_that_name_is_adopted_without_making_one(rig: Rig, kind: RecordKind, name: str) -> None:
    lists(
        rig.portal,
        name,
        {"uuid": new_uuid(), "name": "claims", "framework": "sklearn"},
        {"uuid": new_uuid(), "name": "SGD", "framework": "torch"},
        {"uuid": THEIRS, "name": "Claims" if name == "projects" else "SGD", "framework": "sklearn"},
    )
    outcome = rig.send(kind)
    assert (outcome.verdict, outcome.remote_id) == (Verdict.ADOPTED, THEIRS)
    assert rig.portal.count("POST", f"/collection/{name}") == 0


def test_our_own_project_is_sent_again_for_its_receipt(rig: Rig) -> None:
    lists(rig.portal, "projects", {"uuid": rig.maker.project, "name": "Claims"})
    outcome = rig.send(RecordKind.PROJECT)
    assert outcome.verdict is Verdict.DELIVERED
    assert outcome.receipt is not None


def test_a_portal_that_ignores_the_filter_does_not_make_us_adopt_something_else(rig: Rig) -> None:
    rig.portal.on("GET", "/collection/projects", Answer(200, [{"uuid": THEIRS, "name": "Other"}, {"uuid": 7}, "x"]))
    assert rig.send(RecordKind.PROJECT).verdict is Verdict.DELIVERED


def test_a_question_that_is_not_answered_comes_to_the_verdict_of_that(rig: Rig) -> None:
    rig.portal.on("GET", "/collection/projects", Answer(502, b""), Answer(429, {}, {"Retry-After": "9"}), page())
    assert rig.send(RecordKind.PROJECT).verdict is Verdict.UNAVAILABLE
    outcome = rig.send(RecordKind.PROJECT)
    assert (outcome.verdict, outcome.retry_after_seconds) == (Verdict.WAIT, 9.0)
    assert rig.send(RecordKind.PROJECT).verdict is Verdict.UNKNOWN
    assert rig.portal.count("POST", "/collection/projects") == 0


DUPLICATES = [
    Answer(400, {"detail": "The fields project, hash must make a unique set."}),
    Answer(400, {"non_field_errors": ["The fields project, hash must make a unique set."]}),
    Answer(400, ["dataset with this name already exists."]),
    Answer(400, b"project with this name already exists."),
    Answer(400, {"code": "already_exists", "detail": "x", "uuid": THEIRS}),
]


@pytest.mark.parametrize("answer", DUPLICATES)
def test_a_dataset_that_is_there_already_is_adopted_by_its_hash(rig: Rig, answer: Answer) -> None:
    rig.portal.on("POST", "/collection/datasets", answer)
    lists(rig.portal, "datasets", {"uuid": THEIRS, "name": "another name", "hash": "ab" * 32})
    outcome = rig.send(RecordKind.DATASET)
    assert (outcome.verdict, outcome.remote_id) == (Verdict.ADOPTED, THEIRS)


def test_a_dataset_name_with_other_content_is_refused_saying_so(rig: Rig) -> None:
    rig.portal.on("POST", "/collection/datasets", DUPLICATES[0])
    lists(rig.portal, "datasets", {"uuid": THEIRS, "name": "Claims", "hash": "cd" * 32})
    outcome = rig.send(RecordKind.DATASET)
    assert outcome.verdict is Verdict.REFUSED
    assert "other content" in outcome.detail
    assert "cd" * 32 in outcome.detail
    assert "ab" * 32 in outcome.detail


@pytest.mark.parametrize(
    ("theirs", "verdict"),
    [({"sha256": CHUNK}, Verdict.ADOPTED), ({}, Verdict.ADOPTED), ({"sha256": "ef" * 32}, Verdict.REFUSED)],
)
def test_a_state_of_that_number_is_adopted_unless_its_content_is_another(
    rig: Rig, theirs: dict[str, Any], verdict: Verdict
) -> None:
    rig.portal.on("POST", "/collection/model-states", DUPLICATES[1])
    lists(rig.portal, "model-states", {"uuid": THEIRS, "training_run": rig.maker.run, "sequence_num": 3, **theirs})
    assert rig.send(RecordKind.MODEL_STATE).verdict is verdict


def test_a_run_or_transformation_of_that_id_is_adopted(rig: Rig) -> None:
    run = {"name": "Training Run 1"}
    lists(
        rig.portal, "training-runs", {**run, "uuid": THEIRS, "params": {"alpha": 0.1}}, {**run, "uuid": rig.maker.run}
    )
    step = {"name": "encode", "dataset": rig.maker.dataset, "code_raw": "another"}
    lists(rig.portal, "dataset-transformations", {**step, "uuid": THEIRS}, {**step, "uuid": rig.maker.step})
    for kind, uuid in ((RecordKind.TRAINING_RUN, rig.maker.run), (RecordKind.DATASET_TRANSFORMATION, rig.maker.step)):
        rig.portal.on("POST", PATHS[kind], DUPLICATES[4])
        outcome = rig.send(kind)
        assert (outcome.verdict, outcome.remote_id) == (Verdict.ADOPTED, uuid)


def test_a_duplicate_that_cannot_be_found_is_refused_in_the_portals_words(rig: Rig) -> None:
    rig.portal.on("POST", "/collection/training-runs", DUPLICATES[4])
    assert rig.send(RecordKind.TRAINING_RUN).verdict is Verdict.REFUSED


# -- chunks ------------------------------------------------------------------------------------------------------------


def test_missing_chunks_come_back_once_each_in_the_order_asked(rig: Rig) -> None:
    rig.portal.on("POST", "/collection/chunks/missing", Answer(200, ["c", "a", "unasked", 7]))
    assert rig.api.chunks_missing(["a", "b", "a", "c"], organization=ORGANIZATION) == ["a", "c"]
    asked = rig.portal.last("POST", "/collection/chunks/missing")
    assert (asked.json, asked.query) == (["a", "b", "c"], {"organization": [ORGANIZATION]})


def test_thousands_of_chunks_are_asked_for_in_several_questions(rig: Rig) -> None:
    rig.portal.on("POST", "/collection/chunks/missing", lambda asked: Answer(200, asked.json))
    names = [f"{number:064x}" for number in range(2500)]
    assert rig.api.chunks_missing(names, organization=ORGANIZATION) == names
    assert rig.portal.count("POST", "/collection/chunks/missing") == 3


@pytest.mark.parametrize("body", [{}, "x", None])
def test_an_answer_about_chunks_that_is_no_list_is_an_unknown_outcome(rig: Rig, body: Any) -> None:
    rig.portal.on("POST", "/collection/chunks/missing", Answer(200, body))
    outcome = rig.api.chunks_missing(["a"], organization=ORGANIZATION)
    assert isinstance(outcome, Outcome)
    assert outcome.verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer(201, {}), Verdict.DELIVERED),
        (Answer(200, {}), Verdict.DELIVERED),
        (Answer(400, {"detail": "does not hash to the name"}), Verdict.REFUSED),
        (page(), Verdict.UNKNOWN),
        (Answer(503, {}), Verdict.UNAVAILABLE),
    ],
)
def test_a_chunk_is_put_under_its_name(rig: Rig, answer: Answer, verdict: Verdict) -> None:
    rig.portal.on("PUT", f"/collection/chunks/{CHUNK}", answer)
    assert rig.api.put_chunk(CHUNK, CONTENT, organization=ORGANIZATION).verdict is verdict
    asked = rig.portal.last("PUT", f"/collection/chunks/{CHUNK}")
    assert (asked.body, asked.headers["content-type"]) == (CONTENT, "application/octet-stream")


# -- portals of the base interface -------------------------------------------------------------------------------------


@pytest.fixture
def base(rig: Rig) -> Rig:
    rig.portal.base_only()
    for kind in ENTITIES:
        rig.portal.on("POST", PATHS[kind], Answer(201, {"uuid": THEIRS}))
    return rig


def form_of(asked: Asked) -> dict[str, bytes]:
    boundary = asked.headers["content-type"].partition("boundary=")[2].encode()
    found = {}
    for item in asked.body.split(b"--" + boundary)[1:-1]:
        head, _, content = item.partition(b"\r\n\r\n")
        found[head.partition(b'name="')[2].partition(b'"')[0].decode()] = content.removesuffix(b"\r\n")
    return found


def test_a_base_portal_is_one_without_capabilities_that_answers_as_a_portal(base: Rig) -> None:
    assert base.api.capabilities() is None
    assert base.api.capabilities() is None
    assert base.portal.count("GET", "/api/capabilities") == 1
    assert not base.api.speaks("streams")


@pytest.mark.parametrize("status", [401, 403])
def test_a_base_portal_that_wants_a_login_first_is_one_too(base: Rig, status: int) -> None:
    base.portal.on("GET", "/organization/", Answer(status, {}))
    assert base.api.capabilities() is None


@pytest.mark.parametrize("answer", [Answer(404, b"no backend"), page(), Answer(200, {}), Answer(502, b"")])
def test_a_404_of_something_in_front_of_the_portal_keeps_no_record_back(base: Rig, answer: Answer) -> None:
    base.portal.on("GET", "/organization/", answer)
    outcome = base.send(RecordKind.METRICS)
    assert outcome.verdict in (Verdict.HOLD, Verdict.UNKNOWN, Verdict.UNAVAILABLE)
    base.portal.extended()
    assert base.send(RecordKind.METRICS).verdict is Verdict.DELIVERED


@pytest.mark.parametrize("kind", [RecordKind.METRICS, RecordKind.FINISH, RecordKind.TOMBSTONE])
def test_what_a_base_portal_has_no_place_for_is_kept_locally_without_a_request(base: Rig, kind: RecordKind) -> None:
    assert base.send(kind).verdict is Verdict.KEPT_LOCALLY
    assert base.portal.count("POST", base.path(kind)) == 0


REFERENCES = {"project": "remote-project", "model": "remote-model", "dataset": "remote-dataset", "run": "remote-run"}


@pytest.mark.parametrize("kind", ENTITIES)
def test_a_base_portal_gets_base_bodies_with_its_own_ids_and_no_headers_of_ours(base: Rig, kind: RecordKind) -> None:
    maker = base.maker
    references = {getattr(maker, name): remote for name, remote in REFERENCES.items()}
    outcome = base.send(kind, references)
    assert (outcome.verdict, outcome.remote_id) == (Verdict.DELIVERED, THEIRS)
    asked = base.portal.last("POST", PATHS[kind])
    assert not any(name.startswith("seclea-") for name in asked.headers)
    in_project = kind not in (RecordKind.PROJECT, RecordKind.DATASET_TRANSFORMATION)
    assert asked.query.get("project") == (["remote-project"] if in_project else None)
    if kind is RecordKind.DATASET:
        form = form_of(asked)
        assert form.pop("dataset") == CONTENT
        assert json.loads(form.pop("metadata")) == {"split": None}
        assert form == {
            "project": b"remote-project", "name": b"Claims", "hash": b"ab" * 32, "uuid": maker.dataset.encode()
        }  # fmt: skip
    elif kind is RecordKind.MODEL_STATE:
        form = form_of(asked)
        assert form.pop("state") == CONTENT
        assert form == {
            "project": b"remote-project", "training_run": b"remote-run", "sequence_num": b"3", "final_state": b"false",
            "uuid": maker.state.encode(),
        }  # fmt: skip
    else:
        expected: dict[RecordKind, dict[str, Any]] = {
            RecordKind.PROJECT: {
                "uuid": maker.project, "name": "Claims", "description": "of 2026", "organization": ORGANIZATION
            },
            RecordKind.MODEL: {
                "uuid": maker.model, "name": "SGD", "framework": "sklearn", "project": "remote-project",
                "organization": ORGANIZATION,
            },
            RecordKind.TRAINING_RUN: {
                "uuid": maker.run, "name": "Training Run 1", "params": {"alpha": 0.1},
                "metadata": {"seclea_uuid": maker.run}, "model": "remote-model", "datasets": ["remote-dataset"],
                "project": "remote-project", "organization": ORGANIZATION,
            },
            RecordKind.DATASET_TRANSFORMATION: {
                "uuid": maker.step, "name": "encode", "code_raw": "def encode(): ...", "code_encoded": "", "order": 0,
                "dataset": "remote-dataset",
            },
        }  # fmt: skip
        assert asked.json == expected[kind]


def test_a_base_portal_is_asked_first_so_that_a_lost_reply_makes_no_second_object(base: Rig) -> None:
    base.portal.on("POST", "/collection/datasets", Answer(201, {"uuid": THEIRS}, fault=Fault.LOST))
    assert base.send(RecordKind.DATASET).verdict is Verdict.UNKNOWN
    lists(base.portal, "datasets", {"uuid": THEIRS, "name": "Claims", "hash": "ab" * 32})
    outcome = base.send(RecordKind.DATASET)
    assert (outcome.verdict, outcome.remote_id) == (Verdict.ADOPTED, THEIRS)
    assert base.portal.count("POST", "/collection/datasets") == 1


def test_a_base_run_under_an_id_of_the_portals_is_found_by_ours_in_its_metadata(base: Rig) -> None:
    run = {"uuid": THEIRS, "name": "Training Run 1", "params": {"alpha": 0.1}}
    lists(base.portal, "training-runs", {**run, "metadata": {"seclea_uuid": new_uuid()}}, run)
    assert base.send(RecordKind.TRAINING_RUN).verdict is Verdict.DELIVERED, "the same script again is another run"
    lists(base.portal, "training-runs", {**run, "metadata": {"seclea_uuid": base.maker.run}})
    assert base.send(RecordKind.TRAINING_RUN).verdict is Verdict.ADOPTED


@pytest.mark.parametrize(
    ("told", "verdict"),
    [
        ({}, Verdict.ADOPTED),
        ({"order": 0}, Verdict.ADOPTED),
        ({"order": 1}, Verdict.DELIVERED),
        ({"code_raw": "def encode(): return 1"}, Verdict.DELIVERED),
        ({"dataset": THEIRS}, Verdict.DELIVERED),
        ({"name": "decode"}, Verdict.DELIVERED),
    ],
)
def test_a_base_transformation_is_found_by_dataset_name_code_and_place(
    base: Rig, told: dict[str, Any], verdict: Verdict
) -> None:
    step = {"uuid": THEIRS, "dataset": "remote-dataset", "name": "encode", "code_raw": "def encode(): ..."}
    base.portal.on("GET", "/collection/dataset-transformations", Answer(200, [{**step, **told}]))  # heeds no filter
    assert base.send(RecordKind.DATASET_TRANSFORMATION, {base.maker.dataset: "remote-dataset"}).verdict is verdict
    assert base.portal.last("GET", "/collection/dataset-transformations").query["dataset"] == ["remote-dataset"]


def test_what_a_base_portal_has_of_another_project_or_run_is_not_taken_for_ours(base: Rig) -> None:
    theirs = {"uuid": THEIRS, "name": "Claims", "hash": "ab" * 32, "framework": "sklearn", "sequence_num": 3}
    for kind, named in (
        (RecordKind.DATASET, "project"),
        (RecordKind.MODEL, "project"),
        (RecordKind.MODEL_STATE, "training_run"),
    ):
        ours = getattr(base.maker, "run" if named == "training_run" else named)
        name = "SGD" if kind is RecordKind.MODEL else "Claims"
        for value, verdict in ((new_uuid(), Verdict.DELIVERED), (ours, Verdict.ADOPTED)):
            heedless = Answer(200, [{**theirs, "name": name, named: value}])  # heeds no filter
            base.portal.on("GET", PATHS[kind], heedless)
            assert base.send(kind).verdict is verdict, (kind, value)


def test_inputs_and_roles_are_not_sent_to_a_base_portal(base: Rig) -> None:
    base.send(RecordKind.DATASET_TRANSFORMATION, inputs=[base.maker.dataset], details={"split": "train"})
    assert base.portal.last("POST", "/collection/dataset-transformations").json.keys() == {
        "uuid", "name", "code_raw", "code_encoded", "order", "dataset"
    }  # fmt: skip
    base.portal.on("POST", "/collection/training-runs", Answer(201, {"uuid": base.maker.run}))
    base.api.send(
        base.maker.make(RecordKind.TRAINING_RUN, dataset_roles=["train"]),
        organization=ORGANIZATION, references={}, hashes={base.maker.dataset: "h"},
    )  # fmt: skip
    sent = base.portal.last("POST", "/collection/training-runs").json
    assert not {"dataset_roles", "started_ns"} & sent.keys()


# Which dialect a base portal understands, its answers say.


def in_words(asked: Asked) -> dict[str, Any]:
    """What was sent, without the file."""
    if asked.headers["content-type"] == "application/json":
        return dict(asked.json)
    return {name: value.decode() for name, value in form_of(asked).items() if name not in ("dataset", "state")}


def test_a_child_names_its_parent_by_uuid_and_by_hash_until_the_portal_is_known(base: Rig) -> None:
    sends = {"parent": base.maker.project}
    hashes = {base.maker.project: "parent-hash"}

    def send() -> dict[str, Any]:
        record = base.maker.make(RecordKind.DATASET, **sends)
        references = {base.maker.project: "remote-parent"}
        base.api.send(
            record, organization=ORGANIZATION, references=references, read_chunk=lambda _: CONTENT, hashes=hashes
        )
        return in_words(base.portal.last("POST", "/collection/datasets"))

    unknown = send()
    assert (unknown["uuid"], unknown["parent"], unknown["parent_hash"]) == (
        base.maker.dataset,
        "remote-parent",
        "parent-hash",
    )
    older = send()  # it made a uuid of its own
    assert "uuid" not in older
    assert "parent" not in older
    assert older["parent_hash"] == "parent-hash"


def test_a_portal_that_refuses_our_uuids_is_told_hashes_and_stays_told(base: Rig) -> None:
    def answer(asked: Asked) -> Answer:
        return Answer(400, {"uuid": ["unknown"]}) if "uuid" in in_words(asked) else Answer(201, {"uuid": THEIRS})

    base.portal.on("POST", "/collection/training-runs", answer)
    record = base.maker.make(RecordKind.TRAINING_RUN)
    hashes = {base.maker.dataset: "the-hash"}
    for requests in (2, 3):
        outcome = base.api.send(record, organization=ORGANIZATION, references={}, hashes=hashes)
        assert (outcome.verdict, outcome.remote_id) == (Verdict.DELIVERED, THEIRS)
        assert base.portal.count("POST", "/collection/training-runs") == requests
    assert base.portal.last("POST", "/collection/training-runs").json["datasets"] == ["the-hash"]


def test_a_portal_of_its_own_uuids_that_wants_uuids_of_datasets_gets_them(base: Rig) -> None:
    base.send(RecordKind.MODEL)  # answered with a uuid of its own
    base.portal.on(
        "POST",
        "/collection/training-runs",
        lambda asked: Answer(201, {"uuid": THEIRS}) if asked.json["datasets"] == ["remote"] else Answer(400, {}),
    )
    record = base.maker.make(RecordKind.TRAINING_RUN)
    outcome = base.api.send(
        record, organization=ORGANIZATION, references={base.maker.dataset: "remote"}, hashes={base.maker.dataset: "h"}
    )
    assert outcome.verdict is Verdict.DELIVERED


def test_a_portal_that_takes_our_uuid_is_asked_once_for_what_it_refuses(base: Rig) -> None:
    base.portal.on("POST", "/collection/models", Answer(201, {"uuid": base.maker.model}))
    base.send(RecordKind.MODEL)
    base.portal.on("POST", "/collection/training-runs", Answer(400, {"name": ["too long"]}))
    outcome = base.send(RecordKind.TRAINING_RUN)
    assert (outcome.verdict, base.portal.count("POST", "/collection/training-runs")) == (Verdict.REFUSED, 1)


def test_what_both_dialects_are_refused_for_is_said_in_the_first_ones_words(base: Rig) -> None:
    answers = (Answer(400, {"name": ["too long"]}), Answer(400, {"uuid": ["required"]}))
    base.portal.on("POST", "/collection/models", *answers)
    outcome = base.send(RecordKind.MODEL)
    assert (outcome.verdict, base.portal.count("POST", "/collection/models")) == (Verdict.REFUSED, 2)
    assert "too long" in outcome.detail


def test_a_parent_that_only_the_portal_has_is_looked_up_there(base: Rig) -> None:
    wanted = {"parent_hash": "its-hash"}
    outcome = base.send(RecordKind.DATASET, **wanted)
    assert outcome.verdict is Verdict.REFUSED  # nobody here will ever send it
    assert "has no dataset its-hash" in outcome.detail and "upload that one" in outcome.detail
    lists(base.portal, "datasets", {"uuid": "their-parent", "name": "Parent", "hash": "its-hash"})
    base.portal.on(
        "GET", "/collection/datasets/their-parent", Answer(200, {"uuid": "their-parent", "hash": "its-hash"})
    )
    assert base.send(RecordKind.DATASET, **wanted).verdict is Verdict.DELIVERED
    sent = in_words(base.portal.last("POST", "/collection/datasets"))
    assert (sent["parent"], sent["parent_hash"]) == ("their-parent", "its-hash")


def test_a_runs_dataset_that_only_the_portal_has_is_looked_up_there(base: Rig) -> None:
    wanted = {"datasets": [base.maker.dataset, "5e" * 32]}
    outcome = base.send(RecordKind.TRAINING_RUN, **wanted)
    assert outcome.verdict is Verdict.REFUSED
    assert "the portal has no dataset 5e5e" in outcome.detail
    lists(base.portal, "datasets", {"uuid": THEIRS, "name": "Test", "hash": "5e" * 32})
    assert base.send(RecordKind.TRAINING_RUN, **wanted).verdict is Verdict.DELIVERED
    assert base.portal.last("POST", "/collection/training-runs").json["datasets"] == [base.maker.dataset, THEIRS]


def test_a_dataset_of_a_run_that_is_not_there_blocks_the_run_only(base: Rig) -> None:
    base.send(RecordKind.MODEL)  # hashes from here on
    base.portal.on("GET", f"/collection/datasets/{base.maker.dataset}", Answer(404, {}))
    outcome = base.send(RecordKind.TRAINING_RUN)
    assert (outcome.verdict, outcome.missing) == (Verdict.MISSING, (base.maker.dataset,))


def test_a_payload_that_cannot_be_read_is_the_ledgers_error(base: Rig) -> None:
    def gone(sha256: str) -> bytes:
        raise LedgerError(f"The chunk {sha256} is gone.")

    with pytest.raises(LedgerError, match="is gone"):
        base.api.send(base.maker.make(RecordKind.DATASET), organization=ORGANIZATION, references={}, read_chunk=gone)


# -- asking ------------------------------------------------------------------------------------------------------------


def test_an_organization_is_known_by_its_exact_name(rig: Rig) -> None:
    organizations = [{"uuid": "1", "name": "acme"}, {"uuid": "2", "name": "Acme"}, {"uuid": "3", "name": "Acme Ltd"}]
    rig.portal.on("GET", "/organization/", Answer(200, organizations))
    assert rig.api.organization_uuid("Acme") == "2"
    assert rig.portal.last("GET", "/organization/").query == {"name": ["Acme"]}


def test_an_unknown_organization_is_an_error_that_lists_what_there_is(rig: Rig) -> None:
    rig.portal.on(
        "GET",
        "/organization/",
        Answer(200, []),
        Answer(200, [{"uuid": "1", "name": "B\r\n"}, {"uuid": "2", "name": "A"}]),
    )
    with pytest.raises(UnknownOrganizationError, match=r"no organization 'Nope'.*There are: A, B\."):
        rig.api.organization_uuid("Nope")
    rig.portal.on("GET", "/organization/", Answer(200, []))
    with pytest.raises(UnknownOrganizationError, match="belongs to no organization"):
        rig.api.organization_uuid("Nope")


def test_a_list_is_read_page_after_page_by_the_cursor_alone(rig: Rig) -> None:
    def paged(asked: Asked) -> Answer:
        number = int(asked.query.get("cursor", ["0"])[0])
        link = f'<https://evil.example.com/steal?cursor={number + 1}&limit=1>; rel="next"' if number < 2 else ""
        return Answer(200, [{"uuid": str(number)}], {"Link": link} if link else {})

    rig.portal.on("GET", "/collection/datasets", paged)
    found = rig.api.find(RecordKind.DATASET, organization=ORGANIZATION, name="x")
    assert [item["uuid"] for item in found] == ["0", "1", "2"]
    assert rig.portal.last("GET", "/collection/datasets").query == {
        "organization": [ORGANIZATION],
        "name": ["x"],
        "cursor": ["2"],
    }


def test_a_list_that_points_to_itself_ends(rig: Rig) -> None:
    rig.portal.on("GET", "/collection/datasets", Answer(200, [{"uuid": "1"}], {"Link": '</x?cursor=1>; rel="next"'}))
    assert len(rig.api.find(RecordKind.DATASET)) == 2


def test_one_object_is_got_by_its_quoted_id_and_none_is_none(rig: Rig) -> None:
    rig.portal.on("GET", "/collection/models/a%2F..%2Fb", Answer(200, {"uuid": "a/../b"}))
    assert rig.api.get(RecordKind.MODEL, "a/../b") == {"uuid": "a/../b"}
    assert rig.api.get(RecordKind.MODEL, "nobody") is None


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(401, {}), AuthenticationError),
        (Answer(403, {}), PortalError),
        (Answer(404, {}), PortalError),
        (Answer(500, {}), PortalUnavailable),
        (Answer(503, {}, {"Retry-After": "3"}), PortalUnavailable),
        (Answer(fault=Fault.RESET), PortalUnavailable),
        (page(), PortalUnavailable),
        (Answer(200, {"a": 1}), PortalError),
        (Answer(302, b"", {"Location": "https://x.y"}), PortalError),
    ],
)
def test_a_question_that_is_not_answered_raises_what_tells_the_caller_what_to_do(
    rig: Rig, answer: Answer, kind: type[Exception]
) -> None:
    rig.portal.on("POST", "/api/token/refresh/", Answer(401, {}))
    rig.portal.on("GET", "/organization/", answer)
    with pytest.raises(kind) as caught:
        rig.api.organization_uuid("Acme")
    assert type(caught.value) is kind or isinstance(caught.value, PortalUnavailable)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("body", [{}, [], {"extensions": "all"}, None])
def test_capabilities_in_an_unknown_form_are_a_portal_error_and_asked_for_again(rig: Rig, body: Any) -> None:
    rig.portal.on("GET", "/api/capabilities", Answer(200, body))
    with pytest.raises(PortalError, match="capabilities"):
        rig.api.capabilities()
    assert rig.send(RecordKind.METRICS).verdict is Verdict.UNKNOWN
    rig.portal.extended()
    assert rig.send(RecordKind.METRICS).verdict is Verdict.DELIVERED


@pytest.mark.parametrize("path", ["/api/capabilities", "/organization/"])
@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_a_question_about_the_portal_that_is_refused_fails_no_record(rig: Rig, path: str, status: int) -> None:
    rig.portal.on("GET", path, Answer(status, {"detail": "no"}))
    with pytest.raises(PortalError) as caught:
        rig.api.capabilities() if path == "/api/capabilities" else rig.api.organization_uuid("Acme")
    assert outcome_of(caught.value).verdict is Verdict.HOLD
