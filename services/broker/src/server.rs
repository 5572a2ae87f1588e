//! The process: opens the log, listens, serves, drains.

mod listen;
mod metrics;
mod refusals;
mod signals;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plait_broker_log::{FileLog, FileLogOptions, Log, LogError, RealDisk};
use serde::Serialize;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

pub use listen::serve;
pub use signals::Signals;

use crate::config::{Settings, SyncMode};
use crate::nosync::NoSyncDisk;
use crate::partition::{self, Failure, Handle, RecoveryError, Running, Surroundings};
use crate::servicer::{
    Context, Contracts, Control, Flags, Hub, KeyValues, Tasks, TestKit, Workers,
};
use plait::pb::control::v1::control_service_server::ControlServiceServer;
use plait::pb::control::v1::key_value_service_server::KeyValueServiceServer;
use plait::pb::plait::testkit::v1::test_kit_service_server::TestKitServiceServer;
use plait::pb::v1::contract_service_server::ContractServiceServer;
use plait::pb::v1::flag_service_server::FlagServiceServer;
use plait::pb::v1::task_service_server::TaskServiceServer;
use plait::pb::v1::worker_service_server::WorkerServiceServer;

/// How long connections may take to close after all streams have ended.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// The descriptors that reflection serves.
const DESCRIPTORS: &[u8] = include_bytes!("../../../sdk/rust/gen/plait.fds.binpb");

/// Why a broker does not run, or runs no more.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The log cannot be opened.
    #[error("opening the log in {dir}: {source}")]
    Open {
        /// Where it is.
        dir: PathBuf,
        /// Why.
        source: LogError,
    },
    /// The state cannot be rebuilt.
    #[error("recovering from {dir}: {source}")]
    Recover {
        /// Where the log is.
        dir: PathBuf,
        /// Why.
        source: RecoveryError,
    },
    /// An address cannot be listened on.
    #[error("listening on {address}: {source}")]
    Listen {
        /// Which.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// Serving failed.
    #[error("serving: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// Reflection cannot be offered: the descriptors are broken.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The partition failed.
    #[error(transparent)]
    Partition(#[from] Failure),
    /// A task ended by a panic.
    #[error("a task of the broker ended: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// What is told when the broker answers calls.
#[derive(Debug, Clone, Serialize)]
pub struct Ready {
    /// Always "ready".
    pub event: &'static str,
    /// Where it listens.
    pub address: String,
    /// Where it listens, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unix: Option<PathBuf>,
    /// Where metrics are, if anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    /// Where the log is.
    pub data_dir: PathBuf,
    /// The process.
    pub pid: u32,
}

/// Runs a broker until a signal drains it or the log fails. `ready` is called when it answers calls.
pub async fn run(
    settings: &Settings,
    signals: Signals,
    ready: impl FnOnce(&Ready),
) -> Result<(), ServerError> {
    let sockets = listen::Sockets::bind(settings).await?;
    let door = match settings.metrics_listen {
        Some(address) => Some(metrics::Door::bind(address).await?),
        None => None,
    };
    let log = open_log(settings)?;
    let announce = Ready {
        event: "ready",
        address: sockets.address.to_string(),
        unix: settings.listen_unix.clone(),
        metrics: door.as_ref().map(|door| door.address.to_string()),
        data_dir: settings.data_dir.clone(),
        pid: std::process::id(),
    };
    if settings.test_kit {
        tracing::warn!(
            "test_kit: whoever reaches this broker may move its clock and let attempts fail"
        );
    }
    let surroundings = Surroundings {
        test_kit: settings.test_kit,
        ..Surroundings::of_process()
    };
    let serve = |partition, routes, closing: watch::Receiver<bool>| {
        ready(&announce);
        async move {
            let calls = sockets.serve(routes, closing.clone());
            match door {
                None => calls.await,
                Some(door) => {
                    let scrapes = door.serve(partition, closing);
                    tokio::try_join!(calls, scrapes).map(|_| ())
                }
            }
        }
    };
    run_with(settings, Box::new(log), surroundings, signals, serve).await
}

/// Runs a broker on a log, in surroundings and behind a door that are given. `serve` is called when it can answer
/// calls, and serves the routes until it is told to close; [`serve`] does that for any connections.
pub async fn run_in<F>(
    settings: &Settings,
    log: Box<dyn Log>,
    surroundings: Surroundings,
    signals: Signals,
    serve: impl FnOnce(Routes, watch::Receiver<bool>) -> F,
) -> Result<(), ServerError>
where
    F: Future<Output = Result<(), tonic::transport::Error>> + Send + 'static,
{
    let serve = |_, routes, closing| serve(routes, closing);
    run_with(settings, log, surroundings, signals, serve).await
}

/// The same, where whoever serves also gets the way into the partition.
async fn run_with<F>(
    settings: &Settings,
    log: Box<dyn Log>,
    surroundings: Surroundings,
    mut signals: Signals,
    serve: impl FnOnce(Handle, Routes, watch::Receiver<bool>) -> F,
) -> Result<(), ServerError>
where
    F: Future<Output = Result<(), tonic::transport::Error>> + Send + 'static,
{
    let running = start_partition(settings, log, surroundings)?;
    let (drain, draining) = watch::channel(None);
    let context = Context {
        partition: running.handle.clone(),
        limits: Arc::new(settings.limits()),
        synced: settings.sync == SyncMode::Always,
        draining,
        hub: Arc::new(Hub::default()),
    };
    let (health, routes) = routes(&context, settings).await?;
    let (close, closing) = watch::channel(false);
    let serving = tokio::spawn(serve(running.handle.clone(), routes, closing));
    let Running {
        handle, mut owner, ..
    } = running;
    let ended = tokio::select! {
        biased;
        ended = &mut owner => Some(ended),
        () = signals.next() => None,
    };
    let result = match ended {
        Some(ended) => ended?.map_err(ServerError::from),
        None => {
            tracing::info!(grace = ?settings.drain_grace, "draining");
            not_serving(&health).await;
            // Receivers live as long as the context does.
            let _ = drain.send(Some(settings.drain_grace));
            handle.drain();
            tokio::select! {
                biased;
                () = handle.drained() => tracing::info!("no attempt runs any more"),
                () = tokio::time::sleep(settings.drain_grace) => {
                    tracing::warn!("attempts still run; their workers come back with them");
                }
                () = signals.next() => tracing::warn!("a second signal: ending now"),
            }
            handle.stop();
            owner.await?.map_err(ServerError::from)
        }
    };
    let _ = close.send(true);
    match tokio::time::timeout(CLOSE_GRACE, serving).await {
        Ok(served) => served??,
        Err(_) => tracing::debug!("connections were still open"),
    }
    result
}

fn open_log(settings: &Settings) -> Result<FileLog, ServerError> {
    let dir = &settings.data_dir;
    let open = || -> Result<FileLog, LogError> {
        let disk = RealDisk::new(dir).map_err(LogError::io(
            "open the directory",
            dir.display().to_string(),
        ))?;
        match settings.sync {
            SyncMode::Always => FileLog::inspect_on(Arc::new(disk), FileLogOptions::default()),
            SyncMode::None => {
                tracing::warn!(
                    "sync = none: a crash of the machine loses what was acknowledged last"
                );
                FileLog::inspect_on(Arc::new(NoSyncDisk(disk)), FileLogOptions::default())
            }
        }
    };
    open().map_err(|source| ServerError::Open {
        dir: dir.clone(),
        source,
    })
}

fn start_partition(
    settings: &Settings,
    log: Box<dyn Log>,
    surroundings: Surroundings,
) -> Result<Running, ServerError> {
    let dir = &settings.data_dir;
    let begun = crate::clock::monotonic();
    let started = partition::start(log, settings.partition(), surroundings);
    let running = started.map_err(|source| ServerError::Recover {
        dir: dir.clone(),
        source,
    })?;
    let found = running.recovered;
    tracing::info!(
        elapsed_ms = begun.elapsed().as_millis() as u64,
        snapshot_records = found.snapshot_records,
        frames = found.frames,
        records = found.records,
        "recovered"
    );
    Ok(running)
}

/// The names that health is asked for; "" stands for the process.
const SERVICES: [&str; 7] = [
    "",
    "plait.v1.TaskService",
    "plait.v1.WorkerService",
    "plait.v1.ContractService",
    "plait.v1.FlagService",
    "plait.control.v1.ControlService",
    "plait.control.v1.KeyValueService",
];

async fn not_serving(health: &HealthReporter) {
    for service in SERVICES {
        health
            .set_service_status(service, ServingStatus::NotServing)
            .await;
    }
}

async fn routes(
    context: &Context,
    settings: &Settings,
) -> Result<(HealthReporter, Routes), ServerError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    for service in SERVICES {
        health
            .set_service_status(service, ServingStatus::Serving)
            .await;
    }
    let max = context.limits.message_bytes_max();
    let tasks = TaskServiceServer::new(Tasks::new(context.clone()));
    let workers = WorkerServiceServer::new(Workers::new(context.clone()));
    let contracts = ContractServiceServer::new(Contracts::new(context.clone()));
    let flags = FlagServiceServer::new(Flags::new(context.clone()));
    let control = ControlServiceServer::new(Control::new(context.clone()));
    let key_values = KeyValueServiceServer::new(KeyValues::new(context.clone()));
    let mut routes = Routes::builder();
    routes
        .add_service(health_service)
        .add_service(tasks.max_decoding_message_size(max))
        .add_service(workers.max_decoding_message_size(max))
        .add_service(contracts)
        .add_service(flags)
        .add_service(control)
        .add_service(key_values);
    if settings.test_kit {
        routes.add_service(TestKitServiceServer::new(TestKit::new(context.clone())));
    }
    if settings.dev {
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?;
        routes.add_service(reflection);
    }
    Ok((health, routes.routes()))
}
