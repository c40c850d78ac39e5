/** Drives a real EventSource, in Debian's Chromium, against a real bridge: what docs/streams.md says of browsers. */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type Browser, chromium, type Page } from "playwright-core";
import { RealBridge, skip as noBridge } from "../test/realbridge.js";
import { Proxy } from "./proxy.js";

const executablePath = "/usr/bin/chromium";
const skip = noBridge || (existsSync(executablePath) ? false : `there is no ${executablePath}`);
const flags = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** What the page notes: the name of an event, its id, and its data; "broken" and "ended" are the browser's own errors. */
interface Note {
  name: string;
  id: string;
  data: string | undefined;
}

declare global {
  var notes: Note[];
  var source: EventSource;
}

/** Runs in the page. */
function listen(path: string): void {
  globalThis.source?.close();
  globalThis.notes = [];
  const source = (globalThis.source = new EventSource(path));
  const note = (name: string) => (e: MessageEvent<string>) => globalThis.notes.push({ name, id: e.lastEventId, data: e.data });
  for (const name of ["confirmation", "event", "heartbeat", "snapshot_end", "caught_up", "fell_behind", "goodbye", "message"])
    source.addEventListener(name, note(name));
  source.addEventListener("error", (e) => {
    if (e instanceof MessageEvent) note("error")(e);
    else globalThis.notes.push({ name: source.readyState === EventSource.CLOSED ? "ended" : "broken", id: "", data: undefined });
  });
}

describe("EventSource in Chromium", { skip }, () => {
  const dir = mkdtempSync(join(tmpdir(), "eventsource-"));
  let bridge: RealBridge;
  let proxy: Proxy;
  let browser: Browser;
  let page: Page;

  before(async () => {
    browser = await chromium.launch({ executablePath, args: flags });
  });
  after(async () => {
    await browser.close();
    rmSync(dir, { recursive: true });
  });
  afterEach(async () => {
    await page.close();
    await proxy.stop();
    await bridge.stop("SIGKILL");
  });

  async function setUp(name: string, env: NodeJS.ProcessEnv = {}): Promise<void> {
    bridge = new RealBridge(join(dir, name));
    await bridge.start(env);
    proxy = new Proxy(() => bridge.rest);
    page = await browser.newPage();
    await page.goto(await proxy.start());
  }

  const notes = async (...names: string[]): Promise<Note[]> =>
    (await page.evaluate(() => globalThis.notes)).filter(({ name }) => names.length === 0 || names.includes(name));
  const seen = (name: string, count = 1) =>
    page.waitForFunction(([n, c]) => globalThis.notes.filter((note) => note.name === n).length >= c, [name, count] as const);
  const eventIds = async () =>
    (await notes("event")).map(({ data }) => (JSON.parse(data ?? "") as { event: { id: string } }).event.id);

  async function nothingHeld(): Promise<void> {
    for (const deadline = Date.now() + 90_000; ; await sleep(200)) {
      const { total = "0" } = (await (await fetch(`http://${bridge.rest}/v1/events:count`)).json()) as { total?: string };
      if (total === "0") return;
      assert.ok(Date.now() < deadline, `${total} events are still held after 90 s`);
    }
  }

  test("events have names and ids, and after a cut the browser resumes by itself, without a gap or a repeat", async () => {
    await setUp("cut");
    await bridge.trigger("PNR_V3", "--count", "5");
    await page.evaluate(listen, "/v1/events:subscribe?start=EARLIEST&event_types=PNR_V3&view=ENVELOPE");
    await seen("caught_up");
    const first = await notes();
    assert.deepEqual(
      first.map(({ name }) => name),
      ["confirmation", ...Array.from({ length: 5 }, () => "event"), "caught_up"],
    );
    assert.equal(
      new Set(first.filter(({ name }) => name === "event").map(({ id }) => id)).size,
      5,
      "each event has an id of its own",
    );
    assert.deepEqual(proxy.lastEventIds, [undefined]);

    proxy.cut();
    await bridge.trigger("PNR_V3", "--count", "3");
    await seen("event", 8);
    assert.deepEqual(proxy.lastEventIds, [undefined, first.at(-1)?.id]);
    assert.equal(new Set(await eventIds()).size, 8);
    assert.deepEqual(
      (await notes("broken", "ended", "error", "message")).map(({ name }) => name),
      ["broken"],
    );
  });

  test("after goodbye the browser resumes by itself", async () => {
    await setUp("goodbye", { SPOTBRIDGE_STREAMS_MAX_AGE: "2s" });
    await bridge.trigger("PNR_V3", "--count", "2");
    await page.evaluate(listen, "/v1/events:subscribe?start=EARLIEST&view=ENVELOPE");
    await seen("goodbye");
    await bridge.trigger("PNR_V3");
    await seen("event", 3);
    const [goodbye] = await notes("goodbye");
    assert.equal((JSON.parse(goodbye?.data ?? "") as { goodbye: { reason: string } }).goodbye.reason, "GOODBYE_REASON_MAX_AGE");
    assert.equal(proxy.lastEventIds[1], goodbye?.id);
    assert.equal(new Set(await eventIds()).size, 3);
  });

  test("while the bridge restarts the EventSource ends for good, and a new one resumes after the last id", async () => {
    await setUp("restart");
    await bridge.trigger("PNR_V3", "--count", "2");
    await page.evaluate(listen, "/v1/events:subscribe?start=EARLIEST&view=ENVELOPE");
    await seen("event", 2);
    await bridge.stop();
    await seen("goodbye");
    await seen("ended");
    const [last] = (await notes("goodbye")).slice(-1);
    await bridge.start();
    await bridge.trigger("PNR_V3");
    await page.evaluate(listen, `/v1/events:subscribe?view=ENVELOPE&after_cursor=${last?.id}`);
    await seen("event");
    await seen("caught_up");
    assert.equal((await eventIds()).length, 1);
  });

  test("an error in the stream is an error event without an id; here the position is lost, and that ends it for good", async () => {
    // A reader that does not read, while all that it has yet to get leaves the live window, history and the log.
    const short = { SPOTBRIDGE_LOG_MAX_AGE: "3s", SPOTBRIDGE_HISTORY_MAX_AGE: "3s", SPOTBRIDGE_STREAMS_RING_BYTES: "1MiB" };
    await setUp("lost", short);
    const file = join(dir, "large.json");
    const payload = { pnrId: "1", version: 1, dkNumber: "x".repeat(1 << 20) };
    writeFileSync(file, JSON.stringify({ event_type: "PNR_V3", operation: "BOOKING_UPDATED", payload }));
    await page.evaluate(listen, "/v1/events:subscribe?start=EARLIEST&view=RAW");
    await seen("caught_up");
    proxy.pause(true);
    await bridge.trigger("--file", file, "--count", "24");
    await nothingHeld();
    proxy.pause(false);
    await seen("ended");
    const all = await notes();
    // Where it stood still, in the live window or already in history, depends on how fast both ends were.
    const behind = all.findLastIndex(({ name }) => name === "fell_behind");
    assert.notEqual(behind, -1);
    assert.deepEqual(
      all.slice(behind + 1).flatMap(({ name }) => (name === "event" ? [] : name)),
      ["error", "broken", "ended"],
    );
    assert.equal(all.at(-3)?.name, "error", "nothing comes after it");
    const [last, error] = all.slice(-4);
    assert.match(error?.data ?? "", /CURSOR_EXPIRED.*earliest_cursor/);
    assert.deepEqual([error?.id, proxy.lastEventIds], [last?.id, [undefined, last?.id]]);
  });

  test("with stop_at_head the browser stops when it has everything", async () => {
    await setUp("head");
    await bridge.trigger("PNR_V3", "--count", "2");
    await page.evaluate(listen, "/v1/events:subscribe?start=EARLIEST&view=ENVELOPE&stop_at_head=true");
    await seen("ended");
    assert.deepEqual(
      (await notes()).map(({ name }) => name),
      ["confirmation", "event", "event", "caught_up", "broken", "ended"],
    );
  });

  test("a refused cursor ends it for good, with no event", async () => {
    await setUp("refused");
    await page.evaluate(listen, "/v1/events:subscribe?after_cursor=damaged");
    await seen("ended");
    assert.deepEqual(
      (await notes()).map(({ name }) => name),
      ["ended"],
    );
  });
});
