import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { Backoff, pause } from "./backoff.js";
import type { Bridge } from "./bridge.js";
import { BridgeError, meansStop } from "./error.js";
import { EventService } from "./gen/spotbridge/v1/history_pb.js";
import { watch } from "./watch.js";

export interface EventBodyOptions {
  /** Ends the read: the promise is rejected with the signal's reason. */
  signal?: AbortSignal;
  /** How long to wait for a piece before the read is begun anew; 30 s. */
  stallMs?: number;
}

/**
 * Reads the exact body of an event, which for one with `omitted` is where its payload is. It tries until the body is there;
 * it throws a {@link BridgeError} when the bridge's answer means stop, EVENT_NOT_FOUND for one that is no longer held.
 */
export async function eventBody(
  bridge: Bridge,
  eventId: string,
  { signal, stallMs = 30_000 }: EventBodyOptions = {},
): Promise<Uint8Array> {
  const client = createClient(EventService, bridge.transport);
  const backoff = new Backoff();
  for (;;) {
    signal?.throwIfAborted();
    const call = new AbortController();
    const expire = () => call.abort(new ConnectError("the body does not come", Code.DeadlineExceeded));
    try {
      const chunks: Uint8Array[] = [];
      const stream = client.getEventBody({ eventId }, { signal: signal ? AbortSignal.any([signal, call.signal]) : call.signal });
      for await (const { chunk } of watch(stream, () => stallMs, expire)) chunks.push(chunk);
      return Buffer.concat(chunks);
    } catch (reason) {
      const error = ConnectError.from(reason);
      if (!signal?.aborted && meansStop(error)) throw new BridgeError(error);
    } finally {
      call.abort();
    }
    await pause(backoff.next(), signal);
  }
}
