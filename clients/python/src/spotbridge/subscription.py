"""A subscription that outlives its streams."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import grpc
from google.protobuf.duration_pb2 import Duration

from spotbridge.bridge import Bridge, log
from spotbridge.calls import Backoff, Broken, receive
from spotbridge.v1.event_pb2 import Event
from spotbridge.v1.subscription_pb2 import GoodbyeReason, SubscribeRequest, SubscribeResponse
from spotbridge.v1.subscription_pb2_grpc import SubscriptionServiceStub

DEFAULT_HEARTBEAT = 15.0  # seconds: what a bridge takes when the request has none
MISSED_HEARTBEATS = 3  # without a message for so many intervals the connection is dead, whatever TCP believes


class Subscription:
    """Iterates over the messages of Subscribe, of every kind, and reconnects when a stream ends.

    Each reconnection resumes after the cursor that was committed last. So commit the cursor of a message once its
    result is stored, as seldom as you like: after a reconnection, which a confirmation announces, what came since comes
    again. Nothing is read ahead of the caller but what HTTP/2 buffers, and time that the caller takes does not count as
    silence.

    A request with max_batch_events gets several events in one message when many are ready; events_of returns them.

    The iteration ends only with stop_at_head. It raises Stopped where trying again is of no use; after a commit of
    another cursor it may be gone on with.

        async with Subscription(Bridge("127.0.0.1:9090"), SubscribeRequest(start=START_EARLIEST)) as subscription:
            async for message in subscription:
                for event in events_of(message):
                    ...
                subscription.commit(message.cursor)
    """

    def __init__(self, bridge: Bridge, request: SubscribeRequest) -> None:
        self._bridge = bridge
        self._request = SubscribeRequest()
        self._request.CopyFrom(request)
        self._backoff = Backoff()
        self._channel: grpc.aio.Channel | None = None
        self._stream: grpc.aio.UnaryStreamCall[SubscribeRequest, SubscribeResponse] | None = None
        self._patience = 0.0
        self._resume_at = 0.0  # by the clock of the event loop
        self._at_head = False

    @property
    def cursor(self) -> str:
        """The cursor after which the next stream begins; empty as long as none was committed."""
        return self._request.after_cursor

    def commit(self, cursor: str) -> None:
        """Makes the next stream begin after this cursor, in place of any other start."""
        if cursor:
            self._request.ClearField("start")
            self._request.ClearField("from_time")
            self._request.after_cursor = cursor

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SubscribeResponse:
        while True:
            stream = self._stream or await self._subscribe()
            try:
                message = await receive(stream, self._patience)
            except Broken as broken:
                await self._lost(str(broken))
                continue
            except BaseException:  # Stopped, or our task is cancelled: grpcio then cancels the call, too
                await self.close()
                raise
            if message is not None:
                await self._note(message)
                return message
            if self._request.stop_at_head and self._at_head:
                await self.close()
                raise StopAsyncIteration
            await self._lost("the stream ended")

    async def _subscribe(self) -> grpc.aio.UnaryStreamCall[SubscribeRequest, SubscribeResponse]:
        await asyncio.sleep(self._resume_at - asyncio.get_running_loop().time())
        self._patience = MISSED_HEARTBEATS * (seconds(self._request.heartbeat_interval) or DEFAULT_HEARTBEAT)
        self._at_head = False
        # A channel for each stream: see CHANNEL_OPTIONS.
        self._channel = self._bridge.channel()
        self._stream = SubscriptionServiceStub(self._channel).Subscribe(self._request)
        return self._stream

    async def _note(self, message: SubscribeResponse) -> None:
        """Takes from a message what concerns the stream itself."""
        kind = message.WhichOneof("content")
        if kind != "confirmation":
            self._backoff.reset()
        if kind == "confirmation":
            # What the bridge confirmed counts, not what was asked for: it may allow less.
            self._patience = MISSED_HEARTBEATS * seconds(message.confirmation.heartbeat_interval) or self._patience
            for warning in message.confirmation.warnings:
                log.warning("%s: %s", warning.field, " ".join(warning.message.split()))
        elif kind == "caught_up":
            self._at_head = True
            log.info("caught up")
        elif kind == "fell_behind":
            log.info("fell behind by at most %d events", message.fell_behind.behind_events)
        elif kind == "goodbye":  # the last message, so nothing is left to read
            reason = message.goodbye.reason
            name = GoodbyeReason.Name(reason) if reason in GoodbyeReason.values() else str(reason)
            await self._lost(f"goodbye: {name.removeprefix('GOODBYE_REASON_')}", seconds(message.goodbye.retry_after))

    async def _lost(self, why: str, retry_after: float = 0.0) -> None:
        wait = max(self._backoff.next(), retry_after)
        log.info("%s; reconnecting in %.1f s", why, wait)
        self._resume_at = asyncio.get_running_loop().time() + wait
        await self.close()

    async def close(self) -> None:
        """Ends the present stream. Iterating goes on with a new one."""
        channel, self._channel, self._stream = self._channel, None, None
        if channel is not None:
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def events_of(message: SubscribeResponse) -> Sequence[Event]:
    """The events of a message, in order: one, those of a batch, or none."""
    return [message.event] if message.HasField("event") else message.events.events


def seconds(duration: Duration) -> float:
    return max(duration.ToNanoseconds() / 1e9, 0.0)
