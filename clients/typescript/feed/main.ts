/** The expense feed: tickets that are issued become expenses, voided ones are reversed, refunded ones are reduced. */
import { Store } from "./store.js";

class UsageError extends Error {}

/** Notices are a line each, and never hold values of payloads. */
function notice(text: string): void {
  console.error(text.replaceAll(/\s+/g, " "));
}

async function run(store: Store): Promise<void> {
  const stop = new AbortController();
  for (const name of ["SIGTERM", "SIGINT"] as const) process.on(name, () => stop.abort());
  const address = process.env["SPOTBRIDGE_GRPC"] || "127.0.0.1:9090";
  const heartbeat = process.env["SPOTBRIDGE_HEARTBEAT"] || "15s";
  const seconds = Number(/^(\d{1,2})s$/.exec(heartbeat)?.[1]);
  if (!(seconds >= 5 && seconds <= 60)) throw new UsageError("SPOTBRIDGE_HEARTBEAT must be 5s to 60s");
  // Loaded when the signals are heeded: the generated messages take a moment. The other commands do without them.
  const { consume } = await import("./consume.js");
  await consume(store, address, { heartbeatMs: 1000 * seconds, signal: stop.signal, notice });
}

async function main([command = "run", ...rest]: string[]): Promise<void> {
  if (rest.length > 0 || !["run", "dump", "processed"].includes(command)) {
    throw new UsageError("usage: expense-feed [run | dump | processed]");
  }
  const store = new Store(process.env["EXPENSES_DB"] || "expenses.db");
  try {
    if (command === "run") await run(store);
    else if (command === "dump") for (const row of store.dump()) console.log(row.join("\t"));
    else for (const id of store.processed()) console.log(id);
  } finally {
    store.close();
  }
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  notice(error instanceof Error ? error.message : String(error));
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
