"""How calls end, what that means, and how long to wait before the next attempt (the rules that all clients share)."""

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

T = TypeVar("T")

# After these a new attempt makes sense: the server is restarting or busy, or something between us cut the connection.
RETRYABLE = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNKNOWN,
    }
)


class Stopped(Exception):
    """The bridge's answer means that the same request will not succeed: somebody has to decide what to do.

    Match on `reason` (a value of ErrorReason without its prefix, such as CURSOR_EXPIRED), never on the text. `metadata`
    holds what the reason promises: `field`, or `earliest_cursor` and `earliest_time`, or `head_cursor`.
    """

    def __init__(self, code: grpc.StatusCode, text: str, reason: str, metadata: Mapping[str, str]) -> None:
        super().__init__(describe(code, text, reason))
        self.code = code
        self.reason = reason
        self.metadata = metadata


class Broken(Exception):
    """The call ended in a way that a new attempt may mend."""


class Backoff:
    """Waits that double from `first` to `most` seconds, each with its upper half left to chance."""

    def __init__(self, first: float = 0.25, most: float = 15.0, chance: Callable[[], float] = random.random) -> None:
        self._first, self._most, self._chance = first, most, chance
        self._base = first

    def next(self) -> float:
        base, self._base = self._base, min(2 * self._base, self._most)
        return base / 2 + self._chance() * base / 2

    def reset(self) -> None:
        self._base = self._first


async def receive(call: grpc.aio.UnaryStreamCall[Any, T], patience: float) -> T | None:
    """Returns the next message of a stream, None at its end.

    Raises Broken, also when none comes for `patience` seconds, or Stopped.
    """
    try:
        async with asyncio.timeout(patience):
            message = await call.read()
    except TimeoutError:
        raise Broken(f"no message for {patience:g} s") from None
    except grpc.aio.AioRpcError as error:
        reason, metadata = error_info(error)
        if error.code() in RETRYABLE:
            raise Broken(describe(error.code(), error.details(), reason)) from error
        raise Stopped(error.code(), error.details() or "", reason, metadata) from error
    if message is grpc.aio.EOF:
        return None
    if message is None:  # how asyncio's side of grpcio says that it could not decode the message
        raise Broken("a message that cannot be decoded")
    return cast(T, message)  # the type stubs say object, on account of EOF


def error_info(error: grpc.aio.AioRpcError) -> tuple[str, dict[str, str]]:
    """Returns reason and metadata of the google.rpc.ErrorInfo of an error; empty when it has none.

    By hand from googleapis-common-protos: grpcio-status would do the first half only, and raises ValueError for a
    status whose details disagree with its code, as a proxy in between may cause.
    """
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            info = ErrorInfo()
            for detail in Status.FromString(value).details:
                if detail.Unpack(info):
                    return info.reason, dict(info.metadata)
    return "", {}


def describe(code: grpc.StatusCode, text: str | None, reason: str) -> str:
    """One line about an error; only what the bridge says, which is never a value of a payload."""
    name = f"{code.name} {reason}" if reason else code.name
    return f"{name}: {' '.join(text.split())}" if text else name
