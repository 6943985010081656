"""The bugs that `./dev chaos planted` puts into the tree, and the tests that are to catch each."""

# ruff: noqa: E501 (lines of the tree as they stand there)

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bug:
    """One replacement of ``old`` by ``new`` in ``file``, and the ``tests`` that are to catch it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


_SPOOL = ("tests/unit/ledger/test_spool.py",)
_LANE = ("tests/unit/sender/test_lane.py",)
_RECORDER = ("tests/unit/writer/test_recorder.py",)
_SETTLE = ("tests/unit/writer/test_settle.py",)
_STREAMS = ("tests/contract/test_portal_streams.py",)
_RING = ("tests/unit/queues/test_ring.py",)

BUGS = (
    # -- the disk ------------------------------------------------------------------------------------------------------
    Bug(
        "the fsync of a chunk is dropped",
        "seclea/ledger/blobs.py",
        "                sync_descriptor(descriptor)\n            finally:\n                os.close(descriptor)\n            os.rename",
        "            finally:\n                os.close(descriptor)\n            os.rename",
        _SPOOL,
    ),
    Bug(
        "the fsync of a chunk's directory is dropped",
        "seclea/ledger/blobs.py",
        "            for directory in touched:\n                sync_directory(directory)\n",
        "",
        _SPOOL,
    ),
    Bug(
        "the fsync of the parent of a new directory is dropped",
        "seclea/ledger/blobs.py",
        "            sync_directory(directory.parent)\n",
        "",
        _SPOOL,
    ),
    Bug(
        "a chunk is renamed before it is synced",
        "seclea/ledger/blobs.py",
        "                sync_descriptor(descriptor)\n            finally:\n                os.close(descriptor)\n            os.rename(temporary, path)\n",
        "                os.rename(temporary, path)\n                sync_descriptor(descriptor)\n            finally:\n                os.close(descriptor)\n",
        _SPOOL,
    ),
    Bug(
        "an fsync that failed is tried again on the same data",
        "seclea/ledger/blobs.py",
        "    os.fsync(descriptor)\n",
        "    try:\n        os.fsync(descriptor)\n    except OSError:\n        os.fsync(descriptor)\n",
        _SPOOL,
    ),
    Bug(
        "synchronous is NORMAL instead of FULL",
        "seclea/ledger/db.py",
        'run("PRAGMA synchronous = FULL")',
        'run("PRAGMA synchronous = NORMAL")',
        ("tests/unit/ledger/test_migrations.py",),
    ),
    Bug(
        "a migration is no transaction",
        "seclea/ledger/migrations.py",
        'f"BEGIN IMMEDIATE;\\n{sql}\\nPRAGMA user_version',
        'f"{sql}\\nBEGIN IMMEDIATE;\\nPRAGMA user_version',
        ("tests/unit/ledger/test_migrations.py",),
    ),
    Bug(
        "a chunk is read without a look at its hash",
        "seclea/ledger/blobs.py",
        "        if hashlib.sha256(data).hexdigest() != sha256:\n",
        "        if False:\n",
        _SPOOL,
    ),
    Bug(
        "a chunk goes though another payload counts on it",
        "seclea/ledger/blobs.py",
        "                if sha256 not in self._counted_on:\n",
        "                if True:\n",
        _SPOOL,
    ),
    Bug(
        "the portal syncs no blob",
        "seclea/portal/blobs.py",
        "                os.fsync(file.fileno())\n",
        "",
        ("tests/unit/portal/test_blobs.py",),
    ),
    # -- acknowledging -------------------------------------------------------------------------------------------------
    Bug(
        "rings are told before the commit",
        "seclea/writer/writer.py",
        "        outcomes = list(self._outcomes)\n        finished: list[int] = []\n",
        "        outcomes = list(self._outcomes)\n        for ring_id in frames:\n            self.rings[ring_id].commit()\n        finished: list[int] = []\n",
        ("tests/unit/writer/test_every_call_fails.py", "tests/system/test_kill.py"),
    ),
    Bug(
        "a flush is answered before the commit",
        "seclea/writer/writer.py",
        "        return self.ledger_sequence(ring) >= sequence\n",
        "        return True\n",
        ("tests/unit/writer/test_review_writer.py", "tests/system/test_surviving.py"),
    ),
    Bug(
        "a flush does not wait for payloads",
        "seclea/writer/writer.py",
        "        if self.is_saving or self.recorder.payloads:\n            return False\n        return self.ledger_sequence(ring) >= sequence\n",
        "        return self.ledger_sequence(ring) >= sequence\n",
        ("tests/unit/writer/test_review_writer.py", "tests/system/test_surviving.py"),
    ),
    Bug(
        "frames that were taken before are taken again",
        "seclea/writer/recorder.py",
        "            if sequence <= taken:\n                continue\n",
        "",
        _RECORDER,
    ),
    Bug(
        "a commit of a ring moves its cursor before its number",
        "seclea/queues/consumer.py",
        "            self._words[TAIL_SEQUENCE] = self._expected - 1  # the instant of the commit\n            self._words[TAIL] = self._committed = self._position\n",
        "            self._words[TAIL] = self._committed = self._position\n            self._words[TAIL_SEQUENCE] = self._expected - 1  # the instant of the commit\n",
        _RING,
    ),
    Bug(
        "a frame's checksum is not looked at",
        "seclea/queues/consumer.py",
        "            if crc32(payload, (sequence + word) & U32) != check:\n                break\n",
        "",
        ("tests/property/test_ring_hostile_bytes.py", "tests/unit/queues/test_ring.py"),
    ),
    Bug(
        "a ring is taken for dead by its lock alone",
        "seclea/queues/consumer.py",
        "        return segment.is_locked(self._descriptor) or segment.is_running(self.pid, self.start_ticks, self.boot)\n",
        "        return segment.is_locked(self._descriptor)\n",
        _RING,
    ),
    Bug(
        "a forked child goes on with its parent's pipeline",
        "seclea/director/pipeline.py",
        "os.register_at_fork(after_in_child=_after_fork_in_child)\n",
        "",
        ("tests/unit/director/test_director.py",),
    ),
    # -- once, in order ------------------------------------------------------------------------------------------------
    Bug(
        "each attempt has a key of its own",
        "seclea/api/api.py",
        '            "Idempotency-Key": record.key,\n',
        '            "Idempotency-Key": f"{record.key}.{record.retries}",\n',
        ("tests/contract/test_api_sending.py", "tests/contract/test_failure_table.py"),
    ),
    Bug(
        "records are sent in the order of the clock",
        "seclea/ledger/view.py",
        '            " AND r.position > ? ORDER BY r.position LIMIT ?",',
        '            " AND r.position > ? ORDER BY r.created_ns DESC LIMIT ?",',
        _LANE,
    ),
    Bug(
        "what a record needs is not waited for",
        "seclea/sender/lane.py",
        '                if self._state.lacks(view.unmet_needs(row["id"])):\n',
        "                if False:\n",
        _LANE,
    ),
    Bug(
        "what was told to the writer is forgotten before its commit",
        "seclea/sender/lane.py",
        "        self._settled[record.id] = self._reopened.get(record.id)\n",
        "",
        _LANE,
    ),
    Bug(
        "a record behind a refused one does not wait for its tombstone",
        "seclea/sender/lane.py",
        "            self._stand_ins[record.stream] = self._view.position_of(record.id)\n",
        "",
        _LANE,
    ),
    Bug(
        "the chain starts anew with each record",
        "seclea/writer/recorder.py",
        "        chain = chain_hash(previous, uuid, lane, first, last, kind, digest)\n",
        "        chain = chain_hash(bytes(32), uuid, lane, first, last, kind, digest)\n",
        _RECORDER,
    ),
    Bug(
        "the portal does not check the chain",
        "seclea/portal/intake.py",
        "    if computed != place.chain:\n",
        "    if False:\n",
        _STREAMS,
    ),
    Bug(
        "the portal takes a record behind a hole",
        "seclea/portal/intake.py",
        "    if place.first != expected:\n",
        "    if place.first < expected:\n",
        _STREAMS,
    ),
    Bug(
        "the portal takes a known key's new body",
        "seclea/portal/intake.py",
        "    if row.digest != incoming.request_digest:\n",
        "    if False:\n",
        _STREAMS,
    ),
    Bug(
        "a receipt is believed unread",
        "seclea/api/api.py",
        "            outcome = check_receipt(outcome, record)\n",
        "",
        ("tests/contract/test_api_sending.py",),
    ),
    Bug(
        "an outcome that comes twice is applied twice",
        "seclea/writer/settle.py",
        "        if not self._ledger.is_open(record):\n            return\n",
        "",
        _SETTLE,
    ),
    Bug(
        "a payload is deleted before its receipt is kept",
        "seclea/writer/settle.py",
        "        self._ledger.note_attempt(record, error)\n",
        "        self._ledger.note_attempt(record, error)\n        self.free_chunks += self._ledger.release_chunks(record)\n",
        ("tests/unit/writer/test_settle.py", "tests/contract/test_failure_table.py"),
    ),
    # -- what is left out ----------------------------------------------------------------------------------------------
    Bug(
        "what a client left out leaves no tombstone",
        "seclea/writer/recorder.py",
        "        elif count > 0:\n            # Of which",
        "        elif False:\n            # Of which",
        ("tests/unit/writer/test_review_writer.py",),
    ),
    Bug(
        "a frame that makes no sense leaves no tombstone",
        "seclea/writer/recorder.py",
        "        self._leave_tombstone(ring, streams, _record_kind(frame_type, payload), str(error))\n",
        "",
        _RECORDER,
    ),
    Bug(
        "a refused record leaves no tombstone",
        "seclea/writer/settle.py",
        '            self._stand_in(row, event.value, detail)\n        if row["entity"] is not None:\n            self._ledger.set_refused',
        '            pass\n        if row["entity"] is not None:\n            self._ledger.set_refused',
        _SETTLE,
    ),
    Bug(
        "what needs a refused entity is not held",
        "seclea/writer/settle.py",
        '            self._hold_dependents(row["entity"], self._refusal_of(row))\n',
        "            pass\n",
        _SETTLE,
    ),
    # -- the portal's answers ------------------------------------------------------------------------------------------
    Bug(
        "Retry-After is not kept to",
        "seclea/api/replies.py",
        "    return min(seconds, MAX_RETRY_AFTER_SECONDS) if seconds > 0 else None\n",
        "    return None\n",
        ("tests/unit/api/test_replies.py",),
    ),
    Bug(
        "the breaker never opens",
        "seclea/sender/breaker.py",
        "        return self.failures < THRESHOLD\n",
        "        return True\n",
        ("tests/unit/sender/test_breaker.py", "tests/unit/sender/test_lane.py"),
    ),
    Bug(
        "the breaker's state is not kept",
        "seclea/sender/destination.py",
        "            self._state(breaker=json.dumps(state.to_json()))\n",
        "",
        _LANE,
    ),
    Bug(
        "a timeout is taken for a refusal",
        "seclea/sender/lane.py",
        "        except (PortalUnavailable, PortalError, AuthenticationError) as error:\n            return outcome_of(error)\n\n    def _send_chunks",
        "        except (PortalUnavailable, PortalError, AuthenticationError) as error:\n            return Outcome(Verdict.REFUSED, detail=str(error))\n\n    def _send_chunks",
        ("tests/contract/test_failure_table.py",),
    ),
    # -- locks and logins ----------------------------------------------------------------------------------------------
    Bug(
        "the start lock is let go of early",
        "seclea/processes/start.py",
        "    if lock is None:\n        return Started(found=False)  # on its way\n",
        "    if lock is None:\n        return Started(found=False)  # on its way\n    fcntl.flock(lock, fcntl.LOCK_UN)\n",
        ("tests/system/test_starting.py", "tests/system/test_process_starts.py"),
    ),
    Bug(
        "a writer does not take the writer lock",
        "seclea/writer/__main__.py",
        "            return take_lock(home.writer_lock, _LOCK_SECONDS)\n",
        '            return take_lock(home.writer_lock.with_suffix(f".{os.getpid()}"), _LOCK_SECONDS)\n',
        ("tests/system/test_starting.py", "tests/system/test_process_starts.py", "tests/system/test_leaving.py"),
    ),
    Bug(
        "a refresh holds no lock",
        "seclea/api/auth.py",
        "        stale = stale or self._handed\n        with self._store.lock(self.auth_url, self._lock_seconds):\n",
        "        stale = stale or self._handed\n        with contextlib.nullcontext():\n",
        ("tests/contract/test_api_auth.py",),
    ),
    Bug(
        "a refreshed login is not stored before it is used",
        "seclea/api/auth.py",
        "                self._write(access, rotated, tokens.username, reply)\n                self._unstored = None\n",
        "                self._unstored = None\n",
        ("tests/contract/test_api_auth.py",),
    ),
    Bug(
        "a token file is written without an fsync",
        "seclea/api/tokens.py",
        "                os.fsync(file.fileno())\n",
        "",
        ("tests/unit/api/test_tokens.py",),
    ),
    # -- limits --------------------------------------------------------------------------------------------------------
    Bug(
        "nothing pauses at the disk limit",
        "seclea/writer/gate.py",
        "        if reason is not None:\n            self.pause(reason)\n        elif",
        "        if reason is not None:\n            pass\n        elif",
        ("tests/unit/writer/test_account.py", "tests/system/test_limits.py"),
    ),
    # -- recovery and proof --------------------------------------------------------------------------------------------
    Bug(
        "a row's seal is not looked at",
        "seclea/ledger/check.py",
        "        if good:\n            self.total += weight(seal)\n",
        "        if True:\n            self.total += weight(seal)\n",
        ("tests/unit/ledger/test_seals.py",),
    ),
    Bug(
        "a ledger behind its anchor is opened",
        "seclea/ledger/seals.py",
        '    if head["number"] < anchor.number:\n',
        "    if False:\n",
        ("tests/unit/ledger/test_seals.py",),
    ),
    Bug(
        "a salvage takes rows that do not prove themselves",
        "seclea/ledger/salvage.py",
        "        if is_sealed(ledger, table, values, seal):\n",
        "        if True:\n",
        ("tests/unit/writer/test_damage.py",),
    ),
    Bug(
        "a newer ledger is opened to be refused",
        "seclea/ledger/migrations.py",
        "    header = read_header(path)\n",
        "    header = None\n",
        ("tests/unit/ledger/test_migrations.py", "tests/crash/test_upgrade.py"),
    ),
    Bug(
        "the names of a new spool are not synced",
        "seclea/writer/writer.py",
        "        self.spool.sync_names()\n",
        "",
        ("tests/unit/ledger/test_spool.py", "tests/system/test_order_on_disk.py"),
    ),
    Bug(
        "a payload whose ring is still to be read is swept",
        "seclea/ledger/blobs.py",
        "            if path.name in waiting or path.name[:RING_CHARACTERS] in rings:\n",
        "            if path.name in waiting:\n",
        ("tests/system/test_surviving.py",),
    ),
    Bug(
        "a run is ended while another process of it lives",
        "seclea/ledger/ends.py",
        "HAVING min(r.closed_ns IS NOT NULL) = 1",
        "HAVING max(r.closed_ns IS NOT NULL) = 1",
        ("tests/system/test_run_ends.py",),
    ),
    Bug(
        "a verifier does not compute the chain",
        "seclea/verify.py",
        '            if after.hex() != record["chain"]:\n',
        "            if False:\n",
        ("tests/system/test_verify.py",),
    ),
    Bug(
        "a verifier does not look whether numbers follow",
        "seclea/verify.py",
        '            if record["first"] != at + 1:\n',
        "            if False:\n",
        ("tests/system/test_verify.py",),
    ),
    Bug(
        "a verifier believes the head",
        "seclea/verify.py",
        '        if head is not None and self.has_records and (at, chain.hex()) != (head["sequence"], head["chain"]):\n',
        "        if False:\n",
        ("tests/system/test_verify.py",),
    ),
)
