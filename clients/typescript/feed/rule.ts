import type { Event } from "spotbridge/v1";
import type { Booking, Content, Money, Ticket } from "./booking.js";

/** What is known of one ticket, in the columns of the table. Amounts are in thousandths, flags are 0 or 1. */
export interface Expense {
  ticket_number: string;
  pnr_id: string;
  organization_id: string;
  traveler_id: string;
  currency: string;
  amount_milli: number;
  refund_milli: number;
  net_milli: number;
  state: string;
  version: number;
  event_id: string;
  issued: number;
  voided: number;
  refunded: number;
  refund_version: number;
  refund_event: string;
}

export const operations = ["BOOKING_TICKETED", "TICKET_VOIDED", "TICKET_REFUNDED"];

/** Reports whether an event has a say in expenses. */
export function counts(event: Event): boolean {
  return event.eventType === "PNR_V3" && operations.includes(event.operation);
}

/** Returns the tickets that an event touches. */
export function ticketsOf({ summary }: Content): Set<string> {
  return new Set([...(summary?.ticketsIssued ?? []), ...(summary?.ticketsVoided ?? []), ...(summary?.ticketsRefunded ?? [])]);
}

/**
 * Returns the expense of a ticket after an event that touches it. The order of events does not matter and neither do
 * repeats: each part of the row is that of the greatest version and event id that had a say in it.
 */
export function apply(before: Expense | undefined, number: string, event: Event, { summary, booking }: Content): Expense {
  const row = before ? { ...before } : blank(number);
  const version = event.entity?.version ?? 0;
  const refunds = summary?.ticketsRefunded.includes(number) ?? false;
  if (summary?.ticketsIssued.includes(number)) row.issued = 1;
  if (summary?.ticketsVoided.includes(number)) row.voided = 1;
  if (refunds) row.refunded = 1;

  const { travelerId, ticket } = find(booking, number);
  if (isAfter(version, event.id, row.version, row.event_id)) {
    row.pnr_id = event.pnrId;
    row.organization_id = event.organizationId;
    row.traveler_id = travelerId;
    row.currency = booking.totalFare?.currencyCode ?? "";
    row.amount_milli = milli(booking.totalFare);
    row.version = version;
    row.event_id = event.id;
  }
  if (refunds && isAfter(version, event.id, row.refund_version, row.refund_event)) {
    const refund = ticket?.refundInfo?.refundAmount;
    row.refund_milli = refund ? milli(refund.base) + milli(refund.tax) : milli(booking.totalFare);
    row.refund_version = version;
    row.refund_event = event.id;
  }
  row.state = row.voided ? "VOIDED" : row.refunded ? "REFUNDED" : "ISSUED";
  row.net_milli = row.voided ? 0 : row.amount_milli - row.refund_milli;
  return row;
}

function blank(ticket_number: string): Expense {
  return {
    ticket_number,
    pnr_id: "",
    organization_id: "",
    traveler_id: "",
    currency: "",
    amount_milli: 0,
    refund_milli: 0,
    net_milli: 0,
    state: "",
    version: 0,
    event_id: "",
    issued: 0,
    voided: 0,
    refunded: 0,
    refund_version: 0,
    refund_event: "",
  };
}

/** Compares by version, then by the bytes of the event id. */
function isAfter(version: number, id: string, otherVersion: number, otherId: string): boolean {
  return version === otherVersion ? Buffer.compare(Buffer.from(id), Buffer.from(otherId)) > 0 : version > otherVersion;
}

/** Finds a ticket, and the traveler who holds it; else the first traveler. */
function find(booking: Booking, number: string): { travelerId: string; ticket?: Ticket } {
  for (const { userId, tickets } of booking.airPnr?.travelerInfos ?? []) {
    const ticket = tickets.find((t) => t.ticketNumber === number);
    if (ticket) return { travelerId: userId?.id ?? "", ticket };
  }
  return { travelerId: booking.pnrTravelers[0]?.userId?.id ?? "" };
}

/** Returns an amount in thousandths. One that is no finite number counts as missing. */
export function milli(money: Money | undefined): number {
  const thousandths = Math.floor((money?.amount ?? 0) * 1000 + 0.5);
  return Number.isFinite(thousandths) ? thousandths : 0;
}
