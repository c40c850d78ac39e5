"""The address of a bridge, and how to talk to it."""

import asyncio
import logging
from dataclasses import dataclass

import grpc

from spotbridge.calls import Backoff, Broken, receive
from spotbridge.v1.history_pb2 import GetEventBodyRequest
from spotbridge.v1.history_pb2_grpc import EventServiceStub

log = logging.getLogger("spotbridge")

CHANNEL_OPTIONS = (
    # A bridge sends events of at most 16 MiB (max_message_bytes); grpcio takes no more than 4 MiB unless it is told to.
    ("grpc.max_receive_message_length", (16 << 20) + (64 << 10)),
    # Notices a dead connection before three long heartbeats are over. A bridge allows a ping every 10 s. The answer is
    # awaited for ping_timeout, 60 s unless set (keepalive_timeout_ms is not heeded, see grpc/grpc#39239), and
    # grpcio would hold pings back on a stream on which the client itself sends nothing.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Channels of equal address and options share their connection, also a dead one, and the wait of up to two minutes
    # that grpcio puts before the next attempt. Each attempt here has a channel of its own, and Backoff decides alone.
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True)
class Bridge:
    """A bridge at an address, without TLS unless credentials are given."""

    address: str
    credentials: grpc.ChannelCredentials | None = None

    def channel(self) -> grpc.aio.Channel:
        """Opens a channel with the settings that suit a bridge, for the stubs of spotbridge.v1; close it after use."""
        if self.credentials is None:
            return grpc.aio.insecure_channel(self.address, options=CHANNEL_OPTIONS)
        return grpc.aio.secure_channel(self.address, self.credentials, options=CHANNEL_OPTIONS)

    async def read_body(self, event_id: str, patience: float = 45.0) -> bytes:
        """Returns the exact body of an event, such as one with `omitted` set.

        It tries again when the call breaks, also after `patience` seconds without a message, and raises Stopped where
        that is of no use.
        """
        backoff = Backoff()
        while True:
            try:
                async with self.channel() as channel:
                    call = EventServiceStub(channel).GetEventBody(GetEventBodyRequest(event_id=event_id))
                    body = bytearray()
                    while (piece := await receive(call, patience)) is not None:
                        body += piece.chunk
                    return bytes(body)
            except Broken as broken:
                wait = backoff.next()
                log.info("body of %s: %s; trying again in %.1f s", event_id, broken, wait)
                await asyncio.sleep(wait)
