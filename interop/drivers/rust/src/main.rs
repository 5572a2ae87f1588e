//! testing.v1.EchoService on the Rust SDK: does what the requests say.

mod client;
mod echo;
mod methods;
mod ruin;

use clap::Parser;
use plait::pb::testing::v1::echo_service_client::EchoServiceClient;
use plait::pb::testing::v1::echo_service_server::EchoServiceServer;
use tokio::signal::unix::{SignalKind, signal};

/// Serves testing.v1.EchoService.
#[derive(Debug, Parser)]
struct Options {
    /// Attempts at once.
    #[arg(long, default_value_t = 256)]
    concurrency: u32,
    /// Be the conformance runner's client instead.
    #[arg(long)]
    client: bool,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if options.client {
        return client::drive().await;
    }
    // Before anybody is told that it is ready: whoever waits for that may stop it at once.
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let tracing = plait::trace::configure("echo-rust")?;
    let mesh = plait::Plait::connect().await?;
    let service = echo::Echo::new(EchoServiceClient::new(mesh.channel()))?;
    let mut worker = mesh
        .worker()
        .name("echo-rust")
        .concurrency(options.concurrency)
        .descriptors(plait::pb::FILE_DESCRIPTOR_SET)
        .serve(EchoServiceServer::new(service))
        .start()?;
    if worker.attached().await.is_err() {
        return Ok(worker.wait().await?);
    }
    println!("{{\"event\":\"ready\"}}");
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
