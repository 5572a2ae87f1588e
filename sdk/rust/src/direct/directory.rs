//! Who serves what, for direct calls: asked of the scheduler by xDS, and kept while the scheduler is away.

use super::balance::service_of;
use super::guards::Guards;
use super::health::Health;
use super::peer::Peer;
use super::resources::{Endpoints, Resources, Service};
use super::rules::{Contracts, Rules};
use crate::contracts::pause;
use crate::generated::envoy::service::discovery::v3::aggregated_discovery_service_client as ads;
use crate::generated::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use crate::pb::control::v1::GetEntryRequest;
use crate::pb::control::v1::key_value_service_client::KeyValueServiceClient;
use crate::session::MESSAGE_MAX;
use futures_util::{StreamExt, TryFutureExt};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

type AdsClient = ads::AggregatedDiscoveryServiceClient<Channel>;

/// Where the scheduler says where it listens.
const ADDRESS_KEY: &str = "scheduler/address";

/// While calls are made, the scheduler's address is looked up so often: another one may have taken over.
const LOOK: Duration = Duration::from_secs(5);

/// For the broker to say where the scheduler is, and for that to be reached.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

const NOBODY: &str = "no scheduler answers, which knows the workers";

/// Requests to the scheduler that are not sent yet: one a kind of resource, many times over.
const REQUESTS: usize = 64;

/// A service as it can be called now.
#[derive(Debug)]
pub(super) struct View {
    pub(super) service: Service,
    pub(super) clusters: BTreeMap<String, Cluster>,
}

/// A version of a service: its workers.
#[derive(Debug, Clone)]
pub(super) struct Cluster {
    pub(super) peers: Vec<Arc<Peer>>,
    /// Calls under way from this client.
    pub(super) calls: Arc<AtomicU32>,
    pub(super) requests_max: u32,
    /// Who of them is left out for a while; `None`: nobody ever is.
    pub(super) health: Option<Arc<Health>>,
}

/// Asks for as long as it lives; made by the first direct call.
#[derive(Debug)]
pub(crate) struct Directory {
    shared: Arc<Shared>,
    asking: JoinHandle<()>,
    guards: Guards,
}

/// What callers and the asking task share.
#[derive(Debug)]
struct Shared {
    contracts: Contracts,
    /// Also counted up by workers' connections, so that whoever waits for any of it waits for this.
    changed: watch::Sender<u64>,
    views: RwLock<HashMap<String, Arc<View>>>,
    resources: Mutex<Resources>,
    /// Why a service that is not known yet cannot be, while the scheduler cannot be asked.
    trouble: Mutex<Option<Status>>,
    /// A service more is asked for.
    wanted: Notify,
    /// A call was made since the scheduler's address was looked up last.
    used: AtomicBool,
}

impl Directory {
    /// Begins to ask, by the address that the broker knows.
    pub(crate) fn start(broker: Channel) -> Self {
        let shared = Arc::new(Shared {
            contracts: Contracts::new(broker.clone()),
            changed: watch::channel(0).0,
            views: RwLock::default(),
            resources: Mutex::default(),
            trouble: Mutex::default(),
            wanted: Notify::new(),
            used: AtomicBool::new(false),
        });
        let asking = tokio::spawn(Asking::new(Arc::clone(&shared), broker).run());
        Self {
            shared,
            asking,
            guards: Guards::default(),
        }
    }

    /// What all channels of the client count together.
    pub(super) fn guards(&self) -> &Guards {
        &self.guards
    }

    /// What the contract says of "/package.Service/Method". UNAVAILABLE when the broker cannot be asked.
    pub(super) async fn rules(&self, path: &str) -> Result<Rules, Status> {
        self.shared.contracts.rules(service_of(path), path).await
    }

    /// Changes with everything that a caller may wait for.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// The service as it can be called now; waits for the first answer of the scheduler. UNAVAILABLE when there is
    /// nobody to ask.
    pub(super) async fn view(&self, service: &str) -> Result<Arc<View>, Status> {
        self.shared.used.store(true, Ordering::Relaxed);
        if let Some(view) = self.shared.view(service) {
            return Ok(view);
        }
        let mut changes = self.changes();
        if self.shared.resources().subscribe(service) {
            self.shared.wanted.notify_one();
        }
        loop {
            if let Some(view) = self.shared.view(service) {
                return Ok(view);
            }
            if let Some(status) = self.shared.trouble().clone() {
                return Err(status);
            }
            if changes.changed().await.is_err() {
                return Err(Status::cancelled("the client is closed"));
            }
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

impl Shared {
    fn view(&self, service: &str) -> Option<Arc<View>> {
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        views.get(service).cloned()
    }

    fn resources(&self) -> MutexGuard<'_, Resources> {
        self.resources
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self) -> MutexGuard<'_, Option<Status>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

/// The task that asks.
struct Asking {
    shared: Arc<Shared>,
    broker: Channel,
    /// Those that calls may go to; a worker of several services has one connection.
    peers: HashMap<SocketAddr, Arc<Peer>>,
    /// Counts of calls under way, by cluster.
    calls: HashMap<String, Arc<AtomicU32>>,
    /// Who is left out, by cluster.
    health: HashMap<String, Arc<Health>>,
}

impl Asking {
    fn new(shared: Arc<Shared>, broker: Channel) -> Self {
        Self {
            shared,
            broker,
            peers: HashMap::new(),
            calls: HashMap::new(),
            health: HashMap::new(),
        }
    }

    async fn run(mut self) {
        let mut attempt = 1;
        loop {
            let status = self.ask(&mut attempt).await;
            tracing::debug!(%status, attempt, "the scheduler is not heard");
            *self.shared.trouble() = Some(status);
            self.shared.tell();
            attempt += 1;
            pause(attempt).await;
        }
    }

    /// One stream, until it ends, and why.
    async fn ask(&mut self, attempt: &mut u32) -> Status {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.connect()).await;
        let connected = connected.unwrap_or_else(|_| Err(Status::unavailable(NOBODY)));
        let (address, mut client) = match connected {
            Ok(connected) => connected,
            Err(status) => return status,
        };
        let (requests, outbound) = mpsc::channel(REQUESTS);
        let hello = self.shared.resources().hello();
        if !send(&requests, hello) {
            return Status::unavailable(NOBODY);
        }
        // The scheduler's headers come with its first answer, which it gives once it has heard of every worker.
        let answering = client.stream_aggregated_resources(ReceiverStream::new(outbound));
        let answering = answering.map_ok(Response::into_inner).try_flatten_stream();
        let mut responses = pin!(answering);
        // Somebody is there: those who wait may go on waiting.
        *self.shared.trouble() = None;
        let mut look = tokio::time::interval(LOOK);
        look.reset();
        loop {
            let reads = tokio::select! {
                message = responses.next() => match message {
                    Some(Ok(response)) => {
                        *attempt = 1;
                        send(&requests, self.take(response))
                    }
                    Some(Err(status)) => return unheard(&status),
                    None => return Status::unavailable(NOBODY),
                },
                () = self.shared.wanted.notified() => {
                    send(&requests, vec![self.shared.resources().listeners()])
                }
                _ = look.tick() => {
                    if self.is_replaced(&address).await {
                        return Status::unavailable("another scheduler has taken over");
                    }
                    true
                }
            };
            if !reads {
                return Status::unavailable("the scheduler does not read");
            }
        }
    }

    /// Whether another scheduler is to be asked by now. While no calls are made nobody minds.
    async fn is_replaced(&self, address: &str) -> bool {
        if !self.shared.used.swap(false, Ordering::Relaxed) {
            return false;
        }
        let look = async {
            self.shared.contracts.refresh().await;
            self.look().await
        };
        // What is known serves on where there is no answer.
        let found = tokio::time::timeout(CONNECT_TIMEOUT, look).await;
        found.is_ok_and(|found| found.is_ok_and(|found| found != address))
    }

    async fn connect(&self) -> Result<(String, AdsClient), Status> {
        let address = self.look().await?;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| Status::unavailable(format!("{address:?} is no address: {error}")))?
            // No pings: gRPC servers end connections that ping more often than every 5 min, and a scheduler that
            // vanished without a word is left when another one takes over.
            .tcp_nodelay(true);
        let channel = endpoint.connect().await.map_err(|error| {
            Status::unavailable(format!("no scheduler answers at {address}: {error}"))
        })?;
        let client = AdsClient::new(channel);
        Ok((address, client.max_decoding_message_size(MESSAGE_MAX)))
    }

    /// Where the scheduler listens, as it told the broker.
    async fn look(&self) -> Result<String, Status> {
        let mut keys = KeyValueServiceClient::new(self.broker.clone());
        let key = ADDRESS_KEY.to_owned();
        let asked = keys.get_entry(GetEntryRequest { key });
        let answer = tokio::time::timeout(CONNECT_TIMEOUT, asked).await;
        let answer = answer.map_err(|_| Status::unavailable("the broker does not answer"))?;
        let entry = answer
            .map_err(|status| unheard(&status))?
            .into_inner()
            .entry;
        let none = || Status::unavailable("no scheduler runs, which knows the workers");
        let value = entry.ok_or_else(none)?.value;
        String::from_utf8(value.to_vec()).map_err(|_| none())
    }

    /// Takes a response in. Answers what to send.
    fn take(&mut self, response: DiscoveryResponse) -> Vec<DiscoveryRequest> {
        let replies = self.shared.resources().take(response);
        self.publish();
        replies
    }

    /// Shows callers what is known now.
    fn publish(&mut self) {
        let resources = self.shared.resources();
        let found: Vec<_> = resources
            .wanted()
            .filter_map(|name| Some((name.clone(), resources.service(name)?)))
            .collect();
        drop(resources);
        for (name, service) in found {
            let old = self.shared.view(&name);
            if old.is_some_and(|old| old.service == service) {
                continue;
            }
            let view = Arc::new(self.view_of(service));
            let mut views = self
                .shared
                .views
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            views.insert(name, view);
        }
        self.forget();
        self.shared.tell();
    }

    fn view_of(&mut self, service: Service) -> View {
        let mut clusters = BTreeMap::new();
        for (name, endpoints) in &service.clusters {
            let peers = endpoints.addresses.iter().map(|address| {
                let start = || Arc::new(Peer::start(*address, self.shared.changed.clone()));
                Arc::clone(self.peers.entry(*address).or_insert_with(start))
            });
            let peers = peers.collect();
            let health = self.health_of(name, endpoints);
            let calls = self.calls.entry(name.clone()).or_default();
            let cluster = Cluster {
                peers,
                calls: Arc::clone(calls),
                requests_max: endpoints.told.requests_max,
                health,
            };
            clusters.insert(name.clone(), cluster);
        }
        View { service, clusters }
    }

    fn health_of(&mut self, name: &str, endpoints: &Endpoints) -> Option<Arc<Health>> {
        let Some(config) = endpoints.told.ejection else {
            self.health.remove(name);
            return None;
        };
        let start = || Arc::new(Health::new(config));
        let health = Arc::clone(self.health.entry(name.to_owned()).or_insert_with(start));
        health.update(config, &endpoints.addresses);
        Some(health)
    }

    /// Lets go of workers and clusters that no view has. Calls under way there end as they may.
    fn forget(&mut self) {
        let views = self
            .shared
            .views
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let clusters = || views.values().flat_map(|view| &view.clusters);
        self.peers.retain(|_, peer| {
            clusters().any(|(_, cluster)| cluster.peers.iter().any(|each| Arc::ptr_eq(each, peer)))
        });
        self.calls
            .retain(|name, _| clusters().any(|(each, _)| each == name));
        self.health
            .retain(|name, _| clusters().any(|(each, _)| each == name));
    }
}

/// False: the scheduler does not read what it was sent before.
fn send(to: &mpsc::Sender<DiscoveryRequest>, requests: Vec<DiscoveryRequest>) -> bool {
    let mut requests = requests.into_iter();
    requests.all(|request| to.try_send(request).is_ok())
}

/// Why the scheduler is not heard, for a caller: it is nobody's fault but the connection's.
fn unheard(status: &Status) -> Status {
    Status::unavailable(format!(
        "the scheduler, which knows the workers, does not answer: {}",
        status.message()
    ))
}
