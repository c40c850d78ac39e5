"""A bridge that misbehaves as it is told, a network that fails, and short ways to make messages."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from spotbridge import Bridge
from spotbridge.v1.history_pb2 import GetEventBodyRequest, GetEventBodyResponse
from spotbridge.v1.subscription_pb2 import (
    CaughtUp,
    Confirmation,
    Goodbye,
    Heartbeat,
    SubscribeRequest,
    SubscribeResponse,
)

Context = grpc.aio.ServicerContext[Any, Any]
# What one stream does. Bytes go out as they are.
Script = Callable[[SubscribeRequest, Context], AsyncIterator[SubscribeResponse | bytes]]


def duration(seconds: float) -> Duration:
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def confirmation(heartbeat: float = 15.0, cursor: str = "c0") -> SubscribeResponse:
    return SubscribeResponse(cursor=cursor, confirmation=Confirmation(heartbeat_interval=duration(heartbeat)))


def heartbeat(cursor: str) -> SubscribeResponse:
    return SubscribeResponse(cursor=cursor, heartbeat=Heartbeat())


def caught_up(cursor: str) -> SubscribeResponse:
    return SubscribeResponse(cursor=cursor, caught_up=CaughtUp())


def goodbye(cursor: str, retry_after: float = 0.0) -> SubscribeResponse:
    return SubscribeResponse(cursor=cursor, goodbye=Goodbye(retry_after=duration(retry_after)))


async def refuse(
    context: Context, code: grpc.StatusCode, reason: str = "", text: str = "told to", **metadata: str
) -> None:
    """Ends a call as a bridge does, with an ErrorInfo."""
    status = Status(code=code.value[0], message=text)
    if reason:
        detail = AnyMessage()
        detail.Pack(ErrorInfo(domain="spotbridge", reason=reason, metadata=metadata))
        status.details.append(detail)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    await context.abort(code, text)


def sends(*messages: SubscribeResponse | bytes, code: grpc.StatusCode | None = None, hang: bool = False) -> Script:
    """A stream that sends these messages, and then ends with OK or this code, or says nothing more."""

    async def script(_: SubscribeRequest, context: Context) -> AsyncIterator[SubscribeResponse | bytes]:
        for message in messages:
            yield message
        if code is not None:
            await refuse(context, code, "TOLD_TO")
        if hang:
            await asyncio.Event().wait()

    return script


class FakeBridge:
    """Serves each stream by the next script, and the last script for ever."""

    def __init__(self, *scripts: Script, bodies: dict[str, list[bytes | grpc.StatusCode]] | None = None) -> None:
        self.scripts = list(scripts)
        self.bodies = bodies or {}
        self.requests: list[SubscribeRequest] = []
        self.times: list[float] = []
        self.body_calls = 0
        self.open_streams = 0
        self.idle = asyncio.Event()

    async def subscribe(self, request: SubscribeRequest, context: Context) -> AsyncIterator[SubscribeResponse | bytes]:
        script = self.scripts[min(len(self.requests), len(self.scripts) - 1)]
        self.requests.append(request)
        self.times.append(asyncio.get_running_loop().time())
        self.open_streams += 1
        self.idle.clear()
        try:
            async for message in script(request, context):
                yield message
        finally:
            self.open_streams -= 1
            if self.open_streams == 0:
                self.idle.set()

    async def body(self, request: GetEventBodyRequest, context: Context) -> AsyncIterator[GetEventBodyResponse]:
        self.body_calls += 1
        pieces = self.bodies.get(request.event_id)
        if pieces is None:
            await refuse(context, grpc.StatusCode.NOT_FOUND, "EVENT_NOT_FOUND")
            return
        while pieces:
            piece = pieces.pop(0)
            if isinstance(piece, grpc.StatusCode):
                await refuse(context, piece)
            else:
                yield GetEventBodyResponse(chunk=piece)

    @asynccontextmanager
    async def serve(self, address: str = "127.0.0.1:0") -> AsyncIterator[Bridge]:
        def encode(message: SubscribeResponse | bytes) -> bytes:
            return message if isinstance(message, bytes) else message.SerializeToString()

        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        subscribe = grpc.unary_stream_rpc_method_handler(
            self.subscribe, request_deserializer=SubscribeRequest.FromString, response_serializer=encode
        )
        body = grpc.unary_stream_rpc_method_handler(
            self.body,
            request_deserializer=GetEventBodyRequest.FromString,
            response_serializer=GetEventBodyResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler("spotbridge.v1.SubscriptionService", {"Subscribe": subscribe}),
                grpc.method_handlers_generic_handler("spotbridge.v1.EventService", {"GetEventBody": body}),
            )
        )
        port = server.add_insecure_port(address)
        await server.start()
        try:
            yield Bridge(f"127.0.0.1:{port}")
        finally:
            await server.stop(None)


class Network:
    """Passes connections on to an address, until it is told to cut them or to lose every byte without a word."""

    def __init__(self, address: str) -> None:
        self.host, _, self.port = address.partition(":")
        self.connections = 0
        self._broken: set[int] = set()
        self._writers: dict[int, list[asyncio.StreamWriter]] = {}

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Bridge]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield Bridge(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        finally:
            server.close()
            self.cut()

    def cut(self) -> None:
        """Resets every connection."""
        for writers in self._writers.values():
            for writer in writers:
                writer.transport.abort()

    def lose(self) -> None:
        """Makes every connection that there is now half open: both ends believe in it, and nothing arrives."""
        self._broken.update(self._writers)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        far_reader, far_writer = await asyncio.open_connection(self.host, int(self.port))
        self._writers[number] = [writer, far_writer]
        await asyncio.gather(self._pass(number, reader, far_writer), self._pass(number, far_reader, writer))

    async def _pass(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if number not in self._broken:
                    writer.write(data)
                    await writer.drain()
        if number not in self._broken:
            writer.close()
