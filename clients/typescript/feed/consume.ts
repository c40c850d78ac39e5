import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { Bridge, eventBody, type Reconnect, subscribe } from "spotbridge";
import { type Event, EventView, GoodbyeReason, Start } from "spotbridge/v1";
import { type Content, contentOf, contentOfBody } from "./booking.js";
import { counts, operations } from "./rule.js";
import type { Store } from "./store.js";

interface Options {
  heartbeatMs: number;
  /** Ends the feed when what is in hand is finished. */
  signal: AbortSignal;
  notice: (text: string) => void;
}

/** Keeps the store up to date until the signal is aborted. It throws when the bridge's answer means stop. */
export async function consume(store: Store, address: string, { heartbeatMs, signal, notice }: Options): Promise<void> {
  const bridge = new Bridge(address);
  try {
    const messages = subscribe(bridge, {
      request: {
        filter: { eventTypes: ["PNR_V3"], operations },
        view: EventView.TYPED,
        start: Start.EARLIEST,
        heartbeatInterval: durationFromMs(heartbeatMs),
        clientName: "expense-feed typescript",
      },
      cursor: () => store.cursor(),
      signal,
      onReconnect: (reconnect) => notice(explain(reconnect)),
    });
    for await (const { content, cursor } of messages) {
      if (content.case === "event") {
        const event = content.value;
        store.process(event, counts(event) ? await read(bridge, event, signal) : undefined, cursor);
        continue;
      }
      if (content.case === "confirmation") {
        for (const { field, message } of content.value.warnings) notice(`warning: ${field}: ${message}`);
      }
      if (cursor) store.moveTo(cursor);
    }
  } catch (error) {
    if (!signal.aborted || error !== signal.reason) throw error; // else the read of a body was given up: the event comes again
  } finally {
    bridge.disconnect();
  }
}

async function read(bridge: Bridge, event: Event, signal: AbortSignal): Promise<Content> {
  return event.omitted ? contentOfBody(event, await eventBody(bridge, event.id, { signal })) : contentOf(event);
}

function explain({ waitMs, goodbye, error }: Reconnect): string {
  const why = goodbye ? `goodbye: ${GoodbyeReason[goodbye.reason] ?? goodbye.reason}` : (error?.message ?? "the stream ended");
  return `${why}; reconnecting in ${Math.round(waitMs)} ms`;
}
