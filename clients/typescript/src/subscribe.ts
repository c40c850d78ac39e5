import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { Backoff, pause } from "./backoff.js";
import type { Bridge } from "./bridge.js";
import { BridgeError, meansStop } from "./error.js";
import type { Event } from "./gen/spotbridge/v1/event_pb.js";
import {
  type Goodbye,
  Start,
  type SubscribeRequest,
  SubscribeRequestSchema,
  type SubscribeResponse,
  SubscriptionService,
} from "./gen/spotbridge/v1/subscription_pb.js";
import { watch } from "./watch.js";

export interface SubscribeOptions {
  /** What to stream. Where it starts (`start`, `fromTime`) counts as long as there is no cursor to resume after. */
  request?: MessageInitShape<typeof SubscribeRequestSchema>;
  /**
   * The cursor to resume after. A function is asked before every attempt and tells what is committed: the cursor that was
   * stored together with the result. Otherwise it is where to begin, and a message counts as handled when the next one is
   * asked for.
   */
  cursor?: string | undefined | (() => string | undefined);
  /** Ends the iteration, without an error. The message in hand is not disturbed. */
  signal?: AbortSignal;
  /** Is told before each wait for another attempt. */
  onReconnect?: (reconnect: Reconnect) => void;
}

/** Why a stream ended, and how long it is waited before the next one. */
export interface Reconnect {
  waitMs: number;
  /** The server's last word, if it had one. */
  goodbye?: Goodbye | undefined;
  /** What broke the stream; neither this nor goodbye when it just ended. */
  error?: ConnectError | undefined;
}

/**
 * Yields every message of a subscription, kinds that this version does not know included (`content.case` is then undefined),
 * and does not end by itself: it reconnects and resumes. It ends when the signal is aborted and, with `stopAtHead`, when
 * everything was sent. It throws a {@link BridgeError} when the bridge's answer means stop.
 */
export async function* subscribe(
  bridge: Bridge,
  options: SubscribeOptions = {},
): AsyncGenerator<SubscribeResponse, void, undefined> {
  const { signal, onReconnect } = options;
  const client = createClient(SubscriptionService, bridge.transport);
  const backoff = new Backoff();
  let handled = typeof options.cursor === "function" ? undefined : options.cursor;

  while (!signal?.aborted) {
    const request = requestAfter(typeof options.cursor === "function" ? options.cursor() : handled, bridge, options.request);
    let heartbeatMs = request.heartbeatInterval ? durationMs(request.heartbeatInterval) : 15_000;
    let last: SubscribeResponse["content"] = { case: undefined };
    let error: ConnectError | undefined;
    const call = new AbortController();
    const expire = () => {
      call.abort(new ConnectError("no message for three heartbeat intervals", Code.DeadlineExceeded));
      bridge.disconnect(); // whatever TCP believes: on the same connection the next attempt would wait in vain, too
    };
    try {
      const stream = client.subscribe(request, { signal: signal ? AbortSignal.any([signal, call.signal]) : call.signal });
      for await (const message of watch(stream, () => 3 * heartbeatMs, expire)) {
        last = message.content;
        if (last.case !== "confirmation") backoff.reset();
        else if (last.value.heartbeatInterval) heartbeatMs = durationMs(last.value.heartbeatInterval) || heartbeatMs;
        yield message;
        handled = message.cursor || handled;
        if (signal?.aborted) return;
        if (last.case === "goodbye") break;
      }
    } catch (reason) {
      error = ConnectError.from(reason);
    } finally {
      call.abort(); // also when the caller leaves its loop
    }

    if (signal?.aborted) return;
    if (error && meansStop(error)) throw new BridgeError(error);
    if (!error && last.case === "caughtUp" && request.stopAtHead) return;
    const goodbye = last.case === "goodbye" ? last.value : undefined;
    const waitMs = Math.max(backoff.next(), goodbye?.retryAfter ? durationMs(goodbye.retryAfter) : 0);
    onReconnect?.({ waitMs, goodbye, error });
    await pause(waitMs, signal);
  }
}

/** Returns the events of a message, in order: one, those of a batch (a request with `maxBatchEvents` gets them), or none. */
export function eventsOf({ content }: SubscribeResponse): Event[] {
  if (content.case === "event") return [content.value];
  return content.case === "events" ? content.value.events : [];
}

function requestAfter(cursor: string | undefined, bridge: Bridge, init: SubscribeOptions["request"]): SubscribeRequest {
  const request = create(SubscribeRequestSchema, { ...init }); // a copy, should it be a message
  if (cursor) {
    request.afterCursor = cursor;
    request.start = Start.UNSPECIFIED;
    delete request.fromTime;
  }
  request.maxMessageBytes ||= bridge.maxMessageBytes;
  return request;
}
