//! `expense-feed [run]` consumes until SIGTERM or SIGINT; `dump` prints the expenses, `processed` the ids of the events.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use expense_feed::{Consumer, Settings, Store};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const USAGE: &str = "usage: expense-feed [run | dump | processed]";

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] | ["run"] => match settings() {
            Ok(settings) => run(settings).await,
            Err(problem) => return usage(&problem),
        },
        ["dump"] => store().and_then(|s| print(s.expenses()?)),
        ["processed"] => store().and_then(|s| print(s.processed()?)),
        _ => return usage(USAGE),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("expense-feed: {e}");
            ExitCode::FAILURE
        }
    }
}

fn usage(problem: &str) -> ExitCode {
    eprintln!("expense-feed: {problem}");
    ExitCode::from(2)
}

async fn run(settings: Settings) -> Result<(), Box<dyn Error>> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn({
        let stop = stop.clone();
        async move {
            tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
            stop.cancel();
        }
    });
    Ok(Consumer::new(settings, store()?).run(&stop).await?)
}

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn store() -> Result<Store, Box<dyn Error>> {
    let file = variable("EXPENSES_DB", "expenses.db");
    Store::open(&file).map_err(|e| format!("{file}: {e}").into())
}

fn settings() -> Result<Settings, String> {
    let text = variable("SPOTBRIDGE_HEARTBEAT", "15s");
    let seconds = text.strip_suffix('s').and_then(|s| s.parse().ok());
    let Some(seconds @ 5..=60) = seconds else {
        return Err(format!("SPOTBRIDGE_HEARTBEAT: {text:?} is not 5s to 60s"));
    };
    let address = format!("http://{}", variable("SPOTBRIDGE_GRPC", "127.0.0.1:9090"));
    Ok(Settings {
        address: address.parse().map_err(|e| format!("SPOTBRIDGE_GRPC: {e}"))?,
        group: variable("SPOTBRIDGE_GROUP", "expenses"),
        heartbeat: Duration::from_secs(seconds),
    })
}

fn print(lines: impl IntoIterator<Item: std::fmt::Display>) -> Result<(), Box<dyn Error>> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(out.flush()?)
}
