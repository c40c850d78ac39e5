import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { Bridge, eventBody, eventsOf, type Reconnect, subscribe } from "spotbridge";
import { type Event, EventView, GoodbyeReason, Start } from "spotbridge/v1";
import { type Content, contentOf, contentOfBody } from "./booking.js";
import { counts, operations } from "./rule.js";
import type { Item, Store } from "./store.js";

/** How many events may come in one message, and so in one transaction, when many are ready. */
export const batchEvents = 100;

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
        maxBatchEvents: batchEvents,
      },
      cursor: () => store.cursor(),
      signal,
      onReconnect: (reconnect) => notice(explain(reconnect)),
    });
    for await (const message of messages) {
      const { content, cursor } = message;
      if (content.case === "confirmation") {
        for (const warning of content.value.warnings) notice(`warning: ${warning.field}: ${warning.message}`);
      }
      const items: Item[] = [];
      for (const event of eventsOf(message)) {
        items.push({ event, content: counts(event) ? await read(bridge, event, signal) : undefined });
      }
      store.process(items, cursor);
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
