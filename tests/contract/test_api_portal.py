"""The api against the real portal: what the scripted one promises, this one keeps, over TCP and over its socket."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from seclea.api.api import Api
from seclea.api.auth import AuthService, Token, TokenStore
from seclea.api.session import Session
from seclea.contract import Destination, Outcome, Verdict
from seclea.errors import AuthenticationError, UnknownOrganizationError
from seclea.records import Lane, Record, RecordKind, tombstone_body
from tests.contract.portal_server import PortalServer, running_portal
from tests.contract.records_made import CHUNK, CONTENT, RecordMaker

PASSWORD = "correct horse"
CHAIN = [
    RecordKind.PROJECT,
    RecordKind.DATASET,
    RecordKind.DATASET_TRANSFORMATION,
    RecordKind.MODEL,
    RecordKind.TRAINING_RUN,
    RecordKind.METRICS,
    RecordKind.MODEL_STATE,
    RecordKind.TOMBSTONE,
    RecordKind.FINISH,
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortalServer]:
    with running_portal(tmp_path_factory.mktemp("portal") / "data") as server:
        server.add_member("ann", "Acme", PASSWORD)
        server.close_sessions()
        yield server


@dataclass
class Rig:
    api: Api
    auth: AuthService | None
    organization: str
    maker: RecordMaker

    def put_content(self) -> None:
        assert self.api.chunks_missing([CHUNK], organization=self.organization) in ([CHUNK], [])
        assert self.api.put_chunk(CHUNK, CONTENT, organization=self.organization).verdict is Verdict.DELIVERED
        assert self.api.chunks_missing([CHUNK], organization=self.organization) == []

    def send(self, record: Record, **references: str) -> Outcome:
        return self.api.send(
            record,
            organization=self.organization,
            references=references,
            read_chunk=lambda name: {CHUNK: CONTENT}[name],
        )

    def made(self, kind: RecordKind, **changes: Any) -> Outcome:
        """Make a record with names of this test's own, and send it."""
        own = {"name": f"{kind} {self.maker.project}"} if kind in (RecordKind.PROJECT, RecordKind.MODEL) else {}
        return self.send(self.maker.make(kind, **own, **changes))


@pytest.fixture(params=["tcp", "unix"])
def rig(request: pytest.FixtureRequest, server: PortalServer, tmp_path: Path) -> Iterator[Rig]:
    if request.param == "unix":
        session = Session("local", unix_socket=Path(server.address["socket"]))
        auth = None
        destination = Destination("local", "local", "local")
    else:
        session = Session(server.url)
        auth = AuthService(session, TokenStore(tmp_path / "tokens"))
        auth.authenticate("ann", PASSWORD)
        destination = Destination(server.url, server.url, "Acme")
    api = Api(session, auth, destination, local=auth is None)
    yield Rig(api, auth, api.organization_uuid(destination.organization), RecordMaker())
    session.close()


def test_a_whole_run_is_delivered_in_order_and_every_replay_gets_the_first_reply(rig: Rig) -> None:
    rig.put_content()
    records = [
        rig.maker.make(kind, **({"name": rig.maker.project} if kind is RecordKind.PROJECT else {})) for kind in CHAIN
    ]
    first = [rig.send(record) for record in records]
    assert [outcome.verdict for outcome in first] == [Verdict.DELIVERED] * len(CHAIN)
    assert [rig.send(record) for record in records] == first
    assert first[-1].receipt is not None
    assert first[-1].receipt["sequence"] == records[-1].last


def test_a_child_before_its_parent_is_missing_that_parent(rig: Rig) -> None:
    outcome = rig.made(RecordKind.MODEL)
    assert (outcome.verdict, outcome.missing) == (Verdict.MISSING, (rig.maker.project,))


def test_a_payload_that_is_not_there_is_missing_its_chunks(rig: Rig) -> None:
    assert rig.made(RecordKind.PROJECT).verdict is Verdict.DELIVERED
    other = "0" * 64
    record = rig.maker.make(RecordKind.DATASET, chunks=[[other, 5]], size=5, sha256=other)
    outcome = rig.send(record)
    assert (outcome.verdict, outcome.missing) == (Verdict.MISSING, (other,))


def test_a_hole_in_the_stream_is_a_gap_that_names_what_is_expected(rig: Rig) -> None:
    rig.made(RecordKind.PROJECT)
    rig.maker.make(RecordKind.TOMBSTONE)
    outcome = rig.made(RecordKind.TOMBSTONE)
    assert (outcome.verdict, outcome.expected) == (Verdict.GAP, 2)


def test_a_chain_that_the_portal_cannot_reproduce_is_refused_with_both_hashes(rig: Rig) -> None:
    record = replace(rig.maker.make(RecordKind.TOMBSTONE), chain=bytes(32))
    outcome = rig.send(record)
    assert outcome.verdict is Verdict.REFUSED
    assert bytes(32).hex() in outcome.detail


def test_the_same_key_with_another_body_is_refused(rig: Rig) -> None:
    record = rig.maker.make(RecordKind.TOMBSTONE)
    assert rig.send(record).verdict is Verdict.DELIVERED
    outcome = rig.send(replace(record, body=tombstone_body("metrics", 4, "dropped")))
    assert (outcome.verdict, outcome.status) == (Verdict.REFUSED, 422)


def test_a_body_that_is_no_record_is_refused_in_the_portals_words(rig: Rig) -> None:
    outcome = rig.send(rig.maker.record(RecordKind.TOMBSTONE, {"kind": 7}))
    assert outcome.verdict is Verdict.REFUSED
    assert outcome.detail


def test_a_chunk_under_a_wrong_name_is_refused(rig: Rig) -> None:
    assert rig.api.put_chunk("0" * 64, CONTENT, organization=rig.organization).verdict is Verdict.REFUSED


def test_a_project_of_that_name_is_adopted_by_a_second_home_and_its_tombstone_makes_the_alias(rig: Rig) -> None:
    name = f"shared {rig.maker.project}"
    assert rig.send(rig.maker.make(RecordKind.PROJECT, name=name)).verdict is Verdict.DELIVERED
    second = RecordMaker()
    record = second.make(RecordKind.PROJECT, name=name)
    outcome = rig.send(record)
    assert (outcome.verdict, outcome.remote_id) == (Verdict.ADOPTED, rig.maker.project)
    stands_for = {
        "kind": "project",
        "digest": record.digest.hex(),
        "uuid": second.project,
        "remote_id": rig.maker.project,
    }
    body = tombstone_body("project", 1, "adopted", "the portal has it already", stands_for)
    stone = replace(record, kind=RecordKind.TOMBSTONE, key=f"{record.key}.t", body=body, entity=None)
    assert rig.send(stone, **{second.project: rig.maker.project}).verdict is Verdict.DELIVERED
    assert rig.send(second.make(RecordKind.MODEL, name=second.model)).verdict is Verdict.DELIVERED


def test_a_dataset_with_the_same_content_is_adopted_and_one_with_another_is_refused(rig: Rig) -> None:
    rig.put_content()
    rig.made(RecordKind.PROJECT)
    assert rig.made(RecordKind.DATASET).verdict is Verdict.DELIVERED
    second = RecordMaker()
    same = second.make(RecordKind.DATASET, project=rig.maker.project, name="other name")
    outcome = rig.send(same)
    assert (outcome.verdict, outcome.remote_id) == (Verdict.ADOPTED, rig.maker.dataset)
    third = RecordMaker()
    other = third.make(RecordKind.DATASET, project=rig.maker.project, hash="cd" * 32)
    outcome = rig.send(other)
    assert outcome.verdict is Verdict.REFUSED
    assert "other content" in outcome.detail


def test_a_state_with_the_same_number_is_adopted_or_refused_by_its_content(rig: Rig) -> None:
    rig.put_content()
    rig.made(RecordKind.PROJECT)
    rig.send(rig.maker.make(RecordKind.TRAINING_RUN, model=None, datasets=[]))
    assert rig.made(RecordKind.MODEL_STATE).verdict is Verdict.DELIVERED
    run = {"project": rig.maker.project, "training_run": rig.maker.run}
    same = RecordMaker().make(RecordKind.MODEL_STATE, **run)
    assert rig.send(same).verdict is Verdict.ADOPTED


def test_what_was_sent_can_be_found_and_got(rig: Rig) -> None:
    rig.made(RecordKind.PROJECT)
    name = f"project {rig.maker.project}"
    found = rig.api.find(RecordKind.PROJECT, organization=rig.organization, name=name)
    assert [item["uuid"] for item in found] == [rig.maker.project]
    got = rig.api.get(RecordKind.PROJECT, rig.maker.project, organization=rig.organization)
    assert got is not None
    assert got["name"] == name
    assert rig.api.get(RecordKind.PROJECT, rig.maker.run, organization=rig.organization) is None


def test_a_list_longer_than_a_page_is_read_whole(rig: Rig) -> None:
    rig.made(RecordKind.PROJECT)
    for _ in range(7):
        maker = RecordMaker()
        record = maker.make(RecordKind.MODEL, project=rig.maker.project, name=maker.model)
        assert rig.send(record).verdict is Verdict.DELIVERED
    scope = {"organization": rig.organization, "project": rig.maker.project}
    assert len(rig.api.find(RecordKind.MODEL, **scope, limit="2")) == 7


def test_the_portal_takes_the_base_bodies_too(rig: Rig) -> None:
    rig.api._capabilities_known = True  # as if it had said 404: an older client in all but name
    kinds = [kind for kind in CHAIN if kind.value not in ("metrics", "tombstone", "finish")]
    for kind in kinds:
        named = {"name": f"base {rig.maker.project}"} if kind in (RecordKind.PROJECT, RecordKind.MODEL) else {}
        record = rig.maker.make(kind, **named)
        outcome = rig.send(record)
        assert outcome.verdict is Verdict.DELIVERED, (kind, outcome)
        assert outcome.remote_id == record.entity
        assert rig.send(record).verdict is Verdict.ADOPTED, kind


def test_an_unknown_organization_lists_those_of_this_login_only(rig: Rig) -> None:
    with pytest.raises(UnknownOrganizationError, match="no organization 'Nope'") as caught:
        rig.api.organization_uuid("Nope")
    if rig.auth is not None:
        assert str(caught.value).endswith("There are: Acme.")


def test_a_wrong_password_and_an_unknown_user_read_the_same(server: PortalServer, tmp_path: Path) -> None:
    session = Session(server.url)
    auth = AuthService(session, TokenStore(tmp_path / "tokens"))
    for username in ("ann", "nobody"):
        with pytest.raises(
            AuthenticationError, match=f"refused the login of '{username}': wrong user name or password"
        ):
            auth.authenticate(username, "wrong")
    assert auth.access_token() is None
    session.close()


def test_a_login_is_renewed_when_the_portal_no_longer_takes_its_token(server: PortalServer, tmp_path: Path) -> None:
    session = Session(server.url)
    store = TokenStore(tmp_path / "tokens")
    auth = AuthService(session, store)
    auth.authenticate("ann", PASSWORD)
    assert auth.verify()
    tokens = store.read(server.url)
    assert tokens is not None
    assert tokens.expires_in is not None
    store.write(server.url, Token("no.longer.good"), tokens.refresh, "ann")
    assert not auth.verify()
    api = Api(session, auth, Destination(server.url, server.url, "Acme"))
    assert api.organization_uuid("Acme")
    assert auth.verify()
    store.write(server.url, Token("no.longer.good"), Token("nor.is.this"), "ann")
    with pytest.raises(AuthenticationError, match="seclea login"):
        api.organization_uuid("Acme")
    record = RecordMaker().make(RecordKind.TOMBSTONE)
    assert record.lane is Lane.ORDERED
    assert api.send(record, organization="x", references={}).verdict is Verdict.HOLD
    session.close()


def test_a_refresh_whose_reply_was_lost_does_not_log_out(server: PortalServer, tmp_path: Path) -> None:
    session = Session(server.url)
    store = TokenStore(tmp_path / "tokens")
    auth = AuthService(session, store)
    auth.authenticate("ann", PASSWORD)
    tokens = store.read(server.url)
    assert tokens is not None
    assert tokens.refresh is not None
    # The portal rotates, and we die before we hear of it.
    lost = session.request("POST", "/api/token/refresh/", json={}, cookies={"refresh_token": tokens.refresh})
    assert lost.status == 200
    assert auth.refresh(tokens.access) != tokens.access
    assert auth.verify()
    session.close()
