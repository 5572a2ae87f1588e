//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;

use super::{LogFormat, SyncMode, span};

/// The broker of Plait: keeps the facts, dispatches at full speed.
///
/// Every setting has a key in the file (`data_dir`), a variable (PLAIT_BROKER_DATA_DIR) and, for the usual
/// ones, a flag.
/// Flag over environment over file over default.
#[derive(Debug, Clone, Default, clap::Parser, Serialize)]
#[command(name = "plait-broker", version, about)]
pub struct Flags {
    /// Configuration file, TOML [default: $XDG_CONFIG_HOME/plait/broker.toml if it is there]
    #[arg(long, global = true, value_name = "PATH", env = "PLAIT_BROKER_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Address to listen on; port 0 takes a free one [default: 127.0.0.1:7420]
    #[arg(long, global = true, value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// Unix socket to listen on, too [default: none]
    #[arg(long, global = true, value_name = "PATH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_unix: Option<PathBuf>,
    /// Address to serve metrics on, at /metrics, such as 127.0.0.1:7422 [default: none]
    #[arg(long, global = true, value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_listen: Option<SocketAddr>,
    /// Where the log is kept [default: $XDG_DATA_HOME/plait/broker]
    #[arg(long, global = true, value_name = "PATH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// Whether what is acknowledged survives a crash of the machine [default: always]
    #[arg(long, global = true, value_name = "MODE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync: Option<SyncMode>,
    /// How logs look [default: text]
    #[arg(long, global = true, value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<LogFormat>,
    /// Serve reflection, for grpcurl and the like
    #[arg(long, global = true)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dev: bool,
    /// Serve the test kit, which moves the clock and lets attempts fail; never for real work
    #[arg(long, global = true)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub test_kit: bool,
    /// Threads for connections and tasks [default: 2]
    #[arg(long, global = true, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// How long a drain waits for outcomes, such as 10s [default: 10s]
    #[arg(long, global = true, value_name = "SPAN", value_parser = checked_span)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_grace: Option<String>,
    /// Finished tasks that stay in memory; older ones are moved to files [default: 250000]
    #[arg(long, global = true, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_in_memory: Option<u64>,
    /// What to do.
    #[command(subcommand)]
    #[serde(skip)]
    pub action: Option<Action>,
}

/// What to do instead of running.
#[derive(Debug, Clone, Copy, clap::Subcommand)]
pub enum Action {
    /// Check the settings, print what they are, and end
    CheckConfig,
}

fn checked_span(text: &str) -> Result<String, String> {
    span::parse(text).map(|_| text.to_owned())
}
