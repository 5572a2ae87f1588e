//! testing.v1.EchoService on the Rust SDK: does what the requests say.

mod caller;
mod client;
mod contract;
mod echo;
mod methods;
mod ruin;
mod tier;

use crate::contract::testing::v1::echo_service_client::EchoServiceClient;
use crate::contract::testing::v1::echo_service_server::EchoServiceServer;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// Serves testing.v1.EchoService.
#[derive(Debug, Parser)]
struct Options {
    /// Attempts at once.
    #[arg(long, default_value_t = 256)]
    concurrency: u32,
    /// Where it is called directly, such as 127.0.0.1:0.
    #[arg(long)]
    listen: Option<String>,
    /// Be the conformance runner's client instead.
    #[arg(long)]
    client: bool,
    /// Call directly instead, eight at a time, until SIGTERM.
    #[arg(long)]
    caller: bool,
    /// The caller ends after so many calls, one at a time; 0: it does not.
    #[arg(long, default_value_t = 0)]
    calls: u32,
    #[command(flatten)]
    tier: tier::Tier,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if options.client {
        return client::drive().await;
    }
    if options.caller {
        return caller::call(options.calls).await;
    }
    if options.tier.serve.is_some() {
        return options.tier.run().await;
    }
    // Before anybody is told that it is ready: whoever waits for that may stop it at once.
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let tracing = plait::trace::configure("echo-rust")?;
    let mesh = plait::Plait::connect().await?;
    let service = echo::Echo::new(EchoServiceClient::new(mesh.channel()))?;
    let mut worker = mesh.worker();
    if let Some(address) = options.listen {
        worker = worker.listen(address);
    }
    let mut worker = worker
        .name("echo-rust")
        .concurrency(options.concurrency)
        .descriptors(crate::contract::FILE_DESCRIPTOR_SET)
        .serve(EchoServiceServer::new(service))
        .start()?;
    if worker.attached().await.is_err() {
        return Ok(worker.wait().await?);
    }
    println!(
        "{{\"event\":\"ready\",\"endpoint\":{:?}}}",
        worker.endpoint().unwrap_or_default()
    );
    tokio::select! {
        ended = worker.ended() => {
            ended?;
            anyhow::bail!("the worker ended by itself");
        }
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    worker.stop();
    // A second signal means now, which is what dropping the worker does.
    tokio::select! {
        ended = worker.wait() => ended?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing.shutdown().await;
    Ok(())
}
