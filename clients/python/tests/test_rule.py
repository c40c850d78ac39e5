"""The rule, on events in every order, typed and as JSON."""

import itertools
import json
from collections.abc import Iterable
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from expense_feed.rule import Booking, Expense, apply, milli, touched
from spotbridge.v1.event_pb2 import EntityRef, Event, OperationSummary
from spotnana.payload.v1.pnr_pb2 import PnrData


def event(
    event_id: str,
    version: int | None = None,
    operation: str = "BOOKING_TICKETED",
    issued: Iterable[str] = (),
    voided: Iterable[str] = (),
    refunded: Iterable[str] = (),
    pnr_id: str = "p1",
    payload: dict[str, Any] | None = None,
) -> Event:
    summary = OperationSummary(tickets_issued=issued, tickets_voided=voided, tickets_refunded=refunded)
    return Event(
        id=event_id,
        event_type="PNR_V3",
        operation=operation,
        organization_id="o1",
        pnr_id=pnr_id,
        entity=EntityRef(version=version),
        operation_summary=summary,
        pnr_v3=ParseDict(payload or {}, PnrData()),
    )


def payload(
    fare: float,
    tickets: dict[str, tuple[str, Any]] | None = None,
    pnr_travelers: Iterable[str] = (),
    currency: str = "EUR",
) -> dict[str, Any]:
    """A booking; tickets by number, with their traveler and refundAmount."""
    return {
        "totalFare": {"amount": fare, "currencyCode": currency},
        "pnrTravelers": [{"userId": {"id": traveler}} for traveler in pnr_travelers],
        "airPnr": {
            "travelerInfos": [
                {
                    "userId": {"id": traveler},
                    "tickets": [
                        {
                            "ticketNumber": number,
                            **({"refundInfo": {"refundAmount": refund}} if refund is not None else {}),
                        }
                    ],
                }
                for number, (traveler, refund) in (tickets or {}).items()
            ]
        },
    }


def refund(base: float | None = None, tax: float | None = None) -> dict[str, Any]:
    return {name: {"amount": amount} for name, amount in (("base", base), ("tax", tax)) if amount is not None}


def table(events: Iterable[Event]) -> dict[str, Expense]:
    rows: dict[str, Expense] = {}
    for each in events:
        for number in touched(each):
            apply(rows.setdefault(number, Expense(number)), each, Booking.from_typed(each.pnr_v3))
    return rows


def test_a_ticket_is_issued() -> None:
    given = event("s.1", 2, issued=["t1"], payload=payload(12.5, {"t1": ("u1", None)}, ["u0"]))
    assert table([given]) == {
        "t1": Expense("t1", "p1", "o1", "u1", "EUR", 12_500, 0, 12_500, "ISSUED", 2, "s.1", issued=1)
    }


def test_a_ticket_is_voided() -> None:
    issued = event("s.1", 2, issued=["t1"], payload=payload(12.5))
    voided = event("s.2", 3, "TICKET_VOIDED", voided=["t1"], payload=payload(12.5))
    row = table([issued, voided])["t1"]
    assert (row.state, row.amount_milli, row.net_milli, row.issued, row.voided) == ("VOIDED", 12_500, 0, 1, 1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (refund(3.25, 1.5), 4_750),
        (refund(3.25), 3_250),
        (refund(tax=1.5), 1_500),
        (refund(), 0),
        (None, 12_500),  # no refundAmount: the fare
    ],
)
def test_a_ticket_is_refunded(given: Any, expected: int) -> None:
    refunded = event("s.2", 3, "TICKET_REFUNDED", refunded=["t1"], payload=payload(12.5, {"t1": ("u1", given)}))
    row = table([refunded])["t1"]
    assert (row.state, row.refund_milli, row.net_milli) == ("REFUNDED", expected, 12_500 - expected)
    assert (row.refund_version, row.refund_event) == (3, "s.2")


def test_the_refund_of_a_ticket_that_the_payload_does_not_hold_is_the_fare() -> None:
    row = table([event("s.1", 1, "TICKET_REFUNDED", refunded=["t1"], payload=payload(7, {"t2": ("u2", refund(1))}))])[
        "t1"
    ]
    assert row.refund_milli == 7_000


def test_an_exchange_refunds_one_ticket_and_issues_another_whatever_the_operation_is() -> None:
    booking = payload(50, {"old": ("u1", refund(20, 1)), "new": ("u1", None)})
    rows = table([event("s.1", 1, "BOOKING_TICKETED", issued=["new"], refunded=["old"], payload=booking)])
    assert {number: (row.state, row.net_milli) for number, row in rows.items()} == {
        "old": ("REFUNDED", 29_000),
        "new": ("ISSUED", 50_000),
    }


def test_a_ticket_in_every_list_is_touched_once_and_voided() -> None:
    rows = table([event("s.1", 1, issued=["t1", "t1"], voided=["t1"], refunded=["t1"], payload=payload(5))])
    row = rows["t1"]
    assert (row.issued, row.voided, row.refunded, row.state, row.net_milli, row.refund_milli) == (
        1,
        1,
        1,
        "VOIDED",
        0,
        5_000,
    )


def test_the_traveler_is_the_one_who_holds_the_ticket_else_the_first_else_none() -> None:
    booking = payload(1, {"t1": ("u1", None), "t2": ("u2", None), "anonymous": ("", None)}, ["first", "second"])
    rows = table(
        [
            event("s.1", 1, issued=["t1", "t2", "t3", "anonymous"], payload=booking),
            event("s.2", 1, issued=["t4"], payload=payload(1)),
        ]
    )
    travelers = {number: row.traveler_id for number, row in rows.items()}
    assert travelers == {"t1": "u1", "t2": "u2", "t3": "first", "t4": "", "anonymous": ""}


def test_of_tickets_with_one_number_the_first_counts() -> None:
    booking = payload(9, {"t1": ("u1", refund(1)), "t2": ("u2", refund(2))})
    for traveler in booking["airPnr"]["travelerInfos"]:
        traveler["tickets"][0]["ticketNumber"] = "t1"
    row = table([event("s.1", 1, "TICKET_REFUNDED", refunded=["t1"], payload=booking)])["t1"]
    assert (row.traveler_id, row.refund_milli) == ("u1", 1_000)
    assert Booking.from_json(body(booking)) == Booking.from_typed(ParseDict(booking, PnrData()))


def test_a_payload_that_is_missing_gives_empty_texts_and_zeroes() -> None:
    assert table([event("s.1", issued=["t1"])])["t1"] == Expense(
        "t1", "p1", "o1", state="ISSUED", event_id="s.1", issued=1
    )


def test_no_version_counts_as_zero_and_ids_decide_between_equal_versions() -> None:
    lower, higher = event("s.A", None, issued=["t1"], pnr_id="lower"), event("s.a", 0, issued=["t1"], pnr_id="higher")
    for order in ([lower, higher], [higher, lower]):
        assert (table(order)["t1"].pnr_id, table(order)["t1"].version) == ("higher", 0)


def test_ids_are_compared_as_bytes() -> None:
    # U+FF5E comes before U+1F600 in UTF-8, and after it in UTF-16.
    assert (
        table([event("s.\U0001f600", issued=["t1"]), event("s.\uff5e", issued=["t1"])])["t1"].event_id == "s.\U0001f600"
    )


@pytest.mark.parametrize("kind", ["OTHER", "TRIP_DETAILS_V3", ""])
def test_other_event_types_touch_nothing(kind: str) -> None:
    given = event("s.1", issued=["t1"])
    given.event_type = kind
    assert touched(given) == []


@pytest.mark.parametrize("operation", ["BOOKING_UPDATED", "booking_ticketed", ""])
def test_other_operations_touch_nothing(operation: str) -> None:
    assert touched(event("s.1", operation=operation, issued=["t1"])) == []


def test_every_order_and_every_repeat_gives_the_same_table() -> None:
    booking = {"t1": ("u1", None), "t2": ("u2", None)}
    events = [
        event("s.1", 1, issued=["t1", "t2"], payload=payload(100, booking, ["u1"])),
        event("s.2", 2, "TICKET_REFUNDED", refunded=["t1"], payload=payload(90, {"t1": ("u1", refund(30, 3))})),
        event(
            "s.3",
            2,
            "TICKET_REFUNDED",
            refunded=["t1"],
            payload=payload(91, {"t1": ("u1", refund(31, 3))}),
            pnr_id="p2",
        ),
        event("s.4", 3, "TICKET_VOIDED", voided=["t2"], payload=payload(10, booking, currency="USD")),
        event("s.5", 4, issued=["t3"], refunded=["t1"], payload=payload(55, {"t3": ("u3", None)})),
    ]
    expected = table(events)
    assert {number: (row.state, row.net_milli, row.event_id) for number, row in expected.items()} == {
        "t1": ("REFUNDED", 0, "s.5"),
        "t2": ("VOIDED", 0, "s.4"),
        "t3": ("ISSUED", 55_000, "s.5"),
    }
    for order in itertools.permutations(events):
        assert table(order) == expected
        assert table([*order, *order[:3]]) == expected


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (0.0, 0),
        (1663.58, 1_663_580),
        (0.0005, 1),
        (0.00049, 0),
        (-0.0005, 0),
        (-1.5, -1_500),
        (1.0005, 1_001),
        (2.675, 2_675),
        (float("nan"), 0),
        (float("inf"), 0),
        (1e300, 0),
        (None, 0),
        ("12", 0),
        (True, 0),
    ],
)
def test_money_in_thousandths(amount: Any, expected: int) -> None:
    assert milli(amount) == expected


def body(pnr: Any) -> bytes:
    return json.dumps({"event_type": "PNR_V3", "payload": pnr}).encode()


BOOKING = payload(12.5, {"t1": ("u1", refund(1, 2.5)), "t2": ("", None), "t3": ("u3", refund())}, ["u0", "u9"])


@pytest.mark.parametrize("pnr", [BOOKING, {"pnrId": "p1", "data": BOOKING}], ids=["plain", "wrapped"])
def test_a_body_gives_what_the_typed_payload_gives(pnr: Any) -> None:
    assert Booking.from_json(body(pnr)) == Booking.from_typed(ParseDict(BOOKING, PnrData()))


def test_numbers_without_a_point_are_amounts_too() -> None:
    booking = Booking.from_json(b'{"payload": {"totalFare": {"amount": 12, "currencyCode": "KWD"}}}')
    assert (booking.amount_milli, booking.currency) == (12_000, "KWD")
    assert Booking.from_json(b'{"payload": {"totalFare": {"amount": %s}}}' % (b"9" * 5_000)).amount_milli == 0


@pytest.mark.parametrize(
    "pnr",
    [
        None,
        [],
        "text",
        {"totalFare": None, "pnrTravelers": None, "airPnr": None},
        {"totalFare": [], "pnrTravelers": {}, "airPnr": []},
        {"totalFare": {"amount": "12", "currencyCode": 5}, "pnrTravelers": [None, {"userId": {"id": "second"}}]},
        {"totalFare": {"amount": True}, "airPnr": {"travelerInfos": [None, {"tickets": None}, {"tickets": {}}]}},
        {"data": "no object, so this is the payload itself"},
    ],
)
def test_what_has_another_type_in_a_body_is_missing(pnr: Any) -> None:
    assert Booking.from_json(body(pnr)) == Booking("", 0, "", {})


def test_a_body_without_payload_is_an_empty_booking() -> None:
    assert Booking.from_json(b'{"event_type": "PNR_V3"}') == Booking("", 0, "", {})


def test_bytes_that_are_no_text_are_replaced_as_the_bridge_does() -> None:
    assert Booking.from_json(b'{"payload": {"totalFare": {"currencyCode": "E\xffR"}}}').currency == "E\ufffdR"
    assert Booking.from_json(rb'{"payload": {"totalFare": {"currencyCode": "E\ud800R"}}}').currency == "E\ufffdR"
