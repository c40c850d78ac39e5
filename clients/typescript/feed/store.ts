import Database from "better-sqlite3";
import type { Event } from "spotbridge/v1";
import type { Content } from "./booking.js";
import { apply, type Expense, ticketsOf } from "./rule.js";

const schema = `
CREATE TABLE IF NOT EXISTS expenses (
  ticket_number TEXT PRIMARY KEY, pnr_id TEXT NOT NULL, organization_id TEXT NOT NULL, traveler_id TEXT NOT NULL,
  currency TEXT NOT NULL, amount_milli INTEGER NOT NULL, refund_milli INTEGER NOT NULL, net_milli INTEGER NOT NULL,
  state TEXT NOT NULL, version INTEGER NOT NULL, event_id TEXT NOT NULL,
  issued INTEGER NOT NULL, voided INTEGER NOT NULL, refunded INTEGER NOT NULL,
  refund_version INTEGER NOT NULL, refund_event TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS processed (event_id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS position (id INTEGER PRIMARY KEY CHECK (id = 1), cursor TEXT NOT NULL);`;

const select = "SELECT * FROM expenses WHERE ticket_number = ?";
const replace = `INSERT OR REPLACE INTO expenses VALUES (@ticket_number, @pnr_id, @organization_id, @traveler_id, @currency,
  @amount_milli, @refund_milli, @net_milli, @state, @version, @event_id, @issued, @voided, @refunded, @refund_version, @refund_event)`;
const dump = `SELECT ticket_number, pnr_id, organization_id, traveler_id, currency, amount_milli, refund_milli, net_milli,
  state, version, event_id FROM expenses ORDER BY ticket_number`;

/** An event to process. One that does not count has no content. */
export interface Item {
  event: Event;
  content: Content | undefined;
}

/** How long a database that is in use is waited for. */
const busyMs = 5000;

function sleep(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

/** The database of the feed. What it returned from is on disk, and all of a message is there or nothing of it. */
export class Store {
  readonly #db: Database.Database;

  constructor(path: string) {
    this.#db = new Database(path);
    for (const deadline = Date.now() + busyMs; !this.#prepare(deadline); ) sleep(20);
    this.#db.pragma("synchronous = FULL");
  }

  /** Makes the tables. SQLite does not wait by itself for another process that does so at the same moment. */
  #prepare(deadline: number): boolean {
    try {
      this.#db.pragma("journal_mode = WAL");
      this.#db.exec(schema);
      return true;
    } catch (error) {
      if (error instanceof Database.SqliteError && error.code.startsWith("SQLITE_BUSY") && Date.now() < deadline) return false;
      throw error;
    }
  }

  /** Returns the cursor to resume after; undefined at the very beginning. */
  cursor(): string | undefined {
    return this.#db.prepare<[], string>("SELECT cursor FROM position").pluck().get();
  }

  /** Processes the events of a message, each once, however often it comes, and moves the position; all of it or nothing. */
  process(items: Item[], cursor: string): void {
    this.#db.transaction(() => {
      for (const { event, content } of items) {
        const isNew = this.#db.prepare("INSERT OR IGNORE INTO processed VALUES (?)").run(event.id).changes > 0;
        if (isNew && content) this.#apply(event, content);
      }
      if (cursor) this.#db.prepare("INSERT OR REPLACE INTO position VALUES (1, ?)").run(cursor);
    })();
  }

  #apply(event: Event, content: Content): void {
    for (const number of ticketsOf(content)) {
      const before = this.#db.prepare<[string], Expense>(select).get(number);
      this.#db.prepare(replace).run(apply(before, number, event, content));
    }
  }

  /** Returns the table, a row per ticket. */
  dump(): (string | number)[][] {
    return this.#db.prepare<[], (string | number)[]>(dump).raw().all();
  }

  /** Returns the ids of all processed events. */
  processed(): string[] {
    return this.#db.prepare<[], string>("SELECT event_id FROM processed ORDER BY event_id").pluck().all();
  }

  close(): void {
    this.#db.close();
  }
}
