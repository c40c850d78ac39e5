import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { create } from "@bufbuild/protobuf";
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { Bridge, BridgeError, Code, subscribe } from "spotbridge";
import { EventBatchSchema, EventSchema, EventView, Start, type SubscribeResponse } from "spotbridge/v1";
import { Store } from "../feed/store.js";
import { FakeBridge, type Handlers } from "./fakebridge.js";
import type { Openers } from "./opener.js";
import { end, RealBridge, skip } from "./realbridge.js";

const launcher = fileURLToPath(new URL("../../expense-feed", import.meta.url));

/** Waits until something holds. */
async function until(what: string, holds: () => boolean): Promise<void> {
  for (const deadline = Date.now() + 60_000; !holds(); await sleep(50))
    assert.ok(Date.now() < deadline, `not within a minute: ${what}`);
}

describe("the command line", () => {
  const dir = mkdtempSync(join(tmpdir(), "expense-feed-"));
  after(() => rmSync(dir, { recursive: true }));
  const env = { ...process.env, EXPENSES_DB: join(dir, "expenses.db") };

  for (const args of [["eat"], ["dump", "more"]]) {
    test(`${args.join(" ")} is wrong usage`, () => {
      const { status, stderr } = spawnSync(launcher, args, { env });
      assert.deepEqual([status, stderr.toString()], [2, "usage: expense-feed [run | dump | processed]\n"]);
    });
  }
  for (const heartbeat of ["4s", "61s", "5", "5.5s"]) {
    test(`a heartbeat of "${heartbeat}" is wrong usage`, () => {
      assert.equal(spawnSync(launcher, { env: { ...env, SPOTBRIDGE_HEARTBEAT: heartbeat } }).status, 2);
    });
  }
  for (const command of ["dump", "processed"]) {
    test(`${command} of nothing prints nothing`, () => {
      const { status, stdout } = spawnSync(launcher, [command], { env });
      assert.deepEqual([status, stdout.length], [0, 0]);
    });
  }
});

test("several may make the database at the same moment", async () => {
  const dir = mkdtempSync(join(tmpdir(), "expense-feed-"));
  const openers = 4;
  const arrived = new Int32Array(new SharedArrayBuffer(50 * Int32Array.BYTES_PER_ELEMENT));
  const workerData: Openers = { dir, openers, arrived };
  const workers = Array.from({ length: openers }, () => new Worker(new URL("./opener.js", import.meta.url), { workerData }));
  const ends = workers.map((worker) => once(worker, "exit")); // an error of the thread is an error here
  try {
    await Promise.all(ends);
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
    rmSync(dir, { recursive: true });
  }
});

describe("against a bridge that is not as expected", () => {
  const dir = mkdtempSync(join(tmpdir(), "expense-feed-"));
  after(() => rmSync(dir, { recursive: true }));

  /** Runs a feed until it ends by itself or `done` says that it may. */
  async function runAgainst(answer: NonNullable<Handlers["subscribe"]>, db: string, done: () => boolean = () => false) {
    const fake = await FakeBridge.start({ subscribe: answer });
    const child = spawn(launcher, {
      env: { ...process.env, SPOTBRIDGE_GRPC: fake.address, EXPENSES_DB: join(dir, db) },
      stdio: ["ignore", "ignore", "pipe"],
    });
    let notices = "";
    child.stderr.on("data", (text: Buffer) => (notices += text.toString()));
    try {
      await until("the feed ended, or had enough", () => child.exitCode !== null || done());
      return { code: await end(child, "SIGTERM"), notices: () => notices, requests: fake.subscriptions };
    } finally {
      await fake.stop();
    }
  }

  test("a position that is lost ends it with the reason, and is kept", async () => {
    const store = new Store(join(dir, "expired.db"));
    store.process([], "c1");
    const { code, notices, requests } = await runAgainst(
      (call) => call.end(Code.OutOfRange, "CURSOR_EXPIRED", { earliest_cursor: "c7" }),
      "expired.db",
    );
    assert.deepEqual([code, requests.map((r) => r.afterCursor), store.cursor()], [1, ["c1"], "c1"]);
    await until("the reason is told", () => notices() === "CURSOR_EXPIRED: [out_of_range] told by the fake\n");
    store.close();
  });

  test("the events of a batch count like single ones", async () => {
    const store = new Store(join(dir, "batch.db"));
    const { code, requests } = await runAgainst(
      (call) => {
        const event = (number: number, fields = {}) =>
          create(EventSchema, {
            id: `s.${number}`,
            eventType: "PNR_V3",
            operation: "BOOKING_TICKETED",
            operationSummary: { ticketsIssued: [`T${number}`] },
            ...fields,
          });
        call.send({ cursor: "c1", content: { case: "event", value: event(1) } });
        const events = [event(2), event(9, { eventType: "PNR_V4" }), event(3), event(1)];
        call.send({ cursor: "c5", content: { case: "events", value: create(EventBatchSchema, { events }) } });
      },
      "batch.db",
      () => store.cursor() === "c5",
    );
    assert.deepEqual([code, requests.map((r) => r.maxBatchEvents)], [0, [100]]);
    assert.deepEqual([store.processed(), store.dump().map((row) => row[0])], [["s.1", "s.2", "s.3", "s.9"], ["T1", "T2", "T3"]]);
    store.close();
  });

  test("unknown events and kinds move the position, and an event that comes again changes nothing", async () => {
    const store = new Store(join(dir, "unknown.db"));
    const { code, requests } = await runAgainst(
      (call) => {
        const send = (cursor: string, value: Extract<SubscribeResponse["content"], { case: "event" }>["value"]) =>
          call.send({ cursor, content: { case: "event", value } });
        const issued = create(EventSchema, {
          id: "s.1",
          eventType: "PNR_V3",
          operation: "BOOKING_TICKETED",
          operationSummary: { ticketsIssued: ["A"] },
        });
        send("c1", issued);
        send("c2", create(EventSchema, { ...issued, id: "s.2", operation: "TICKET_TRANSFERRED" }));
        send("c3", create(EventSchema, { ...issued, id: "s.3", eventType: "PNR_V4" }));
        send("c4", create(EventSchema, { ...issued, pnrId: "P9" }));
        call.sendBytes(
          new BinaryWriter()
            .uint32((1 << 3) | 2)
            .string("c5")
            .uint32((77 << 3) | 2)
            .bytes(new Uint8Array())
            .finish(),
        );
      },
      "unknown.db",
      () => store.cursor() === "c5",
    );
    assert.deepEqual([code, store.processed(), store.dump().map((row) => row[1])], [0, ["s.1", "s.2", "s.3"], [""]]);
    assert.deepEqual(
      requests.map((r) => [r.start, r.view, r.heartbeatInterval?.seconds]),
      [[Start.EARLIEST, EventView.TYPED, 15n]],
    );
    store.close();
  });
});

describe("against a real bridge", { skip }, () => {
  const dir = mkdtempSync(join(tmpdir(), "expense-feed-"));
  const bridge = new RealBridge(join(dir, "bridge"));
  const children: ChildProcess[] = [];
  before(() => bridge.start());
  after(async () => {
    for (const child of children) await end(child, "SIGKILL");
    await bridge.stop();
    rmSync(dir, { recursive: true });
  });

  const env = (db: string) => ({
    ...process.env,
    SPOTBRIDGE_GRPC: bridge.grpc,
    SPOTBRIDGE_HEARTBEAT: "5s",
    EXPENSES_DB: join(dir, db),
  });
  const lines = (db: string, command: "dump" | "processed") =>
    spawnSync(launcher, [command], { env: env(db) })
      .stdout.toString()
      .split("\n")
      .slice(0, -1);

  function feed(db: string): { child: ChildProcess; notices: () => string } {
    const child = spawn(launcher, { env: env(db), stdio: ["ignore", "ignore", "pipe"] });
    children.push(child);
    let notices = "";
    child.stderr?.on("data", (text: Buffer) => (notices += text.toString()));
    return { child, notices: () => notices };
  }

  /** Ids of the events that the feed's filter selects, by another read of the log. */
  async function selected(): Promise<string[]> {
    const connection = new Bridge(bridge.grpc);
    const ids = [];
    const filter = { eventTypes: ["PNR_V3"], operations: ["BOOKING_TICKETED", "TICKET_VOIDED", "TICKET_REFUNDED"] };
    for await (const { content } of subscribe(connection, {
      request: { filter, start: Start.EARLIEST, view: EventView.ENVELOPE, stopAtHead: true },
    })) {
      if (content.case === "event") ids.push(content.value.id);
    }
    connection.disconnect();
    return ids.toSorted();
  }

  /** A delivery of a ticket that is issued, in a body of so many bytes at least. */
  async function issue(ticketNumber: string, total: number, bytes = 0): Promise<void> {
    const file = join(dir, "body.json");
    const tickets = [{ ticketNumber }];
    const pnr = {
      pnrId: `P${ticketNumber}`,
      version: 1,
      dkNumber: "x".repeat(bytes),
      totalFare: { amount: total, currencyCode: "EUR" },
      airPnr: { travelerInfos: [{ userId: { id: "T1" }, tickets }] },
    };
    const body = {
      event_type: "PNR_V3",
      operation: "BOOKING_TICKETED",
      timestamp: new Date().toISOString(),
      operationSummary: { ticketsIssued: [ticketNumber] },
      payload: { pnrId: pnr.pnrId, data: pnr },
    };
    writeFileSync(file, JSON.stringify(body));
    await bridge.trigger("--file", file);
  }

  test("tickets of whole lives become expenses", async () => {
    await bridge.trigger("--lifecycle", "air-void");
    await bridge.trigger("--lifecycle", "air-refund");
    await issue("0101", 12.345);
    const { child } = feed("lives.db");
    const want = await selected();
    await until("all events are processed", () => lines("lives.db", "processed").length === want.length);
    assert.deepEqual(lines("lives.db", "processed"), want);
    const rows = lines("lives.db", "dump").map((line) => line.split("\t"));
    assert.deepEqual(
      rows.map((row) => row.length),
      rows.map(() => 11),
    );
    assert.deepEqual(new Set(rows.map((row) => row[8])), new Set(["VOIDED", "REFUNDED", "ISSUED"]));
    assert.deepEqual(rows.find(([ticket]) => ticket === "0101")?.slice(0, 10), [
      "0101",
      "P0101",
      "",
      "T1",
      "EUR",
      "12345",
      "0",
      "12345",
      "ISSUED",
      "1",
    ]);
    assert.ok(
      rows.filter((row) => row[8] !== "ISSUED").every((row) => Number(row[5]) > 0),
      "amounts of the samples are there",
    );
    assert.equal(await end(child, "SIGTERM"), 0);
  });

  test("an event that is too large for the stream is read from its body", async () => {
    await issue("0202", 7, 5 << 20);
    const { child } = feed("large.db");
    await until("the ticket is there", () =>
      lines("large.db", "dump").some((line) => line.startsWith("0202\tP0202\t\tT1\tEUR\t7000\t0\t7000\tISSUED\t1\t")),
    );
    assert.equal(await end(child, "SIGINT"), 0);
  });

  test("nothing is lost or taken twice while feed and bridge are killed", async () => {
    const sending = (async () => {
      for (let round = 0; round < 4; round++) {
        await bridge.trigger("PNR_V3", "BOOKING_TICKETED", "--count", "40", "--rate", "80");
        await bridge.trigger("--lifecycle", "air-refund");
        if (round === 1) {
          await bridge.stop("SIGKILL");
          await bridge.start();
        }
      }
    })();
    let { child } = feed("killed.db");
    const processed = (n: number) => until(`${n} are processed`, () => lines("killed.db", "processed").length >= n);
    for (const n of [10, 30, 60]) {
      await processed(n);
      await end(child, "SIGKILL");
      ({ child } = feed("killed.db"));
    }
    await sending;
    const want = await selected();
    await processed(want.length);
    assert.deepEqual(lines("killed.db", "processed"), want);
    assert.equal(await end(child, "SIGTERM"), 0);

    // A feed that reads everything at once has the same table.
    const { child: other } = feed("whole.db");
    await until("all are processed", () => lines("whole.db", "processed").length === want.length);
    assert.deepEqual(lines("killed.db", "dump"), lines("whole.db", "dump"));
    await end(other, "SIGTERM");
  });

  test("a feed outlives the bridge: it is told goodbye, and resumes with the next one", async () => {
    const { child, notices } = feed("goodbye.db");
    const all = (await selected()).length;
    await until("all are processed", () => lines("goodbye.db", "processed").length === all);
    await bridge.stop();
    await until("it was told goodbye", () => notices().includes("goodbye: DRAIN; reconnecting in"));
    await bridge.start();
    await issue("0303", 1);
    await until("the next event is processed", () => lines("goodbye.db", "processed").length === all + 1);
    assert.equal(await end(child, "SIGTERM"), 0);
  });

  test("the cursor of another log ends the feed with the reason", async () => {
    const other = new RealBridge(join(dir, "other"));
    await other.start();
    try {
      const connection = new Bridge(other.grpc);
      let cursor = "";
      for await (const message of subscribe(connection)) if ((cursor = message.cursor)) break;
      await assert.rejects(
        subscribe(new Bridge(bridge.grpc), { cursor }).next(),
        (error) => error instanceof BridgeError && error.reason === "CURSOR_FOREIGN",
      );
      connection.disconnect();

      const { child } = feed("foreign.db");
      await until("it has a position", () => lines("foreign.db", "processed").length > 0);
      await end(child, "SIGTERM");
      const { status, stderr } = spawnSync(launcher, { env: { ...env("foreign.db"), SPOTBRIDGE_GRPC: other.grpc } });
      assert.equal(status, 1);
      assert.match(stderr.toString(), /^CURSOR_FOREIGN: \[invalid_argument\] [^\n]+\n$/);
    } finally {
      await other.stop();
    }
  });
});
