import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type Event, EventSchema } from "spotbridge/v1";
import { contentOf, contentOfBody } from "../feed/booking.js";
import { counts, milli } from "../feed/rule.js";
import { Store } from "../feed/store.js";

type Init = MessageInitShape<typeof EventSchema>;

function event(
  id: string,
  version: number | undefined,
  summary: Init["operationSummary"],
  payload: Init["payload"],
  operation = "BOOKING_TICKETED",
): Event {
  const init: Init = { id, eventType: "PNR_V3", operation, pnrId: "P1", organizationId: "O1" };
  if (version !== undefined) init.entity = { version };
  if (summary) init.operationSummary = summary;
  if (payload) init.payload = payload;
  return create(EventSchema, init);
}

const usd = (amount: number) => ({ amount, currencyCode: "USD" });

/** A booking in which traveler T2 holds ticket A, with a refund of base and tax when these are given. */
function booking(total: number, refund?: { base?: number; tax?: number }): Init["payload"] {
  const refundAmount = {
    base: refund?.base === undefined ? undefined : usd(refund.base),
    tax: refund?.tax === undefined ? undefined : usd(refund.tax),
  };
  return {
    case: "pnrV3",
    value: {
      totalFare: usd(total),
      pnrTravelers: [{ userId: { id: "T1" } }],
      airPnr: {
        travelerInfos: [
          { userId: { id: "T1" }, tickets: [{ ticketNumber: "other" }] },
          { userId: { id: "T2" }, tickets: [{ ticketNumber: "A", ...(refund ? { refundInfo: { refundAmount } } : {}) }] },
        ],
      },
    },
  };
}

/** Processes events in their order and returns the lines of the dump. */
function table(events: Event[]): string[] {
  const store = new Store(":memory:");
  try {
    store.process(
      events.map((e) => ({ event: e, content: counts(e) ? contentOf(e) : undefined })),
      "c",
    );
    return store.dump().map((row) => row.join(" "));
  } finally {
    store.close();
  }
}

function* orders<T>(items: T[]): Generator<T[]> {
  if (items.length < 2) yield items;
  for (const [i, item] of items.entries())
    for (const rest of orders(items.toSpliced(i, 1))) if (items.length > 1) yield [item, ...rest];
}

describe("the table is the same for every order of deliveries, and for repeats", () => {
  const lives: Record<string, { events: Event[]; want: string[] }> = {
    "issued, updated, refunded": {
      events: [
        event("s.1", 1, { ticketsIssued: ["A"] }, booking(100)),
        event("s.2", 2, { ticketsIssued: ["A"] }, booking(120.5)),
        event("s.3", 3, { ticketsRefunded: ["A"] }, booking(120.5, { base: 80.25, tax: 10.005 }), "TICKET_REFUNDED"),
      ],
      want: ["A P1 O1 T2 USD 120500 90255 30245 REFUNDED 3 s.3"],
    },
    "voided, and named as issued by a later version": {
      events: [
        event("s.1", 1, { ticketsIssued: ["A"] }, booking(100)),
        event("s.2", 2, { ticketsVoided: ["A"] }, booking(0), "TICKET_VOIDED"),
        event("s.3", 3, { ticketsIssued: ["A"] }, booking(50)),
      ],
      want: ["A P1 O1 T2 USD 50000 0 0 VOIDED 3 s.3"],
    },
    "refunded twice, in versions that were swapped": {
      events: [
        event("s.1", 1, { ticketsIssued: ["A"] }, booking(100)),
        event("s.9", 2, { ticketsRefunded: ["A"] }, booking(100, { base: 10 }), "TICKET_REFUNDED"),
        event("s.3", 3, { ticketsRefunded: ["A"] }, booking(100, { tax: 20 }), "TICKET_REFUNDED"),
        event("s.4", 4, { ticketsIssued: ["A"] }, booking(101)),
      ],
      want: ["A P1 O1 T2 USD 101000 20000 81000 REFUNDED 4 s.4"],
    },
    "an exchange: one ticket is refunded and another issued, by one event": {
      events: [
        event("s.1", 1, { ticketsIssued: ["A"] }, booking(100)),
        event("s.2", 2, { ticketsIssued: ["B"], ticketsRefunded: ["A"] }, booking(130, { base: 90 })),
      ],
      want: ["A P1 O1 T2 USD 130000 90000 40000 REFUNDED 2 s.2", "B P1 O1 T1 USD 130000 0 130000 ISSUED 2 s.2"],
    },
    "one version: the bytes of the id decide": {
      events: ["s.Z", "s.a", "s.9", "s._"].map((id, i) => event(id, 1, { ticketsIssued: ["A"] }, booking(i))),
      want: ["A P1 O1 T2 USD 1000 0 1000 ISSUED 1 s.a"],
    },
    "without versions, payloads and refund amounts": {
      events: [
        event("s.1", undefined, { ticketsIssued: ["A"] }, { case: undefined }),
        event("s.2", undefined, { ticketsRefunded: ["A"] }, booking(70), "TICKET_REFUNDED"),
        event(
          "s.3",
          undefined,
          { ticketsIssued: ["A"] },
          { case: "other", value: { kind: { case: "stringValue", value: "no booking" } } },
        ),
      ],
      want: ["A P1 O1   0 70000 -70000 REFUNDED 0 s.3"],
    },
    "events that do not count": {
      events: [
        event("s.1", 1, { ticketsIssued: ["A"] }, booking(100)),
        event("s.2", 2, { ticketsVoided: ["A"] }, booking(100), "BOOKING_UPDATED"),
        event("s.3", 3, { ticketsVoided: ["A"] }, booking(100), "TICKET_EATEN"),
        create(EventSchema, {
          id: "s.4",
          eventType: "PNR_V4",
          operation: "TICKET_VOIDED",
          operationSummary: { ticketsVoided: ["A"] },
        }),
        event("s.5", 5, undefined, booking(100)),
      ],
      want: ["A P1 O1 T2 USD 100000 0 100000 ISSUED 1 s.1"],
    },
  };
  for (const [name, { events, want }] of Object.entries(lives)) {
    test(name, () => {
      for (const order of orders(events)) {
        assert.deepEqual(table(order), want);
        assert.deepEqual(table([...order, ...order.toReversed()]), want);
      }
    });
  }
});

test("an event is processed once, and moves the position every time", () => {
  const store = new Store(":memory:");
  const e = event("s.1", 1, { ticketsIssued: ["A"] }, booking(1));
  assert.equal(store.cursor(), undefined);
  store.process([{ event: e, content: contentOf(e) }], "c1");
  const voided = contentOf(event("s.1", 1, { ticketsVoided: ["A"] }, booking(1)));
  store.process([{ event: e, content: voided }], "c2"); // the same id, whatever it says
  store.process([{ event: event("s.0", 1, undefined, undefined, "NEW_OPERATION"), content: undefined }], "c3");
  assert.deepEqual([store.dump().map((row) => row[8]), store.processed(), store.cursor()], [["ISSUED"], ["s.0", "s.1"], "c3"]);
  store.close();
});

test("nothing of a message is kept when a part of it cannot be", () => {
  const store = new Store(":memory:");
  const e = event("s.1", 1, { ticketsIssued: ["A"] }, booking(1));
  const broken = { event: undefined as unknown as Event, content: undefined };
  assert.throws(() => store.process([{ event: e, content: contentOf(e) }, broken], "c1"), TypeError);
  assert.deepEqual([store.dump(), store.processed(), store.cursor()], [[], [], undefined]);
  store.close();
});

test("amounts are rounded as everywhere", () => {
  const cases: [number | undefined, number][] = [
    [1.0005, 1001],
    [1.0004999, 1000],
    [-1.0005, -1000],
    [0.1 + 0.2, 300],
    [1234567.891, 1234567891],
    [undefined, 0],
    [Number.NaN, 0],
    [Infinity, 0],
  ];
  assert.deepEqual(
    cases.map(([amount]) => milli({ amount })),
    cases.map(([, want]) => want),
  );
});

describe("the body of an omitted event says the same as its typed payload", () => {
  const pnr = {
    totalFare: usd(120.5),
    pnrTravelers: [{ userId: { id: "T1" } }],
    airPnr: {
      travelerInfos: [
        {
          userId: { id: "T2" },
          tickets: [{ ticketNumber: "A", refundInfo: { refundAmount: { base: usd(80), tax: { amount: "1.5e1" } } } }],
        },
      ],
    },
  };
  const typed = event("s.1", 1, { ticketsRefunded: ["A"] }, booking(120.5, { base: 80, tax: 15 }));
  const bodies: Record<string, unknown> = { "as it is": pnr, wrapped: { pnrId: "P1", data: pnr } };
  for (const [name, payload] of Object.entries(bodies)) {
    test(name, () => {
      const store = new Store(":memory:");
      const omitted = event("s.1", 1, typed.operationSummary, undefined);
      const content = contentOfBody(omitted, Buffer.from(`\uFEFF${JSON.stringify({ payload })}`));
      store.process([{ event: omitted, content }], "c");
      assert.deepEqual(
        store.dump().map((row) => row.join(" ")),
        table([typed]),
      );
      store.close();
    });
  }

  test("without a summary on the envelope, the body's counts", () => {
    const omitted = event("s.1", 1, undefined, undefined);
    const content = contentOfBody(
      omitted,
      Buffer.from(JSON.stringify({ operationSummary: { ticketsIssued: ["A", 7], ticketsVoided: null }, payload: pnr })),
    );
    assert.deepEqual(content.summary, { ticketsIssued: ["A", "7"], ticketsVoided: [], ticketsRefunded: [] });
  });

  test("what has another type than it should have is left out", () => {
    const strange = {
      totalFare: [1],
      pnrTravelers: { userId: "T1" },
      airPnr: { travelerInfos: [null, { userId: 7, tickets: [3, { ticketNumber: 5, refundInfo: "x" }] }] },
    };
    const content = contentOfBody(event("s.1", 1, undefined, undefined), Buffer.from(JSON.stringify({ payload: strange })));
    assert.deepEqual(JSON.parse(JSON.stringify(content.booking)), {
      totalFare: {},
      pnrTravelers: [],
      airPnr: {
        travelerInfos: [
          { userId: {}, tickets: [] },
          { userId: {}, tickets: [{}, {}] },
        ],
      },
    });
  });
});
