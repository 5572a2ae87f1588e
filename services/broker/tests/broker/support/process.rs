//! The broker's process.

use std::path::Path;
use std::process::{ExitStatus, Stdio};

use plait::pb::control::v1::control_service_client::ControlServiceClient;
use plait::pb::control::v1::key_value_service_client::KeyValueServiceClient;
use plait::pb::v1::contract_service_client::ContractServiceClient;
use plait::pb::v1::task_service_client::TaskServiceClient;
use plait::pb::v1::worker_service_client::WorkerServiceClient;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tonic::transport::Channel;

use super::{ECHO, Scheduler, policy, soon};

/// How a broker is started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setup {
    /// Settings as `PLAIT_BROKER_*` variables, without the prefix.
    pub(crate) env: Vec<(&'static str, String)>,
    /// No file may grow beyond so many KiB.
    pub(crate) file_blocks_max: Option<u32>,
}

impl Setup {
    pub(crate) fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.env.push((key, value.to_string()));
        self
    }
}

/// A broker on a data directory of its own. The process is killed on drop.
pub(crate) struct Broker {
    pub(crate) setup: Setup,
    dir: TempDir,
    child: Child,
    pub(crate) address: String,
    /// Where its metrics are, if anywhere.
    pub(crate) metrics: Option<String>,
    channel: Channel,
}

/// Where a broker is.
struct Place {
    address: String,
    metrics: Option<String>,
    channel: Channel,
}

impl Broker {
    /// A broker that knows the method [`ECHO`].
    pub(crate) async fn start() -> Self {
        Self::start_with(Setup::default()).await
    }

    /// The same, with settings.
    pub(crate) async fn start_with(setup: Setup) -> Self {
        let broker = Self::empty(setup).await;
        let mut scheduler = Scheduler::observe(&broker).await;
        scheduler.declare(&broker, vec![policy(ECHO)]).await;
        broker
    }

    /// A broker that knows no contract.
    pub(crate) async fn empty(setup: Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (child, place) = spawn(&setup, dir.path()).await;
        Self {
            setup,
            dir,
            child,
            address: place.address,
            metrics: place.metrics,
            channel: place.channel,
        }
    }

    pub(crate) fn data_dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn tasks(&self) -> TaskServiceClient<Channel> {
        TaskServiceClient::new(self.channel.clone())
    }

    pub(crate) fn workers(&self) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::new(self.channel.clone())
    }

    pub(crate) fn contracts(&self) -> ContractServiceClient<Channel> {
        ContractServiceClient::new(self.channel.clone())
    }

    pub(crate) fn control(&self) -> ControlServiceClient<Channel> {
        ControlServiceClient::new(self.channel.clone())
    }

    pub(crate) fn key_values(&self) -> KeyValueServiceClient<Channel> {
        KeyValueServiceClient::new(self.channel.clone())
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Sends a signal to the process.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().unwrap() as i32).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for the process to end by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        soon("the end of the broker", self.child.wait())
            .await
            .unwrap()
    }

    /// Kills the process without warning and starts another on the same data.
    pub(crate) async fn crash_and_restart(&mut self) {
        self.child.kill().await.unwrap();
        self.restart().await;
    }

    /// Ends the process in order and starts another on the same data.
    pub(crate) async fn stop_and_restart(&mut self) {
        self.signal(Signal::TERM);
        assert!(self.ended().await.success());
        self.restart().await;
    }

    /// Starts another process on the same data; this one has ended.
    pub(crate) async fn restart(&mut self) {
        let (child, place) = spawn(&self.setup, self.dir.path()).await;
        (self.child, self.address, self.channel) = (child, place.address, place.channel);
        self.metrics = place.metrics;
    }
}

async fn spawn(setup: &Setup, dir: &Path) -> (Child, Place) {
    let program = env!("CARGO_BIN_EXE_plait-broker");
    let mut command = match setup.file_blocks_max {
        None => Command::new(program),
        Some(blocks) => {
            // Without the signal a write beyond the limit fails, as on a full disk.
            let mut shell = Command::new("bash");
            let limit = format!("ulimit -f {blocks}; trap '' XFSZ; exec \"$0\" \"$@\"");
            shell.args(["-c", &limit, program]);
            shell
        }
    };
    command
        .args(["--listen", "127.0.0.1:0", "--dev", "--data-dir"])
        .arg(dir);
    for (key, value) in &setup.env {
        command.env(format!("PLAIT_BROKER_{key}"), value);
    }
    command
        .env("RUST_LOG", "warn")
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = soon("readiness", lines.next_line()).await.unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
    assert_eq!(ready["event"], "ready");
    let address = ready["address"].as_str().unwrap().to_owned();
    let channel = Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .connect_lazy();
    let metrics = ready["metrics"].as_str().map(str::to_owned);
    let place = Place {
        address,
        metrics,
        channel,
    };
    (child, place)
}
