//! The command: exit codes, signals and what is said on standard error.

mod bridge;

use std::process::Stdio;

use bridge::{Bridge, PATIENCE, event, status};
use expense_feed::proto::spotbridge::v1::{Lost, consume_request::Content as Say, consume_response::Content as Hear};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tonic::Code;

fn command(folder: &TempDir, bridge: Option<&Bridge>, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_expense-feed"));
    command.args(args).env("EXPENSES_DB", folder.path().join("e.db")).env_remove("SPOTBRIDGE_HEARTBEAT");
    if let Some(bridge) = bridge {
        command.env("SPOTBRIDGE_GRPC", bridge.address.to_string());
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Exit code, standard output and standard error.
async fn end(child: Child) -> (Option<i32>, String, String) {
    let output = timeout(PATIENCE, child.wait_with_output()).await.expect("the command does not end").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_and_sigint_leave_with_exit_code_0() {
    for signal in ["TERM", "INT"] {
        let (mut bridge, folder) = (Bridge::start().await, TempDir::new().unwrap());
        let child = command(&folder, Some(&bridge), &["run"]).spawn().unwrap();
        let mut member = bridge.joined().await;
        member.say(Hear::Lost(Lost { from_sequence: 3, to_sequence: 9, ..Lost::default() })).await;
        member.deliver("d1", event("a", "BOOKING_TICKETED", 1, "1")).await;
        member.hear_ack("d1").await;
        let kill = Command::new("kill").args(["-s", signal, &child.id().unwrap().to_string()]).status().await;
        assert!(kill.unwrap().success());
        assert!(matches!(member.hear().await, Some(Say::Leave(_))));
        drop(member);
        let (code, _, stderr) = end(child).await;
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stderr.contains("LOST: events 3 to 9"), "{stderr}");

        let (code, dump, _) = end(command(&folder, None, &["dump"]).spawn().unwrap()).await;
        assert_eq!((code, dump.as_str()), (Some(0), "1\tpnr\torg\t\tKWD\t100000\t0\t100000\tISSUED\t1\ta\n"));
        let (code, processed, _) = end(command(&folder, None, &["processed"]).spawn().unwrap()).await;
        assert_eq!((code, processed.as_str()), (Some(0), "a\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_means_stop_is_exit_code_1_with_its_reason() {
    let (mut bridge, folder) = (Bridge::start().await, TempDir::new().unwrap());
    let child = command(&folder, Some(&bridge), &[]).spawn().unwrap();
    bridge.member().await.send(Err(status(Code::NotFound, "GROUP_NOT_FOUND", &[]))).await;
    let (code, _, stderr) = end(child).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("GROUP_NOT_FOUND"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_is_exit_code_2() {
    let folder = TempDir::new().unwrap();
    let (code, ..) = end(command(&folder, None, &["drain"]).spawn().unwrap()).await;
    assert_eq!(code, Some(2));
    for heartbeat in ["4s", "61s", "1m", "15", "7.5s"] {
        let child = command(&folder, None, &["run"]).env("SPOTBRIDGE_HEARTBEAT", heartbeat).spawn().unwrap();
        assert_eq!(end(child).await.0, Some(2), "{heartbeat}");
    }
    let child = command(&folder, None, &["run"]).env("SPOTBRIDGE_GRPC", "no such address").spawn().unwrap();
    assert_eq!(end(child).await.0, Some(2));
}
