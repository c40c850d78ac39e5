//! The whole of it against the real bridge, whose binary `SPOTBRIDGE_BIN` names; without it the test is skipped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use expense_feed::Store;
use expense_feed::expense::{Booking, Expense, touched};
use expense_feed::proto::spotbridge::v1::{
    CreateConsumerGroupRequest, Event, EventFilter, GetConsumerGroupRequest, Start, SubscribeRequest,
    consumer_group_service_client::ConsumerGroupServiceClient, event::Payload, subscribe_response::Content,
    subscription_service_client::SubscriptionServiceClient,
};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use tonic::transport::Endpoint;

const PATIENCE: Duration = Duration::from_secs(60);

struct Bridge {
    binary: PathBuf,
    folder: TempDir,
    /// By listener: webhook, rest, grpc, admin.
    addresses: BTreeMap<String, String>,
    process: Child,
}

impl Bridge {
    async fn start(binary: &Path) -> Self {
        let folder = TempDir::new().unwrap();
        let any = ["webhook", "rest", "grpc", "admin"].map(|name| (name.to_owned(), "127.0.0.1:0".to_owned()));
        let (process, addresses) = Self::spawn(binary, &folder, &any.into()).await;
        Self { binary: binary.into(), folder, addresses, process }
    }

    async fn spawn(
        binary: &Path,
        folder: &TempDir,
        listen: &BTreeMap<String, String>,
    ) -> (Child, BTreeMap<String, String>) {
        let mut command = Command::new(binary);
        command.env_clear(); // it refuses variables that it does not know, and ours begin alike
        command.args(["dev", "--no-traffic", "--data-dir"]).arg(folder.path());
        command.args(listen.iter().map(|(name, address)| format!("--listen-{name}={address}")));
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let open = async {
            let (mut said, mut listening) = (String::new(), BTreeMap::new());
            while let Some(line) = log.next_line().await.unwrap() {
                if let Some((_, addresses)) = line.split_once("msg=listening ") {
                    let pairs = addresses.split(' ').filter_map(|pair| pair.split_once('='));
                    listening = pairs.map(|(name, address)| (name.into(), address.into())).collect();
                }
                if line.contains("the door is open") {
                    return listening;
                }
                said = line;
            }
            panic!("the bridge ended: {said}")
        };
        let addresses = timeout(PATIENCE, open).await.unwrap();
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        (process, addresses)
    }

    async fn kill_and_restart(&mut self) {
        self.process.kill().await.unwrap();
        self.process = Self::spawn(&self.binary, &self.folder, &self.addresses).await.0;
    }

    async fn trigger(&self, args: &[&str]) {
        let url = format!("http://{}/webhooks/sandbox", self.addresses["webhook"]);
        let mut command = Command::new(&self.binary);
        command.env_clear().arg("trigger").args(args).args(["--url", &url, "--data-dir"]).arg(self.folder.path());
        let output = timeout(PATIENCE, command.output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://{}", self.addresses["grpc"])).unwrap()
    }

    fn client(&self, file: &Path) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_expense-feed"));
        command.env("SPOTBRIDGE_GRPC", &self.addresses["grpc"]).env("SPOTBRIDGE_HEARTBEAT", "5s");
        command.env("EXPENSES_DB", file).kill_on_drop(true).spawn().unwrap()
    }

    /// Waits until the group has nothing left to do.
    async fn settled(&self) {
        let mut groups = ConsumerGroupServiceClient::new(self.endpoint().connect_lazy());
        let wait = async {
            loop {
                let answer = groups.get_consumer_group(GetConsumerGroupRequest { group: "expenses".into() }).await;
                let group = answer.ok().and_then(|a| a.into_inner().group);
                if group.and_then(|g| g.state).is_some_and(|s| s.lag_events == 0 && s.in_flight_events == 0) {
                    break;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, wait).await.expect("the group does not settle");
    }

    /// All events of the filter, with their payloads however large.
    async fn events(&self) -> Vec<Event> {
        let client = SubscriptionServiceClient::new(self.endpoint().connect_lazy());
        let request = SubscribeRequest {
            filter: Some(filter()),
            start: Start::Earliest.into(),
            stop_at_head: true,
            max_message_bytes: 16 << 20,
            ..SubscribeRequest::default()
        };
        let mut stream = client.max_decoding_message_size(16 << 20).subscribe(request).await.unwrap().into_inner();
        let mut events = Vec::new();
        while let Some(message) = stream.message().await.unwrap() {
            if let Some(Content::Event(event)) = message.content {
                events.push(event);
            }
        }
        events
    }
}

fn filter() -> EventFilter {
    let operations = ["BOOKING_TICKETED", "TICKET_VOIDED", "TICKET_REFUNDED"];
    EventFilter {
        event_types: vec!["PNR_V3".into()],
        operations: operations.map(String::from).into(),
        ..EventFilter::default()
    }
}

/// Waits until the file has so many processed events.
async fn processed(file: &Path, at_least: usize) {
    let wait = async {
        while Store::open(file).and_then(|s| s.processed()).map_or(0, |ids| ids.len()) < at_least {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("too few events are processed");
}

async fn terminate(mut client: Child) {
    let kill = Command::new("kill").arg(client.id().unwrap().to_string()).status().await;
    assert!(kill.unwrap().success());
    let status = timeout(PATIENCE, client.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_counted_twice_when_client_and_bridge_are_killed() {
    let Some(binary) = std::env::var_os("SPOTBRIDGE_BIN") else {
        eprintln!("skipped: SPOTBRIDGE_BIN does not name a bridge");
        return;
    };
    let mut bridge = Bridge::start(Path::new(&binary)).await;
    let request = CreateConsumerGroupRequest {
        group: "expenses".into(),
        filter: Some(filter()),
        start: Start::Earliest.into(),
        ack_deadline: Some(prost_types::Duration { seconds: 3, nanos: 0 }), // what a crash held comes back after it
        ..CreateConsumerGroupRequest::default()
    };
    ConsumerGroupServiceClient::new(bridge.endpoint().connect_lazy()).create_consumer_group(request).await.unwrap();

    bridge.trigger(&["PNR_V3", "BOOKING_TICKETED", "--count", "300", "--parallel", "8"]).await;
    bridge.trigger(&["--lifecycle", "air-void", "--count", "3"]).await;
    bridge.trigger(&["--lifecycle", "air-refund", "--count", "3"]).await;
    // Too large for a stream, so that its body is read.
    let sample =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../bridge/bridgetest/samples/0043-PNR_V3-TICKET_REFUNDED.json");
    let mut body: serde_json::Value = serde_json::from_slice(&std::fs::read(sample).unwrap()).unwrap();
    body["payload"]["dkNumber"] = "x".repeat(5 << 20).into();
    let large = bridge.folder.path().join("large.json");
    std::fs::write(&large, body.to_string()).unwrap();
    bridge.trigger(&["--file", large.to_str().unwrap()]).await;

    let file = bridge.folder.path().join("e.db");
    let mut client = bridge.client(&file);
    processed(&file, 40).await;
    client.kill().await.unwrap();
    let client = bridge.client(&file);
    processed(&file, 120).await;
    bridge.kill_and_restart().await;
    bridge.settled().await;
    terminate(client).await;

    let mut events = bridge.events().await;
    assert!(events.len() > 300 && events.iter().all(|event| event.omitted.is_none()));
    fastrand::shuffle(&mut events);
    let mut table = BTreeMap::new();
    for event in &events {
        let Some(Payload::PnrV3(pnr)) = &event.payload else { panic!("{} is not a booking", event.id) };
        for number in touched(event) {
            let row = table.entry(number.to_owned()).or_insert_with(|| Expense::new(number));
            row.apply(event, &Booking::from(&**pnr));
        }
    }
    let store = Store::open(&file).unwrap();
    assert_eq!(store.expenses().unwrap(), table.into_values().collect::<Vec<_>>());
    let mut ids: Vec<_> = events.into_iter().map(|event| event.id).collect();
    ids.sort();
    assert_eq!(store.processed().unwrap(), ids);

    // It has left in good order: what comes to a member with an empty file is only what is new.
    let empty = bridge.folder.path().join("empty.db");
    let client = bridge.client(&empty);
    bridge.trigger(&["PNR_V3", "BOOKING_TICKETED"]).await;
    processed(&empty, 1).await;
    bridge.settled().await;
    terminate(client).await;
    assert_eq!(Store::open(&empty).unwrap().processed().unwrap().len(), 1);
}
