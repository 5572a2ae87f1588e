//! The process: arguments, sockets, health, reflection, and a log that cannot be written.

use std::io::Read;
use std::process::{Command, Output, Stdio};

use plait::pb::v1 as pb;
use plait::pb::v1::task_service_client::TaskServiceClient;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::support::{Broker, Setup, Submitter, frame, reason, soon};

fn broker(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plait-broker"));
    command.args(args).env_clear().env("HOME", "/nonexistent");
    command.envs(env.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn help_and_version_are_told() {
    let help = broker(&["--help"], &[]);
    assert!(help.status.success());
    for flag in [
        "--listen",
        "--data-dir",
        "--sync",
        "--drain-grace",
        "check-config",
    ] {
        assert!(text(&help.stdout).contains(flag), "{flag}");
    }
    let version = broker(&["--version"], &[]);
    assert_eq!(
        text(&version.stdout),
        format!("plait-broker {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn settings_are_checked_without_starting() {
    let sound = broker(
        &["check-config", "--drain-grace", "3s"],
        &[("PLAIT_BROKER_THREADS", "7")],
    );
    assert!(sound.status.success(), "{}", text(&sound.stderr));
    let settings: serde_json::Value = serde_json::from_slice(&sound.stdout).unwrap();
    assert_eq!(
        (&settings["threads"], &settings["drain_grace"]),
        (&7.into(), &"3s".into())
    );
    assert_eq!(
        settings["data_dir"],
        "/nonexistent/.local/share/plait/broker"
    );
    let wrong = broker(&["check-config"], &[("PLAIT_BROKER_THREDS", "7")]);
    assert!(!wrong.status.success());
    assert!(
        text(&wrong.stderr).contains("threds"),
        "{}",
        text(&wrong.stderr)
    );
    assert!(wrong.stdout.is_empty());
}

#[test]
fn a_reader_that_goes_away_is_no_reason_to_panic() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_plait-broker"))
        .arg("check-config")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(said, "");
}

#[tokio::test]
async fn a_unix_socket_serves_the_same() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("broker.sock");
    let setup = Setup::default().with("LISTEN_UNIX", path.display());
    let mut broker = Broker::start_with(setup).await;
    let uri = format!("unix://{}", path.display());
    let endpoint = Endpoint::try_from(uri).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let request = pb::GetQueueRequest {
        name: "test".to_owned(),
    };
    let queue = TaskServiceClient::new(channel)
        .get_queue(request)
        .await
        .unwrap();
    assert_eq!(queue.into_inner().queue.unwrap().name, "test");
    broker.signal(rustix::process::Signal::TERM);
    assert!(broker.ended().await.success());
    assert!(!path.exists());
}

#[tokio::test]
async fn reflection_names_the_services() {
    let broker = Broker::start().await;
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(broker.channel());
    let answers = client
        .server_reflection_info(tokio_stream::once(list))
        .await
        .unwrap();
    let answer = soon("an answer", answers.into_inner().message())
        .await
        .unwrap()
        .unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}")
    };
    let names: Vec<String> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for name in [
        "plait.v1.TaskService",
        "plait.control.v1.ControlService",
        "grpc.health.v1.Health",
    ] {
        assert!(
            names.iter().any(|known| known == name),
            "{name} is not in {names:?}"
        );
    }
}

#[tokio::test]
async fn a_log_that_cannot_be_written_ends_the_broker_and_acknowledges_nothing() {
    // The first segment has 1 MiB; the log cannot grow beyond the limit.
    let mut broker = Broker::start_with(Setup {
        file_blocks_max: Some(4096),
        ..Setup::default()
    })
    .await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut acknowledged = Vec::new();
    let status = loop {
        let sequence = acknowledged.len() as u64 + 1;
        submitter.submit(sequence, frame([vec![7; 900_000]])).await;
        match submitter.try_accepted(sequence).await {
            Ok(accepted) => acknowledged.extend(accepted.accepted.unwrap().tasks),
            Err(status) => break status,
        }
    };
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "LOG_FAILED")
    );
    assert!(!broker.ended().await.success());
    broker.setup.file_blocks_max = None;
    broker.restart().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    assert!(submitter.last_sequence >= acknowledged.len() as u64);
    for (sequence, task) in (1..).zip(&acknowledged) {
        assert_eq!(
            submitter.accept(sequence, frame([vec![7; 900_000]])).await,
            [*task]
        );
    }
}
