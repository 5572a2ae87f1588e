//! Measures a broker over loopback with a raw client and a raw worker in this process: no SDK in the way.
//!
//! `cargo run --release -p plait-broker --example loopback_bench -- target/release/plait-broker [seconds] [batch]`
//! starts the broker on a directory of its own and prints one JSON line for throughput and one for latency.

use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use plait::pb::control::v1 as control;
use plait::pb::control::v1::control_service_client::ControlServiceClient;
use plait::pb::control::v1::observe_response::Event;
use plait::pb::v1 as pb;
use plait::pb::v1::contract_service_client::ContractServiceClient;
use plait::pb::v1::task_service_client::TaskServiceClient;
use plait::pb::v1::worker_service_client::WorkerServiceClient;
use plait::pb::v1::{
    attach_request, attach_response, submit_stream_request, submit_stream_response,
};
use plait_broker::clock::monotonic;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The method that is measured.
const METHOD: &str = "/bench.Echo/Say";

/// Size of a request and of a response, bytes.
const PAYLOAD: usize = 256;

/// Tasks under way at most while throughput is measured.
const OUTSTANDING: usize = 16_384;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let broker = args
        .first()
        .ok_or("usage: loopback_bench BROKER [SECONDS] [BATCH]")?;
    let seconds: u64 = args.get(1).map_or(Ok(5), |text| text.parse())?;
    let batch: usize = args.get(2).map_or(Ok(128), |text| text.parse())?;
    let dir = tempfile::tempdir_in(std::env::var("BENCH_DIR").unwrap_or_else(|_| ".".to_owned()))?;
    let process = Process::start(broker, dir.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let channel = Channel::from_shared(format!("http://{}", process.address))?
            .tcp_nodelay(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20);
        declare(channel.connect().await?).await?;
        let worker = channel.connect().await?;
        tokio::spawn(async move {
            if let Err(error) = work(worker).await {
                eprintln!("worker: {error}");
            }
        });
        let channel = channel.connect().await?;
        let time = Duration::from_secs(seconds);
        throughput(channel.clone(), process.child.id(), batch, time).await?;
        latency(channel, Duration::from_secs(seconds.min(3))).await
    })
}

/// The broker's process, killed at the end.
struct Process {
    child: Child,
    address: String,
}

impl Process {
    fn start(program: &str, dir: &std::path::Path) -> Result<Self> {
        let mut child = Command::new(program)
            .args(["--listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir)
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().ok_or("no stdout")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let ready: serde_json::Value = serde_json::from_str(&line)?;
        let address = ready["address"].as_str().ok_or("no address")?.to_owned();
        Ok(Self { child, address })
    }
}

/// Processor time that a process has used.
fn cpu(pid: u32) -> Duration {
    const TICKS_PER_S: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the name in parentheses: user and system time are the 12th and 13th.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split(' ')
        .collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0.0)
    };
    Duration::from_secs_f64((ticks(12) + ticks(13)) / TICKS_PER_S)
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Has the broker know the method.
async fn declare(channel: Channel) -> Result<()> {
    let mut control = ControlServiceClient::new(channel.clone());
    let mut events = control
        .observe(control::ObserveRequest::default())
        .await?
        .into_inner();
    let announce = async {
        let request = pb::AnnounceContractRequest {
            descriptor_set: Bytes::from_static(b"bench"),
            services: vec!["bench.Echo".to_owned()],
            validate_only: false,
            ..pb::AnnounceContractRequest::default()
        };
        ContractServiceClient::new(channel)
            .announce_contract(request)
            .await
    };
    let decide = async {
        while let Some(event) = events.message().await? {
            let Some(Event::ContractAnnounced(announced)) = event.event else {
                continue;
            };
            let decision = control::DecideContractRequest {
                announcement: announced.announcement,
                policies: vec![policy()],
                refusal: None,
                ..control::DecideContractRequest::default()
            };
            control.decide_contract(decision).await?;
            break;
        }
        Ok(())
    };
    tokio::try_join!(announce, decide)?;
    Ok(())
}

fn policy() -> control::MethodPolicy {
    control::MethodPolicy {
        info: Some(pb::MethodInfo {
            method: METHOD.to_owned(),
            queue: "bench".to_owned(),
            ..pb::MethodInfo::default()
        }),
        deadline_ms: 600_000,
        attempt_timeout_ms: 60_000,
        max_attempts: 3,
        initial_backoff_ms: 100,
        max_backoff_ms: 1000,
        multiplier_permille: 2000,
        retention_ms: 60_000,
        ..control::MethodPolicy::default()
    }
}

/// A worker that echoes, one frame of outcomes for one of attempts.
async fn work(channel: Channel) -> Result<()> {
    let (requests, queue) = mpsc::channel(256);
    let hello = pb::WorkerHello {
        worker: "bench".to_owned(),
        methods: vec![METHOD.to_owned()],
        slots: 8192,
        ..pb::WorkerHello::default()
    };
    let message = Some(attach_request::Message::Hello(hello));
    requests
        .send(pb::AttachRequest {
            accepted_sequence: 0,
            message,
        })
        .await?;
    let answers = WorkerServiceClient::new(channel)
        .attach(ReceiverStream::new(queue))
        .await?;
    let mut answers = answers.into_inner();
    let mut sequence = 0;
    while let Some(answer) = answers.message().await? {
        let Some(attach_response::Message::Attempts(frame)) = answer.message else {
            continue;
        };
        sequence += 1;
        let outcomes = pb::OutcomeFrame {
            sequence,
            tasks: frame.tasks,
            tokens: frame.tokens,
            payloads: frame.payloads,
            failures: Vec::new(),
        };
        let message = Some(attach_request::Message::Outcomes(outcomes));
        requests
            .send(pb::AttachRequest {
                accepted_sequence: frame.sequence,
                message,
            })
            .await?;
    }
    Ok(())
}

/// A submitter's stream.
struct Stream {
    requests: mpsc::Sender<pb::SubmitStreamRequest>,
    answers: Streaming<pb::SubmitStreamResponse>,
    sequence: u64,
}

impl Stream {
    async fn open(channel: Channel, session: u8) -> Result<Self> {
        let (requests, queue) = mpsc::channel(256);
        let hello = pb::SessionHello {
            session: vec![session; 16].into(),
            client: "bench".to_owned(),
        };
        let message = Some(submit_stream_request::Message::Hello(hello));
        requests.send(pb::SubmitStreamRequest { message }).await?;
        let mut client = TaskServiceClient::new(channel);
        let answers = client
            .submit_stream(ReceiverStream::new(queue))
            .await?
            .into_inner();
        Ok(Self {
            requests,
            answers,
            sequence: 0,
        })
    }

    async fn submit(&mut self, payloads: Vec<Bytes>) -> Result<()> {
        self.sequence += 1;
        let tasks = pb::SubmitFrame {
            methods: vec![METHOD.to_owned()],
            payloads,
            ..pb::SubmitFrame::default()
        };
        let submit = pb::SequencedSubmit {
            sequence: self.sequence,
            tasks: Some(tasks),
            r#await: true,
        };
        let message = Some(submit_stream_request::Message::Submit(submit));
        Ok(self
            .requests
            .send(pb::SubmitStreamRequest { message })
            .await?)
    }

    /// How many results came with the next message.
    async fn results(&mut self) -> Result<usize> {
        let answer = self.answers.message().await?.ok_or("the stream ended")?;
        Ok(match answer.message {
            Some(submit_stream_response::Message::Results(frame)) => {
                if let Some(failure) = frame.failures.first() {
                    return Err(format!("a task failed: {failure:?}").into());
                }
                frame.tasks.len()
            }
            Some(submit_stream_response::Message::Accepted(accepted)) => {
                let refused = accepted.accepted.as_ref().and_then(|a| a.refusals.first());
                match refused {
                    Some(refusal) => return Err(format!("refused: {refusal:?}").into()),
                    None => 0,
                }
            }
            _ => 0,
        })
    }
}

async fn throughput(channel: Channel, broker: u32, batch: usize, time: Duration) -> Result<()> {
    let mut stream = Stream::open(channel, 1).await?;
    let payload = Bytes::from(vec![7; PAYLOAD]);
    let warm_up = Duration::from_millis(500);
    let (mut outstanding, mut done, mut warm) = (0, 0_u64, 0_u64);
    let begun = monotonic();
    let mut counted_from = begun;
    let mut used = (Duration::ZERO, Duration::ZERO);
    while begun.elapsed() < warm_up + time {
        while outstanding + batch <= OUTSTANDING {
            stream.submit(vec![payload.clone(); batch]).await?;
            outstanding += batch;
        }
        let results = stream.results().await?;
        outstanding -= results;
        done += results as u64;
        if warm == 0 && begun.elapsed() >= warm_up {
            (warm, counted_from) = (done, monotonic());
            used = (cpu(broker), cpu(std::process::id()));
        }
    }
    let per_second = (done - warm) as f64 / counted_from.elapsed().as_secs_f64();
    let micros = |now: Duration, before: Duration| {
        let per_task = (now - before).as_secs_f64() * 1e6 / (done - warm) as f64;
        (per_task * 100.0).round() / 100.0
    };
    let (broker_us, clients_us) = (
        micros(cpu(broker), used.0),
        micros(cpu(std::process::id()), used.1),
    );
    while outstanding > 0 {
        outstanding -= stream.results().await?;
    }
    let line = serde_json::json!({
        "mode": "throughput", "batch": batch, "tasks_per_s": per_second.round(), "synced": true,
        "broker_cpu_us_per_task": broker_us, "clients_cpu_us_per_task": clients_us,
    });
    println!("{line}");
    Ok(())
}

async fn latency(channel: Channel, time: Duration) -> Result<()> {
    let mut stream = Stream::open(channel, 2).await?;
    let payload = Bytes::from(vec![7; PAYLOAD]);
    let mut micros: Vec<u64> = Vec::new();
    let begun = monotonic();
    while begun.elapsed() < time {
        let sent = monotonic();
        stream.submit(vec![payload.clone()]).await?;
        while stream.results().await? == 0 {}
        micros.push(u64::try_from(sent.elapsed().as_micros())?);
    }
    micros.sort_unstable();
    let at = |permille: usize| micros[(micros.len() - 1) * permille / 1000] as f64 / 1000.0;
    let quantiles: HashMap<&str, f64> = [
        ("p50_ms", at(500)),
        ("p99_ms", at(990)),
        ("p999_ms", at(999)),
    ]
    .into();
    let line = serde_json::json!({
        "mode": "one_at_a_time", "tasks": micros.len(), "latency": quantiles, "synced": true,
    });
    println!("{line}");
    Ok(())
}
