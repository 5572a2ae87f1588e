//! Connecting, calling and submitting.

use crate::channel::{Channel, Slot};
use crate::contracts::{Contracts, pause};
use crate::descriptors::Descriptors;
use crate::direct::{DirectChannel, Directory};
use crate::many::{self, Responses, Submissions};
use crate::pb::v1::task_service_client::TaskServiceClient;
use crate::session::{MESSAGE_MAX, Session};
use crate::task::{Task, TaskId};
use crate::worker::Worker;
use bytes::Bytes;
use std::env;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_stream::Stream;
use tonic::transport::{self, Endpoint};
use tonic::{Response, Status};

/// Where the broker listens unless it is told otherwise.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:7420";

/// HTTP/2 windows, in bytes: no difference on loopback, room for a round trip on real networks.
const WINDOW: u32 = 4 << 20;

/// HTTP/2 frames that the broker may send, in bytes: a message of ours in one instead of in many, each a system call.
const FRAME: u32 = 1 << 20;

/// A connection to Plait. Cheap to clone; the connection ends with the last clone.
///
/// ```no_run
/// # async fn example() -> Result<(), tonic::Status> {
/// use plait::Plait;
/// use plait::pb::testing::v1::{EchoRequest, echo_service_client::EchoServiceClient};
///
/// let p = Plait::connect().await?;
/// let request = EchoRequest { payload: "hello".into() };
/// // Durable, and wait for the result.
/// let answer = EchoServiceClient::new(p.channel()).echo(request.clone()).await?;
/// // Durable, and get a handle at once.
/// let task = p.submit(|channel| async move { EchoServiceClient::new(channel).echo(request).await }).await?;
/// let answer = task.result().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Plait {
    client: Arc<Client>,
}

/// How to connect. Get one from [`Plait::builder`].
#[derive(Debug, Default)]
#[must_use]
pub struct Builder {
    address: Option<String>,
    connect_timeout: Option<Duration>,
    sets: Vec<Bytes>,
}

impl Builder {
    /// The broker's address, `host:port`. Default: the variable `PLAIT_ADDRESS`, else [`DEFAULT_ADDRESS`].
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// How long to wait for the broker at the start. Default 10 s. Later on, the connection is restored for as long as
    /// it takes.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Some(timeout);
        self
    }

    /// A serialized `FileDescriptorSet`. With the descriptor of a method, this client makes the method known before its
    /// first task where no worker did so yet, and its tasks go to any worker that knows what it knows; without, they go
    /// as those of the contract in force. May be given more than once.
    pub fn descriptors(mut self, set: impl Into<Bytes>) -> Self {
        self.sets.push(set.into());
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for an address or descriptors that are none; UNAVAILABLE when the broker does not answer in
    /// time.
    pub async fn connect(self) -> Result<Plait, Status> {
        let address = self.address.or_else(|| env::var("PLAIT_ADDRESS").ok());
        let address = address.unwrap_or_else(|| DEFAULT_ADDRESS.to_owned());
        let mut descriptors = Descriptors::default();
        self.sets.iter().for_each(|set| descriptors.add(set));
        descriptors.check()?;
        let endpoint = endpoint(&address)?;
        let wait = self.connect_timeout.unwrap_or(Duration::from_secs(10));
        let transport = tokio::time::timeout(wait, reach(&endpoint))
            .await
            .map_err(|_| {
                Status::unavailable(format!("no broker answers at {address} within {wait:?}"))
            })?;
        let client = Client::new(endpoint, transport, descriptors, self.sets);
        Ok(Plait {
            client: Arc::new(client),
        })
    }
}

fn endpoint(address: &str) -> Result<Endpoint, Status> {
    let uri = if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let endpoint = Endpoint::from_shared(uri).map_err(|error| {
        Status::invalid_argument(format!("the address {address:?} is none: {error}"))
    })?;
    Ok(endpoint
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(2 * WINDOW)
        .max_frame_size(FRAME)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .connect_timeout(Duration::from_secs(5)))
}

/// Tries until a connection stands.
pub(crate) async fn reach(endpoint: &Endpoint) -> transport::Channel {
    let mut attempt = 1;
    loop {
        match endpoint.connect().await {
            Ok(channel) => return channel,
            Err(error) => tracing::debug!(%error, attempt, "connecting to the broker"),
        }
        attempt += 1;
        pause(attempt).await;
    }
}

impl Plait {
    /// Connects to the broker at `PLAIT_ADDRESS`, default [`DEFAULT_ADDRESS`].
    ///
    /// # Errors
    /// As [`Builder::connect`].
    pub async fn connect() -> Result<Self, Status> {
        Self::builder().connect().await
    }

    /// Connects with other settings than the default ones.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A channel for generated clients: calls through it are durable, and wait for the result.
    #[must_use]
    pub fn channel(&self) -> Channel {
        Channel::new(Arc::clone(&self.client))
    }

    /// A channel for generated clients whose calls are no tasks: each goes straight to a live worker that listens, with
    /// no queue and no record of it.
    ///
    /// Workers are found by the scheduler; calls go on while it is away. Every call has a deadline: what is left of the
    /// handler's or of [`deadline::limit`](crate::deadline::limit), default 30 s, less 5 ms for the hop; the call's own
    /// `grpc-timeout` if that is shorter; and at most what the contract allows. UNAVAILABLE where nobody serves the
    /// method.
    ///
    /// ```no_run
    /// # async fn example(p: plait::Plait) -> Result<(), tonic::Status> {
    /// use plait::pb::testing::v1::{EchoRequest, echo_service_client::EchoServiceClient};
    ///
    /// let now = EchoServiceClient::new(p.direct()).echo(EchoRequest::default()).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn direct(&self) -> DirectChannel {
        DirectChannel::new(Arc::clone(&self.client))
    }

    /// Submits the one call that the closure makes through the channel it gets, and answers with a handle as soon as
    /// the task is durable. Options are set on the channel. The closure ends with its call: what stands after it is not
    /// run, once the task is on its way, and of the response only the type is used.
    ///
    /// ```no_run
    /// # async fn example(p: plait::Plait, request: plait::pb::testing::v1::EchoRequest) -> Result<(), tonic::Status> {
    /// use plait::pb::testing::v1::echo_service_client::EchoServiceClient;
    ///
    /// let task = p
    ///     .submit(|channel| async move { EchoServiceClient::new(channel.key("order-7")).echo(request).await })
    ///     .await?;
    /// println!("{} is durable", task.id());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The broker's refusal, such as METHOD_UNKNOWN, KEY_MISSING, DUPLICATE_KEY_CONFLICT or TOO_LARGE; whatever the
    /// closure returns; FAILED_PRECONDITION when it made no call, or two at once.
    pub async fn submit<R, F, Fut>(&self, call: F) -> Result<Task<R>, Status>
    where
        F: FnOnce(Channel) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let slot = Arc::new(Slot::new(false));
        let mut calling = pin!(call(self.placing(&slot)));
        let placed = poll_fn(|cx| slot.poll(calling.as_mut(), cx)).await?;
        placed.accepted().await
    }

    /// A channel that leaves tasks in `slot`.
    pub(crate) fn placing(&self, slot: &Arc<Slot>) -> Channel {
        Channel::submitting(Arc::clone(&self.client), Arc::clone(slot))
    }

    /// Submits a call for each request of a stream, in its order, and gives back the handles in that order, each once
    /// its task is durable. The closure makes the one call as in [`Plait::submit`]. At most 8,192 requests are pulled
    /// ahead, so a stream of any length needs bounded memory.
    ///
    /// ```no_run
    /// # async fn example(p: plait::Plait) -> Result<(), tonic::Status> {
    /// use plait::pb::testing::v1::{EchoRequest, echo_service_client::EchoServiceClient};
    /// use tokio_stream::StreamExt;
    ///
    /// let requests = tokio_stream::iter((0..1_000_000).map(|n| EchoRequest { payload: n.to_string().into() }));
    /// let mut tasks = p.submit_many(requests, |channel, request| async move {
    ///     EchoServiceClient::new(channel).echo(request).await
    /// });
    /// while let Some(task) = tasks.next().await {
    ///     println!("{}", task?.id());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn submit_many<Q, R, S, F, Fut>(&self, requests: S, call: F) -> Submissions<R>
    where
        S: Stream<Item = Q> + Send + 'static,
        F: FnMut(Channel, Q) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Response<R>, Status>> + Send + 'static,
        R: 'static,
        Q: Send + 'static,
    {
        many::submit(self.clone(), requests, call)
    }

    /// Submits a call for each request of a stream, in its order, and gives back the responses in that order. It is
    /// [`Plait::submit_many`] for the results: the fastest way to have many tasks done, several times that of as many
    /// calls, since nothing is kept or woken for each of them. One that fails does not end the rest. Dropping the
    /// stream leaves the tasks that were pulled to go on.
    ///
    /// ```no_run
    /// # async fn example(p: plait::Plait) -> Result<(), tonic::Status> {
    /// use plait::pb::testing::v1::{EchoRequest, echo_service_client::EchoServiceClient};
    /// use tokio_stream::StreamExt;
    ///
    /// let requests = tokio_stream::iter((0..1_000_000).map(|n| EchoRequest { payload: n.to_string().into() }));
    /// let mut responses = p.call_many(requests, |channel, request| async move {
    ///     EchoServiceClient::new(channel).echo(request).await
    /// });
    /// while let Some(response) = responses.next().await {
    ///     println!("{} bytes", response?.payload.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn call_many<Q, R, S, F, Fut>(&self, requests: S, call: F) -> Responses<R>
    where
        S: Stream<Item = Q> + Send + 'static,
        F: FnMut(Channel, Q) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Response<R>, Status>> + Send + 'static,
        R: prost::Message + Default + 'static,
        Q: Send + 'static,
    {
        many::call(self.clone(), requests, call)
    }

    /// A handle to a task by its id, such as one kept from [`Task::id`]. Nothing is asked of the broker.
    #[must_use]
    pub fn task<R>(&self, id: TaskId) -> Task<R> {
        Task::new(Arc::clone(&self.client), id, None)
    }

    /// A worker for the services of this process.
    pub fn worker(&self) -> Worker {
        Worker::new(Arc::clone(&self.client))
    }

    /// The broker's own service, for what has no method here: listing, redriving, queues.
    #[must_use]
    pub fn tasks(&self) -> TaskServiceClient<transport::Channel> {
        self.client.tasks()
    }

    /// The plain connection to the broker, for Plait's other services in [`pb`](crate::pb).
    #[must_use]
    pub fn transport(&self) -> transport::Channel {
        self.client.transport.clone()
    }

    /// Waits until everything that was submitted is accepted, and ends the connection, of all clones. Calls that still
    /// wait for a result get CANCELLED; their tasks go on.
    pub async fn close(self) {
        if let Some(session) = self.client.session.get() {
            session.flush().await;
            session.close();
        }
    }
}

/// What all clones share.
#[derive(Debug)]
pub(crate) struct Client {
    id: u64,
    endpoint: Endpoint,
    transport: transport::Channel,
    contracts: Contracts,
    session: OnceLock<Session>,
    directory: OnceLock<Directory>,
    sets: Vec<Bytes>,
}

impl Client {
    fn new(
        endpoint: Endpoint,
        transport: transport::Channel,
        descriptors: Descriptors,
        sets: Vec<Bytes>,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let contracts = Contracts::new(transport.clone(), descriptors);
        Self {
            id,
            endpoint,
            transport,
            contracts,
            session: OnceLock::new(),
            directory: OnceLock::new(),
            sets,
        }
    }

    /// Tells clients of one process apart.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) fn contracts(&self) -> &Contracts {
        &self.contracts
    }

    /// The descriptors that the builder was given.
    pub(crate) fn sets(&self) -> &[Bytes] {
        &self.sets
    }

    /// The session, opened when the first task is submitted: a process that only works needs none.
    pub(crate) fn session(&self) -> &Session {
        self.session
            .get_or_init(|| Session::start(self.transport.clone()))
    }

    /// Where direct calls go, asked for from the first one on.
    pub(crate) fn directory(&self) -> &Directory {
        self.directory
            .get_or_init(|| Directory::start(self.transport.clone()))
    }

    pub(crate) fn tasks(&self) -> TaskServiceClient<transport::Channel> {
        TaskServiceClient::new(self.transport.clone()).max_decoding_message_size(MESSAGE_MAX)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(session) = self.session.get() {
            session.close();
        }
    }
}
