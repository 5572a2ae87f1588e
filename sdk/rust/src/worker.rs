//! Serving methods: the user's unchanged generated service behind a worker.

use crate::attach::{Attachment, Plan, Wish};
use crate::client::Client;
use crate::clock;
use crate::descriptors::Descriptors;
use crate::flags::Board;
use crate::invoke::{Handler, TowerHandler};
use crate::listener::Listener;
use bytes::Bytes;
use http::{Request, Response};
use std::env;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::StdError;
use tonic::server::NamedService;

/// Attempts at once unless the user says otherwise.
const CONCURRENCY: u32 = 128;

/// Where a supervisor tells a process its name.
const PROCESS: &str = "PLAIT_PROCESS";

/// A worker that has not started. Get one from [`Plait::worker`](crate::Plait::worker).
///
/// ```no_run
/// # async fn example<S: plait::pb::testing::v1::echo_service_server::EchoService>(echo: S) -> Result<(),
/// tonic::Status> {
/// use plait::Plait;
/// use plait::pb::{self, testing::v1::echo_service_server::EchoServiceServer};
///
/// let p = Plait::connect().await?;
/// p.worker()
///     .serve(EchoServiceServer::new(echo))
///     .descriptors(pb::FILE_DESCRIPTOR_SET)
///     .concurrency(64)
///     .run()
///     .await
/// # }
/// ```
#[must_use = "a worker does nothing until it runs"]
pub struct Worker {
    client: Arc<Client>,
    services: Vec<(&'static str, Arc<dyn Handler>)>,
    /// Names of the methods that are served; none: all.
    only: Vec<String>,
    sets: Vec<Bytes>,
    concurrency: u32,
    name: String,
    version: String,
    grace: Duration,
    listen: Option<String>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let services: Vec<_> = self.services.iter().map(|(name, _)| name).collect();
        f.debug_struct("Worker")
            .field("services", &services)
            .finish_non_exhaustive()
    }
}

impl Worker {
    pub(crate) fn new(client: Arc<Client>) -> Self {
        Self {
            client,
            services: Vec::new(),
            only: Vec::new(),
            sets: Vec::new(),
            concurrency: CONCURRENCY,
            name: program(),
            version: String::new(),
            grace: Duration::from_secs(30),
            listen: None,
        }
    }

    /// Serves a generated server, such as `OrderServiceServer::new(Orders)`, or any tower service with a name. May be
    /// called for several services.
    pub fn serve<S, B>(mut self, service: S) -> Self
    where
        S: tower::Service<Request<Body>, Response = Response<B>>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Error: Into<StdError>,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<StdError>,
    {
        self.services
            .push((S::NAME, Arc::new(TowerHandler(service))));
        self
    }

    /// Serves only these methods of the services, such as "Charge"; others are left to other workers. Default: all.
    pub fn methods<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.only.extend(names.into_iter().map(Into::into));
        self
    }

    /// A serialized `FileDescriptorSet` that declares the services: tonic has no descriptors at run time. What
    /// `tonic_prost_build` writes to `file_descriptor_set_path` will do, and so will what `buf build` or
    /// `protoc --include_imports --descriptor_set_out` writes. May be given more than once; those of the client's
    /// builder count, too.
    pub fn descriptors(mut self, set: impl Into<Bytes>) -> Self {
        self.sets.push(set.into());
        self
    }

    /// How many attempts run at once, at least 1. Default 128.
    pub fn concurrency(mut self, attempts: u32) -> Self {
        self.concurrency = attempts.max(1);
        self
    }

    /// A name for people. Default: that of the program.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The version of the user's program; free text. Default: none.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// How long running attempts may take to finish in a drain. Default 30 s. What runs then is stopped, and run again
    /// elsewhere.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Listens for direct calls as well, at an address of a loopback interface, "127.0.0.1:0" for any port: an ordinary
    /// gRPC server, found by whoever calls through [`Plait::direct`](crate::Plait::direct) or by xDS. As many calls run
    /// at once as `concurrency` says; one more gets RESOURCE_EXHAUSTED. A handler that is called has no attempt.
    /// Default: it does not listen.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = Some(address.into());
        self
    }

    /// Works until SIGTERM or SIGINT, then drains: takes no more, hands back what has not started, finishes what runs,
    /// and returns when the broker has the outcomes. A second signal means now.
    ///
    /// # Errors
    /// FAILED_PRECONDITION when a service's descriptor is missing; UNIMPLEMENTED for a streaming method;
    /// INVALID_ARGUMENT for an address to listen at that is none or not on loopback, UNAVAILABLE for one that is
    /// taken; the refusal of a contract (POLICY_INVALID, CONTRACT_INCOMPATIBLE). An absent broker is waited for.
    pub async fn run(self) -> Result<(), Status> {
        let mut running = self.start()?;
        let mut signals = Signals::new()?;
        loop {
            tokio::select! {
                ended = &mut running.ended => return flatten(ended),
                () = signals.next() => running.end_sooner(),
            }
        }
    }

    /// Starts to work, on the tokio runtime of the caller, and leaves signals to it.
    ///
    /// # Errors
    /// As [`Worker::run`], for what is wrong before the broker is asked.
    pub fn start(mut self) -> Result<RunningWorker, Status> {
        let listen = self.listen.take();
        let mut plan = self.plan()?;
        let listener = listen.map(|address| Listener::open(&address, &plan));
        let listener = listener.transpose()?;
        let endpoint = listener.as_ref().map(Listener::endpoint);
        plan.endpoint.clone_from(&endpoint);
        let worker = plan.worker.clone();
        let (wish, wishes) = watch::channel(Wish::Run);
        let (attached, is_attached) = watch::channel(false);
        let grace = plan.grace;
        let attachment = Attachment::new(plan, wishes.clone(), attached).run();
        let ended = match listener {
            None => tokio::spawn(attachment),
            Some(listener) => tokio::spawn(beside(attachment, listener.serve(wishes, grace))),
        };
        Ok(RunningWorker {
            worker,
            endpoint,
            wish,
            attached: is_attached,
            ended,
        })
    }

    fn plan(self) -> Result<Plan, Status> {
        if self.services.is_empty() {
            return Err(Status::failed_precondition(
                "the worker serves nothing: call serve() first",
            ));
        }
        let mut descriptors = Descriptors::default();
        let sets = self.client.sets().iter().chain(&self.sets);
        sets.for_each(|set| descriptors.add(set));
        descriptors.check()?;
        let mut methods = Vec::new();
        for (name, handler) in &self.services {
            let served = descriptors.service(name).ok_or_else(|| undeclared(name))?;
            for method in &served.methods {
                let of_name = |only: &String| method.path.ends_with(&format!("/{only}"));
                if !self.only.is_empty() && !self.only.iter().any(of_name) {
                    continue;
                }
                if method.streaming {
                    return Err(streaming(&method.path));
                }
                methods.push((method.path.clone(), Arc::clone(handler)));
            }
        }
        if methods.is_empty() {
            let only = self.only.join(", ");
            let text = format!("the services have no method {only}: the worker serves nothing");
            return Err(Status::failed_precondition(text));
        }
        Ok(Plan {
            client: self.client,
            descriptors,
            services: self
                .services
                .iter()
                .map(|(name, _)| (*name).to_owned())
                .collect(),
            methods,
            worker: worker_id(env::var(PROCESS).ok().as_deref(), clock::random_bytes()),
            name: self.name,
            version: self.version,
            slots: self.concurrency,
            grace: self.grace,
            endpoint: None,
            flags: Board::default(),
        })
    }
}

fn undeclared(service: &str) -> Status {
    Status::failed_precondition(format!(
        "no descriptor declares {service}: give the worker its FileDescriptorSet with \
         descriptors(...), as tonic has none at run time"
    ))
}

fn streaming(path: &str) -> Status {
    Status::unimplemented(format!(
        "{path} is a streaming method, and a task is one request and one response: serve it with a \
         gRPC server, or move it to a service of its own"
    ))
}

/// An id that is new for each worker: the supervisor's name of the process, so that it knows which of its processes the
/// worker is, and random bits.
fn worker_id(process: Option<&str>, random: [u8; 16]) -> String {
    let random = uuid::Uuid::from_bytes(random);
    let allowed = |c: &char| c.is_ascii_alphanumeric() || "._:-".contains(*c);
    let process: String = process
        .unwrap_or_default()
        .chars()
        .filter(allowed)
        .take(31)
        .collect();
    if process.is_empty() {
        random.to_string()
    } else {
        format!("{process}-{}", random.simple())
    }
}

/// Serves tasks and calls. Calls may go on for a moment when tasks are done; what ends the tasks otherwise ends both.
async fn beside(
    tasks: impl Future<Output = Result<(), Status>>,
    calls: impl Future<Output = ()>,
) -> Result<(), Status> {
    let (mut tasks, mut calls) = (pin!(tasks), pin!(calls));
    tokio::select! {
        ended = &mut tasks => {
            ended?;
            calls.await;
            Ok(())
        }
        () = &mut calls => tasks.await,
    }
}

/// The name of this program.
fn program() -> String {
    let path = env::args_os().next().unwrap_or_default();
    let name = Path::new(&path)
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy();
    if name.is_empty() {
        "worker".to_owned()
    } else {
        name.into_owned()
    }
}

/// A worker at work. Dropping it ends the worker at once.
#[derive(Debug)]
pub struct RunningWorker {
    worker: String,
    endpoint: Option<String>,
    wish: watch::Sender<Wish>,
    attached: watch::Receiver<bool>,
    ended: JoinHandle<Result<(), Status>>,
}

impl RunningWorker {
    /// Its id, as the broker knows it; new for each start.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.worker
    }

    /// Where it is called directly, "address:port"; `None` when it does not listen.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// Waits until it is attached to the broker.
    ///
    /// # Errors
    /// UNAVAILABLE when it ended instead; [`RunningWorker::wait`] tells why.
    pub async fn attached(&mut self) -> Result<(), Status> {
        let attached = self.attached.wait_for(|attached| *attached).await;
        attached
            .map(drop)
            .map_err(|_| Status::unavailable("the worker ended"))
    }

    /// Asks it to drain, as SIGTERM does in [`Worker::run`].
    pub fn stop(&self) {
        self.wish.send_if_modified(|wish| raise(wish, Wish::Drain));
    }

    /// Asks it to end now. Attempts that run are stopped, and run again elsewhere.
    pub fn stop_now(&self) {
        self.wish.send_if_modified(|wish| raise(wish, Wish::Stop));
    }

    fn end_sooner(&self) {
        self.wish.send_modify(|wish| {
            *wish = if *wish == Wish::Run {
                Wish::Drain
            } else {
                Wish::Stop
            };
        });
    }

    /// Waits until it ended.
    ///
    /// # Errors
    /// As [`Worker::run`].
    pub async fn wait(mut self) -> Result<(), Status> {
        self.ended().await
    }

    /// The same for a worker that may still be asked to end. Once it has answered, it is not to be awaited again.
    ///
    /// # Errors
    /// As [`Worker::run`].
    pub async fn ended(&mut self) -> Result<(), Status> {
        flatten((&mut self.ended).await)
    }
}

impl Drop for RunningWorker {
    fn drop(&mut self) {
        self.stop_now();
    }
}

fn raise(wish: &mut Wish, to: Wish) -> bool {
    let raised = *wish < to;
    *wish = (*wish).max(to);
    raised
}

fn flatten(ended: Result<Result<(), Status>, tokio::task::JoinError>) -> Result<(), Status> {
    ended.unwrap_or_else(|error| {
        Err(Status::internal(format!(
            "the worker's task failed: {error}"
        )))
    })
}

/// The signals that end a program.
struct Signals {
    #[cfg(unix)]
    term: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    fn new() -> Result<Self, Status> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| {
            signal(kind).map_err(|error| Status::internal(format!("listening to signals: {error}")))
        };
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    #[cfg(not(unix))]
    fn new() -> Result<Self, Status> {
        Ok(Self {})
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        // An error means that there is no such signal here.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests;
