"""The consumer: its database, its command line, and what it makes of odd streams."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import grpc
import pytest

from expense_feed.__main__ import BATCH_EVENTS, Ledger, consume
from expense_feed.rule import Booking
from fake import FakeBridge, confirmation, goodbye, heartbeat, sends
from spotbridge.v1.event_pb2 import EVENT_VIEW_TYPED, Event
from spotbridge.v1.subscription_pb2 import START_EARLIEST, EventBatch, SubscribeResponse
from test_rule import body, event, payload

LAUNCHER = Path(__file__).parent.parent / "expense-feed"


def carries(cursor: str, given: Event) -> SubscribeResponse:
    return SubscribeResponse(cursor=cursor, event=given)


def ticket(event_id: str, number: str, version: int = 1) -> Event:
    return event(event_id, version, issued=[number], payload=payload(12.5, {number: ("u1", None)}))


async def consumed(fake: FakeBridge, ledger: Ledger, until: Callable[[], bool]) -> None:
    """Consumes until a condition holds."""
    async with asyncio.timeout(20), fake.serve() as bridge:
        task = asyncio.create_task(consume(bridge, ledger, 15))
        while not until():
            if task.done():
                task.result()
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(str(tmp_path / "expenses.db"))


async def test_each_event_counts_once_and_every_message_moves_the_position(ledger: Ledger) -> None:
    fake = FakeBridge(
        sends(confirmation(), carries("c1", ticket("s.1", "t1")), heartbeat("c2"), goodbye("c3")),
        sends(
            confirmation(cursor="c3"), carries("c4", ticket("s.1", "t1")), carries("c5", ticket("s.2", "t2")), hang=True
        ),
    )
    await consumed(fake, ledger, lambda: ledger.cursor() == "c5")
    assert fake.requests[1].after_cursor == "c3"
    assert list(ledger.processed()) == ["s.1", "s.2"]
    assert list(ledger.dump()) == [
        "t1\tp1\to1\tu1\tEUR\t12500\t0\t12500\tISSUED\t1\ts.1",
        "t2\tp1\to1\tu1\tEUR\t12500\t0\t12500\tISSUED\t1\ts.2",
    ]


async def test_the_request_is_the_feed_s_filter_from_the_earliest_event_or_the_stored_cursor(ledger: Ledger) -> None:
    fake = FakeBridge(sends(confirmation(), heartbeat("c1"), hang=True))
    await consumed(fake, ledger, lambda: ledger.cursor() == "c1")
    ledger.store([], "c2")
    await consumed(fake, ledger, lambda: len(fake.requests) == 2)
    first, second = fake.requests
    assert list(first.filter.event_types) == ["PNR_V3"]
    assert list(first.filter.operations) == ["BOOKING_TICKETED", "TICKET_VOIDED", "TICKET_REFUNDED"]
    assert (first.view, first.start, first.after_cursor, first.heartbeat_interval.seconds) == (
        EVENT_VIEW_TYPED,
        START_EARLIEST,
        "",
        15,
    )
    assert (second.start, second.after_cursor) == (0, "c2")


async def test_unknown_events_are_processed_and_unknown_messages_move_the_position(ledger: Ledger) -> None:
    unknown = Event(id="s.9", event_type="SOMETHING_NEW", operation="DONE")
    unknown.operation_summary.tickets_issued.append("t9")
    fake = FakeBridge(
        sends(confirmation(), carries("c1", unknown), SubscribeResponse(cursor="c2"), SubscribeResponse(), hang=True)
    )
    await consumed(fake, ledger, lambda: ledger.cursor() == "c2")
    assert (list(ledger.processed()), list(ledger.dump())) == (["s.9"], [])


async def test_an_omitted_payload_is_read_from_the_body(ledger: Ledger) -> None:
    omitted = ticket("s.1", "t1")
    omitted.ClearField("pnr_v3")
    omitted.omitted.bytes = 5 << 20
    irrelevant = Event(id="s.2", event_type="OTHER")
    irrelevant.omitted.bytes = 5 << 20
    whole = body({"pnrId": "p1", "data": payload(12.5, {"t1": ("u1", None)})})
    # Sent twice: the second one is known, and its body is not read again.
    messages = carries("c1", omitted), carries("c2", omitted), carries("c3", irrelevant)
    fake = FakeBridge(sends(confirmation(), *messages, hang=True), bodies={"s.1": [whole[:100], whole[100:]]})
    await consumed(fake, ledger, lambda: ledger.cursor() == "c3")
    assert list(ledger.dump()) == ["t1\tp1\to1\tu1\tEUR\t12500\t0\t12500\tISSUED\t1\ts.1"]
    assert (list(ledger.processed()), fake.body_calls) == (["s.1", "s.2"], 1)


async def test_the_events_of_a_batch_count_like_single_ones(ledger: Ledger) -> None:
    omitted = ticket("s.3", "t3")
    omitted.ClearField("pnr_v3")
    omitted.omitted.bytes = 5 << 20
    whole = body({"pnrId": "p1", "data": payload(12.5, {"t3": ("u1", None)})})
    several = [ticket("s.2", "t2"), Event(id="s.9", event_type="OTHER"), omitted, ticket("s.1", "t1")]
    batch = SubscribeResponse(cursor="c5", events=EventBatch(events=several))
    fake = FakeBridge(
        sends(confirmation(), carries("c1", ticket("s.1", "t1")), batch, hang=True), bodies={"s.3": [whole]}
    )
    await consumed(fake, ledger, lambda: ledger.cursor() == "c5")
    assert fake.requests[0].max_batch_events == BATCH_EVENTS
    assert list(ledger.processed()) == ["s.1", "s.2", "s.3", "s.9"]
    assert [line.split("\t")[0] for line in ledger.dump()] == ["t1", "t2", "t3"]


def test_expenses_events_and_position_are_stored_together_or_not_at_all(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.store([], "c1")
    none = Booking("", 0, "", {})
    given = [(event("s.0", issued=["t0"]), none), (event("s.1", issued=["t1", "t2"]), none)]

    calls = []

    def fails_at_the_third(*_: object) -> None:
        calls.append(1)
        if len(calls) == 2:
            monkeypatch.setattr("expense_feed.__main__.apply", None)

    monkeypatch.setattr("expense_feed.__main__.apply", fails_at_the_third)
    with pytest.raises(TypeError):
        ledger.store(given, "c2")
    assert (ledger.cursor(), list(ledger.processed()), list(ledger.dump())) == ("c1", [], [])
    monkeypatch.undo()
    ledger.store(given, "c2")
    assert (ledger.cursor(), list(ledger.processed()), len(list(ledger.dump()))) == ("c2", ["s.0", "s.1"], 3)


def test_the_database_is_synced_at_every_commit(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "expenses.db"))
    assert ledger._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert ledger._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_several_may_make_the_file_at_the_same_moment(tmp_path: Path) -> None:
    openers = 4
    for number in range(50):
        path, start = str(tmp_path / str(number)), Barrier(openers)

        def opens(path: str = path, start: Barrier = start) -> None:
            start.wait()
            Ledger(path).close()

        with ThreadPoolExecutor(openers) as threads:
            for opened in [threads.submit(opens) for _ in range(openers)]:
                opened.result()


def test_dumps_are_ordered_by_bytes(ledger: Ledger) -> None:
    for number in ("b", "a", "B", "\U0001f600", "\uff5e"):
        ledger.store([(ticket(f"s.{number}", number), Booking("", 0, "", {}))], "c")
    assert [line.split("\t")[0] for line in ledger.dump()] == ["B", "a", "b", "\uff5e", "\U0001f600"]
    assert list(ledger.processed()) == ["s.B", "s.a", "s.b", "s.\uff5e", "s.\U0001f600"]


async def start(database: Path, *arguments: str, **environment: str) -> Process:
    environment = {**os.environ, "EXPENSES_DB": str(database), **environment}
    return await asyncio.create_subprocess_exec(LAUNCHER, *arguments, env=environment, stdout=PIPE, stderr=PIPE)


async def ended(process: Process) -> tuple[int | None, str, str]:
    async with asyncio.timeout(10):
        out, errors = await process.communicate()
    return process.returncode, out.decode(), errors.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_ends_with_0_when_it_is_told_to(number: int, tmp_path: Path) -> None:
    fake = FakeBridge(sends(confirmation(), carries("c1", ticket("s.1", "t1")), hang=True))
    database = tmp_path / "expenses.db"
    async with fake.serve() as bridge:
        process = await start(database, SPOTBRIDGE_GRPC=bridge.address, SPOTBRIDGE_HEARTBEAT="60s")
        async with asyncio.timeout(20):
            while not database.exists() or "s.1" not in (await ended(await start(database, "processed")))[1].split():
                pass
        process.send_signal(number)
        assert await ended(process) == (0, "", "interrupted\n")
        await fake.idle.wait()
    assert fake.requests[0].heartbeat_interval.seconds == 60
    assert await ended(await start(database, "dump")) == (
        0,
        "t1\tp1\to1\tu1\tEUR\t12500\t0\t12500\tISSUED\t1\ts.1\n",
        "",
    )


async def test_it_ends_with_0_while_it_waits_for_a_bridge(tmp_path: Path) -> None:
    process = await start(tmp_path / "expenses.db", "run", SPOTBRIDGE_GRPC="127.0.0.1:1")
    assert process.stderr is not None
    async with asyncio.timeout(20):
        assert b"reconnecting in" in await process.stderr.readline()
    process.terminate()
    assert (await ended(process))[0] == 0


async def test_it_ends_with_1_and_a_line_when_the_answer_means_stop(tmp_path: Path) -> None:
    async with FakeBridge(sends(confirmation(), code=grpc.StatusCode.OUT_OF_RANGE)).serve() as bridge:
        code, out, errors = await ended(await start(tmp_path / "expenses.db", SPOTBRIDGE_GRPC=bridge.address))
    assert (code, out, errors) == (1, "", "stopped: OUT_OF_RANGE TOLD_TO: told to\n")


async def test_it_ends_with_1_and_a_line_when_a_body_is_gone(tmp_path: Path) -> None:
    omitted = ticket("s.1", "t1")
    omitted.omitted.bytes = 5 << 20
    async with FakeBridge(sends(confirmation(), carries("c1", omitted), hang=True)).serve() as bridge:
        code, _, errors = await ended(await start(tmp_path / "expenses.db", SPOTBRIDGE_GRPC=bridge.address))
    assert (code, errors) == (1, "stopped: NOT_FOUND EVENT_NOT_FOUND: told to\n")


async def test_notices_are_a_line_each_also_for_a_message_that_cannot_be_decoded(tmp_path: Path) -> None:
    fake = FakeBridge(sends(confirmation(), b"\xff\xff"), sends(confirmation(), code=grpc.StatusCode.DATA_LOSS))
    async with fake.serve() as bridge:
        _, _, errors = await ended(await start(tmp_path / "expenses.db", SPOTBRIDGE_GRPC=bridge.address))
    first, second = errors.splitlines()
    assert first.startswith("a message that cannot be decoded; reconnecting in 0.")
    assert second.startswith("stopped: DATA_LOSS")


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [(["walk"], {}), (["run", "dump"], {}), (["--fast"], {})]
    + [([], {"SPOTBRIDGE_HEARTBEAT": value}) for value in ("4s", "61s", "15", "1.5s", "1m")],
)
async def test_wrong_usage_ends_with_2(arguments: list[str], environment: dict[str, str], tmp_path: Path) -> None:
    code, out, errors = await ended(await start(tmp_path / "expenses.db", *arguments, **environment))
    assert (code, out) == (2, "")
    assert errors.strip()


async def test_a_database_that_cannot_be_opened_is_a_line(tmp_path: Path) -> None:
    code, _, errors = await ended(await start(tmp_path / "none" / "expenses.db", "dump"))
    assert (code, errors) == (1, "stopped: unable to open database file\n")


async def test_nothing_was_stored_yet(tmp_path: Path) -> None:
    assert await ended(await start(tmp_path / "expenses.db", "dump")) == (0, "", "")


async def test_it_runs_as_a_module_too(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "expense_feed",
        "processed",
        env={**os.environ, "EXPENSES_DB": str(tmp_path / "expenses.db")},
    )
    assert await process.wait() == 0


async def test_a_body_may_be_nested_as_deep_as_a_bridge_takes_it(tmp_path: Path) -> None:
    omitted = ticket("s.1", "t1")
    omitted.omitted.bytes = 5 << 20
    deep = b'{"payload":{"x":' + b"[" * 998 + b"]" * 998 + b"}}"
    fake = FakeBridge(
        sends(confirmation(), carries("c1", omitted), code=grpc.StatusCode.DATA_LOSS), bodies={"s.1": [deep]}
    )
    async with fake.serve() as bridge:
        await ended(await start(tmp_path / "expenses.db", SPOTBRIDGE_GRPC=bridge.address))
    assert (await ended(await start(tmp_path / "expenses.db", "processed")))[1] == "s.1\n"
