//! A member of a consumer group that books the events it is given.

use std::iter::once;
use std::time::Duration;

use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Uri};
use tonic::{Code, Status};

use crate::calls;
use crate::expense::{Booking, counts};
use crate::proto::spotbridge::v1::{
    Ack, ConsumeRequest, Event, GroupDelivery, Leave, Nack, NackAction, consume_request::Content as Say,
    consume_response::Content as Hear, event::Payload,
};
use crate::status::{Refusal, describe, is_temporary};
use crate::store::Store;

/// Time to finish what is in hand after being told to stop.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(8);
/// Time to read the body of a large event, well below the ack deadline.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);
const MIN_WAIT: Duration = Duration::from_millis(250);
const MAX_WAIT: Duration = Duration::from_secs(15);

/// Where to consume, and what.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where gRPC is served: `http://127.0.0.1:9090`.
    pub address: Uri,
    /// The consumer group; it must exist.
    pub group: String,
    /// Heartbeat interval to ask for.
    pub heartbeat: Duration,
}

/// A member of a consumer group.
#[derive(Debug)]
pub struct Consumer {
    settings: Settings,
    store: Store,
    /// Doubled by each attempt until a stream says more than its confirmation.
    wait: Duration,
}

/// How a stream ended after which there is another one.
enum End {
    Goodbye { retry_after: Duration },
    Broken(String),
}

/// An event in hand.
struct Delivery {
    id: String,
    attempt: i32,
    event: Event,
}

/// Why an event was not booked.
enum Trouble {
    Retry(String),
    Park(String),
    Stop(Refusal),
}

impl Consumer {
    /// Prepares a member; nothing is connected yet.
    #[must_use]
    pub fn new(settings: Settings, store: Store) -> Self {
        Self { settings, store, wait: MIN_WAIT }
    }

    /// Consumes until it is told to stop, and leaves then: what is in hand is finished, so that nothing comes twice.
    ///
    /// # Errors
    /// The bridge's answer means that trying again would not help.
    pub async fn run(&mut self, stop: &CancellationToken) -> Result<(), Refusal> {
        tokio::select! {
            end = self.consume(stop) => end,
            () = async { stop.cancelled().await; sleep(LEAVE_TIMEOUT).await } => {
                eprintln!("expense-feed: the bridge does not let go; what is in hand comes again");
                Ok(())
            }
        }
    }

    /// Consumes stream after stream.
    async fn consume(&mut self, stop: &CancellationToken) -> Result<(), Refusal> {
        loop {
            let end = self.stream(stop).await;
            if stop.is_cancelled() {
                return Ok(());
            }
            let (why, retry_after) = match end? {
                End::Goodbye { retry_after } => ("goodbye".to_owned(), retry_after),
                End::Broken(why) => (why, Duration::ZERO),
            };
            let half = self.wait / 2; // jitter, so that the clients of a bridge do not return all at once
            let wait = (half + half.mul_f64(fastrand::f64())).max(retry_after);
            self.wait = (self.wait * 2).min(MAX_WAIT);
            eprintln!("expense-feed: {why}; reconnecting in {} ms", wait.as_millis());
            tokio::select! {
                () = sleep(wait) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Consumes one stream to its end.
    async fn stream(&mut self, stop: &CancellationToken) -> Result<End, Refusal> {
        let mut silence = self.settings.heartbeat * 3;
        let mut deadline = Instant::now() + silence;
        let opening = async {
            let channel = calls::connect(&self.settings).await?;
            let (queue, responses) = calls::join(&channel, &self.settings).await?;
            Ok((channel, queue, responses))
        };
        let opened = tokio::select! {
            opened = timeout_at(deadline, opening) => opened,
            () = stop.cancelled() => return Ok(End::Broken("stopped".into())),
        };
        let (channel, queue, mut responses) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(status)) => return end_of(status),
            Err(_) => return Ok(End::Broken("the bridge does not answer".into())),
        };
        let mut leaving = false;
        loop {
            let message = tokio::select! {
                message = timeout_at(deadline, responses.message()) => message,
                () = stop.cancelled(), if !leaving => {
                    leaving = true; // and go on until the bridge has sent and taken back everything
                    say(&queue, Say::Leave(Leave {}));
                    continue;
                }
            };
            let content = match message {
                Ok(Ok(Some(message))) => message.content,
                Ok(Ok(None)) => return Ok(End::Broken("the stream ended".into())),
                Ok(Err(status)) => return end_of(status),
                Err(_) => return Ok(End::Broken("no message for three heartbeat intervals".into())),
            };
            if !matches!(content, Some(Hear::Joined(_))) {
                self.wait = MIN_WAIT;
            }
            match content {
                Some(Hear::Joined(joined)) => {
                    let confirmed = joined.heartbeat_interval.and_then(|d| d.try_into().ok());
                    silence = confirmed.unwrap_or(self.settings.heartbeat) * 3;
                    eprintln!("expense-feed: joined {} as {}", self.settings.group, joined.member_id);
                }
                Some(Hear::Delivery(delivery)) => {
                    if !self.handle(&channel, &queue, vec![delivery]).await? {
                        return Ok(End::Broken("the bridge does not read".into()));
                    }
                }
                Some(Hear::Deliveries(batch)) => {
                    if !self.handle(&channel, &queue, batch.deliveries).await? {
                        return Ok(End::Broken("the bridge does not read".into()));
                    }
                }
                Some(Hear::Refused(refused)) => {
                    // Nothing to do: the entry is committed, and if the event comes again it is skipped.
                    eprintln!("expense-feed: refused: {} {}", refused.reason, refused.message);
                }
                Some(Hear::Lost(lost)) => eprintln!(
                    "expense-feed: LOST: events {} to {} left the log before this group had them; expenses are incomplete",
                    lost.from_sequence, lost.to_sequence
                ),
                Some(Hear::Goodbye(goodbye)) => {
                    let retry_after = goodbye.retry_after.and_then(|d| d.try_into().ok()).unwrap_or_default();
                    return Ok(End::Goodbye { retry_after });
                }
                // Signs of life, and kinds that are newer than this client.
                Some(Hear::Settled(_) | Hear::Heartbeat(_)) | None => {}
            }
            deadline = Instant::now() + silence;
        }
    }

    /// Books events and answers; false when the bridge does not read the answers. What came together is one transaction;
    /// those whose bodies are to be read come afterwards, each by itself: nothing waits for them.
    async fn handle(
        &mut self,
        channel: &Channel,
        queue: &mpsc::Sender<ConsumeRequest>,
        deliveries: Vec<GroupDelivery>,
    ) -> Result<bool, Refusal> {
        let (large, small): (Vec<_>, _) =
            deliveries.into_iter().partition(|d| d.event.as_ref().is_some_and(|event| event.omitted.is_some()));
        for part in once(small).chain(large.into_iter().map(|d| vec![d])) {
            let answers = self.book(channel, part).await?;
            if !answers.into_iter().all(|answer| say(queue, answer)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Books events in one transaction and says what to answer. The entries are on disk before there is an ack.
    async fn book(&mut self, channel: &Channel, deliveries: Vec<GroupDelivery>) -> Result<Vec<Say>, Refusal> {
        let (mut done, mut answers, mut bookings) = (Vec::new(), Vec::new(), Vec::new());
        for GroupDelivery { delivery_id, attempt, event, .. } in deliveries {
            let d = Delivery { id: delivery_id, attempt, event: event.unwrap_or_default() };
            match self.booking(channel, &d.event).await {
                Ok(None) => done.push(d.id),
                Ok(Some(booking)) => bookings.push((d, booking)),
                Err(trouble) => answers.push(nack(d, trouble)?),
            }
        }
        // One that the database refuses must not take the others with it.
        let together = if bookings.is_empty() {
            Ok(0)
        } else {
            block_in_place(|| self.store.book(bookings.iter().map(|(d, booking)| (&d.event, booking))))
        };
        for (d, booking) in bookings {
            let booked = match &together {
                Ok(_) => Ok(0),
                Err(_) => block_in_place(|| self.store.book([(&d.event, &booking)])),
            };
            match booked {
                Ok(_) => done.push(d.id),
                Err(e) => answers.push(nack(d, database(&e))?),
            }
        }
        if !done.is_empty() {
            answers.push(Say::Ack(Ack { delivery_ids: done, confirm: true }));
        }
        Ok(answers)
    }

    /// What there is to book of an event; none when it was processed before.
    async fn booking(&mut self, channel: &Channel, event: &Event) -> Result<Option<Booking>, Trouble> {
        if event.id.is_empty() {
            return Err(Trouble::Park("it has no id to remember it by".into()));
        }
        // First, so that no body is read for an event that was processed before.
        if block_in_place(|| self.store.has(&event.id)).map_err(|e| database(&e))? {
            return Ok(None);
        }
        Ok(Some(match &event.payload {
            Some(Payload::PnrV3(pnr)) => Booking::from(&**pnr),
            None if event.omitted.is_some() && counts(event) => Booking::from_body(&body(channel, &event.id).await?),
            _ => Booking::default(),
        }))
    }
}

fn database(e: &rusqlite::Error) -> Trouble {
    Trouble::Retry(format!("the database failed: {e}"))
}

/// The answer for an event that was not booked.
fn nack(d: Delivery, trouble: Trouble) -> Result<Say, Refusal> {
    let (action, reason) = match trouble {
        Trouble::Retry(reason) => (NackAction::Retry, reason),
        Trouble::Park(reason) => (NackAction::Park, reason),
        Trouble::Stop(refusal) => return Err(refusal),
    };
    eprintln!("expense-feed: {} attempt {}: {reason}", d.event.id, d.attempt);
    Ok(Say::Nack(Nack { delivery_ids: vec![d.id], action: action.into(), retry_after: None, reason }))
}

/// Queues a message; false when the queue is full. That a stream has ended is heard on the other side.
fn say(queue: &mpsc::Sender<ConsumeRequest>, content: Say) -> bool {
    let queued = queue.try_send(ConsumeRequest { content: Some(content) });
    !matches!(queued, Err(TrySendError::Full(_)))
}

fn end_of(status: Status) -> Result<End, Refusal> {
    if is_temporary(status.code()) { Ok(End::Broken(describe(&status))) } else { Err(status.into()) }
}

/// The body of an event that was too large for the stream.
async fn body(channel: &Channel, event_id: &str) -> Result<Vec<u8>, Trouble> {
    let read = timeout(BODY_TIMEOUT, calls::body(channel, event_id)).await;
    read.unwrap_or_else(|_| Err(Status::deadline_exceeded("no end of it"))).map_err(|status| match status.code() {
        code if is_temporary(code) => Trouble::Retry(format!("its body: {}", describe(&status))),
        // That is about this event and not about the bridge: a person has to look at it, and the others go on.
        Code::NotFound => Trouble::Park("its body is no longer held".into()),
        _ => Trouble::Stop(status.into()),
    })
}
