"""An expense feed: tickets that are issued become expenses, voided ones are reversed, refunded ones are reduced.

It reads a subscription and keeps its position in the database of the expenses, in the same transaction, so that each
event counts exactly once there, whatever is killed in between.
"""

import argparse
import asyncio
import logging
import os
import re
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from dataclasses import astuple, fields

from google.protobuf.duration_pb2 import Duration

from expense_feed.rule import EVENT_TYPE, OPERATIONS, Booking, Expense, apply, touched
from spotbridge import Bridge, Stopped, Subscription, events_of
from spotbridge.v1.event_pb2 import EVENT_VIEW_TYPED, Event, EventFilter
from spotbridge.v1.subscription_pb2 import START_EARLIEST, SubscribeRequest

SCHEMA = """
CREATE TABLE IF NOT EXISTS expenses (
  ticket_number TEXT PRIMARY KEY, pnr_id TEXT NOT NULL, organization_id TEXT NOT NULL, traveler_id TEXT NOT NULL,
  currency TEXT NOT NULL, amount_milli INTEGER NOT NULL, refund_milli INTEGER NOT NULL, net_milli INTEGER NOT NULL,
  state TEXT NOT NULL, version INTEGER NOT NULL, event_id TEXT NOT NULL,
  issued INTEGER NOT NULL, voided INTEGER NOT NULL, refunded INTEGER NOT NULL,
  refund_version INTEGER NOT NULL, refund_event TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS processed (event_id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS position (id INTEGER PRIMARY KEY CHECK (id = 1), cursor TEXT NOT NULL);
"""

BUSY_SECONDS = 5
BATCH_EVENTS = 100  # in one message, and so in one transaction, when many are ready

COLUMNS = [field.name for field in fields(Expense)]
DUMPED = COLUMNS[: COLUMNS.index("event_id") + 1]


class Ledger:
    """The database: expenses, the events that were processed, and the position."""

    def __init__(self, path: str) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        # SQLite does not wait by itself for another process that makes the file at the same moment.
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                # What was committed is there after a power cut.
                self._db.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; {SCHEMA}")
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def close(self) -> None:
        self._db.close()

    def cursor(self) -> str:
        row = self._db.execute("SELECT cursor FROM position").fetchone()
        return row[0] if row else ""

    def knows(self, event_id: str) -> bool:
        return self._db.execute("SELECT 1 FROM processed WHERE event_id = ?", (event_id,)).fetchone() is not None

    def store(self, bookings: list[tuple[Event, Booking]], cursor: str) -> None:
        """Commits a message: its events, unless they were processed before, together with the position after them."""
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            for event, booking in bookings:
                if not self.knows(event.id):
                    self._process(event, booking)
            if cursor:
                self._db.execute("REPLACE INTO position VALUES (1, ?)", (cursor,))

    def _process(self, event: Event, booking: Booking) -> None:
        self._db.execute("INSERT INTO processed VALUES (?)", (event.id,))
        for number in touched(event):
            row = self._db.execute("SELECT * FROM expenses WHERE ticket_number = ?", (number,)).fetchone()
            expense = Expense(*row) if row else Expense(number)
            apply(expense, event, booking)
            self._db.execute(f"REPLACE INTO expenses VALUES ({', '.join('?' * len(COLUMNS))})", astuple(expense))

    def dump(self) -> Iterator[str]:
        for row in self._db.execute(f"SELECT {', '.join(DUMPED)} FROM expenses ORDER BY ticket_number"):
            yield "\t".join(map(str, row))

    def processed(self) -> Iterator[str]:
        for (event_id,) in self._db.execute("SELECT event_id FROM processed ORDER BY event_id"):
            yield event_id


async def consume(bridge: Bridge, ledger: Ledger, heartbeat: int) -> None:
    """Stores what the bridge sends until the task is cancelled; raises Stopped."""
    request = SubscribeRequest(
        filter=EventFilter(event_types=[EVENT_TYPE], operations=OPERATIONS),
        view=EVENT_VIEW_TYPED,
        start=START_EARLIEST,
        heartbeat_interval=Duration(seconds=heartbeat),
        client_name="expense-feed python",
        max_batch_events=BATCH_EVENTS,
    )
    async with Subscription(bridge, request) as subscription:
        subscription.commit(ledger.cursor())
        async for message in subscription:
            bookings = []
            for event in events_of(message):
                if event.HasField("omitted") and touched(event) and not ledger.knows(event.id):
                    booking = Booking.from_json(await bridge.read_body(event.id, patience=3 * heartbeat))
                else:
                    booking = Booking.from_typed(event.pnr_v3)
                bookings.append((event, booking))
            # Blocks the event loop while SQLite syncs: nothing else has to run, and no signal can cut it in two.
            ledger.store(bookings, message.cursor)
            subscription.commit(message.cursor)


async def run(bridge: Bridge, ledger: Ledger, heartbeat: int) -> None:
    task = asyncio.create_task(consume(bridge, ledger, heartbeat))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        logging.info("interrupted")


def setting(name: str, default: str) -> str:
    return os.environ.get(name) or default


def heartbeat_seconds(value: str) -> int:
    match = re.fullmatch(r"([0-9]+)s", value)
    if match is None or not 5 <= int(match[1]) <= 60:
        raise ValueError(f"SPOTBRIDGE_HEARTBEAT is {value!r}: whole seconds from 5s to 60s are expected")
    return int(match[1])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="expense-feed", description="Keeps a table of expenses from the events of a bridge."
    )
    parser.add_argument("command", nargs="?", default="run", choices=["run", "dump", "processed"])
    command = parser.parse_args().command
    try:
        heartbeat = heartbeat_seconds(setting("SPOTBRIDGE_HEARTBEAT", "15s"))
    except ValueError as error:
        parser.error(str(error))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("grpc").setLevel(logging.CRITICAL)  # a stack for what cannot be decoded; we print a line
    sys.setrecursionlimit(4_000)  # a bridge takes bodies that are nested 1,000 levels deep
    try:
        ledger = Ledger(setting("EXPENSES_DB", "expenses.db"))
        if command == "run":
            asyncio.run(run(Bridge(setting("SPOTBRIDGE_GRPC", "127.0.0.1:9090")), ledger, heartbeat))
        else:
            sys.stdout.writelines(f"{line}\n" for line in (ledger.dump() if command == "dump" else ledger.processed()))
        ledger.close()
    except (Stopped, sqlite3.Error) as error:
        logging.error("stopped: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
