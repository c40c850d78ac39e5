//! The rule: what an event does to the expense of a ticket. Events come in any order and more than once, so every part of
//! an expense is a maximum or a flag that never goes back, and any order gives the same expenses.

use std::fmt;

use crate::json::Json;
use crate::proto::spotbridge::v1::{EntityRef, Event};
use crate::proto::spotnana::payload::v1::{Money, PnrData};

/// Whether the event is one that expenses are made of.
#[must_use]
pub fn counts(event: &Event) -> bool {
    event.event_type == "PNR_V3"
        && matches!(event.operation.as_str(), "BOOKING_TICKETED" | "TICKET_VOIDED" | "TICKET_REFUNDED")
}

/// The tickets that an event touches, each once.
#[must_use]
pub fn touched(event: &Event) -> Vec<&str> {
    let Some(summary) = &event.operation_summary else {
        return Vec::new();
    };
    let lists = [&summary.tickets_issued, &summary.tickets_voided, &summary.tickets_refunded];
    let mut numbers: Vec<&str> = lists.into_iter().flatten().map(String::as_str).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// The expense of a ticket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the columns of the table
pub struct Expense {
    pub ticket_number: String,
    pub pnr_id: String,
    pub organization_id: String,
    pub traveler_id: String,
    pub currency: String,
    pub amount_milli: i64,
    pub refund_milli: i64,
    pub version: i32,
    pub event_id: String,
    pub issued: bool,
    pub voided: bool,
    pub refunded: bool,
    pub refund_version: i32,
    pub refund_event: String,
}

impl Expense {
    /// A ticket of which nothing is known yet.
    #[must_use]
    pub fn new(ticket_number: &str) -> Self {
        Self { ticket_number: ticket_number.into(), ..Self::default() }
    }

    /// Takes an event that touches this ticket into account.
    pub fn apply(&mut self, event: &Event, booking: &Booking) {
        let summary = event.operation_summary.clone().unwrap_or_default();
        let refunds = summary.tickets_refunded.contains(&self.ticket_number);
        self.issued |= summary.tickets_issued.contains(&self.ticket_number);
        self.voided |= summary.tickets_voided.contains(&self.ticket_number);
        self.refunded |= refunds;

        // Several events may share a version: the id decides between them, so that every order ends alike.
        let version = event.entity.as_ref().map_or(0, EntityRef::version);
        if (version, &event.id) > (self.version, &self.event_id) {
            self.pnr_id.clone_from(&event.pnr_id);
            self.organization_id.clone_from(&event.organization_id);
            self.traveler_id = booking.traveler_of(&self.ticket_number).to_owned();
            self.currency.clone_from(&booking.currency);
            self.amount_milli = booking.amount_milli;
            self.version = version;
            self.event_id.clone_from(&event.id);
        }
        if refunds && (version, &event.id) > (self.refund_version, &self.refund_event) {
            self.refund_milli = booking.refund_of(&self.ticket_number);
            self.refund_version = version;
            self.refund_event.clone_from(&event.id);
        }
    }

    /// What the expense is now. Voiding wins over refunding, whichever came first.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match (self.voided, self.refunded) {
            (true, _) => "VOIDED",
            (false, true) => "REFUNDED",
            (false, false) => "ISSUED",
        }
    }

    /// What is left to pay.
    #[must_use]
    pub fn net_milli(&self) -> i64 {
        if self.voided { 0 } else { self.amount_milli - self.refund_milli }
    }
}

/// A line of the table, tab separated.
impl fmt::Display for Expense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ticket, pnr, organization) = (&self.ticket_number, &self.pnr_id, &self.organization_id);
        let (traveler, currency) = (&self.traveler_id, &self.currency);
        let (amount, refund, net) = (self.amount_milli, self.refund_milli, self.net_milli());
        let (state, version, event) = (self.state(), self.version, &self.event_id);
        write!(
            f,
            "{ticket}\t{pnr}\t{organization}\t{traveler}\t{currency}\t{amount}\t{refund}\t{net}\t{state}\t{version}\t{event}"
        )
    }
}

/// What an expense takes from a booking, whether it came as a message or as JSON.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Booking {
    currency: String,
    amount_milli: i64,
    first_traveler: String,
    tickets: Vec<Ticket>,
}

#[derive(Debug, PartialEq, Eq)]
struct Ticket {
    number: String,
    /// Empty when the traveler who holds it has no id.
    traveler: String,
    refund_milli: Option<i64>,
}

impl Booking {
    /// Reads the body of an event as it was sent, where the payload may come wrapped as `{pnrId, data}`.
    #[must_use]
    pub fn from_body(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let payload = Json::new(&text).get("payload");
        let data = payload.get("data");
        let pnr = if data.is_object() { data } else { payload };

        let user_id = |traveler: Json| traveler.get("userId").get("id").text();
        let part = |amount: Json, name| milli(amount.get(name).get("amount").number());
        let mut tickets = Vec::new();
        for traveler in pnr.get("airPnr").get("travelerInfos").items() {
            for ticket in traveler.get("tickets").items() {
                let refund = ticket.get("refundInfo").get("refundAmount");
                tickets.push(Ticket {
                    number: ticket.get("ticketNumber").text().unwrap_or_default(),
                    traveler: user_id(traveler).unwrap_or_default(),
                    refund_milli: refund.is_object().then(|| part(refund, "base") + part(refund, "tax")),
                });
            }
        }
        let first = pnr.get("pnrTravelers").items().next();
        let total = pnr.get("totalFare");
        Self {
            currency: total.get("currencyCode").text().unwrap_or_default(),
            amount_milli: milli(total.get("amount").number()),
            first_traveler: first.and_then(user_id).unwrap_or_default(),
            tickets,
        }
    }

    fn ticket(&self, number: &str) -> Option<&Ticket> {
        self.tickets.iter().find(|ticket| ticket.number == number)
    }

    fn traveler_of(&self, number: &str) -> &str {
        self.ticket(number).map_or(&self.first_traveler, |ticket| &ticket.traveler)
    }

    fn refund_of(&self, number: &str) -> i64 {
        let own = self.ticket(number).and_then(|t| t.refund_milli);
        own.unwrap_or(self.amount_milli)
    }
}

impl From<&PnrData> for Booking {
    fn from(pnr: &PnrData) -> Self {
        let part = |money: &Option<Money>| milli(money.as_ref().and_then(|m| m.amount));
        let mut tickets = Vec::new();
        for traveler in pnr.air_pnr.iter().flat_map(|air| &air.traveler_infos) {
            for ticket in &traveler.tickets {
                let refund = ticket.refund_info.as_ref().and_then(|i| i.refund_amount.as_ref());
                tickets.push(Ticket {
                    number: ticket.ticket_number().to_owned(),
                    traveler: traveler.user_id.as_ref().map_or_else(String::new, |user| user.id().to_owned()),
                    refund_milli: refund.map(|r| part(&r.base) + part(&r.tax)),
                });
            }
        }
        let first = pnr.pnr_travelers.first().and_then(|t| t.user_id.as_ref());
        let total = pnr.total_fare.clone().unwrap_or_default();
        Self {
            currency: total.currency_code().to_owned(),
            amount_milli: milli(total.amount),
            first_traveler: first.map_or_else(String::new, |user| user.id().to_owned()),
            tickets,
        }
    }
}

/// Thousandths, rounded half up on the double, as every client does. A missing amount is 0, and so is one that no fare is.
#[allow(clippy::cast_possible_truncation)] // checked
fn milli(amount: Option<f64>) -> i64 {
    let milli = (amount.unwrap_or(0.0) * 1000.0 + 0.5).floor();
    if milli.abs() < 9_007_199_254_740_992.0 { milli as i64 } else { 0 } // 2^53; NaN is not below it
}
