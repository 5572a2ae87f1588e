//! The real broker as a process.

use super::{decider, soon};
use plait::Plait;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

/// A broker on a free port with a data directory of its own; killed when dropped.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    data: TempDir,
    /// Where it listens.
    pub address: String,
    decider: JoinHandle<()>,
}

impl Broker {
    pub async fn start() -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let (child, address) = launch(data.path(), "127.0.0.1:0").await;
        let decider = start_decider(&address).await;
        Self {
            child,
            data,
            address,
            decider,
        }
    }

    /// A client of it.
    pub async fn connect(&self) -> Plait {
        soon(Plait::builder().address(&self.address).connect())
            .await
            .expect("a broker")
    }

    /// Kills it, as `kill -9` does, and starts it again at the same address, on its data.
    pub async fn crash(&mut self) {
        self.kill().await;
        self.restart().await;
    }

    /// As `crash`, with its data lost.
    pub async fn wipe(&mut self) {
        self.kill().await;
        self.data = tempfile::tempdir().expect("a folder");
        self.restart().await;
    }

    pub async fn kill(&mut self) {
        self.child.kill().await.expect("a process to kill");
    }

    pub async fn restart(&mut self) {
        (self.child, _) = launch(self.data.path(), &self.address).await;
        self.decider = start_decider(&self.address).await;
    }
}

async fn launch(data: &Path, listen: &str) -> (Child, String) {
    let mut command = Command::new(binary());
    command.args(["--listen", listen, "--data-dir"]).arg(data);
    command.env(
        "RUST_LOG",
        std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".into()),
    );
    let mut child = command
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the broker");
    let stdout = child.stdout.take().expect("a pipe");
    let mut lines = BufReader::new(stdout).lines();
    let line = soon(lines.next_line())
        .await
        .expect("a pipe")
        .expect("the line that says it is ready");
    let ready: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(ready["event"], "ready");
    let address = ready["address"].as_str().expect("an address").to_owned();
    (child, address)
}

/// Answers contracts until the broker is gone.
async fn start_decider(address: &str) -> JoinHandle<()> {
    let p = soon(Plait::builder().address(address).connect())
        .await
        .expect("a broker");
    let (broker, observing) = (p.transport(), tokio::sync::oneshot::channel());
    let decider = tokio::spawn(async move {
        let _ = decider::decide(broker, observing.0).await;
    });
    soon(observing.1).await.expect("observing");
    decider
}

/// The broker's binary: from `PLAIT_BIN`, or else built as the tests are.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("PLAIT_BIN") {
        Some(folder) => Path::new(&folder).join("plait-broker"),
        None => build(),
    })
}

fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = std::process::Command::new(cargo)
        .args([
            "build",
            "--package=plait-broker",
            "--message-format=json",
            "--quiet",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo");
    assert!(output.status.success(), "the broker does not build");
    let messages = String::from_utf8(output.stdout).expect("text");
    let mut executable = messages.lines().rev().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_broker = message["target"]["name"] == "plait-broker";
        message["executable"]
            .as_str()
            .filter(|_| is_broker)
            .map(PathBuf::from)
    });
    executable.next().expect("an executable")
}
