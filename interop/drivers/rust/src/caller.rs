//! Calls testing.v1.EchoService directly and says who answered how often; a failure counts under its code.

use crate::contract::testing::v1::EchoRequest;
use crate::contract::testing::v1::echo_service_client::EchoServiceClient;
use plait::{DirectChannel, Plait};
use std::collections::BTreeMap;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// Calls at once, where it goes on until it is told to end.
const CALLERS: usize = 8;

type Stub = EchoServiceClient<DirectChannel>;
type Answers = BTreeMap<String, u32>;

/// Makes so many calls; 0: until SIGTERM.
pub(crate) async fn call(calls: u32) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mesh = Plait::connect().await?;
    let stub = EchoServiceClient::new(mesh.direct());
    let mut answers = Answers::new();
    for _ in 0..calls.max(1) {
        count(&mut answers, one(stub.clone()).await);
    }
    say("ready", &answers);
    if calls > 0 {
        return Ok(());
    }
    let mut running = JoinSet::new();
    for _ in 0..CALLERS {
        running.spawn(one(stub.clone()));
    }
    let mut over = false;
    loop {
        tokio::select! {
            done = running.join_next() => match done {
                Some(answer) => {
                    count(&mut answers, answer?);
                    if !over {
                        running.spawn(one(stub.clone()));
                    }
                }
                None => break,
            },
            _ = terminate.recv(), if !over => over = true,
        }
    }
    say("done", &answers);
    Ok(())
}

async fn one(mut stub: Stub) -> String {
    let payload = "payload".into();
    match stub.echo(EchoRequest { payload }).await {
        Ok(answer) => String::from_utf8_lossy(&answer.get_ref().payload).into_owned(),
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    }
}

fn count(answers: &mut Answers, answer: String) {
    *answers.entry(answer).or_default() += 1;
}

fn say(event: &str, answers: &Answers) {
    let counts: Vec<_> = answers
        .iter()
        .map(|(answer, count)| format!("{answer:?}:{count}"))
        .collect();
    println!(
        "{{\"event\":\"{event}\",\"answers\":{{{}}}}}",
        counts.join(",")
    );
}
