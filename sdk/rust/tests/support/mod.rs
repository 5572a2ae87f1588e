//! What the tests against a real broker share.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part"
)]

pub mod broker;
pub mod decider;
pub mod echo;

use broker::Broker;
use echo::Echo;
use plait::pb::testing::v1::echo_service_client::EchoServiceClient;
use plait::pb::testing::v1::echo_service_server::EchoServiceServer;
use plait::{Channel, Plait, RunningWorker, Worker, pb};
use std::time::Duration;

/// Longer than anything here takes on a busy machine; a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits, but not for ever.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("it takes too long")
}

/// A broker with a scheduler that decides contracts, and a client.
#[derive(Debug)]
pub struct Mesh {
    pub broker: Broker,
    pub p: Plait,
}

impl Mesh {
    pub async fn start() -> Self {
        let broker = Broker::start().await;
        let p = broker.connect().await;
        Self { broker, p }
    }

    /// A worker of the echo service that is not attached yet.
    pub fn worker(&self, echo: &Echo) -> Worker {
        let service = EchoServiceServer::new(echo.clone());
        self.p
            .worker()
            .serve(service)
            .descriptors(pb::FILE_DESCRIPTOR_SET)
            .name("test")
    }

    /// A worker of the echo service, attached.
    pub async fn serve(&self, echo: &Echo) -> RunningWorker {
        run(self.worker(echo)).await
    }

    pub fn client(&self) -> EchoServiceClient<Channel> {
        EchoServiceClient::new(self.p.channel())
    }
}

/// Starts a worker and waits until it is attached.
pub async fn run(worker: Worker) -> RunningWorker {
    let mut running = worker.start().expect("a valid worker");
    soon(running.attached()).await.expect("attached");
    running
}
