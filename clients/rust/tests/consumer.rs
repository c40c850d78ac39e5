//! The consumer against a bridge that misbehaves.

mod bridge;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bridge::{Bridge, PATIENCE, event, status};
use expense_feed::proto::spotbridge::v1::{
    ConsumeResponse, Event, EventView, Goodbye, GroupDelivery, GroupHeartbeat, Lost, NackAction, Omitted, Refused,
    Settled, consume_request::Content as Say, consume_response::Content as Hear,
};
use expense_feed::status::Refusal;
use expense_feed::{Consumer, Settings, Store};
use prost::Message;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

/// A consumer that runs, its bridge, and its file.
struct Feed {
    bridge: Bridge,
    stop: CancellationToken,
    running: JoinHandle<Result<(), Refusal>>,
    folder: TempDir,
}

impl Feed {
    async fn start() -> Self {
        let bridge = Bridge::start().await;
        let folder = TempDir::new().unwrap();
        let store = Store::open(folder.path().join("e.db")).unwrap();
        let (address, group) = (format!("http://{}", bridge.address).parse().unwrap(), "expenses".to_owned());
        let settings = Settings { address, group, heartbeat: Duration::from_secs(15) };
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let stop = stop.clone();
            async move { Consumer::new(settings, store).run(&stop).await }
        });
        Self { bridge, stop, running, folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("e.db")
    }

    /// What another process sees in the file.
    fn store(&self) -> Store {
        Store::open(self.file()).unwrap()
    }

    fn sql(&self, statement: &str) {
        rusqlite::Connection::open(self.file()).unwrap().execute_batch(statement).unwrap();
    }

    async fn end(self) -> Result<(), Refusal> {
        timeout(PATIENCE, self.running).await.expect("the consumer does not end").unwrap()
    }
}

fn heartbeat() -> Hear {
    Hear::Heartbeat(GroupHeartbeat::default())
}

fn milliseconds(n: i32) -> prost_types::Duration {
    prost_types::Duration { seconds: 0, nanos: n * 1_000_000 }
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_with_a_window_of_credits() {
    let mut feed = Feed::start().await;
    let join = feed.bridge.member().await.join;
    assert_eq!(join.group, "expenses");
    assert!(join.credit.is_some_and(|credit| credit.events > 0) && join.auto_credit);
    assert_eq!(join.view(), EventView::Typed);
    assert_eq!(join.heartbeat_interval.unwrap().seconds, 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_entry_is_committed_before_the_ack() {
    let mut feed = Feed::start().await;
    let mut member = feed.bridge.joined().await;
    for i in 0..20 {
        let ticket = format!("{i:03}");
        member.deliver(&format!("d{i}"), event(&format!("e{i}"), "BOOKING_TICKETED", 1, &ticket)).await;
        member.hear_ack(&format!("d{i}")).await;
        assert_eq!(feed.store().expenses().unwrap().last().unwrap().ticket_number, ticket);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_again_in_another_order_is_skipped_and_acknowledged() {
    let mut feed = Feed::start().await;
    let mut member = feed.bridge.joined().await;
    let (issued, refunded) = (event("a", "BOOKING_TICKETED", 1, "1"), event("b", "TICKET_REFUNDED", 2, "1"));
    for (delivery, event) in [("d1", &refunded), ("d2", &issued), ("d3", &refunded), ("d4", &issued), ("d5", &issued)] {
        member.deliver(delivery, event.clone()).await;
        member.hear_ack(delivery).await;
    }
    assert_eq!(feed.store().processed().unwrap(), ["a", "b"]);
    let line = feed.store().expenses().unwrap()[0].to_string();
    assert_eq!(line, "1\tpnr\torg\t\tKWD\t100000\t100000\t0\tREFUNDED\t2\tb");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_refuses_is_asked_for_again() {
    let mut feed = Feed::start().await;
    let mut member = feed.bridge.joined().await;
    feed.sql("CREATE TRIGGER full BEFORE INSERT ON processed BEGIN SELECT RAISE(ABORT, 'disk full'); END");
    member.deliver("d1", event("a", "BOOKING_TICKETED", 1, "1")).await;
    let reason = member.hear_nack("d1", NackAction::Retry).await;
    assert!(reason.contains("disk full"), "{reason}");
    assert_eq!(feed.store().expenses().unwrap(), []);
    feed.sql("DROP TRIGGER full");
    member.deliver("d2", event("a", "BOOKING_TICKETED", 1, "1")).await;
    member.hear_ack("d2").await;
    assert_eq!(feed.store().expenses().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_together_is_booked_and_acknowledged_together() {
    let mut feed = Feed::start().await;
    let mut member = feed.bridge.joined().await;
    assert!(member.join.max_batch_events > 1);
    let ticketed = |id: &str| event(id, "BOOKING_TICKETED", 1, id);
    member.deliver("d0", ticketed("a")).await;
    member.hear_ack("d0").await;
    member
        .deliver_all(&[("d1", ticketed("a")), ("d2", ticketed("b")), ("d3", ticketed("c")), ("d4", ticketed("b"))])
        .await;
    member.hear_acks(&["d1", "d2", "d3", "d4"]).await;
    assert_eq!(feed.store().processed().unwrap(), ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_takes_none_of_its_neighbours_with_it() {
    let mut feed = Feed::start().await;
    let mut member = feed.bridge.joined().await;
    feed.sql(
        "CREATE TRIGGER bad BEFORE INSERT ON processed WHEN NEW.event_id = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END",
    );
    let ticketed = |id: &str| event(id, "BOOKING_TICKETED", 1, id);
    let large = Event { omitted: Some(Omitted::default()), payload: None, ..ticketed("large") };
    feed.bridge.set_body("large", Err(status(Code::Unavailable, "HISTORY_UNAVAILABLE", &[])));
    let nameless = Event::default();
    member
        .deliver_all(&[
            ("d1", large),
            ("d2", ticketed("a")),
            ("d3", ticketed("bad")),
            ("d4", nameless),
            ("d5", ticketed("b")),
        ])
        .await;
    member.hear_nack("d4", NackAction::Park).await;
    member.hear_nack("d3", NackAction::Retry).await;
    member.hear_acks(&["d2", "d5"]).await;
    member.hear_nack("d1", NackAction::Retry).await; // nothing waits for its body
    assert_eq!(feed.store().processed().unwrap(), ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_losses_and_unknown_kinds_do_not_end_the_stream() {
    // A message of field 127, as a newer bridge might send it.
    let unknown = ConsumeResponse::decode(&b"\xfa\x07\x02hi"[..]).unwrap();
    assert_eq!(unknown.content, None);
    let mut feed = Feed::start().await;
    let mut member = feed.bridge.joined().await;
    member
        .say(Hear::Refused(Refused { delivery_id: "x".into(), reason: "STALE_DELIVERY".into(), ..Refused::default() }))
        .await;
    member.say(Hear::Lost(Lost { from_sequence: 3, to_sequence: 9, ..Lost::default() })).await;
    member.say(Hear::Settled(Settled { delivery_ids: vec!["x".into()] })).await;
    member.send(Ok(unknown)).await;
    member.deliver("d1", event("a", "BOOKING_TICKETED", 1, "1")).await;
    member.hear_ack("d1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_without_an_event_is_parked() {
    let mut feed = Feed::start().await;
    let mut member = feed.bridge.joined().await;
    member.say(Hear::Delivery(GroupDelivery { delivery_id: "d1".into(), ..GroupDelivery::default() })).await;
    member.hear_nack("d1", NackAction::Park).await;
    assert_eq!(feed.store().processed().unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_events_are_processed_and_change_no_expense() {
    let mut feed = Feed::start().await;
    let mut member = feed.bridge.joined().await;
    let mut other_type = event("a", "BOOKING_TICKETED", 1, "1");
    other_type.event_type = "PNR_V9".into();
    other_type.ordering = 99;
    let other_operation = event("b", "TICKET_REISSUED", 1, "1");
    for (delivery, event) in [("d1", other_type), ("d2", other_operation)] {
        member.deliver(delivery, event).await;
        member.hear_ack(delivery).await;
    }
    assert_eq!(feed.store().processed().unwrap(), ["a", "b"]);
    assert_eq!(feed.store().expenses().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_of_a_large_event_is_read() {
    let mut feed = Feed::start().await;
    let mut member = feed.bridge.joined().await;
    let mut large = event("a", "BOOKING_TICKETED", 1, "1");
    large.payload = None;
    large.omitted = Some(Omitted::default());
    let filler = "x".repeat(200_000); // several chunks
    let body = format!(
        r#"{{"payload":{{"pnrId":"p","data":{{"filler":"{filler}","totalFare":{{"amount":9.5,"currencyCode":"USD"}}}}}}}}"#
    );

    feed.bridge.set_body("a", Err(status(Code::Unavailable, "HISTORY_UNAVAILABLE", &[])));
    member.deliver("d1", large.clone()).await;
    member.hear_nack("d1", NackAction::Retry).await;

    feed.bridge.set_body("a", Ok(body.into_bytes()));
    member.deliver("d2", large.clone()).await;
    member.hear_ack("d2").await;
    let expense = feed.store().expenses().unwrap().remove(0);
    assert_eq!((expense.currency.as_str(), expense.amount_milli), ("USD", 9500));

    large.id = "gone".into();
    member.deliver("d3", large.clone()).await;
    member.hear_nack("d3", NackAction::Park).await;

    large.id = "forbidden".into();
    feed.bridge.set_body("forbidden", Err(status(Code::PermissionDenied, "PERMISSION_DENIED", &[])));
    member.deliver("d4", large).await;
    assert_eq!(feed.end().await.unwrap_err().reason, "PERMISSION_DENIED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_is_made_again() {
    let mut feed = Feed::start().await;
    let mut member = feed.bridge.joined().await;
    member.deliver("d1", event("a", "BOOKING_TICKETED", 1, "1")).await;
    member.hear_ack("d1").await;
    feed.bridge.cut();
    assert_eq!(member.hear().await, None);
    let mut member = feed.bridge.joined().await;
    member.deliver("d2", event("a", "BOOKING_TICKETED", 1, "1")).await;
    member.hear_ack("d2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_missed_heartbeats_of_the_confirmed_interval_end_a_silent_stream() {
    let mut feed = Feed::start().await;
    let member = feed.bridge.member().await;
    member.confirm(milliseconds(200)).await; // and then silence, on a connection that stays open
    let silent_since = Instant::now();
    let _again = feed.bridge.member().await;
    assert!(silent_since.elapsed() > Duration::from_millis(600), "{:?}", silent_since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_goodbye_the_bridge_is_given_its_time() {
    let mut feed = Feed::start().await;
    let mut member = feed.bridge.joined().await;
    member.deliver("d1", event("a", "BOOKING_TICKETED", 1, "1")).await;
    member.hear_ack("d1").await;
    let told = Instant::now();
    member.say(Hear::Goodbye(Goodbye { retry_after: Some(milliseconds(900)), ..Goodbye::default() })).await;
    let _again = feed.bridge.member().await;
    assert!(told.elapsed() >= Duration::from_millis(900), "{:?}", told.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_double_until_a_stream_says_more_than_its_confirmation() {
    let mut feed = Feed::start().await;
    let mut end = async |first: Option<Hear>| {
        let member = feed.bridge.joined().await;
        if let Some(first) = first {
            member.say(first).await;
        }
        Instant::now()
    };
    let mut ends = Vec::new();
    for first in [None, None, None, None, Some(heartbeat()), None] {
        ends.push(end(first).await);
    }
    let waits: Vec<_> = ends.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    assert!(waits.iter().zip([125, 250, 500, 1000]).all(|(wait, least)| *wait >= least), "{waits:?}");
    assert!(waits[4] < 1000, "{waits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_statuses_are_survived() {
    let mut feed = Feed::start().await;
    let codes = [
        Code::Unavailable,
        Code::ResourceExhausted,
        Code::DeadlineExceeded,
        Code::Cancelled,
        Code::Internal,
        Code::Unknown,
        Code::Aborted,
    ];
    for code in codes {
        let member = feed.bridge.joined().await;
        member.say(heartbeat()).await;
        member.send(Err(status(code, "DRAINING", &[]))).await;
    }
    feed.bridge.joined().await;
    assert!(!feed.running.is_finished());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_statuses_stop_the_consumer_with_their_reason() {
    let codes = [
        Code::InvalidArgument,
        Code::NotFound,
        Code::OutOfRange,
        Code::PermissionDenied,
        Code::Unauthenticated,
        Code::FailedPrecondition,
        Code::Unimplemented,
        Code::DataLoss,
    ];
    for code in codes {
        let mut feed = Feed::start().await;
        let member = feed.bridge.member().await; // the group may be gone before anything is confirmed
        member.send(Err(status(code, "GROUP_NOT_FOUND", &[("field", "group")]))).await;
        let refusal = feed.end().await.unwrap_err();
        assert_eq!((refusal.code, refusal.reason.as_str()), (code, "GROUP_NOT_FOUND"));
        assert_eq!(refusal.metadata["field"], "group");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_above_the_limit_is_an_error_and_not_a_loop() {
    let mut feed = Feed::start().await;
    let member = feed.bridge.joined().await;
    let mut huge = event("a", "BOOKING_TICKETED", 1, "1");
    huge.raw_body = vec![0; 5 << 20];
    member.deliver("d1", huge).await;
    assert_eq!(feed.end().await.unwrap_err().code, Code::OutOfRange);
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_finishes_what_is_in_hand() {
    let mut feed = Feed::start().await;
    let mut member = feed.bridge.joined().await;
    member.deliver("d1", event("a", "BOOKING_TICKETED", 1, "1")).await;
    member.hear_ack("d1").await;
    feed.stop.cancel();
    assert!(matches!(member.hear().await, Some(Say::Leave(_))));
    member.deliver("d2", event("b", "BOOKING_TICKETED", 1, "2")).await; // was on its way
    member.hear_ack("d2").await;
    assert!(!feed.running.is_finished());
    drop(member); // the end of the stream, with OK
    assert_eq!(feed.end().await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_does_not_let_go_is_left_within_ten_seconds() {
    let mut feed = Feed::start().await;
    let mut member = feed.bridge.joined().await;
    member.deliver("d1", event("a", "BOOKING_TICKETED", 1, "1")).await;
    member.hear_ack("d1").await;
    feed.stop.cancel();
    let told = Instant::now();
    assert!(matches!(member.hear().await, Some(Say::Leave(_))));
    assert_eq!(feed.end().await, Ok(()));
    assert!(told.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_needs_no_bridge() {
    let mut feed = Feed::start().await;
    let member = feed.bridge.member().await;
    member.send(Err(Status::unavailable("down"))).await;
    feed.stop.cancel();
    assert_eq!(feed.end().await, Ok(()));
}
