//! The rule gives one table for every order of the events, and the table that the contract of the clients asks for.

use std::collections::{BTreeMap, HashSet};

use expense_feed::expense::{Booking, Expense, counts, touched};
use expense_feed::proto::spotbridge::v1::{EntityRef, Event, OperationSummary};
use expense_feed::proto::spotnana::payload::v1::{
    Air, FareAmount, Money, PnrData, PnrTraveler, Ticket, TravelerInfo, UserId, ticket::RefundInfo,
};

fn money(amount: f64) -> Money {
    Money { amount: Some(amount), currency_code: Some("EUR".into()), ..Money::default() }
}

#[allow(clippy::needless_update)] // the schema may give it more fields
fn user(id: &str) -> UserId {
    UserId { id: Some(id.into()), ..UserId::default() }
}

fn ticket(number: &str, refund: Option<(f64, f64)>) -> Ticket {
    let refund_info = refund.map(|(base, tax)| RefundInfo {
        refund_amount: Some(FareAmount { base: Some(money(base)), tax: Some(money(tax)), ..FareAmount::default() }),
        ..RefundInfo::default()
    });
    Ticket { ticket_number: Some(number.into()), refund_info, ..Ticket::default() }
}

fn pnr(total: f64, first: &str, travelers: Vec<(&str, Vec<Ticket>)>) -> PnrData {
    let traveler_infos = travelers.into_iter().map(|(id, tickets)| TravelerInfo {
        user_id: Some(user(id)),
        tickets,
        ..TravelerInfo::default()
    });
    PnrData {
        total_fare: Some(money(total)),
        pnr_travelers: vec![PnrTraveler { user_id: Some(user(first)), ..PnrTraveler::default() }],
        air_pnr: Some(Air { traveler_infos: traveler_infos.collect(), ..Air::default() }),
        ..PnrData::default()
    }
}

fn event(id: &str, version: Option<i32>, [issued, voided, refunded]: [&[&str]; 3]) -> Event {
    let list = |numbers: &[&str]| numbers.iter().map(ToString::to_string).collect();
    Event {
        id: id.into(),
        event_type: "PNR_V3".into(),
        operation: "BOOKING_TICKETED".into(),
        pnr_id: format!("pnr of {id}"),
        organization_id: format!("org of {id}"),
        entity: Some(EntityRef { version, ..EntityRef::default() }),
        operation_summary: Some(OperationSummary {
            tickets_issued: list(issued),
            tickets_voided: list(voided),
            tickets_refunded: list(refunded),
        }),
        ..Event::default()
    }
}

/// The table after these events.
fn fold<'a>(events: impl IntoIterator<Item = &'a (Event, Booking)>) -> BTreeMap<String, Expense> {
    let mut table = BTreeMap::new();
    for (event, booking) in events {
        for number in touched(event) {
            let row = table.entry(number.to_owned()).or_insert_with(|| Expense::new(number));
            row.apply(event, booking);
        }
    }
    table
}

fn only(events: &[(Event, Booking)]) -> Expense {
    let table = fold(events);
    assert_eq!(table.len(), 1);
    table.into_values().next().unwrap()
}

#[test]
fn every_order_and_repetition_gives_the_table_of_the_newest_events() {
    let mut random = fastrand::Rng::with_seed(20_261_127);
    for _ in 0..2_000 {
        // Few tickets and versions, so that events meet.
        let numbers = ["1", "2", "3"];
        let mut ids = HashSet::new();
        let events: Vec<_> = (0..random.usize(1..8))
            .map(|_| {
                let id = loop {
                    let id = format!("e{}", random.u8(..));
                    if ids.insert(id.clone()) {
                        break id;
                    }
                };
                let mut some = || numbers.into_iter().filter(|_| random.u8(..4) == 0).collect::<Vec<_>>();
                let lists = [some(), some(), some()];
                let version = (random.u8(..4) > 0).then(|| random.i32(0..4));
                let refund = random.bool().then(|| (f64::from(random.u16(..)) / 100.0, 0.5));
                let tickets = numbers.into_iter().filter(|_| random.bool()).map(|n| ticket(n, refund)).collect();
                let booking = pnr(f64::from(random.u16(..)) / 1000.0, &id, vec![("holder", tickets)]);
                let lists = [&lists[0][..], &lists[1][..], &lists[2][..]];
                (event(&id, version, lists), Booking::from(&booking))
            })
            .collect();

        let expected = fold(&events);
        for (number, expense) in &expected {
            let rank = |(event, _): &&(Event, Booking)| (event.entity.as_ref().unwrap().version(), event.id.clone());
            let touching = || events.iter().filter(|(event, _)| touched(event).contains(&number.as_str()));
            let newest = &touching().max_by_key(rank).unwrap().0;
            assert_eq!((&expense.event_id, &expense.pnr_id), (&newest.id, &newest.pnr_id));
            let refunding =
                touching().filter(|(e, _)| e.operation_summary.as_ref().unwrap().tickets_refunded.contains(number));
            let newest_refund = refunding.max_by_key(rank).map(|(event, _)| event.id.clone());
            assert_eq!(expense.refund_event, newest_refund.unwrap_or_default());
        }
        for _ in 0..4 {
            let mut shuffled: Vec<_> = events.iter().chain(events.iter().filter(|_| random.bool())).collect();
            random.shuffle(&mut shuffled);
            assert_eq!(fold(shuffled), expected);
        }
    }
}

#[test]
fn a_refund_reduces_by_base_and_tax_of_its_own_ticket() {
    let booking =
        pnr(200.0, "first", vec![("a", vec![ticket("1", Some((60.0005, 7.0005)))]), ("b", vec![ticket("2", None)])]);
    let expense = only(&[(event("e", Some(2), [&[], &[], &["1"]]), Booking::from(&booking))]);
    // Each amount is rounded on its own: 60.001 + 7.001.
    assert_eq!((expense.amount_milli, expense.refund_milli, expense.net_milli()), (200_000, 67_002, 132_998));
    assert_eq!((expense.state(), expense.traveler_id.as_str()), ("REFUNDED", "a"));
}

#[test]
fn a_refund_without_an_amount_is_the_whole_fare() {
    let booking = pnr(200.0, "first", vec![("b", vec![ticket("2", None)])]);
    let expense = only(&[(event("e", Some(2), [&[], &[], &["2"]]), Booking::from(&booking))]);
    assert_eq!((expense.refund_milli, expense.net_milli()), (200_000, 0));
}

#[test]
fn an_older_refund_still_counts_when_a_newer_event_came_first() {
    let refund = (
        event("r", Some(3), [&[], &[], &["1"]]),
        Booking::from(&pnr(100.0, "t", vec![("t", vec![ticket("1", Some((30.0, 0.0)))])])),
    );
    let update = (event("u", Some(4), [&["1"], &[], &[]]), Booking::from(&pnr(110.0, "t", vec![])));
    let expense = only(&[update, refund]);
    assert_eq!((expense.amount_milli, expense.refund_milli, expense.net_milli()), (110_000, 30_000, 80_000));
    assert_eq!((expense.event_id.as_str(), expense.refund_event.as_str(), expense.state()), ("u", "r", "REFUNDED"));
}

#[test]
fn a_void_wins_over_a_refund_and_is_never_taken_back() {
    let booking = || Booking::from(&pnr(100.0, "t", vec![]));
    let expense = only(&[
        (event("v", Some(3), [&[], &["1"], &[]]), booking()),
        (event("r", Some(4), [&[], &[], &["1"]]), booking()),
        (event("i", Some(5), [&["1"], &[], &[]]), booking()),
    ]);
    assert_eq!((expense.state(), expense.net_milli(), expense.version), ("VOIDED", 0, 5));
}

#[test]
fn an_exchange_refunds_one_ticket_and_issues_another() {
    let booking = pnr(300.0, "t", vec![("t", vec![ticket("1", Some((100.0, 10.0))), ticket("2", None)])]);
    let table = fold(&[(event("x", Some(2), [&["2"], &[], &["1"]]), Booking::from(&booking))]);
    assert_eq!((table["1"].state(), table["1"].refund_milli), ("REFUNDED", 110_000));
    assert_eq!((table["2"].state(), table["2"].refund_milli), ("ISSUED", 0));
}

#[test]
fn of_one_version_the_greater_id_decides_byte_by_byte() {
    let booking = || Booking::from(&pnr(1.0, "t", vec![]));
    let expense = only(&[
        (event("a", Some(1), [&["1"], &[], &[]]), booking()),
        (event("Z", Some(1), [&["1"], &[], &[]]), booking()),
    ]);
    assert_eq!(expense.event_id, "a"); // Z is 0x5a, a is 0x61
}

#[test]
fn missing_pieces_are_empty_or_nothing() {
    let mut bare = event("e", None, [&["1"], &[], &[]]);
    bare.entity = None;
    let expense = only(&[(bare, Booking::default())]);
    assert_eq!(expense.to_string(), "1\tpnr of e\torg of e\t\t\t0\t0\t0\tISSUED\t0\te");
    let mut none = event("e", None, [&[], &[], &[]]);
    none.operation_summary = None;
    assert_eq!(touched(&none), Vec::<&str>::new());
}

#[test]
fn a_ticket_of_a_traveler_without_id_is_nobodys() {
    let mut booking = pnr(1.0, "first", vec![("x", vec![ticket("t", None)])]);
    booking.air_pnr.as_mut().unwrap().traveler_infos[0].user_id = None;
    let expense = only(&[(event("e", Some(1), [&["t"], &[], &[]]), Booking::from(&booking))]);
    assert_eq!(expense.traveler_id, "");
}

#[test]
fn a_ticket_that_no_traveler_holds_is_the_first_ones() {
    let booking = pnr(1.0, "first", vec![("other", vec![ticket("9", None)])]);
    let expense = only(&[(event("e", Some(1), [&["1"], &[], &[]]), Booking::from(&booking))]);
    assert_eq!(expense.traveler_id, "first");
}

#[test]
fn only_three_operations_of_bookings_count() {
    let mut e = event("e", Some(1), [&["1"], &[], &[]]);
    for (event_type, operation, want) in [
        ("PNR_V3", "BOOKING_TICKETED", true),
        ("PNR_V3", "TICKET_VOIDED", true),
        ("PNR_V3", "TICKET_REFUNDED", true),
        ("PNR_V3", "BOOKING_UPDATED", false),
        ("TRIP_DETAILS_V3", "BOOKING_TICKETED", false),
        ("", "", false),
    ] {
        (e.event_type, e.operation) = (event_type.into(), operation.into());
        assert_eq!(counts(&e), want, "{event_type} {operation}");
    }
}

#[test]
fn thousandths_are_rounded_half_up_on_the_double() {
    for (amount, want) in [
        (1663.58, 1_663_580),
        (0.0005, 1),
        (0.5005, 500), // times 1000 the double is 500.49999999999994
        (-1.5, -1_500),
        (-0.0005, 0),
        (2_147_483.647, 2_147_483_647),
    ] {
        let expense = only(&[(event("e", Some(1), [&["1"], &[], &[]]), Booking::from(&pnr(amount, "t", vec![])))]);
        assert_eq!(expense.amount_milli, want, "{amount}");
    }
}

#[test]
fn the_body_gives_what_the_message_gives() {
    let typed =
        Booking::from(&pnr(1469.23, "first", vec![("a", vec![ticket("1", Some((1477.83, 9.63))), ticket("2", None)])]));
    let data = r#"{"totalFare":{"amount":1469.23,"currencyCode":"EUR"},"pnrTravelers":[{"userId":{"id":"first"}},{}],
        "airPnr":{"travelerInfos":[{"userId":{"id":"a"},"tickets":[
        {"ticketNumber":"1","refundInfo":{"refundAmount":{"base":{"amount":1477.83},"tax":{"amount":9.63}}}},{"ticketNumber":"2"}]}]}}"#;
    for body in [format!(r#"{{"payload":{data}}}"#), format!(r#"{{"payload":{{"pnrId":"p","data":{data}}}}}"#)] {
        assert_eq!(Booking::from_body(body.as_bytes()), typed);
    }
}

#[test]
fn a_body_is_read_as_tolerantly_as_the_bridge_converts() {
    let amount = |body: &str| {
        let expense = only(&[(event("e", Some(1), [&["1"], &[], &[]]), Booking::from_body(body.as_bytes()))]);
        (expense.amount_milli, expense.currency)
    };
    let deep = format!("{}{}", "[".repeat(900), "]".repeat(900));
    for (what, body, want) in [
        (
            "a number in a string",
            r#"{"payload":{"totalFare":{"amount":"1.5","currencyCode":"EUR"}}}"#.into(),
            (1_500, "EUR"),
        ),
        (
            "values of other types",
            r#"{"payload":{"totalFare":{"amount":[],"currencyCode":7},"airPnr":3}}"#.into(),
            (0, ""),
        ),
        ("a name that comes twice", r#"{"payload":{"totalFare":{"amount":1,"amount":2}}}"#.into(), (2_000, "")),
        ("deep nesting beside it", format!(r#"{{"payload":{{"x":{deep},"totalFare":{{"amount":1}}}}}}"#), (1_000, "")),
        ("no JSON", "<html>".into(), (0, "")),
        ("nothing", String::new(), (0, "")),
    ] {
        assert_eq!(amount(&body), (want.0, want.1.to_owned()), "{what}");
    }
    let latin1 = b"{\"payload\":{\"totalFare\":{\"currencyCode\":\"\xe9\"}}}";
    let expense = only(&[(event("e", Some(1), [&["1"], &[], &[]]), Booking::from_body(latin1))]);
    assert_eq!(expense.currency, "\u{fffd}");
}
