//! The broker's process. A pipe: arguments, streams and signals go to [`plait_broker::server::run`].

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use plait_broker::config::{Action, Flags, Settings};
use plait_broker::server::{self, Signals};

/// A task is some twenty small allocations in several threads, and this one gives memory back that is no longer used.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    plait_broker::panics::abort_process();
    match work(&Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Whoever read it may be gone; the exit code tells all the same.
            let _ = writeln!(std::io::stderr(), "plait-broker: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

fn work(flags: &Flags) -> Result<()> {
    let settings = Settings::load(flags).context("the configuration is not valid")?;
    if let Some(Action::CheckConfig) = flags.action {
        say(&serde_json::to_string_pretty(&settings)?);
        return Ok(());
    }
    plait_broker::start_logging(settings.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.threads)
        .enable_all()
        .build()
        .context("starting threads")?;
    runtime.block_on(async {
        let signals = Signals::of_process().context("listening to signals")?;
        let announce = |ready: &server::Ready| {
            say(&serde_json::to_string(ready).unwrap_or_default());
        };
        Ok(server::run(&settings, signals, announce).await?)
    })
}

/// The error and its causes, each once: most of ours name their cause themselves.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Prints a line. Whoever read it may be gone; that is no reason to end.
fn say(line: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
