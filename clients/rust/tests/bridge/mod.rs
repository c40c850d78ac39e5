//! A bridge on loopback whose streams the tests speak themselves: over real HTTP/2, and as badly as they like.

#![allow(dead_code)] // each test binary uses a part of it

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use expense_feed::proto::spotbridge::v1::{
    consume_request::Content as Say, consume_response::Content as Hear, consumer_group_service_server as groups,
    event_service_server as events, *,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

/// Longer than anything takes that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Bridge {
    pub address: SocketAddr,
    joining: mpsc::Receiver<Member>,
    bodies: Bodies,
    connections: Arc<Mutex<JoinSet<()>>>,
}

/// The bridge's side of a member's stream.
pub struct Member {
    pub join: Join,
    requests: Streaming<ConsumeRequest>,
    responses: mpsc::Sender<Result<ConsumeResponse, Status>>,
}

type Bodies = Arc<Mutex<HashMap<String, Result<Vec<u8>, Status>>>>;

impl Bridge {
    pub async fn start() -> Self {
        let (joined, joining) = mpsc::channel(16);
        let bodies = Bodies::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(groups::ConsumerGroupServiceServer::new(Groups(joined)))
                .add_service(events::EventServiceServer::new(Events(bodies.clone())))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        // A proxy stands before the server, since only who holds a connection can break it.
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = front.local_addr().unwrap();
        let connections = Arc::new(Mutex::new(JoinSet::new()));
        let pipes = connections.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = front.accept().await {
                pipes.lock().unwrap().spawn(async move {
                    let mut upstream = TcpStream::connect(server).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
                });
            }
        });
        Self { address, joining, bodies, connections }
    }

    /// The next member that joins.
    pub async fn member(&mut self) -> Member {
        let member = timeout(PATIENCE, self.joining.recv()).await;
        member.expect("nobody joins").unwrap()
    }

    /// The next member, with a heartbeat interval confirmed as it was asked for.
    pub async fn joined(&mut self) -> Member {
        let member = self.member().await;
        member.confirm(member.join.heartbeat_interval.unwrap()).await;
        member
    }

    pub fn set_body(&self, event_id: &str, body: Result<Vec<u8>, Status>) {
        self.bodies.lock().unwrap().insert(event_id.into(), body);
    }

    /// Breaks all connections, without a word.
    pub fn cut(&self) {
        self.connections.lock().unwrap().abort_all();
    }
}

impl Member {
    pub async fn confirm(&self, heartbeat_interval: prost_types::Duration) {
        let heartbeat_interval = Some(heartbeat_interval);
        self.say(Hear::Joined(Joined { member_id: "7".into(), heartbeat_interval, ..Joined::default() })).await;
    }

    pub async fn say(&self, content: Hear) {
        self.send(Ok(ConsumeResponse { content: Some(content) })).await;
    }

    pub async fn send(&self, message: Result<ConsumeResponse, Status>) {
        self.responses.send(message).await.unwrap();
    }

    pub async fn deliver(&self, delivery_id: &str, event: Event) {
        self.say(Hear::Delivery(delivery(delivery_id, event))).await;
    }

    /// Delivers events in one message.
    pub async fn deliver_all(&self, events: &[(&str, Event)]) {
        let deliveries = events.iter().map(|(id, event)| delivery(id, event.clone())).collect();
        self.say(Hear::Deliveries(GroupDeliveryBatch { deliveries })).await;
    }

    /// What the client says next; none when it has left or broken off.
    pub async fn hear(&mut self) -> Option<Say> {
        let message = timeout(PATIENCE, self.requests.message()).await.expect("the client says nothing");
        message.ok().flatten().and_then(|m| m.content)
    }

    /// Expects an ack of exactly this delivery.
    pub async fn hear_ack(&mut self, delivery_id: &str) {
        self.hear_acks(&[delivery_id]).await;
    }

    /// Expects one ack of exactly these deliveries.
    pub async fn hear_acks(&mut self, delivery_ids: &[&str]) {
        match self.hear().await {
            Some(Say::Ack(mut ack)) => {
                ack.delivery_ids.sort();
                assert_eq!(
                    (ack.delivery_ids, ack.confirm),
                    (delivery_ids.iter().map(ToString::to_string).collect(), true)
                );
            }
            other => panic!("{other:?} is no ack of {delivery_ids:?}"),
        }
    }

    /// Expects a nack of exactly this delivery, and returns its reason.
    pub async fn hear_nack(&mut self, delivery_id: &str, action: NackAction) -> String {
        match self.hear().await {
            Some(Say::Nack(nack)) if nack.delivery_ids == [delivery_id] && nack.action() == action => nack.reason,
            other => panic!("{other:?} is no nack {action:?} of {delivery_id}"),
        }
    }
}

fn delivery(delivery_id: &str, event: Event) -> GroupDelivery {
    GroupDelivery { delivery_id: delivery_id.into(), attempt: 1, event: Some(event), ..GroupDelivery::default() }
}

/// A status as the bridge gives it.
pub fn status(code: Code, reason: &str, metadata: &[(&str, &str)]) -> Status {
    let metadata: HashMap<_, _> = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    Status::with_error_details(code, "a text for people", ErrorDetails::with_error_info(reason, "spotbridge", metadata))
}

struct Groups(mpsc::Sender<Member>);
struct Events(Bodies);

/// An implementation of a service that serves only the methods in braces; the plugin can not generate such defaults.
macro_rules! service {
    ($service:path, $for:ty, [$($method:ident $request:ident $response:ident),*], { $($served:tt)* }) => {
        #[tonic::async_trait]
        impl $service for $for {
            $(async fn $method(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                Err(Status::unimplemented("not part of the test"))
            })*
            $($served)*
        }
    };
}

service!(groups::ConsumerGroupService, Groups, [
    create_consumer_group CreateConsumerGroupRequest CreateConsumerGroupResponse,
    get_consumer_group GetConsumerGroupRequest GetConsumerGroupResponse,
    list_consumer_groups ListConsumerGroupsRequest ListConsumerGroupsResponse,
    update_consumer_group UpdateConsumerGroupRequest UpdateConsumerGroupResponse,
    delete_consumer_group DeleteConsumerGroupRequest DeleteConsumerGroupResponse,
    pause_consumer_group PauseConsumerGroupRequest PauseConsumerGroupResponse,
    resume_consumer_group ResumeConsumerGroupRequest ResumeConsumerGroupResponse,
    seek_consumer_group SeekConsumerGroupRequest SeekConsumerGroupResponse,
    pull PullRequest PullResponse,
    acknowledge AcknowledgeRequest AcknowledgeResponse,
    list_dead_letters ListDeadLettersRequest ListDeadLettersResponse,
    redrive_dead_letters RedriveDeadLettersRequest RedriveDeadLettersResponse,
    delete_dead_letters DeleteDeadLettersRequest DeleteDeadLettersResponse
], {
    type ConsumeStream = ReceiverStream<Result<ConsumeResponse, Status>>;

    async fn consume(&self, request: Request<Streaming<ConsumeRequest>>) -> Result<Response<Self::ConsumeStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|m| m.content);
        let Some(Say::Join(join)) = first else {
            return Err(Status::invalid_argument("the first message is not join"));
        };
        let (responses, stream) = mpsc::channel(64);
        self.0.send(Member { join, requests, responses }).await.unwrap();
        Ok(Response::new(ReceiverStream::new(stream)))
    }
});

service!(events::EventService, Events, [
    get_event GetEventRequest GetEventResponse,
    list_events ListEventsRequest ListEventsResponse,
    count_events CountEventsRequest CountEventsResponse
], {
    type GetEventBodyStream = ReceiverStream<Result<GetEventBodyResponse, Status>>;

    async fn get_event_body(&self, request: Request<GetEventBodyRequest>) -> Result<Response<Self::GetEventBodyStream>, Status> {
        let body = self.0.lock().unwrap().get(&request.into_inner().event_id).cloned();
        let body = body.unwrap_or_else(|| Err(status(Code::NotFound, "EVENT_NOT_FOUND", &[])))?;
        let (chunks, stream) = mpsc::channel(1);
        tokio::spawn(async move {
            for chunk in body.chunks(64 << 10) {
                let _ = chunks.send(Ok(GetEventBodyResponse { chunk: chunk.into() })).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
});

/// A booking of one ticket for 100 KWD that issues, voids or refunds it.
pub fn event(id: &str, operation: &str, version: i32, ticket: &str) -> Event {
    use expense_feed::proto::spotnana::payload::v1::{Money, PnrData};
    let list = |name: &str| if operation == name { vec![ticket.to_owned()] } else { vec![] };
    let total_fare = Some(Money { amount: Some(100.0), currency_code: Some("KWD".into()), ..Money::default() });
    Event {
        id: id.into(),
        event_type: "PNR_V3".into(),
        operation: operation.into(),
        pnr_id: "pnr".into(),
        organization_id: "org".into(),
        entity: Some(EntityRef { kind: EntityKind::Pnr.into(), id: "pnr".into(), version: Some(version) }),
        operation_summary: Some(OperationSummary {
            tickets_issued: list("BOOKING_TICKETED"),
            tickets_voided: list("TICKET_VOIDED"),
            tickets_refunded: list("TICKET_REFUNDED"),
        }),
        payload: Some(event::Payload::PnrV3(Box::new(PnrData { total_fare, ..PnrData::default() }))),
        ..Event::default()
    }
}
