"""Every reply has one written action (R14): the table of DESIGN section 7, cell by cell."""

import json
import uuid
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seclea.api.replies import (
    HELD,
    MAX_DETAIL,
    NOT_JSON,
    check_receipt,
    classify,
    error_of,
    is_duplicate,
    outcome_of,
    retry_after_seconds,
)
from seclea.contract import Outcome, Verdict
from seclea.errors import AuthenticationError, PortalError, PortalUnavailable, SecleaError, UnknownOrganizationError
from seclea.records import Lane, Record, RecordKind, Status

NOW = 1_800_000_000.0

TABLE: dict[int, Verdict] = {
    **dict.fromkeys([100, 101, 102, 103, 202, 203, 204, 205, 206, 207, 226], Verdict.UNKNOWN),
    **dict.fromkeys([200, 201], Verdict.DELIVERED),
    **dict.fromkeys([300, 301, 302, 303, 304, 305, 307, 308], Verdict.HOLD),
    **dict.fromkeys([401, 402, 404, 405, 407, 410, 411, 421, 426, 431, 451], Verdict.HOLD),
    **dict.fromkeys([400, 406, 409, 412, 413, 414, 415, 416, 417, 418, 422, 424, 428], Verdict.REFUSED),
    **dict.fromkeys([403, 423, 425, 429], Verdict.WAIT),
    408: Verdict.UNKNOWN,
    **dict.fromkeys([500, 502, 503, 504, 506, 507, 508, 510, 520, 522, 530, 599], Verdict.UNAVAILABLE),
    **dict.fromkeys([501, 505, 511], Verdict.HOLD),
    **dict.fromkeys([0, 99, 600, 999], Verdict.UNKNOWN),
}
BODIES: list[Any] = [
    {},
    {"detail": "no"},
    {"detail": [{"loc": ["x"]}]},
    {"code": 7},
    [],
    [1],
    "text",
    3,
    None,
    NOT_JSON,
]


@pytest.mark.parametrize(("status", "verdict"), TABLE.items())
def test_each_status_has_its_verdict(status: int, verdict: Verdict) -> None:
    outcome = classify(status, {}, {"detail": "words"}, RecordKind.PROJECT)
    assert (outcome.verdict, outcome.status) == (verdict, status)


@pytest.mark.parametrize("retry_after", ["7", "Wed, 21 Oct 2015 07:28:00 GMT", "soon"])
@pytest.mark.parametrize(("status", "verdict"), TABLE.items())
def test_retry_after_changes_the_verdict_of_503_only(status: int, verdict: Verdict, retry_after: str) -> None:
    outcome = classify(status, {"Retry-After": retry_after}, {"detail": "words"}, RecordKind.PROJECT, now_seconds=NOW)
    expected = Verdict.WAIT if status == 503 and retry_after == "7" else verdict
    assert outcome.verdict is expected
    asked = outcome.verdict in (Verdict.WAIT, Verdict.UNAVAILABLE) and retry_after == "7"
    assert outcome.retry_after_seconds == (7.0 if asked else None)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(("status", "verdict"), [(s, v) for s, v in TABLE.items() if s not in (200, 201)])
def test_the_shape_of_the_body_does_not_change_the_verdict_of_a_failure(
    status: int, verdict: Verdict, body: Any
) -> None:
    assert classify(status, {}, body, RecordKind.DATASET, text="<html>").verdict is verdict


@pytest.mark.parametrize("body", [NOT_JSON, [], "text", 3, None])
@pytest.mark.parametrize("status", [200, 201])
def test_a_success_whose_body_is_no_object_is_no_success(status: int, body: Any) -> None:
    assert classify(status, {}, body, RecordKind.PROJECT).verdict is Verdict.UNKNOWN


def test_a_question_may_be_answered_by_a_list_but_not_by_a_page() -> None:
    assert classify(200, {}, ["a"]).verdict is Verdict.DELIVERED
    assert classify(200, {}, NOT_JSON, text="<html>").verdict is Verdict.UNKNOWN


def test_a_success_carries_the_portals_id_and_receipt() -> None:
    outcome = classify(201, {}, {"uuid": "abc", "receipt": {"sequence": 3}}, RecordKind.MODEL)
    assert (outcome.remote_id, outcome.receipt) == ("abc", {"sequence": 3})


@pytest.mark.parametrize("uuid", [None, 7, "", "x" * 201, ["a"]])
def test_an_id_that_is_none_is_left_out(uuid: Any) -> None:
    assert classify(201, {}, {"uuid": uuid, "receipt": 1}, RecordKind.MODEL).remote_id is None


@pytest.mark.parametrize("status", sorted(HELD | {402, 404}))
def test_what_would_be_so_for_every_record_holds_the_destination_and_says_why(status: int) -> None:
    outcome = classify(status, {}, {"detail": "sorry"})
    assert outcome.verdict is Verdict.HOLD
    assert "sorry" in outcome.detail


def test_401_tells_how_to_log_in() -> None:
    assert "seclea login" in classify(401, {}, {}).detail


@pytest.mark.parametrize(
    ("missing", "expected"),
    [("p1", ("p1",)), (["p1", "p2"], ("p1", "p2")), (None, ()), ([1, "p"], ("p",)), ({"a": 1}, ())],
)
def test_404_with_the_code_missing_parent_names_what_to_send_first(missing: Any, expected: tuple[str, ...]) -> None:
    body = {"code": "missing_parent", "missing": missing, "detail": "There is no project p1."}
    outcome = classify(404, {}, body, RecordKind.MODEL)
    assert (outcome.verdict, outcome.missing) == (Verdict.MISSING, expected)
    assert outcome.detail == "There is no project p1"


def test_409_running_waits() -> None:
    outcome = classify(409, {"Retry-After": "2"}, {"code": "running"})
    assert (outcome.verdict, outcome.retry_after_seconds) == (Verdict.WAIT, 2.0)


def test_409_gap_names_the_sequence_to_rewind_to() -> None:
    outcome = classify(409, {}, {"code": "gap", "expected": 17})
    assert (outcome.verdict, outcome.expected) == (Verdict.GAP, 17)


@pytest.mark.parametrize("expected", [None, "17", 0, -1, 1.5, True, 2**63, [1]])
def test_a_gap_without_a_sequence_is_an_unknown_outcome(expected: Any) -> None:
    assert classify(409, {}, {"code": "gap", "expected": expected}).verdict is Verdict.UNKNOWN


def test_409_conflict_is_refused_with_both_digests() -> None:
    ours, theirs = "a" * 64, "b" * 64
    outcome = classify(409, {}, {"code": "conflict", "detail": "The chain differs.", "chain": ours, "computed": theirs})
    assert outcome.verdict is Verdict.REFUSED
    assert ours in outcome.detail
    assert theirs in outcome.detail


def test_409_missing_chunks_names_them() -> None:
    outcome = classify(409, {}, {"code": "missing_chunks", "missing": ["aa", "bb"]})
    assert (outcome.verdict, outcome.missing) == (Verdict.MISSING, ("aa", "bb"))


def test_a_redirect_names_the_host_it_points_to_and_no_more_of_it() -> None:
    location = "https://login.example.net:8443/sso?next=secret&token=abc"
    outcome = classify(302, {"location": location}, NOT_JSON)
    assert "https://login.example.net:8443" in outcome.detail
    assert "secret" not in outcome.detail


@pytest.mark.parametrize("location", ["", "/other", "http://[::1", "http://h:99999/", "\r\nX: 1"])
def test_an_odd_location_is_no_error(location: str) -> None:
    assert classify(302, {"Location": location}, NOT_JSON).verdict is Verdict.HOLD


# -- Retry-After -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1", 1.0),
        ("120", 120.0),
        (" 5 ", 5.0),
        ("0.5", 0.5),
        ("3600", 3600.0),
        ("3601", 3600.0),
        ("9" * 400, 3600.0),
        ("0", None),
        ("-5", None),
        ("1e3", None),
        ("inf", None),
        ("nan", None),
        ("٣", None),
        ("", None),
        ("soon", None),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW + 10**7, usegmt=True), 3600.0),
        (formatdate(NOW - 90, usegmt=True), None),
        (formatdate(NOW, usegmt=True), None),
        ("Sun, 06 Nov 1994 08:49:37 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0),
        ("Thu, 99 Foo 2026 99:99:99 GMT", None),
    ],
)
def test_retry_after_in_seconds_and_as_a_date_is_capped_and_nonsense_is_left_to_backoff(
    value: str, seconds: float | None
) -> None:
    assert retry_after_seconds({"RETRY-after": value}, NOW) == seconds


def test_a_date_counts_from_the_portals_own_clock_where_it_tells_it() -> None:
    skewed = NOW - 5_000_000
    headers = {"Retry-After": formatdate(skewed + 30, usegmt=True), "Date": formatdate(skewed, usegmt=True)}
    assert retry_after_seconds(headers, NOW) == 30.0


# -- words -------------------------------------------------------------------------------------------------------------


def test_the_portals_words_come_on_one_line_without_control_characters_and_not_too_long() -> None:
    outcome = classify(400, {}, {"detail": "bad\r\nname: \x1b[31mred\x00 " + "x" * 10_000})
    assert outcome.detail.isprintable()
    assert len(outcome.detail) <= MAX_DETAIL
    assert outcome.detail.startswith("bad name: ")


def test_a_page_of_another_server_is_not_quoted() -> None:
    assert "html" not in classify(502, {}, NOT_JSON, text="<html><body>nginx</body></html>").detail


@pytest.mark.parametrize("text", ["fields project, hash must make a unique set", "A project with this already exists."])
@pytest.mark.parametrize("as_json", [True, False])
def test_a_duplicate_is_known_by_the_words_of_every_generation(text: str, as_json: bool) -> None:
    assert is_duplicate(400, {"non_field_errors": [text]} if as_json else NOT_JSON, "" if as_json else text)
    assert not is_duplicate(500, {"detail": text})
    assert not is_duplicate(400, {"detail": "too long"})


def test_a_duplicate_is_known_by_its_code() -> None:
    assert is_duplicate(400, {"code": "already_exists", "detail": "x"})


# -- receipts ----------------------------------------------------------------------------------------------------------

STREAM = uuid.UUID("01900000-0000-7000-8000-000000000001")
CHAIN = bytes(range(32))
RECORD = Record(1, RecordKind.METRICS, Status.TRANSMITTING, 1, STREAM.bytes, Lane.ORDERED, 5, 9, "key", b"", b"", CHAIN)
RECEIPT = {"stream": str(STREAM), "lane": "ordered", "sequence": 9, "chain": CHAIN.hex()}


def test_a_receipt_for_just_this_record_is_a_success() -> None:
    outcome = Outcome(Verdict.DELIVERED, 201, receipt=RECEIPT)
    assert check_receipt(outcome, RECORD) is outcome


def test_a_success_without_a_receipt_is_an_unknown_outcome() -> None:
    assert check_receipt(Outcome(Verdict.DELIVERED, 201), RECORD).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    "other",
    [{"stream": str(uuid.UUID(int=3))}, {"lane": "bulk"}, {"sequence": 5}, {"chain": "00" * 32}, {"chain": None}],
)
def test_a_receipt_for_something_else_holds_the_destination(other: dict[str, Any]) -> None:
    assert check_receipt(Outcome(Verdict.DELIVERED, 201, receipt=RECEIPT | other), RECORD).verdict is Verdict.HOLD


def test_a_failure_needs_no_receipt() -> None:
    outcome = Outcome(Verdict.WAIT, 429)
    assert check_receipt(outcome, RECORD) is outcome


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (Outcome(Verdict.HOLD, 401, "x"), AuthenticationError),
        (Outcome(Verdict.UNAVAILABLE, 502, "x"), PortalUnavailable),
        (Outcome(Verdict.UNKNOWN, 0, "x"), PortalUnavailable),
        (Outcome(Verdict.WAIT, 429, "x", retry_after_seconds=9), PortalUnavailable),
        (Outcome(Verdict.WAIT, 403, "x"), PortalError),
        (Outcome(Verdict.HOLD, 404, "x"), PortalError),
        (Outcome(Verdict.REFUSED, 400, "x"), PortalError),
    ],
)
def test_an_outcome_becomes_the_error_that_says_what_to_do_and_back(outcome: Outcome, kind: type[SecleaError]) -> None:
    error = error_of(outcome, "portal")
    assert type(error) is kind
    assert outcome_of(error) == outcome


def test_errors_that_carry_no_outcome_have_one_by_their_class() -> None:
    assert outcome_of(PortalUnavailable("x")).verdict is Verdict.UNAVAILABLE
    assert outcome_of(UnknownOrganizationError("x")).verdict is Verdict.HOLD
    assert outcome_of(AuthenticationError("x")).status == 401


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
KEYS = st.sampled_from(["code", "detail", "expected", "missing", "parent", "uuid", "receipt", "chain"])
CODES = st.sampled_from(["running", "gap", "conflict", "missing_chunks", "missing_parent", "other"])
OBJECTS = st.dictionaries(KEYS, JSON) | st.builds(
    lambda code, rest: rest | {"code": code}, CODES, st.dictionaries(KEYS, JSON)
)


@given(
    st.integers(0, 1000),
    st.dictionaries(st.sampled_from(["Retry-After", "Location", "Date", "date"]), st.text()),
    OBJECTS | JSON | st.just(NOT_JSON),
    st.none() | st.sampled_from(list(RecordKind)),
    st.text(),
)
def test_no_reply_makes_it_raise_and_every_outcome_can_be_kept(
    status: int, headers: dict[str, str], body: Any, kind: RecordKind | None, text: str
) -> None:
    outcome = classify(status, headers, body, kind, text=text)
    assert outcome.detail.isprintable()
    assert outcome.retry_after_seconds is None or 0 < outcome.retry_after_seconds <= 3600
    assert all(isinstance(item, str) for item in outcome.missing)
    assert (outcome.verdict is Verdict.GAP) == (outcome.expected is not None)
    json.dumps(outcome.receipt)
    is_duplicate(status, body, text)
