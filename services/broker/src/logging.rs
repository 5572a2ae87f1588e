//! Logs: to stderr, as text or as JSON lines.

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Begins logging. `RUST_LOG` says what; without it, from info on.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A closed stderr is no reason to write to it.
        .log_internal_errors(false);
    // A second start, in tests, is no error.
    let _ = match format {
        LogFormat::Text => logs.with_ansi(false).try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    };
}
