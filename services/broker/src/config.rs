//! Settings: flag over environment (`PLAIT_BROKER_*`) over file (TOML) over default. Unknown keys are refused.

mod flags;
mod span;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use plait_broker_core::Config as CoreConfig;
use serde::{Deserialize, Serialize};

pub use flags::{Action, Flags};

use crate::limits::Limits;
use crate::partition;

/// The prefix of settings in the environment.
const ENV_PREFIX: &str = "PLAIT_BROKER_";

/// Whether what is acknowledged survives the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SyncMode {
    /// Nothing is acknowledged before it is on the disk. The default.
    Always,
    /// The operating system writes when it likes: a crash of the machine loses what was acknowledged last.
    None,
}

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people. The default.
    Text,
    /// One JSON object a line.
    Json,
}

/// All settings of a broker. Names here are the keys of the file; with `PLAIT_BROKER_` before them and in
/// upper case they
/// are the environment's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Address to listen on; port 0 takes a free one. Default `127.0.0.1:7420`.
    pub listen: SocketAddr,
    /// A Unix socket to listen on, too. Default none.
    pub listen_unix: Option<PathBuf>,
    /// Where metrics are served, as HTTP; port 0 takes a free one. Default nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Where the log is kept. Default `$XDG_DATA_HOME/plait/broker`.
    pub data_dir: PathBuf,
    /// Default always.
    pub sync: SyncMode,
    /// Default text.
    pub log_format: LogFormat,
    /// Serves reflection. Default false.
    pub dev: bool,
    /// Serves the test kit: its clock can be moved ahead and attempts be made to fail. Never for real work. Default
    /// false.
    pub test_kit: bool,
    /// Threads for connections and tasks; the log has one more. Default 2.
    pub threads: usize,
    /// How long a drain waits for outcomes of running attempts. Default 10s.
    #[serde(with = "span")]
    pub drain_grace: Duration,
    /// How often either side of a worker's stream says something; three of them in silence mean gone. Default 5s.
    #[serde(with = "span")]
    pub heartbeat_interval: Duration,
    /// How long a new contract waits for the scheduler. Default 10s.
    #[serde(with = "span")]
    pub decision_timeout: Duration,
    /// How long leases from before a restart wait for their worker. Default 10s.
    #[serde(with = "span")]
    pub reattach_grace: Duration,
    /// How long a flow's call that matches no record waits for another call before it counts as diverged. Default 1s.
    #[serde(with = "span")]
    pub divergence_grace: Duration,
    /// How long an idle submitter's session is remembered. Default 1h.
    #[serde(with = "span")]
    pub session_ttl: Duration,
    /// Largest request or response, bytes. Default 1 MiB.
    pub payload_bytes_max: usize,
    /// Largest metadata of one task, bytes. Default 16 KiB.
    pub metadata_bytes_max: usize,
    /// Longest key, bytes. Default 1 KiB.
    pub key_bytes_max: usize,
    /// Most tasks in one frame. Default 4096.
    pub frame_tasks_max: usize,
    /// Unfinished tasks of one queue beyond which submissions are refused. Default 10,000,000.
    pub queue_tasks_max: u64,
    /// Memory for payloads that wait; those beyond it are read from the log. Default 64 MiB.
    pub resident_bytes_max: u64,
    /// Bytes of commands that wait or are on their way to the disk. Default 64 MiB.
    pub inbox_bytes_max: u32,
    /// Bytes that may wait to be read on one stream before its reader is cut. Default 64 MiB.
    pub outbound_bytes_max: usize,
    /// Growth of the log between snapshots, bytes. Default 256 MiB.
    pub snapshot_bytes: u64,
    /// Finished tasks that stay in memory; beyond it the oldest are moved to archive files. Default 250,000.
    pub finished_in_memory: u64,
}

impl Default for Settings {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7420)),
            listen_unix: None,
            metrics_listen: None,
            data_dir: default_data_dir(),
            sync: SyncMode::Always,
            log_format: LogFormat::Text,
            dev: false,
            test_kit: false,
            threads: 2,
            drain_grace: Duration::from_secs(10),
            heartbeat_interval: limits.heartbeat_interval,
            decision_timeout: limits.decision_timeout,
            reattach_grace: Duration::from_secs(10),
            divergence_grace: Duration::from_secs(1),
            session_ttl: Duration::from_secs(3600),
            payload_bytes_max: limits.payload_bytes_max,
            metadata_bytes_max: limits.metadata_bytes_max,
            key_bytes_max: limits.key_bytes_max,
            frame_tasks_max: limits.frame_tasks_max,
            queue_tasks_max: 10_000_000,
            resident_bytes_max: 64 << 20,
            inbox_bytes_max: 64 << 20,
            outbound_bytes_max: limits.outbound_bytes_max,
            snapshot_bytes: 256 << 20,
            finished_in_memory: 250_000,
        }
    }
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that was named is not there.
    #[error("there is no configuration file {0}")]
    NoFile(PathBuf),
    /// Not to be understood: says which key, and where it came from.
    #[error("{0}")]
    Unreadable(Box<figment::Error>),
    /// Understood, and out of range.
    #[error("{key} is {value}: {problem}")]
    OutOfRange {
        /// Which.
        key: &'static str,
        /// What it is.
        value: String,
        /// What it must be.
        problem: String,
    },
}

impl From<figment::Error> for ConfigError {
    fn from(error: figment::Error) -> Self {
        Self::Unreadable(Box::new(error))
    }
}

impl Settings {
    /// Puts the settings together.
    pub fn load(flags: &Flags) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        match &flags.config {
            Some(path) if !path.is_file() => return Err(ConfigError::NoFile(path.clone())),
            Some(path) => figment = figment.merge(Toml::file_exact(path)),
            None => {
                let path = default_config_file();
                if path.is_file() {
                    figment = figment.merge(Toml::file_exact(path));
                }
            }
        }
        let settings: Self = figment
            .merge(Env::prefixed(ENV_PREFIX).ignore(&["config"]))
            .merge(Serialized::defaults(flags))
            .extract()?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let second = Duration::from_secs(1);
        let millisecond = Duration::from_millis(1);
        within("threads", self.threads as u64, 1, 256)?;
        within(
            "payload_bytes_max",
            self.payload_bytes_max as u64,
            1024,
            64 << 20,
        )?;
        within(
            "metadata_bytes_max",
            self.metadata_bytes_max as u64,
            1024,
            1 << 20,
        )?;
        within("key_bytes_max", self.key_bytes_max as u64, 64, 64 << 10)?;
        within("frame_tasks_max", self.frame_tasks_max as u64, 256, 65_536)?;
        within("queue_tasks_max", self.queue_tasks_max, 1, u64::MAX)?;
        within(
            "inbox_bytes_max",
            self.inbox_bytes_max.into(),
            1 << 20,
            1 << 30,
        )?;
        within(
            "outbound_bytes_max",
            self.outbound_bytes_max as u64,
            1 << 20,
            16 << 30,
        )?;
        within("snapshot_bytes", self.snapshot_bytes, 1 << 16, u64::MAX)?;
        within("finished_in_memory", self.finished_in_memory, 16, 1 << 30)?;
        spans(
            "heartbeat_interval",
            self.heartbeat_interval,
            50 * millisecond,
            60 * second,
        )?;
        spans(
            "decision_timeout",
            self.decision_timeout,
            10 * millisecond,
            600 * second,
        )?;
        spans(
            "drain_grace",
            self.drain_grace,
            Duration::ZERO,
            3600 * second,
        )?;
        spans(
            "reattach_grace",
            self.reattach_grace,
            Duration::ZERO,
            3600 * second,
        )?;
        spans(
            "divergence_grace",
            self.divergence_grace,
            millisecond,
            60 * second,
        )?;
        spans(
            "session_ttl",
            self.session_ttl,
            600 * second,
            86_400 * second,
        )
    }

    /// The limits of what comes in and goes out.
    pub fn limits(&self) -> Limits {
        Limits {
            payload_bytes_max: self.payload_bytes_max,
            metadata_bytes_max: self.metadata_bytes_max,
            key_bytes_max: self.key_bytes_max,
            frame_tasks_max: self.frame_tasks_max,
            outbound_bytes_max: self.outbound_bytes_max,
            heartbeat_interval: self.heartbeat_interval,
            decision_timeout: self.decision_timeout,
            ..Limits::default()
        }
    }

    /// How the partition is run.
    pub fn partition(&self) -> partition::Options {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        partition::Options {
            core: CoreConfig {
                epoch: 0,
                resident_bytes_max: self.resident_bytes_max,
                queue_tasks_max: self.queue_tasks_max,
                reattach_grace_ms: millis(self.reattach_grace),
                divergence_grace_ms: millis(self.divergence_grace),
                session_ttl_ms: millis(self.session_ttl),
                finished_in_memory: self.finished_in_memory,
                frame_attempts_max: crate::limits::FRAME_ITEMS,
            },
            inbox_bytes_max: self.inbox_bytes_max,
            snapshot_bytes: self.snapshot_bytes,
        }
    }
}

fn within(key: &'static str, value: u64, least: u64, most: u64) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let problem = format!("it must be {least} to {most}");
    Err(ConfigError::OutOfRange {
        key,
        value: value.to_string(),
        problem,
    })
}

fn spans(
    key: &'static str,
    value: Duration,
    least: Duration,
    most: Duration,
) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let problem = format!("it must be {} to {}", span::text(least), span::text(most));
    Err(ConfigError::OutOfRange {
        key,
        value: span::text(value),
        problem,
    })
}

fn xdg(variable: &str, below_home: &str) -> PathBuf {
    let named = std::env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    named.unwrap_or_else(|| {
        let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        home.join(below_home)
    })
}

fn default_data_dir() -> PathBuf {
    xdg("XDG_DATA_HOME", ".local/share")
        .join("plait")
        .join("broker")
}

fn default_config_file() -> PathBuf {
    xdg("XDG_CONFIG_HOME", ".config")
        .join("plait")
        .join("broker.toml")
}

#[cfg(test)]
mod tests;
