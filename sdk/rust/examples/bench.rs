//! Measures a broker from Rust: submissions with their results in bulk, then calls one at a time. Worker and client are
//! this process. Prints one JSON line. With `--role fill` it only submits.
//!
//! ```console
//! $ cargo run --release -p plait --example bench -- --tasks 1000000
//! ```

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[path = "../tests/support/decider.rs"]
mod decider;

use clap::{Parser, ValueEnum};
use futures_util::{TryStreamExt, stream};
use plait::Plait;
use plait::pb::testing::v1 as pb;
use plait::pb::testing::v1::echo_service_client::EchoServiceClient;
use plait::pb::testing::v1::echo_service_server::{EchoService, EchoServiceServer};
use plait::pb::v1::task_service_client::TaskServiceClient;
use plait::pb::v1::{
    SessionHello, SubmitStreamRequest, submit_stream_request, submit_stream_response,
};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tonic::{Request, Response, Status};

/// Measures a broker from Rust.
#[derive(Debug, Parser)]
struct Flags {
    /// Tasks that are submitted in bulk, with their results.
    #[arg(long, default_value_t = 500_000)]
    tasks: usize,
    /// Bytes of a request and of a response.
    #[arg(long, default_value_t = 256)]
    size: usize,
    /// Begin payloads with a number below this, by turns, for limits by key; 0: all are alike.
    #[arg(long, default_value_t = 0)]
    keys: u64,
    /// Calls that are made one at a time.
    #[arg(long, default_value_t = 2_000)]
    single: usize,
    /// Slots of the worker.
    #[arg(long, default_value_t = 4_096)]
    concurrency: u32,
    /// What part this process has.
    #[arg(long, value_enum, default_value_t = Role::Both)]
    role: Role,
    /// Threads of this process; 0 runs all on one.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Decide the contract, too: for a broker without a scheduler.
    #[arg(long)]
    alone: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    Both,
    Client,
    Worker,
    Fill,
}

#[derive(Debug, Clone)]
struct Echo;

#[tonic::async_trait]
impl EchoService for Echo {
    async fn echo(
        &self,
        request: Request<pb::EchoRequest>,
    ) -> Result<Response<pb::EchoResponse>, Status> {
        Ok(Response::new(pb::EchoResponse {
            payload: request.into_inner().payload,
        }))
    }

    async fn fail(
        &self,
        _: Request<pb::FailRequest>,
    ) -> Result<Response<pb::FailResponse>, Status> {
        Err(unserved())
    }

    async fn sleep(
        &self,
        _: Request<pb::SleepRequest>,
    ) -> Result<Response<pb::SleepResponse>, Status> {
        Err(unserved())
    }

    async fn flow(
        &self,
        _: Request<pb::FlowRequest>,
    ) -> Result<Response<pb::FlowResponse>, Status> {
        Err(unserved())
    }

    async fn append(
        &self,
        _: Request<pb::AppendRequest>,
    ) -> Result<Response<pb::AppendResponse>, Status> {
        Err(unserved())
    }

    async fn once(
        &self,
        _: Request<pb::OnceRequest>,
    ) -> Result<Response<pb::OnceResponse>, Status> {
        Err(unserved())
    }

    async fn scalars(
        &self,
        _: Request<pb::ScalarsRequest>,
    ) -> Result<Response<pb::ScalarsResponse>, Status> {
        Err(unserved())
    }

    async fn inspect(
        &self,
        _: Request<pb::InspectRequest>,
    ) -> Result<Response<pb::InspectResponse>, Status> {
        Err(unserved())
    }
}

fn unserved() -> Status {
    Status::unimplemented("the bench only echoes")
}

fn main() -> Result<(), Status> {
    let flags = Flags::parse();
    let mut runtime = match flags.threads {
        0 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime
        .worker_threads(flags.threads.max(1))
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Status::internal(error.to_string()))?;
    // A task and not the main thread, which would make one more.
    let run = runtime.spawn(run(flags));
    runtime
        .block_on(run)
        .map_err(|error| Status::internal(error.to_string()))?
}

async fn run(flags: Flags) -> Result<(), Status> {
    let p = Plait::connect().await?;
    if flags.alone {
        let (observing, observed) = tokio::sync::oneshot::channel();
        tokio::spawn(decider::decide(p.transport(), observing));
        observed
            .await
            .map_err(|_| Status::unavailable("nobody to decide the contract"))?;
    }
    let worker = p
        .worker()
        .serve(EchoServiceServer::new(Echo))
        .descriptors(plait::pb::FILE_DESCRIPTOR_SET)
        .name("bench-rust")
        .concurrency(flags.concurrency);
    if flags.role == Role::Worker {
        let mut working = worker.start()?;
        working.attached().await?;
        println!(r#"{{"event": "ready"}}"#);
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            ended = working.ended() => return ended,
            _ = terminate.recv() => working.stop(),
        }
        return working.wait().await;
    }
    if flags.role == Role::Fill {
        let took = fill(&p, &flags).await?;
        let rate = (flags.tasks as f64 / took.as_secs_f64()).round();
        println!(r#"{{"tasks_per_s": {rate}}}"#);
        return Ok(());
    }
    let working = if flags.role == Role::Both {
        let mut working = worker.start()?;
        // By then its contract is in force.
        working.attached().await?;
        Some(working)
    } else {
        None
    };
    let report = measure(&p, &flags).await?;
    if let Some(working) = working {
        working.stop();
        working.wait().await?;
    }
    println!("{report}");
    Ok(())
}

async fn measure(p: &Plait, flags: &Flags) -> Result<serde_json::Value, Status> {
    let mut client = EchoServiceClient::new(p.channel());
    let synced = synced(p).await?;
    // Neither announcing the contract nor growing the first buffers is what is measured.
    bulk(p, flags, flags.tasks / 10 + 1).await?;
    let took = bulk(p, flags, flags.tasks).await?;
    let mut singles = Vec::with_capacity(flags.single);
    for _ in 0..flags.single {
        let start = now();
        client.echo(request(flags.size, flags.keys, 0)).await?;
        singles.push(start.elapsed());
    }
    singles.sort_unstable();
    let quantile = |permille: usize| {
        let at = (singles.len() * permille / 1_000).min(singles.len().saturating_sub(1));
        singles
            .get(at)
            .map(|took| (took.as_secs_f64() * 1e6).round() / 1e3)
    };
    Ok(serde_json::json!({
        "language": "rust",
        "tasks_per_s": (flags.tasks as f64 / took.as_secs_f64()).round(),
        "p50_ms": quantile(500),
        "p99_ms": quantile(990),
        "synced": synced,
        "tasks": flags.tasks,
        "size_bytes": flags.size,
        "single_runs": flags.single,
    }))
}

/// Whether the broker syncs what it acknowledges: its own word, in the welcome of a session.
async fn synced(p: &Plait) -> Result<bool, Status> {
    let hello = SessionHello {
        session: uuid::Uuid::new_v4().into_bytes().to_vec().into(),
        ..SessionHello::default()
    };
    let hello = SubmitStreamRequest {
        message: Some(submit_stream_request::Message::Hello(hello)),
    };
    let mut broker = TaskServiceClient::new(p.transport());
    let answers = broker.submit_stream(stream::iter([hello])).await?;
    let first = answers.into_inner().message().await?;
    match first.and_then(|answer| answer.message) {
        Some(submit_stream_response::Message::Welcome(welcome)) => Ok(welcome.synced),
        _ => Err(Status::internal("the broker's first message is no welcome")),
    }
}

/// Submits tasks and reads their results.
async fn bulk(p: &Plait, flags: &Flags, tasks: usize) -> Result<Duration, Status> {
    let start = now();
    let (size, keys) = (flags.size, flags.keys);
    let requests = stream::iter((0..tasks).map(move |number| request(size, keys, number)));
    let mut responses = p.call_many(requests, |channel, request| async move {
        EchoServiceClient::new(channel).echo(request).await
    });
    let mut count = 0;
    while let Some(response) = responses.try_next().await? {
        if response.payload.len() != flags.size {
            return Err(Status::data_loss("a response of another size"));
        }
        count += 1;
    }
    if count == tasks {
        Ok(start.elapsed())
    } else {
        Err(Status::data_loss("a response is missing"))
    }
}

/// Submits tasks, and waits for no result.
async fn fill(p: &Plait, flags: &Flags) -> Result<Duration, Status> {
    let start = now();
    let (size, keys) = (flags.size, flags.keys);
    let requests = stream::iter((0..flags.tasks).map(move |number| request(size, keys, number)));
    let accepted = p.submit_many(requests, |channel, request| async move {
        EchoServiceClient::new(channel).echo(request).await
    });
    let count = accepted.try_fold(0, |count, _| async move { Ok(count + 1) });
    if count.await? == flags.tasks {
        Ok(start.elapsed())
    } else {
        Err(Status::data_loss("a task is missing"))
    }
}

fn request(size: usize, keys: u64, number: usize) -> pb::EchoRequest {
    static PAYLOAD: [u8; 1 << 20] = [b'x'; 1 << 20];
    let alike = &PAYLOAD[..size.min(PAYLOAD.len())];
    let Some(key) = (number as u64).checked_rem(keys) else {
        return pb::EchoRequest {
            payload: bytes::Bytes::from_static(alike),
        };
    };
    let mut payload = alike.to_vec();
    let shown = payload.len().min(size_of::<u64>());
    payload[..shown].copy_from_slice(&key.to_le_bytes()[..shown]);
    pb::EchoRequest {
        payload: payload.into(),
    }
}

#[allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn now() -> Instant {
    Instant::now()
}
