//! A broker and a scheduler as processes of a test.

use super::TestKit;
use crate::client::Plait;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Until a process is ready: Python imports much, on a machine that may be busy.
const START: Duration = Duration::from_secs(60);

/// A broker and a scheduler on free ports of the loopback interface, with data of their own; killed when dropped.
///
/// The broker is `PLAIT_BROKER`, or `plait-broker` in the folder `PLAIT_BIN` or on `PATH`; the scheduler is
/// `PLAIT_SCHEDULER`, or `plait-scheduler` on `PATH`.
#[derive(Debug)]
pub struct Mesh {
    broker: Option<Child>,
    scheduler: Option<Child>,
    folder: Folder,
    address: String,
    kit: bool,
}

/// Goes with its owner.
#[derive(Debug)]
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of it is in the folder for such things, and does no harm there.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Mesh {
    /// Starts both.
    ///
    /// # Errors
    /// When a binary is not found, or a process ends before it is ready; what it logs is on stderr.
    pub async fn start() -> Result<Self> {
        Self::begin(false).await
    }

    /// Starts both, with a clock that can be moved ahead and attempts that can be made to fail: see [`Mesh::kit`]. Such
    /// a broker does not wait for its disk.
    ///
    /// # Errors
    /// As [`Mesh::start`].
    pub async fn start_with_kit() -> Result<Self> {
        Self::begin(true).await
    }

    async fn begin(kit: bool) -> Result<Self> {
        let name = format!("plait-mesh-{}", uuid::Uuid::new_v4());
        let mut mesh = Self {
            broker: None,
            scheduler: None,
            folder: Folder(std::env::temp_dir().join(name)),
            address: "127.0.0.1:0".to_owned(),
            kit,
        };
        mesh.start_broker().await?;
        mesh.start_scheduler().await?;
        Ok(mesh)
    }

    /// The broker's address, the same over its restarts.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A client of it.
    ///
    /// # Errors
    /// As [`Builder::connect`](crate::client::Builder::connect).
    pub async fn connect(&self) -> std::result::Result<Plait, tonic::Status> {
        Plait::builder().address(&self.address).connect().await
    }

    /// Its clock and its faults; `None` where it was not started with them.
    #[must_use]
    pub fn kit(&self) -> Option<TestKit> {
        self.kit.then(|| TestKit::new(&self.address))
    }

    /// Starts the broker; after [`Mesh::kill_broker`] at the same address, with the same data.
    ///
    /// # Errors
    /// As [`Mesh::start`].
    pub async fn start_broker(&mut self) -> Result<()> {
        let mut command = Command::new(binary("plait-broker", "PLAIT_BROKER"));
        command.args(["--listen", &self.address, "--data-dir"]);
        command.arg(&self.folder.0);
        if self.kit {
            command.args(["--test-kit", "--sync", "none"]);
        }
        let (broker, address) = launch(command).await?;
        (self.broker, self.address) = (Some(broker), address);
        Ok(())
    }

    /// Kills the broker, as `kill -9` does.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill_broker(&mut self) -> Result<()> {
        kill(self.broker.take()).await
    }

    /// Starts the scheduler.
    ///
    /// # Errors
    /// As [`Mesh::start`].
    pub async fn start_scheduler(&mut self) -> Result<()> {
        let mut command = Command::new(binary("plait-scheduler", "PLAIT_SCHEDULER"));
        command.args([
            "--listen",
            "127.0.0.1:0",
            "--dev",
            "--broker",
            &self.address,
        ]);
        let (scheduler, _) = launch(command).await?;
        self.scheduler = Some(scheduler);
        Ok(())
    }

    /// Kills the scheduler, as `kill -9` does. Known contracts go on.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill_scheduler(&mut self) -> Result<()> {
        kill(self.scheduler.take()).await
    }
}

async fn kill(child: Option<Child>) -> Result<()> {
    match child {
        Some(mut child) => child.kill().await,
        None => Ok(()),
    }
}

fn binary(name: &str, variable: &str) -> PathBuf {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let beside = || Some(Path::new(&std::env::var_os("PLAIT_BIN")?).join(name));
    named
        .or_else(|| beside().filter(|path| path.is_file()))
        .unwrap_or_else(|| PathBuf::from(name))
}

/// Starts a process and reads where it listens from its first line.
async fn launch(mut command: Command) -> Result<(Child, String)> {
    let program = command.as_std().get_program().to_owned();
    let program = program.to_string_lossy();
    let started = command.stdout(Stdio::piped()).kill_on_drop(true).spawn();
    let mut child =
        started.map_err(|error| Error::new(error.kind(), format!("{program}: {error}")))?;
    let stdout = child.stdout.take().ok_or(ErrorKind::BrokenPipe)?;
    let mut lines = BufReader::new(stdout).lines();
    let line = tokio::time::timeout(START, lines.next_line()).await??;
    let address = line.as_deref().and_then(address);
    let address = address.ok_or_else(|| {
        let said = line.as_deref().unwrap_or("nothing");
        Error::other(format!("{program} said {said} in place of its address"))
    })?;
    let address = address.to_owned();
    // It may say more, and must not find the pipe closed.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok((child, address))
}

/// The address in a line such as `{"event":"ready","address":"127.0.0.1:7420"}`.
fn address(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("\"address\"")?;
    let (_, rest) = rest.split_once('"')?;
    rest.split_once('"').map(|(address, _)| address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_however_the_line_is_spaced() {
        let lines = [
            r#"{"event":"ready","address":"127.0.0.1:7420","pid":1}"#,
            r#"{"event": "ready", "address": "127.0.0.1:7420"}"#,
        ];
        assert!(
            lines
                .iter()
                .all(|line| address(line) == Some("127.0.0.1:7420"))
        );
        assert_eq!(address("{}"), None);
    }

    #[tokio::test]
    async fn a_binary_that_is_not_there_is_named() {
        let error = launch(Command::new("/nowhere/plait-broker"))
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("/nowhere/plait-broker"),
            "{error}"
        );
    }
}
