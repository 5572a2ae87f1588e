//! What clients and workers send: any messages, in any order, on both streams of a real broker. It answers each stream,
//! and goes on to serve others.

#[path = "../../../sdk/rust/tests/support/decider.rs"]
mod decider;

use clap::Parser;
use plait::Plait;
use plait::pb::testing::v1::EchoRequest;
use plait::pb::testing::v1::echo_service_client::EchoServiceClient;
use plait::pb::v1::task_service_client::TaskServiceClient;
use plait::pb::v1::worker_service_client::WorkerServiceClient;
use plait::pb::v1::{AttachRequest, ListQueuesRequest, SubmitStreamRequest};
use plait_broker::config::{Flags, Settings};
use plait_broker::server::{self, Signals};
use prost::Message;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

/// Messages of one stream at most.
const MESSAGES_MAX: usize = 16;

/// How long a stream that said all may wait for more.
const QUIET: Duration = Duration::from_millis(2);

/// A broker that does not answer within this hangs.
const PATIENCE: Duration = Duration::from_secs(20);

struct Broker {
    runtime: Runtime,
    channel: Channel,
    _folder: tempfile::TempDir,
}

fn broker() -> &'static Broker {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    BROKER.get_or_init(|| {
        let runtime = Runtime::new().expect("threads");
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        let address = runtime.block_on(async {
            let flags = ["plait-broker", "--listen", "127.0.0.1:0", "--sync", "none"];
            let flags = flags.map(std::ffi::OsString::from);
            let flags = flags
                .into_iter()
                .chain(["--data-dir".into(), data.into_os_string()]);
            let settings = Settings::load(&Flags::parse_from(flags)).expect("settings");
            let (ready, is_ready) = tokio::sync::oneshot::channel();
            tokio::spawn(async move {
                let signals = Signals::of_process().expect("signals");
                let announce = |told: &server::Ready| drop(ready.send(told.address.clone()));
                server::run(&settings, signals, announce)
                    .await
                    .expect("it serves");
                panic!("the broker ended");
            });
            is_ready.await.expect("it is ready")
        });
        let channel = runtime.block_on(announced(&address));
        Broker {
            runtime,
            channel,
            _folder: folder,
        }
    })
}

/// A connection to a broker that knows the methods of the echo service.
async fn announced(address: &str) -> Channel {
    let p = Plait::builder()
        .address(address)
        .descriptors(plait::pb::FILE_DESCRIPTOR_SET);
    let p = p.connect().await.expect("connected");
    let (observing, observed) = tokio::sync::oneshot::channel();
    tokio::spawn(decider::decide(p.transport(), observing));
    observed.await.expect("it observes");
    let call = |channel| async move {
        EchoServiceClient::new(channel)
            .echo(EchoRequest::default())
            .await
    };
    p.submit(call).await.expect("announced");
    p.transport()
}

/// Messages behind lengths of two bytes; those that are none are passed over.
fn messages<M: Message + Default>(mut bytes: &[u8]) -> Vec<M> {
    let mut found = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (message, rest) = rest.split_at(length);
        found.extend(M::decode(message));
        bytes = rest;
        if found.len() == MESSAGES_MAX {
            break;
        }
    }
    found
}

pub(crate) fn streams(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else {
        return;
    };
    let broker = broker();
    broker.runtime.block_on(async {
        let channel = broker.channel.clone();
        if which % 2 == 0 {
            let mut client = TaskServiceClient::new(channel);
            let sent = tokio_stream::iter(messages::<SubmitStreamRequest>(bytes));
            read_out(client.submit_stream(sent).await).await;
        } else {
            let mut client = WorkerServiceClient::new(channel);
            let sent = tokio_stream::iter(messages::<AttachRequest>(bytes));
            read_out(client.attach(sent).await).await;
        }
        let mut others = TaskServiceClient::new(broker.channel.clone());
        let answer =
            tokio::time::timeout(PATIENCE, others.list_queues(ListQueuesRequest::default()));
        answer
            .await
            .expect("the broker hangs")
            .expect("it serves others");
    });
}

/// Reads a stream until it ends or is quiet.
async fn read_out<M>(opened: Result<tonic::Response<tonic::Streaming<M>>, tonic::Status>) {
    let Ok(stream) = opened else { return };
    let mut stream = stream.into_inner();
    while let Ok(Ok(Some(_))) = tokio::time::timeout(QUIET, stream.message()).await {}
}
