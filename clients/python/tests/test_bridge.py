"""Against a real bridge, whose binary $SPOTBRIDGE_BIN names."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import random
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from expense_feed.__main__ import COLUMNS, DUMPED, Ledger
from expense_feed.rule import OPERATIONS, Booking, Expense, apply, touched
from spotbridge import Bridge, Stopped, Subscription
from spotbridge.v1.event_pb2 import EVENT_VIEW_RAW, EntityRef, Event, EventFilter, OperationSummary
from spotbridge.v1.subscription_pb2 import START_EARLIEST, SubscribeRequest
from test_feed import ended, start

BINARY = os.environ.get("SPOTBRIDGE_BIN", "")
SAMPLES = Path(__file__).parents[3] / "bridge" / "bridgetest" / "samples"
SECRET = "whsec_" + base64.b64encode(b"a secret of these tests only").decode()

pytestmark = pytest.mark.skipif(not BINARY, reason="SPOTBRIDGE_BIN, the path of a spotbridge binary, is not set")


class RealBridge:
    def __init__(self, folder: Path) -> None:
        self.log = folder / "bridge.log"
        with contextlib.ExitStack() as taken:
            sockets = [taken.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(4)]
            addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
        listeners = dict(zip(("WEBHOOK", "REST", "GRPC", "ADMIN"), addresses, strict=True))
        self.door = f"http://{listeners['WEBHOOK']}/webhooks/test"
        self.address = listeners["GRPC"]
        self.environment = {
            **os.environ,
            **{f"SPOTBRIDGE_LISTEN_{name}": address for name, address in listeners.items()},
            "SPOTBRIDGE_DATA_DIR": str(folder / "data"),
            "SPOTBRIDGE_SOURCES": json.dumps([{"name": "test", "secrets": [SECRET]}]),
        }
        for name in (
            "SPOTBRIDGE_BIN",
            "SPOTBRIDGE_GRPC",
            "SPOTBRIDGE_REST",
            "SPOTBRIDGE_HEARTBEAT",
            "SPOTBRIDGE_GROUP",
        ):
            self.environment.pop(name, None)  # a bridge refuses variables that it does not know

    async def start(self) -> None:
        with self.log.open("a") as log:
            self.process = await asyncio.create_subprocess_exec(
                BINARY, "serve", env=self.environment, stdout=log, stderr=log
            )

    async def end(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        await self.process.wait()

    async def deliver(self, webhook_id: str, body: bytes) -> None:
        """Sends a delivery until it is taken, as Spotnana does."""
        await asyncio.to_thread(self._deliver, webhook_id, body)

    def _deliver(self, webhook_id: str, body: bytes) -> None:
        timestamp = str(int(time.time()))
        key = base64.b64decode(SECRET.removeprefix("whsec_"))
        signature = base64.b64encode(
            hmac.digest(key, f"{webhook_id}.{timestamp}.".encode() + body, hashlib.sha256)
        ).decode()
        headers = {"id": webhook_id, "timestamp": timestamp, "signature": signature}
        request = urllib.request.Request(
            self.door, body, {f"x-spotnana-webhook-{name}": value for name, value in headers.items()}
        )
        for _ in range(400):
            try:
                urllib.request.urlopen(request, timeout=10).close()
                return
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise
            except OSError:  # it is not up yet, or was killed
                pass
            time.sleep(0.05)
        raise AssertionError(f"not taken: {webhook_id}\n{self.log.read_text()}")


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[RealBridge]:
    running = RealBridge(tmp_path)
    await running.start()
    yield running
    await running.end(signal.SIGTERM)


def deliveries() -> dict[str, dict[str, Any]]:
    """Bodies by webhook id: the samples that make expenses, in copies; one wrapped, one too large for a stream too."""
    bodies = {}
    for path in sorted(SAMPLES.glob("0*-PNR_V3-*.json")):
        sample = json.loads(path.read_text())
        if sample["operation"] in OPERATIONS:
            numbers = {number for numbers in sample["operationSummary"].values() for number in numbers}
            for copy in range(12):
                text = path.read_text()
                for number in numbers:
                    text = text.replace(number, f"{number}-{copy}")
                bodies[f"{path.name[:4]}_{copy}"] = json.loads(text)
    large, wrapped, *_ = bodies
    for each in (large, wrapped):
        payload = bodies[each]["payload"]
        bodies[each]["payload"] = {"pnrId": payload["pnrId"], "data": payload}
    bodies[large]["filler"] = "x" * (5 << 20)
    return bodies


def expected(bodies: dict[str, dict[str, Any]]) -> list[str]:
    """The dump, from the bodies alone."""
    rows: dict[str, Expense] = {}
    for webhook_id, body in bodies.items():
        pnr = body["payload"].get("data", body["payload"])
        summary = body["operationSummary"]
        event = Event(
            id=f"test.{webhook_id}",
            event_type="PNR_V3",
            operation=body["operation"],
            organization_id=body["audience"]["organizationId"],
            pnr_id=pnr["pnrId"],
            entity=EntityRef(version=pnr["version"]),
            operation_summary=OperationSummary(
                tickets_issued=summary["ticketsIssued"],
                tickets_voided=summary["ticketsVoided"],
                tickets_refunded=summary["ticketsRefunded"],
            ),
        )
        for number in touched(event):
            apply(rows.setdefault(number, Expense(number)), event, Booking.from_json(json.dumps(body).encode()))
    shown = [dict(zip(COLUMNS, vars(row).values(), strict=True)) for _, row in sorted(rows.items())]
    return ["\t".join(str(row[column]) for column in DUMPED) for row in shown]


async def test_what_is_killed_loses_nothing_and_nothing_counts_twice(bridge: RealBridge, tmp_path: Path) -> None:
    bodies = deliveries()
    order = list(bodies)
    random.Random(1).shuffle(order)
    database = tmp_path / "expenses.db"
    ledger = Ledger(str(database))

    async def send(part: list[str]) -> None:
        for webhook_id in part:
            await bridge.deliver(webhook_id, json.dumps(bodies[webhook_id]).encode())

    async def processed(count: int) -> None:
        while len(list(ledger.processed())) < count:
            assert client.returncode is None
            await asyncio.sleep(0.005)

    async with asyncio.timeout(180):
        # Who is ended how while events come and are being stored; None: it has to go on by itself.
        kinds = [(signal.SIGKILL, None), (None, signal.SIGKILL), (signal.SIGTERM, None), (None, signal.SIGTERM)]
        size = len(order) // len(kinds)
        for number, (end_client, end_bridge) in enumerate(kinds):
            part = order[number * size : (number + 1) * size]
            repeats = order[: number * size : 3]
            client = await start(database, SPOTBRIDGE_GRPC=bridge.address, SPOTBRIDGE_HEARTBEAT="5s")
            sending = asyncio.create_task(send(part[: size // 2]))
            await processed(number * size + 2)
            if end_client:
                client.send_signal(end_client)
                assert (await ended(client))[0] == (0 if end_client == signal.SIGTERM else -signal.SIGKILL)
                client = await start(database, SPOTBRIDGE_GRPC=bridge.address, SPOTBRIDGE_HEARTBEAT="5s")
            if end_bridge:
                await bridge.end(end_bridge)
                await bridge.start()
            await sending
            await send([*repeats, *part[size // 2 :]])
            await processed((number + 1) * size)
            client.kill()
            await ended(client)

    assert list(ledger.processed()) == sorted(f"test.{webhook_id}" for webhook_id in bodies)
    assert list(ledger.dump()) == expected(bodies)


async def test_a_cursor_that_is_none_ends_the_client_with_the_reason_of_the_bridge(
    bridge: RealBridge, tmp_path: Path
) -> None:
    database = tmp_path / "expenses.db"
    Ledger(str(database)).store([], "no cursor")
    code, _, errors = await ended(await start(database, SPOTBRIDGE_GRPC=bridge.address))
    assert code == 1
    assert errors.splitlines()[-1].startswith("stopped: INVALID_ARGUMENT INVALID_CURSOR: ")


async def test_messages_bodies_and_errors_of_a_bridge(bridge: RealBridge) -> None:
    bodies = deliveries()
    webhook_id, body = max(bodies.items(), key=lambda item: len(json.dumps(item[1])))
    exact = json.dumps(body).encode()
    await bridge.deliver(webhook_id, exact)
    target = Bridge(bridge.address)
    request = SubscribeRequest(start=START_EARLIEST, view=EVENT_VIEW_RAW, stop_at_head=True)
    async with asyncio.timeout(30), Subscription(target, request) as subscription:
        messages = [message async for message in subscription]
    assert [message.WhichOneof("content") for message in messages] == ["confirmation", "event", "caught_up"]
    event = messages[1].event
    assert (event.id, event.HasField("omitted"), event.raw_body) == (f"test.{webhook_id}", True, b"")
    assert await target.read_body(event.id) == exact

    request.max_message_bytes = 16 << 20
    async with asyncio.timeout(30), Subscription(target, request) as subscription:
        assert [message.event.raw_body async for message in subscription][1] == exact

    with pytest.raises(Stopped) as stopped:
        await target.read_body("test.none")
    assert (stopped.value.code, stopped.value.reason) == (grpc.StatusCode.NOT_FOUND, "EVENT_NOT_FOUND")
    async with Subscription(target, SubscribeRequest(filter=EventFilter(event_types=[""]))) as subscription:
        with pytest.raises(Stopped) as stopped:
            await anext(subscription)
    assert (stopped.value.reason, stopped.value.metadata["field"]) == ("INVALID_FILTER", "filter.event_types[0]")
