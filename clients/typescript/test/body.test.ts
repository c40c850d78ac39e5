import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { Bridge, BridgeError, Code, eventBody, subscribe } from "spotbridge";
import { FakeBridge, type Handlers } from "./fakebridge.js";

let stops: (() => unknown)[];
beforeEach(() => (stops = []));
afterEach(async () => {
  for (const stop of stops.toReversed()) await stop();
});

async function serve(handlers: Handlers): Promise<Bridge> {
  const fake = await FakeBridge.start(handlers);
  const bridge = new Bridge(fake.address);
  stops.push(
    () => fake.stop(),
    () => bridge.disconnect(),
  );
  return bridge;
}

test("a body is its chunks together; a read that breaks is begun anew", async () => {
  const bridge = await serve({
    body: (call) => {
      call.chunk(Buffer.from(`{"id":"${call.request.eventId}",`));
      if (call.number === 0) return call.end(Code.Unavailable);
      call.chunk(Buffer.from(`"n":1}`));
      call.end();
    },
  });
  assert.equal(Buffer.from(await eventBody(bridge, "sandbox.e1")).toString(), '{"id":"sandbox.e1","n":1}');
});

test("a read that stalls is begun anew", async () => {
  const bridge = await serve({
    body: (call) => {
      call.chunk(Buffer.from("x"));
      if (call.number > 0) call.end();
    },
  });
  assert.equal((await eventBody(bridge, "sandbox.e1", { stallMs: 100 })).length, 1);
});

test("a body that is no longer held is an error", async () => {
  const bridge = await serve({ body: (call) => call.end(Code.NotFound, "EVENT_NOT_FOUND") });
  await assert.rejects(
    eventBody(bridge, "sandbox.e1"),
    (error) => error instanceof BridgeError && error.reason === "EVENT_NOT_FOUND",
  );
});

test("an aborted signal ends the read", async () => {
  const stop = new AbortController();
  const bridge = await serve({ body: () => setImmediate(() => stop.abort()) });
  await assert.rejects(eventBody(bridge, "sandbox.e1", { signal: stop.signal }), { name: "AbortError" });
});

test("a body comes while the events of a stream on the same connection wait to be read", async () => {
  const body = Buffer.alloc(1 << 20, "b");
  const bridge = await serve({
    subscribe: (call) => {
      for (let n = 1; n <= 50; n++)
        call.send({ cursor: "c".repeat(100_000), content: { case: "event", value: { id: `sandbox.e${n}` } } });
    },
    body: (call) => {
      for (let at = 0; at < body.length; at += 1 << 16) call.chunk(body.subarray(at, at + (1 << 16)));
      call.end();
    },
  });
  let events = 0;
  for await (const message of subscribe(bridge, { onReconnect: () => assert.fail("reconnects") })) {
    assert.equal(message.content.case, "event");
    if (events++ === 0) assert.ok(body.equals(await eventBody(bridge, "sandbox.e1", { stallMs: 5000 })));
    if (events === 50) break;
  }
});
