//! The Rust worker of the airport example: intake (raw rows to flights) and the double-entry ledger.

mod domain;
mod servicer;
mod store;

use anyhow::Context;
use clap::Parser;
use plait::pb::airport::v1::intake_service_server::IntakeServiceServer;
use plait::pb::airport::v1::ledger_service_server::LedgerServiceServer;
use std::io::IsTerminal;
use std::path::PathBuf;

/// Serves airport.v1.IntakeService and airport.v1.LedgerService as durable tasks.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The tariff file.
    #[arg(long, env = "AIRPORT_TARIFF")]
    tariff: PathBuf,
    /// The ledger's SQLite file; created if it is not there.
    #[arg(long, env = "AIRPORT_LEDGER")]
    ledger: PathBuf,
    /// Attempts at once.
    #[arg(long, default_value_t = 32)]
    concurrency: u32,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let options = Options::parse();
    let text = std::fs::read_to_string(&options.tariff)
        .with_context(|| format!("reading the tariff {}", options.tariff.display()))?;
    let tariff = domain::tariff::Tariff::parse(&text)?;
    let store = store::Store::open(&options.ledger)
        .with_context(|| format!("opening the ledger {}", options.ledger.display()))?;
    let tracing = plait::trace::configure("airport-ledger")?;

    let mesh = plait::Plait::connect().await?;
    mesh.worker()
        .name("airport-ledger")
        .version(env!("CARGO_PKG_VERSION"))
        .concurrency(options.concurrency)
        .descriptors(plait::pb::FILE_DESCRIPTOR_SET)
        .serve(IntakeServiceServer::new(servicer::Intake))
        .serve(LedgerServiceServer::new(servicer::Ledger::new(
            store, tariff,
        )))
        .run()
        .await?;
    tracing.shutdown().await;
    Ok(())
}
