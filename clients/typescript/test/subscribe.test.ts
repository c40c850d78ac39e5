import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { Bridge, BridgeError, Code, type Reconnect, subscribe, type SubscribeOptions } from "spotbridge";
import { GoodbyeReason, Ordering, Start, type SubscribeResponse } from "spotbridge/v1";
import { type Call, FakeBridge, type Handlers, Wire } from "./fakebridge.js";

type Answer = NonNullable<Handlers["subscribe"]>;

let stops: (() => unknown)[];
beforeEach(() => (stops = []));
afterEach(async () => {
  for (const stop of stops.toReversed()) await stop();
});

async function serve(answer: Answer, port?: number): Promise<FakeBridge> {
  const fake = await FakeBridge.start({ subscribe: answer }, port);
  stops.push(() => fake.stop());
  return fake;
}

function connect(address: string, options?: ConstructorParameters<typeof Bridge>[1]): Bridge {
  const bridge = new Bridge(address, options);
  stops.push(() => bridge.disconnect());
  return bridge;
}

/** Reads until there are so many events; returns all messages and every reconnection. */
async function readEvents(bridge: Bridge, count: number, options: SubscribeOptions = {}) {
  const messages: SubscribeResponse[] = [];
  const reconnects: Reconnect[] = [];
  for await (const message of subscribe(bridge, { ...options, onReconnect: (r) => reconnects.push(r) })) {
    messages.push(message);
    if (message.content.case === "event" && --count === 0) break;
  }
  return {
    messages,
    reconnects,
    events: messages.flatMap(({ content }) => (content.case === "event" ? [content.value.id] : [])),
  };
}

const e = (...numbers: number[]) => numbers.map((n) => `sandbox.e${n}`);

/** Answers the first call in a way of its own, and the next one with event 2. */
const first =
  (answer: (call: Call) => void): Answer =>
  (call) => {
    call.confirm();
    if (call.number === 0) answer(call);
    else call.event(2);
  };

describe("messages", () => {
  test("every kind is passed on, also what this version does not know", async () => {
    const fake = await serve((call) => {
      call.confirm();
      call.send({ cursor: "c1", content: { case: "heartbeat", value: {} } });
      const unknownKind = new BinaryWriter()
        .uint32((1 << 3) | 2)
        .string("c2")
        .uint32((77 << 3) | 2)
        .bytes(new Uint8Array([8, 1]));
      call.sendBytes(unknownKind.finish());
      call.send({
        cursor: "c3",
        content: { case: "event", value: { id: "sandbox.e3", eventType: "PNR_V9", ordering: 42 as Ordering } },
      });
      call.send({ cursor: "c4", content: { case: "goodbye", value: { reason: 42 as GoodbyeReason } } });
    });
    const seen = [];
    for await (const { cursor, content } of subscribe(connect(fake.address))) {
      seen.push([cursor, content.case]);
      if (content.case === "event") assert.equal(content.value.ordering, 42);
      if (content.case === "goodbye") break;
    }
    assert.deepEqual(seen, [
      ["c0", "confirmation"],
      ["c1", "heartbeat"],
      ["c2", undefined],
      ["c3", "event"],
      ["c4", "goodbye"],
    ]);
  });

  test("with stopAtHead the iteration ends after caughtUp", async () => {
    const fake = await serve((call) => {
      call.confirm();
      call.event(1);
      call.send({ cursor: "c2", content: { case: "caughtUp", value: {} } });
      call.end();
    });
    const kinds = [];
    for await (const { content } of subscribe(connect(fake.address), { request: { stopAtHead: true } })) kinds.push(content.case);
    assert.deepEqual(kinds, ["confirmation", "event", "caughtUp"]);
  });

  test("the bridge is told how large a message may be, and a larger one is not taken", async () => {
    const fake = await serve(first((call) => call.send({ cursor: "x".repeat(300_000) })));
    const bridge = connect(fake.address, { maxMessageBytes: 100_000 });
    const { reconnects, events } = await readEvents(bridge, 1);
    assert.equal(fake.subscriptions[0]?.maxMessageBytes, 100_000);
    assert.deepEqual(events, e(2));
    assert.deepEqual(
      reconnects.map((r) => r.error?.code),
      [Code.ResourceExhausted],
    );
  });
});

describe("resuming", () => {
  test("goes on after what the caller committed, not after what it read", async () => {
    let current: Call | undefined;
    const fake = await serve((call) => {
      current = call;
      call.confirm();
      const from = Number(call.request.afterCursor.slice(1));
      for (const n of [1, 2, 3, 4]) if (n > from) call.event(n);
    });
    const events: string[] = [];
    let committed: string | undefined;
    for await (const { content, cursor } of subscribe(connect(fake.address), {
      request: { start: Start.EARLIEST },
      cursor: () => committed,
    })) {
      if (content.case !== "event") continue;
      events.push(content.value.id);
      if (cursor === "c2") committed = cursor; // 3 is read and not committed when the connection breaks
      if (cursor === "c3" && fake.subscriptions.length === 1) current?.cut();
      if (cursor === "c4" && fake.subscriptions.length === 2) break;
    }
    assert.deepEqual(
      fake.subscriptions.map((s) => [s.afterCursor, s.start]),
      [
        ["", Start.EARLIEST],
        ["c2", Start.UNSPECIFIED],
      ],
    );
    assert.deepEqual(
      events.filter((id) => id !== "sandbox.e4"),
      e(1, 2, 3, 3),
    );
  });

  test("without a function goes on after the last message that was handled", async () => {
    const fake = await serve(
      first((call) => {
        call.event(1);
        call.end(14);
      }),
    );
    const { events } = await readEvents(connect(fake.address), 2, {
      cursor: "before",
      request: { filter: { eventTypes: ["PNR_V3"] } },
    });
    assert.deepEqual(events, e(1, 2));
    assert.deepEqual(
      fake.subscriptions.map((s) => [s.afterCursor, s.filter?.eventTypes]),
      [
        ["before", ["PNR_V3"]],
        ["c1", ["PNR_V3"]],
      ],
    );
  });

  const ends: [string, (call: Call) => void][] = [
    ["the connection is cut", (call) => call.cut()],
    ["the connection is cut in an event", (call) => call.halfAMessage(() => call.cut())],
    ["the stream ends in an event, with trailers", (call) => call.halfAMessage(() => call.end())],
    ["the stream ends in an event, without trailers", (call) => call.halfAMessage(() => call.endWithoutStatus())],
    ["the stream is reset", (call) => call.stream.close(8)],
    ["the stream ends without a status", (call) => call.endWithoutStatus()],
    ["the stream ends with OK", (call) => call.end()],
    ["the status is none that exists", (call) => call.end(99)],
    ["a message cannot be decoded", (call) => call.sendBytes(new Uint8Array([0x0a, 0xff, 0x7f]))],
  ];
  for (const [name, end] of ends) {
    test(`when ${name}`, async () => {
      const fake = await serve(first(end));
      assert.deepEqual((await readEvents(connect(fake.address), 1)).events, e(2));
    });
  }

  test("when nobody listens yet", async () => {
    const gone = await FakeBridge.start({});
    const { address, port } = gone;
    await gone.stop();
    const codes: (Code | undefined)[] = [];
    for await (const { content } of subscribe(connect(address), {
      onReconnect: ({ error }) => {
        if (codes.push(error?.code) === 2) void serve((call) => call.event(1), port);
      },
    })) {
      assert.equal(content.case, "event");
      break;
    }
    assert.deepEqual([...new Set(codes)], [Code.Unavailable]);
  });
});

describe("status codes", () => {
  const stop = new Set([
    Code.InvalidArgument,
    Code.NotFound,
    Code.OutOfRange,
    Code.PermissionDenied,
    Code.Unauthenticated,
    Code.FailedPrecondition,
    Code.Unimplemented,
    Code.DataLoss,
  ]);
  const resume = [
    Code.Canceled,
    Code.Unknown,
    Code.DeadlineExceeded,
    Code.ResourceExhausted,
    Code.Aborted,
    Code.Internal,
    Code.Unavailable,
  ];
  for (const code of [...stop, ...resume]) {
    test(`${Code[code]} means ${stop.has(code) ? "stop" : "resume"}`, async () => {
      const fake = await serve((call) => {
        if (call.number === 0) call.end(code);
        else call.event(2);
      });
      const read = readEvents(connect(fake.address), 1);
      if (stop.has(code))
        await assert.rejects(read, (error) => error instanceof BridgeError && error.code === code && error.reason === "");
      else assert.deepEqual((await read).events, e(2));
    });
  }

  test("an error tells its reason and metadata", async () => {
    const fake = await serve((call) => {
      call.confirm();
      call.end(Code.OutOfRange, "CURSOR_EXPIRED", { earliest_cursor: "c7", earliest_time: "2026-11-01T00:00:00Z" });
    });
    await assert.rejects(readEvents(connect(fake.address), 1, { cursor: () => "c1" }), (error) => {
      assert.ok(error instanceof BridgeError);
      assert.deepEqual([error.code, error.reason], [Code.OutOfRange, "CURSOR_EXPIRED"]);
      assert.deepEqual(error.metadata, { earliest_cursor: "c7", earliest_time: "2026-11-01T00:00:00Z" });
      assert.match(error.message, /^CURSOR_EXPIRED: .*told by the fake/);
      return true;
    });
    assert.equal(fake.subscriptions.length, 1);
  });
});

describe("waiting", () => {
  test("after goodbye not before retry_after, also when the server forgets to end the stream", async () => {
    const retryAfter = durationFromMs(700);
    const fake = await serve(
      first((call) =>
        call.send({ cursor: "c1", content: { case: "goodbye", value: { reason: GoodbyeReason.DRAIN, retryAfter } } }),
      ),
    );
    const began = performance.now();
    const { reconnects, events } = await readEvents(connect(fake.address), 1);
    assert.ok(performance.now() - began >= 699);
    assert.deepEqual(
      reconnects.map((r) => [r.waitMs, r.goodbye?.reason, r.error]),
      [[700, GoodbyeReason.DRAIN, undefined]],
    );
    assert.deepEqual([fake.subscriptions[1]?.afterCursor, events], ["c1", e(2)]);
  });

  test("doubles, and begins anew after a message that is not a confirmation", async (t) => {
    t.mock.method(Math, "random", () => 0);
    const fake = await serve((call) => {
      call.confirm();
      if (call.number === 2) call.send({ cursor: "c1", content: { case: "heartbeat", value: {} } });
      if (call.number < 4) call.end(Code.Unavailable);
      else call.event(2);
    });
    const { reconnects } = await readEvents(connect(fake.address), 1);
    assert.deepEqual(
      reconnects.map((r) => r.waitMs),
      [125, 250, 125, 250],
    );
  });
});

describe("a dead connection", () => {
  async function frozen(
    heartbeatMs: number | undefined,
    options?: ConstructorParameters<typeof Bridge>[1],
    request: SubscribeOptions["request"] = {},
  ) {
    let wire: Wire | undefined;
    const fake = await serve((call) => {
      if (call.number === 0) {
        if (heartbeatMs !== undefined) {
          call.confirm(heartbeatMs);
          call.event(1);
        } else wire?.freeze();
      } else call.event(2);
    });
    wire = await Wire.to(fake.port);
    stops.push(() => wire?.stop());
    const reconnects: Reconnect[] = [];
    for await (const { content } of subscribe(connect(wire.address, options), {
      request,
      onReconnect: (r) => reconnects.push(r),
    })) {
      if (content.case !== "event") continue;
      if (content.value.id === "sandbox.e2") break;
      wire.freeze();
    }
    assert.equal(fake.connections, 2, "the next attempt took a new connection");
    return reconnects.map((r) => [r.error?.code, r.error?.rawMessage]);
  }

  test("is noticed after three of the confirmed heartbeat intervals", async () => {
    assert.deepEqual(await frozen(100, {}, { heartbeatInterval: durationFromMs(60_000) }), [
      [Code.DeadlineExceeded, "no message for three heartbeat intervals"],
    ]);
  });

  test("is noticed after three of the requested intervals, before a confirmation came", async () => {
    assert.deepEqual(await frozen(undefined, {}, { heartbeatInterval: durationFromMs(100) }), [
      [Code.DeadlineExceeded, "no message for three heartbeat intervals"],
    ]);
  });

  test("is noticed by pings sooner than that", async () => {
    assert.deepEqual(await frozen(60_000, { pingIntervalMs: 100, pingTimeoutMs: 100 }), [[Code.Unavailable, "PING timed out"]]);
  });

  test("is not what a slow reader has", async () => {
    const fake = await serve((call) => {
      call.confirm(50);
      for (const n of [1, 2, 3]) call.event(n);
    });
    const seen = [];
    for await (const { content } of subscribe(connect(fake.address), { onReconnect: () => assert.fail("reconnects") })) {
      if (content.case !== "event") continue;
      if (seen.push(content.value.id) === 3) break;
      await new Promise((resolve) => setTimeout(resolve, 200)); // longer than three intervals: what the test is about
    }
    assert.deepEqual(seen, e(1, 2, 3));
    assert.equal(fake.subscriptions.length, 1);
  });
});

describe("ending", () => {
  test("an aborted signal ends the iteration after the message in hand, and the call", async () => {
    let call: Call | undefined;
    const fake = await serve((c) => {
      call = c;
      c.confirm();
      c.event(1);
      c.event(2);
    });
    const stop = new AbortController();
    const seen = [];
    for await (const { content } of subscribe(connect(fake.address), { signal: stop.signal })) {
      seen.push(content.case);
      if (content.case === "event") stop.abort();
    }
    assert.deepEqual(seen, ["confirmation", "event"]);
    await call?.closed();
  });

  test("an aborted signal ends a wait for a message", async () => {
    const stop = new AbortController();
    const fake = await serve((call) => {
      call.confirm();
      setImmediate(() => stop.abort());
    });
    for await (const { content } of subscribe(connect(fake.address), { signal: stop.signal }))
      assert.equal(content.case, "confirmation");
  });

  test("an aborted signal ends a wait for another attempt", async () => {
    const stop = new AbortController();
    const fake = await serve((call) =>
      call.send({ cursor: "c1", content: { case: "goodbye", value: { retryAfter: durationFromMs(3_600_000) } } }),
    );
    const onReconnect = () => setImmediate(() => stop.abort());
    for await (const { content } of subscribe(connect(fake.address), { signal: stop.signal, onReconnect }))
      assert.equal(content.case, "goodbye");
  });

  test("leaving the loop ends the call", async () => {
    let call: Call | undefined;
    const fake = await serve((c) => {
      call = c;
      c.event(1);
    });
    for await (const message of subscribe(connect(fake.address))) {
      assert.ok(message);
      break;
    }
    await call?.closed();
  });
});
