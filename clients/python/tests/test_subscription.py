import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import grpc
import pytest

import spotbridge.bridge
import spotbridge.subscription
from fake import (
    Context,
    FakeBridge,
    Network,
    Script,
    caught_up,
    confirmation,
    duration,
    goodbye,
    heartbeat,
    refuse,
    sends,
)
from spotbridge import Bridge, Stopped, Subscription
from spotbridge.calls import RETRYABLE, Backoff
from spotbridge.v1.event_pb2 import Event
from spotbridge.v1.subscription_pb2 import START_EARLIEST, SubscribeRequest, SubscribeResponse


class QuickBackoff(Backoff):
    """Waits a few milliseconds, and remembers after how many attempts in a row each wait came."""

    waits: ClassVar[list[int]] = []

    def __init__(self) -> None:
        super().__init__(first=0.001, most=0.01)
        self.attempts = 0

    def next(self) -> float:
        self.attempts += 1
        self.waits.append(self.attempts)
        return super().next()

    def reset(self) -> None:
        self.attempts = 0
        super().reset()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    monkeypatch.setattr(QuickBackoff, "waits", [])
    monkeypatch.setattr(spotbridge.subscription, "Backoff", QuickBackoff)
    monkeypatch.setattr(spotbridge.bridge, "Backoff", QuickBackoff)
    return QuickBackoff.waits


@asynccontextmanager
async def subscribed(fake: FakeBridge, **fields: Any) -> AsyncIterator[Subscription]:
    """A subscription to a fake bridge, for at most 20 seconds."""
    request = SubscribeRequest(**fields)
    async with asyncio.timeout(20), fake.serve() as bridge, Subscription(bridge, request) as subscription:
        yield subscription


async def cursors(subscription: Subscription, count: int, commit: bool = True) -> list[str]:
    found = []
    for _ in range(count):
        message = await anext(subscription)
        found.append(message.cursor)
        if commit:
            subscription.commit(message.cursor)
    return found


async def test_resumes_after_the_cursor_that_was_committed_and_not_the_one_that_was_yielded() -> None:
    fake = FakeBridge(
        sends(confirmation(), heartbeat("c1"), heartbeat("c2")), sends(confirmation(cursor="c1"), hang=True)
    )
    async with subscribed(fake, start=START_EARLIEST, client_name="test") as subscription:
        await cursors(subscription, 2)
        await cursors(subscription, 2, commit=False)
    first, second = fake.requests
    assert (first.start, first.after_cursor, first.client_name) == (START_EARLIEST, "", "test")
    assert (second.start, second.after_cursor, second.client_name) == (0, "c1", "test")


async def test_a_stored_cursor_takes_the_place_of_the_start() -> None:
    fake = FakeBridge(sends(confirmation(), hang=True))
    async with subscribed(fake, start=START_EARLIEST) as subscription:
        subscription.commit("")  # nothing is stored: the start stays
        assert subscription.cursor == ""
        subscription.commit("stored")
        await anext(subscription)
    assert (fake.requests[0].start, fake.requests[0].after_cursor) == (0, "stored")


@pytest.mark.parametrize("code", RETRYABLE, ids=[code.name for code in RETRYABLE])
async def test_resumes_after(code: grpc.StatusCode) -> None:
    fake = FakeBridge(
        sends(confirmation(), heartbeat("c1"), code=code), sends(confirmation(), heartbeat("c2"), hang=True)
    )
    async with subscribed(fake) as subscription:
        assert await cursors(subscription, 4) == ["c0", "c1", "c0", "c2"]


async def test_resumes_after_an_end_without_goodbye() -> None:
    fake = FakeBridge(sends(confirmation()), sends(heartbeat("c1"), hang=True))
    async with subscribed(fake) as subscription:
        assert await cursors(subscription, 2) == ["c0", "c1"]


STOPPING = [
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.DATA_LOSS,
]


@pytest.mark.parametrize("code", STOPPING, ids=[code.name for code in STOPPING])
async def test_stops_at(code: grpc.StatusCode) -> None:
    fake = FakeBridge(sends(confirmation(), code=code))
    async with subscribed(fake) as subscription:
        await anext(subscription)
        with pytest.raises(Stopped) as stopped:
            await anext(subscription)
    assert (stopped.value.code, stopped.value.reason) == (code, "TOLD_TO")
    assert len(fake.requests) == 1


async def test_an_expired_cursor_tells_where_to_begin_anew_and_can_be_replaced() -> None:
    async def expired(_: SubscribeRequest, context: Context) -> AsyncIterator[SubscribeResponse]:
        await refuse(context, grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED", "too\nold", earliest_cursor="e1")
        yield SubscribeResponse()

    fake = FakeBridge(expired, sends(confirmation(), hang=True))
    async with subscribed(fake) as subscription:
        with pytest.raises(Stopped, match=r"^OUT_OF_RANGE CURSOR_EXPIRED: too old$") as stopped:
            await anext(subscription)
        subscription.commit(stopped.value.metadata["earliest_cursor"])
        await anext(subscription)
    assert fake.requests[1].after_cursor == "e1"


async def test_a_status_without_details_has_no_reason() -> None:
    async def bare(_: SubscribeRequest, context: Context) -> AsyncIterator[SubscribeResponse]:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED)
        yield SubscribeResponse()

    async with subscribed(FakeBridge(bare)) as subscription:
        with pytest.raises(Stopped) as stopped:
            await anext(subscription)
    assert (stopped.value.reason, stopped.value.metadata, str(stopped.value)) == ("", {}, "UNIMPLEMENTED")


async def test_silence_for_three_confirmed_intervals_is_a_dead_stream() -> None:
    fake = FakeBridge(sends(confirmation(heartbeat=0.1), hang=True), sends(heartbeat("c1"), hang=True))
    async with subscribed(fake, heartbeat_interval=duration(60)) as subscription:
        assert await cursors(subscription, 2) == ["c0", "c1"]
    assert fake.times[1] - fake.times[0] >= 0.3


async def test_a_confirmation_without_an_interval_changes_nothing() -> None:
    fake = FakeBridge(sends(confirmation(heartbeat=0), heartbeat("c1"), hang=True), sends(heartbeat("c2"), hang=True))
    async with subscribed(fake, heartbeat_interval=duration(0.4)) as subscription:
        assert await cursors(subscription, 3) == ["c0", "c1", "c2"]
    assert fake.times[1] - fake.times[0] >= 1.2


async def test_until_a_confirmation_came_the_requested_interval_counts_in_each_stream() -> None:
    fake = FakeBridge(
        sends(confirmation(heartbeat=60), heartbeat("c1")), sends(hang=True), sends(heartbeat("c2"), hang=True)
    )
    async with subscribed(fake, heartbeat_interval=duration(0.4)) as subscription:
        assert await cursors(subscription, 3) == ["c0", "c1", "c2"]
    assert fake.times[2] - fake.times[1] >= 1.2


async def test_time_that_the_caller_takes_is_not_silence() -> None:
    messages = confirmation(heartbeat=0.1), heartbeat("c1"), heartbeat("c2")
    fake = FakeBridge(sends(*messages, hang=True))
    async with subscribed(fake) as subscription:
        await cursors(subscription, 1)
        await asyncio.sleep(0.5)  # longer than the watchdog allows
        assert await cursors(subscription, 2) == ["c1", "c2"]
    assert len(fake.requests) == 1


async def test_after_goodbye_it_waits_for_as_long_as_was_asked_also_if_the_stream_stays_open() -> None:
    fake = FakeBridge(
        sends(confirmation(), goodbye("c1", retry_after=0.5), hang=True), sends(heartbeat("c2"), hang=True)
    )
    async with subscribed(fake) as subscription:
        assert await cursors(subscription, 3) == ["c0", "c1", "c2"]
    assert fake.requests[1].after_cursor == "c1"
    assert fake.times[1] - fake.times[0] >= 0.5


async def test_unknown_kinds_and_enum_values_are_passed_on() -> None:
    unknown_kind = SubscribeResponse(cursor="c1").SerializeToString() + b"\xc2\x3e\x02hi"  # field 1000
    unknown_reason = SubscribeResponse(cursor="c2").SerializeToString() + b"\x3a\x02\x08\x63"  # goodbye, reason 99
    fake = FakeBridge(sends(confirmation(), unknown_kind, unknown_reason), sends(heartbeat("c3"), hang=True))
    async with subscribed(fake) as subscription:
        await anext(subscription)
        message = await anext(subscription)
        assert (message.cursor, message.WhichOneof("content")) == ("c1", None)
        assert await cursors(subscription, 2) == ["c2", "c3"]


async def test_a_message_that_cannot_be_decoded_breaks_the_stream() -> None:
    fake = FakeBridge(sends(confirmation(), b"\xff\xff"), sends(heartbeat("c1"), hang=True))
    async with subscribed(fake) as subscription:
        assert await cursors(subscription, 2) == ["c0", "c1"]


async def test_the_largest_message_of_a_bridge_is_received() -> None:
    large = SubscribeResponse(cursor="c1", event=Event(raw_body=bytes(16 << 20)))
    async with subscribed(FakeBridge(sends(confirmation(), large, hang=True))) as subscription:
        assert await cursors(subscription, 2) == ["c0", "c1"]


async def test_stop_at_head_ends_the_iteration_but_a_break_before_does_not() -> None:
    fake = FakeBridge(sends(confirmation(), heartbeat("c1")), sends(confirmation(), heartbeat("c2"), caught_up("c3")))
    async with subscribed(fake, stop_at_head=True) as subscription:
        assert [message.cursor async for message in subscription] == ["c0", "c1", "c0", "c2", "c3"]


async def test_the_backoff_starts_anew_only_after_a_message_that_is_no_confirmation(waits: list[int]) -> None:
    down, only_confirmed = (
        sends(code=grpc.StatusCode.UNAVAILABLE),
        sends(confirmation(), code=grpc.StatusCode.UNAVAILABLE),
    )
    fake = FakeBridge(
        down, only_confirmed, down, sends(confirmation(), heartbeat("c1")), down, sends(heartbeat("c2"), hang=True)
    )
    async with subscribed(fake) as subscription:
        assert await cursors(subscription, 4) == ["c0", "c0", "c1", "c2"]
    assert waits == [1, 2, 3, 1, 2]


def test_waits_double_up_to_a_limit_and_their_upper_half_is_chance() -> None:
    least, most = Backoff(chance=lambda: 0.0), Backoff(chance=lambda: 1.0)
    assert [least.next() for _ in range(8)] == [0.125, 0.25, 0.5, 1, 2, 4, 7.5, 7.5]
    assert [most.next() for _ in range(8)] == [0.25, 0.5, 1, 2, 4, 8, 15, 15]
    most.reset()
    assert most.next() == 0.25


async def test_a_cut_connection_is_made_anew() -> None:
    fake = FakeBridge(sends(confirmation(), heartbeat("c1"), hang=True), sends(heartbeat("c2"), hang=True))
    async with asyncio.timeout(20), fake.serve() as bridge:
        network = Network(bridge.address)
        async with network.listen() as remote, Subscription(remote, SubscribeRequest()) as subscription:
            await cursors(subscription, 2)
            network.cut()
            assert await cursors(subscription, 1) == ["c2"]
    assert fake.requests[1].after_cursor == "c1"


async def test_a_half_open_connection_is_not_used_again() -> None:
    fake = FakeBridge(sends(confirmation(heartbeat=0.4), heartbeat("c1"), hang=True), sends(heartbeat("c2"), hang=True))
    async with asyncio.timeout(20), fake.serve() as bridge:
        network = Network(bridge.address)
        async with network.listen() as remote, Subscription(remote, SubscribeRequest()) as subscription:
            await cursors(subscription, 2)
            network.lose()
            assert await cursors(subscription, 1) == ["c2"]
            assert network.connections == 2


async def test_pings_find_a_half_open_connection_before_long_heartbeats_do(monkeypatch: pytest.MonkeyPatch) -> None:
    shorter = {"grpc.keepalive_time_ms": 1_000, "grpc.http2.ping_timeout_ms": 500}
    options = tuple((name, shorter.get(name, value)) for name, value in spotbridge.bridge.CHANNEL_OPTIONS)
    monkeypatch.setattr(spotbridge.bridge, "CHANNEL_OPTIONS", options)
    fake = FakeBridge(sends(confirmation(heartbeat=60), hang=True), sends(heartbeat("c1"), hang=True))
    async with asyncio.timeout(20), fake.serve() as bridge:
        network = Network(bridge.address)
        async with network.listen() as remote, Subscription(remote, SubscribeRequest()) as subscription:
            await cursors(subscription, 1)
            network.lose()
            assert await cursors(subscription, 1) == ["c1"]


async def test_a_bridge_that_comes_back_is_found_at_once(waits: list[int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    async with asyncio.timeout(20), Subscription(Bridge(address), SubscribeRequest()) as subscription:
        message = asyncio.ensure_future(anext(subscription))
        while len(waits) < 8:  # grpcio itself would wait for 10 s and more by now
            await asyncio.sleep(0.01)
        async with FakeBridge(sends(heartbeat("c1"), hang=True)).serve(address):
            async with asyncio.timeout(2):
                assert (await message).cursor == "c1"
            await subscription.close()


async def test_a_caller_that_gave_up_waiting_may_come_back() -> None:
    fake = FakeBridge(sends(confirmation(), hang=True), sends(heartbeat("c1"), hang=True))
    async with subscribed(fake) as subscription:
        await cursors(subscription, 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(subscription)
        assert await cursors(subscription, 1) == ["c1"]


@pytest.mark.parametrize("script", [sends(confirmation(), hang=True), sends(hang=True)], ids=["idle", "not confirmed"])
async def test_cancelling_ends_the_stream_at_the_bridge(script: Script) -> None:
    fake = FakeBridge(script)
    async with asyncio.timeout(20), fake.serve() as bridge:

        async def consume() -> None:
            async with Subscription(bridge, SubscribeRequest()) as subscription:
                async for _ in subscription:
                    pass

        task = asyncio.create_task(consume())
        while not fake.open_streams:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await fake.idle.wait()


async def test_a_body_that_breaks_off_is_read_from_the_beginning() -> None:
    fake = FakeBridge(
        sends(hang=True), bodies={"e1": [b"par", grpc.StatusCode.UNAVAILABLE, b"the ", b"body"], "empty": []}
    )
    async with asyncio.timeout(20), fake.serve() as bridge:
        assert await bridge.read_body("e1") == b"the body"
        assert await bridge.read_body("empty") == b""
        with pytest.raises(Stopped) as stopped:
            await bridge.read_body("none")
    assert (stopped.value.code, stopped.value.reason) == (grpc.StatusCode.NOT_FOUND, "EVENT_NOT_FOUND")
    assert fake.body_calls == 4
