import type { Event, OperationSummary } from "spotbridge/v1";

/** What the feed reads of the payload of PNR_V3. The generated PnrData is one. */
export interface Booking {
  totalFare?: Money | undefined;
  airPnr?: { travelerInfos: { userId?: UserId | undefined; tickets: Ticket[] }[] } | undefined;
  pnrTravelers: { userId?: UserId | undefined }[];
}
export interface Ticket {
  ticketNumber?: string | undefined;
  refundInfo?: { refundAmount?: { base?: Money | undefined; tax?: Money | undefined } | undefined } | undefined;
}
export interface Money {
  amount?: number | undefined;
  currencyCode?: string | undefined;
}
interface UserId {
  id?: string | undefined;
}

/** What an event says: the tickets that its operation touched, and its booking. */
export interface Content {
  summary: Pick<OperationSummary, "ticketsIssued" | "ticketsVoided" | "ticketsRefunded"> | undefined;
  booking: Booking;
}

/** Takes the content from an event that came whole. */
export function contentOf(event: Event): Content {
  return {
    summary: event.operationSummary,
    booking: event.payload.case === "pnrV3" ? event.payload.value : { pnrTravelers: [] },
  };
}

/**
 * Takes the content from the exact body of an event. What is missing or of another type than the schema says is left
 * out, as the bridge does when it converts a payload.
 */
export function contentOfBody(event: Event, body: Uint8Array): Content {
  const json: unknown = JSON.parse(new TextDecoder().decode(body));
  const payload = get(json, "payload");
  const wrapped = get(payload, "data");
  const pnr = isObject(wrapped) ? wrapped : payload;
  const summary = get(json, "operationSummary");
  return {
    // An envelope that is too large by itself goes without its summary.
    summary: event.operationSummary ?? {
      ticketsIssued: texts(get(summary, "ticketsIssued")),
      ticketsVoided: texts(get(summary, "ticketsVoided")),
      ticketsRefunded: texts(get(summary, "ticketsRefunded")),
    },
    booking: {
      totalFare: money(get(pnr, "totalFare")),
      airPnr: {
        travelerInfos: list(get(pnr, "airPnr", "travelerInfos")).map((t) => ({
          userId: userId(t),
          tickets: list(get(t, "tickets")).map(ticket),
        })),
      },
      pnrTravelers: list(get(pnr, "pnrTravelers")).map((t) => ({ userId: userId(t) })),
    },
  };
}

function ticket(json: unknown): Ticket {
  const refund = get(json, "refundInfo", "refundAmount");
  return {
    ticketNumber: text(get(json, "ticketNumber")),
    refundInfo: isObject(refund) ? { refundAmount: { base: money(refund["base"]), tax: money(refund["tax"]) } } : undefined,
  };
}

function money(json: unknown): Money {
  const amount = get(json, "amount");
  // ProtoJSON allows a number that stands in a string.
  const number = typeof amount === "string" && /^-?\d+(\.\d+)?(e[+-]?\d+)?$/i.test(amount) ? Number(amount) : amount;
  return { amount: typeof number === "number" ? number : undefined, currencyCode: text(get(json, "currencyCode")) };
}

const userId = (json: unknown): UserId => ({ id: text(get(json, "userId", "id")) });
const text = (json: unknown) => (typeof json === "string" ? json : undefined);
const texts = (json: unknown) => list(json).map((item) => (typeof item === "string" ? item : JSON.stringify(item)));
const list = (json: unknown): unknown[] => (Array.isArray(json) ? json : []);
const isObject = (json: unknown): json is Record<string, unknown> =>
  typeof json === "object" && json !== null && !Array.isArray(json);
const get = (json: unknown, ...path: string[]) =>
  path.reduce<unknown>((value, name) => (isObject(value) ? value[name] : undefined), json);
