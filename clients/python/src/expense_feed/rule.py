"""The rule: how events change expenses.

Deliveries come in any order and more than once; every order gives the same table.
"""

import json
import math
import re
from dataclasses import dataclass
from typing import Any, Self

from spotbridge.v1.event_pb2 import Event
from spotnana.payload.v1.pnr_pb2 import PnrData

EVENT_TYPE = "PNR_V3"
OPERATIONS = ("BOOKING_TICKETED", "TICKET_VOIDED", "TICKET_REFUNDED")


@dataclass
class Expense:
    """A row of the table, its columns in their order."""

    ticket_number: str
    pnr_id: str = ""
    organization_id: str = ""
    traveler_id: str = ""
    currency: str = ""
    amount_milli: int = 0
    refund_milli: int = 0
    net_milli: int = 0
    state: str = ""
    version: int = 0
    event_id: str = ""
    issued: int = 0
    voided: int = 0
    refunded: int = 0
    refund_version: int = 0
    refund_event: str = ""


@dataclass(frozen=True)
class Ticket:
    """A ticket of a booking, and the traveler who holds it."""

    traveler_id: str
    refund_milli: int | None


@dataclass(frozen=True)
class Booking:
    """What expenses take from the payload of PNR_V3."""

    currency: str
    amount_milli: int
    first_traveler_id: str
    tickets: dict[str, Ticket]  # by number; the first one counts

    @classmethod
    def from_typed(cls, pnr: PnrData) -> Self:
        tickets: dict[str, Ticket] = {}
        for traveler in pnr.air_pnr.traveler_infos:
            for ticket in traveler.tickets:
                refund = ticket.refund_info.refund_amount
                given = ticket.refund_info.HasField("refund_amount")
                refund_milli = milli(refund.base.amount) + milli(refund.tax.amount) if given else None
                tickets.setdefault(ticket.ticket_number, Ticket(traveler.user_id.id, refund_milli))
        first = pnr.pnr_travelers[0].user_id.id if pnr.pnr_travelers else ""
        return cls(pnr.total_fare.currency_code, milli(pnr.total_fare.amount), first, tickets)

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        """The same from an exact body. What has another type than documented is missing, as in the typed payload."""
        payload = member(json.loads(body.decode(errors="replace"), parse_int=float), "payload")
        pnr = member(payload, "data") if isinstance(member(payload, "data"), dict) else payload
        tickets: dict[str, Ticket] = {}
        for traveler in elements(member(pnr, "airPnr", "travelerInfos")):
            for ticket in elements(member(traveler, "tickets")):
                refund = member(ticket, "refundInfo", "refundAmount")
                amounts = milli(member(refund, "base", "amount")) + milli(member(refund, "tax", "amount"))
                refund_milli = amounts if isinstance(refund, dict) else None
                tickets.setdefault(
                    text(member(ticket, "ticketNumber")), Ticket(text(member(traveler, "userId", "id")), refund_milli)
                )
        first = text(member(next(iter(elements(member(pnr, "pnrTravelers"))), None), "userId", "id"))
        fare = member(pnr, "totalFare")
        return cls(text(member(fare, "currencyCode")), milli(member(fare, "amount")), first, tickets)


def milli(amount: Any) -> int:
    """An amount in thousandths; 0 where there is none, or none that thousandths of a double can hold exactly."""
    scaled = amount * 1000 + 0.5 if isinstance(amount, float) else 0.0
    return math.floor(scaled) if abs(scaled) < 2**53 else 0


def member(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def elements(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def text(value: Any) -> str:
    # JSON may hold half a surrogate pair, which is no text that SQLite takes.
    return re.sub("[\ud800-\udfff]", "\ufffd", value) if isinstance(value, str) else ""


def touched(event: Event) -> list[str]:
    """The tickets that an event changes, none for events that are not expenses."""
    if event.event_type != EVENT_TYPE or event.operation not in OPERATIONS:
        return []
    summary = event.operation_summary
    return list(dict.fromkeys([*summary.tickets_issued, *summary.tickets_voided, *summary.tickets_refunded]))


def apply(expense: Expense, event: Event, booking: Booking) -> None:
    """The rule: how an event changes the expense of a ticket that it touches."""
    number, summary = expense.ticket_number, event.operation_summary
    # Texts compare by code point here, which is the order of their bytes in UTF-8.
    order = (event.entity.version, event.id)
    ticket = booking.tickets.get(number, Ticket(booking.first_traveler_id, None))

    expense.issued |= number in summary.tickets_issued
    expense.voided |= number in summary.tickets_voided
    expense.refunded |= number in summary.tickets_refunded
    if order > (expense.version, expense.event_id):
        expense.version, expense.event_id = order
        expense.pnr_id, expense.organization_id = event.pnr_id, event.organization_id
        expense.traveler_id = ticket.traveler_id
        expense.currency, expense.amount_milli = booking.currency, booking.amount_milli
    if number in summary.tickets_refunded and order > (expense.refund_version, expense.refund_event):
        expense.refund_version, expense.refund_event = order
        expense.refund_milli = booking.amount_milli if ticket.refund_milli is None else ticket.refund_milli
    expense.state = "VOIDED" if expense.voided else "REFUNDED" if expense.refunded else "ISSUED"
    expense.net_milli = 0 if expense.voided else expense.amount_milli - expense.refund_milli
