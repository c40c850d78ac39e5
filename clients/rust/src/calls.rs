//! The two calls that a member makes, and the settings of their connection.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::consumer::Settings;
use crate::proto::spotbridge::v1::{
    ConsumeRequest, ConsumeResponse, Credit, EventView, GetEventBodyRequest, Join, consume_request::Content,
    consumer_group_service_client::ConsumerGroupServiceClient, event_service_client::EventServiceClient,
};

/// Events that the bridge may send ahead. Small against the ack deadline: an entry takes milliseconds.
pub const WINDOW: u16 = 32;
/// Largest message that we take, which is tonic's own default. The bridge stays 64 KiB below it unless it is asked for
/// more; whoever raises this raises `max_message_bytes`, too.
const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Connects anew, since the last connection may be a dead one.
pub async fn connect(settings: &Settings) -> Result<Channel, Status> {
    let endpoint = Endpoint::from(settings.address.clone())
        .connect_timeout(Duration::from_secs(10))
        // The bridge allows a ping each 10 s. Heartbeats find a dead stream as well; these also find a dead body read.
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    endpoint.connect().await.map_err(|e| Status::from_error(Box::new(e)))
}

/// Joins the group with a window of credits. What is put into the queue follows the join.
pub async fn join(
    channel: &Channel,
    settings: &Settings,
) -> Result<(mpsc::Sender<ConsumeRequest>, Streaming<ConsumeResponse>), Status> {
    let join = Join {
        group: settings.group.clone(),
        client_name: "expense-feed (rust)".into(),
        credit: Some(Credit { events: WINDOW.into(), bytes: 0 }),
        auto_credit: true,
        view: EventView::Typed.into(),
        max_message_bytes: 0,
        heartbeat_interval: settings.heartbeat.try_into().ok(),
        max_batch_events: WINDOW.into(), // what comes together is one transaction
    };
    // Each event is answered once and the window bounds events, so a full queue means that the bridge does not read.
    let (queue, requests) = mpsc::channel(2 * usize::from(WINDOW));
    // Before the call, since that returns only when the bridge has answered something.
    let first = ConsumeRequest { content: Some(Content::Join(join)) };
    queue.try_send(first).expect("the queue is new");
    let mut client = ConsumerGroupServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let responses = client.consume(ReceiverStream::new(requests)).await?.into_inner();
    Ok((queue, responses))
}

/// Reads the exact body of an event.
pub async fn body(channel: &Channel, event_id: &str) -> Result<Vec<u8>, Status> {
    let request = GetEventBodyRequest { event_id: event_id.into() };
    let mut parts = EventServiceClient::new(channel.clone()).get_event_body(request).await?.into_inner();
    let mut body = Vec::new();
    while let Some(part) = parts.message().await? {
        body.extend(part.chunk);
    }
    Ok(body)
}
