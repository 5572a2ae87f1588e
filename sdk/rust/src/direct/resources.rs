//! What the scheduler said of the mesh by xDS: subscriptions, acceptances, and the services that come of it. Pure: it
//! opens no stream and reads no clock.
//!
//! A response is taken whole or rejected whole, and what was accepted before stays. A service is shown only once
//! everything that its routes lead to is known, so that a route never leads nowhere while its parts arrive.

use super::ejection;
use super::fault::Fault;
use crate::generated::envoy::config::cluster::v3::{Cluster, OutlierDetection, cluster};
use crate::generated::envoy::config::core::v3::{Address, HealthStatus, address};
use crate::generated::envoy::config::core::v3::{Node, node, socket_address};
use crate::generated::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint};
use crate::generated::envoy::config::listener::v3::Listener;
use crate::generated::envoy::config::route::v3::{
    self as route_pb, RouteConfiguration, route, route_action, route_match,
};
use crate::generated::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use crate::generated::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use crate::generated::google::rpc::Status as RpcStatus;
use crate::session::CLIENT;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use tonic::Code;

/// Kinds of resources, in the order in which they are asked for.
const KINDS: usize = 4;
const LISTENERS: usize = 0;
const ROUTES: usize = 1;
const CLUSTERS: usize = 2;
const ENDPOINTS: usize = 3;

const TYPE_URLS: [&str; KINDS] = [
    "type.googleapis.com/envoy.config.listener.v3.Listener",
    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
];

/// Of a client that holds to its limit of calls where the cluster names none; Envoy's own default.
const REQUESTS_MAX: u32 = 1_024;

/// A service as it is to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    /// In the order in which they are matched; none where nobody serves the service.
    pub(super) routes: Vec<Route>,
    /// Those that the routes lead to, by name.
    pub(super) clusters: BTreeMap<String, Endpoints>,
}

impl Service {
    /// Where calls of "/package.Service/Method" go; `None`: nobody serves it.
    pub(super) fn route(&self, path: &str) -> Option<&Route> {
        self.routes.iter().find(|route| route.path.matches(path))
    }
}

/// Where the calls of a method go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) path: Path,
    /// Clusters and their shares; never empty, nor all 0.
    pub(super) weights: Vec<(String, u32)>,
    /// What an operator makes of them.
    pub(super) fault: Option<Fault>,
}

/// What a route is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Path {
    Exact(String),
    Prefix(String),
}

impl Path {
    pub(super) fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => path.starts_with(prefix.as_str()),
        }
    }
}

/// The workers of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoints {
    pub(super) addresses: Vec<SocketAddr>,
    /// What is said of the whole cluster.
    pub(super) told: Told,
}

/// What a cluster is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    /// The name of its endpoints.
    endpoints: String,
    /// Calls under way from this client.
    pub(super) requests_max: u32,
    /// When a worker that fails is left out; `None`: never.
    pub(super) ejection: Option<ejection::Config>,
}

/// A listener: where its routes are.
#[derive(Debug)]
enum Listened {
    Inline(Vec<Route>),
    Named(String),
}

/// One kind's subscription.
#[derive(Debug, Default)]
struct Kind {
    names: BTreeSet<String>,
    /// Of the last response that was accepted.
    version: String,
    /// Of the last response on this stream.
    nonce: String,
}

/// Everything heard and accepted.
#[derive(Debug, Default)]
pub(super) struct Resources {
    kinds: [Kind; KINDS],
    listeners: BTreeMap<String, Listened>,
    routes: BTreeMap<String, Vec<Route>>,
    clusters: BTreeMap<String, Told>,
    endpoints: BTreeMap<String, Vec<SocketAddr>>,
}

impl Resources {
    /// Asks for a service as well. False: it is asked for already.
    pub(super) fn subscribe(&mut self, service: &str) -> bool {
        self.kinds[LISTENERS].names.insert(service.to_owned())
    }

    /// What tells the scheduler of the services that are wanted.
    pub(super) fn listeners(&self) -> DiscoveryRequest {
        self.request(LISTENERS, None)
    }

    /// What a new stream begins with: everything that is wanted.
    pub(super) fn hello(&mut self) -> Vec<DiscoveryRequest> {
        for kind in &mut self.kinds {
            kind.nonce.clear();
        }
        let wanted = (0..KINDS).filter(|kind| !self.kinds[*kind].names.is_empty());
        wanted.map(|kind| self.request(kind, None)).collect()
    }

    /// Takes a response. Answers the requests to send: first what became of it, then what is wanted because of it.
    pub(super) fn take(&mut self, response: DiscoveryResponse) -> Vec<DiscoveryRequest> {
        let Some(kind) = TYPE_URLS.iter().position(|url| *url == response.type_url) else {
            return Vec::new();
        };
        self.kinds[kind].nonce = response.nonce;
        let bodies = response.resources.iter().map(|each| each.value.as_slice());
        if let Err(error) = self.accept(kind, &bodies.collect::<Vec<_>>()) {
            tracing::warn!(
                kind = TYPE_URLS[kind],
                error,
                "the scheduler's answer is rejected"
            );
            return vec![self.request(kind, Some(error))];
        }
        self.kinds[kind].version = response.version_info;
        let mut requests = vec![self.request(kind, None)];
        for (other, names) in self.derived() {
            if self.kinds[other].names == names {
                continue;
            }
            self.kinds[other].names = names;
            if other == kind {
                requests.clear();
            }
            requests.push(self.request(other, None));
        }
        requests
    }

    /// The service; `None` while something of it is unknown.
    pub(super) fn service(&self, name: &str) -> Option<Service> {
        let routes = match self.listeners.get(name)? {
            Listened::Inline(routes) => routes,
            Listened::Named(name) => self.routes.get(name)?,
        };
        let mut clusters = BTreeMap::new();
        for (cluster, _) in routes.iter().flat_map(|route| &route.weights) {
            let told = self.clusters.get(cluster)?;
            let found = Endpoints {
                addresses: self.endpoints.get(&told.endpoints)?.clone(),
                told: told.clone(),
            };
            clusters.insert(cluster.clone(), found);
        }
        Some(Service {
            routes: routes.clone(),
            clusters,
        })
    }

    /// The services that are asked for.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &String> {
        self.kinds[LISTENERS].names.iter()
    }

    fn request(&self, kind: usize, error: Option<String>) -> DiscoveryRequest {
        let Kind {
            names,
            version,
            nonce,
        } = &self.kinds[kind];
        DiscoveryRequest {
            version_info: version.clone(),
            resource_names: names.iter().cloned().collect(),
            type_url: TYPE_URLS[kind].to_owned(),
            response_nonce: nonce.clone(),
            // A stream begins with the listeners.
            node: (kind == LISTENERS).then(who),
            error_detail: error.map(|message| RpcStatus {
                code: Code::InvalidArgument as i32,
                message,
                details: Vec::new(),
            }),
        }
    }

    fn accept(&mut self, kind: usize, bodies: &[&[u8]]) -> Result<(), String> {
        match kind {
            // State of the world: of these two kinds, what is not in a response is no more.
            LISTENERS => self.listeners = all(bodies, listener)?,
            CLUSTERS => self.clusters = all(bodies, cluster)?,
            ROUTES => self.routes.extend(all(bodies, routes)?),
            _ => self.endpoints.extend(all(bodies, endpoints)?),
        }
        Ok(())
    }

    /// What is to be asked for because of what is known. What nothing leads to any more is let go.
    fn derived(&mut self) -> [(usize, BTreeSet<String>); 3] {
        let named = self.listeners.values().filter_map(|each| match each {
            Listened::Named(name) => Some(name.clone()),
            Listened::Inline(_) => None,
        });
        let routes: BTreeSet<String> = named.collect();
        self.routes.retain(|name, _| routes.contains(name));
        let inline = self.listeners.values().filter_map(|each| match each {
            Listened::Inline(routes) => Some(routes),
            Listened::Named(_) => None,
        });
        let all = inline.chain(self.routes.values()).flatten();
        let weights = all.flat_map(|route| &route.weights);
        let clusters: BTreeSet<String> = weights.map(|(name, _)| name.clone()).collect();
        self.clusters.retain(|name, _| clusters.contains(name));
        let endpoints = self.clusters.values().map(|told| told.endpoints.clone());
        let endpoints: BTreeSet<String> = endpoints.collect();
        self.endpoints.retain(|name, _| endpoints.contains(name));
        [
            (ROUTES, routes),
            (CLUSTERS, clusters),
            (ENDPOINTS, endpoints),
        ]
    }
}

/// Who asks, so that the scheduler knows what this client can do.
fn who() -> Node {
    let (name, version) = CLIENT.split_once('/').unwrap_or((CLIENT, ""));
    let version = node::UserAgentVersionType::UserAgentVersion(version.to_owned());
    Node {
        id: format!("{CLIENT} {}", std::process::id()),
        user_agent_name: name.to_owned(),
        user_agent_version_type: Some(version),
        ..Node::default()
    }
}

/// Reads every resource of a response; the first error is that of all.
fn all<M: Message + Default, T>(
    bodies: &[&[u8]],
    read: impl Fn(M) -> Result<(String, T), String>,
) -> Result<BTreeMap<String, T>, String> {
    let decoded = bodies.iter().map(|body| M::decode(*body));
    decoded
        .map(|message| read(message.map_err(|error| error.to_string())?))
        .collect()
}

fn listener(listener: Listener) -> Result<(String, Listened), String> {
    let name = listener.name;
    let packed = listener.api_listener.and_then(|api| api.api_listener);
    let packed = packed.ok_or_else(|| format!("{name}: it has no API listener"))?;
    let manager = HttpConnectionManager::decode(packed.value.as_slice())
        .map_err(|error| format!("{name}: {error}"))?;
    let listened = match manager.route_specifier {
        Some(RouteSpecifier::Rds(rds)) => Listened::Named(rds.route_config_name),
        Some(RouteSpecifier::RouteConfig(config)) => Listened::Inline(routes(config)?.1),
        None => return Err(format!("{name}: it has no routes")),
    };
    Ok((name, listened))
}

fn routes(config: RouteConfiguration) -> Result<(String, Vec<Route>), String> {
    let name = config.name;
    // One service a listener, so the host that is for everybody is the one.
    let mut hosts = config.virtual_hosts.into_iter();
    let host = hosts.find(|host| host.domains.iter().any(|domain| domain == "*"));
    let found = host.into_iter().flat_map(|host| host.routes);
    let found = found.map(|each| one_route(each).map_err(|error| format!("{name}: {error}")));
    let routes = found.collect::<Result<_, _>>()?;
    Ok((name, routes))
}

fn one_route(each: route_pb::Route) -> Result<Route, String> {
    let path = match each.r#match.and_then(|found| found.path_specifier) {
        Some(route_match::PathSpecifier::Path(path)) => Path::Exact(path),
        Some(route_match::PathSpecifier::Prefix(prefix)) => Path::Prefix(prefix),
        None => return Err("a route matches nothing".to_owned()),
    };
    let Some(route::Action::Route(action)) = each.action else {
        return Err(format!("{path:?} leads nowhere"));
    };
    let weights = match action.cluster_specifier {
        Some(route_action::ClusterSpecifier::Cluster(name)) => vec![(name, 1)],
        Some(route_action::ClusterSpecifier::WeightedClusters(weighted)) => {
            let clusters = weighted.clusters.into_iter();
            clusters
                .map(|each| (each.name, each.weight.unwrap_or_default()))
                .collect()
        }
        None => Vec::new(),
    };
    let sum: u64 = weights.iter().map(|(_, weight)| u64::from(*weight)).sum();
    if sum == 0 || sum > u64::from(u32::MAX) {
        return Err(format!("{path:?} has weights of {sum} in all"));
    }
    let configs = each.typed_per_filter_config.values().map(Fault::read);
    let faults = configs.collect::<Result<Vec<_>, _>>()?;
    let fault = faults.into_iter().flatten().next();
    Ok(Route {
        path,
        weights,
        fault,
    })
}

fn cluster(cluster: Cluster) -> Result<(String, Told), String> {
    let name = cluster.name;
    let eds = Some(cluster::ClusterDiscoveryType::Type(
        cluster::DiscoveryType::Eds as i32,
    ));
    if cluster.cluster_discovery_type != eds {
        return Err(format!("{name}: its endpoints do not come by EDS"));
    }
    let breakers = cluster.circuit_breakers.into_iter();
    let limits = breakers.flat_map(|breakers| breakers.thresholds);
    let limit = limits.filter_map(|each| each.max_requests).next();
    let config = cluster.eds_cluster_config.map(|eds| eds.service_name);
    let endpoints = config.filter(|name| !name.is_empty());
    let endpoints = endpoints.unwrap_or_else(|| name.clone());
    let outlier = cluster.outlier_detection.as_ref();
    let ejection = outlier
        .map(|outlier| ejection_of(outlier).map_err(|error| format!("{name}: {error}")))
        .transpose()?;
    let told = Told {
        endpoints,
        requests_max: limit.unwrap_or(REQUESTS_MAX),
        ejection,
    };
    Ok((name, told))
}

/// Defaults are Envoy's, and so is which of the two rules holds where nothing is said.
fn ejection_of(outlier: &OutlierDetection) -> Result<ejection::Config, String> {
    let ms = |said: &Option<prost_types::Duration>, default: u64| {
        let Some(said) = said else { return Ok(default) };
        let found = std::time::Duration::try_from(*said);
        let found = found.map_err(|_| "a time of outlier detection is negative")?;
        u64::try_from(found.as_millis()).map_err(|_| "a time of outlier detection is too long")
    };
    let percents = [
        outlier.max_ejection_percent,
        outlier.enforcing_success_rate,
        outlier.enforcing_failure_percentage,
        outlier.failure_percentage_threshold,
    ];
    if percents.iter().flatten().any(|percent| *percent > 100) {
        return Err("more than 100 percent in outlier detection".to_owned());
    }
    let rates = ejection::Judgement {
        bound: outlier.success_rate_stdev_factor.unwrap_or(1_900),
        enforcement: outlier.enforcing_success_rate.unwrap_or(100),
        hosts_min: outlier.success_rate_minimum_hosts.unwrap_or(5),
        volume_min: outlier.success_rate_request_volume.unwrap_or(100),
    };
    let failures = ejection::Judgement {
        bound: outlier.failure_percentage_threshold.unwrap_or(85),
        enforcement: outlier.enforcing_failure_percentage.unwrap_or(0),
        hosts_min: outlier.failure_percentage_minimum_hosts.unwrap_or(5),
        volume_min: outlier.failure_percentage_request_volume.unwrap_or(50),
    };
    let enforced = |rule: ejection::Judgement| Some(rule).filter(|rule| rule.enforcement > 0);
    Ok(ejection::Config {
        interval_ms: ms(&outlier.interval, 10_000)?.max(1),
        base_ms: ms(&outlier.base_ejection_time, 30_000)?,
        longest_ms: ms(&outlier.max_ejection_time, 300_000)?,
        percent_max: outlier.max_ejection_percent.unwrap_or(10),
        failures: enforced(failures),
        rates: enforced(rates),
    })
}

fn endpoints(assignment: ClusterLoadAssignment) -> Result<(String, Vec<SocketAddr>), String> {
    let name = assignment.cluster_name;
    let mut addresses = Vec::new();
    let places = assignment.endpoints.into_iter();
    for found in places.flat_map(|place| place.lb_endpoints) {
        let health = found.health_status();
        if !matches!(health, HealthStatus::Unknown | HealthStatus::Healthy) {
            continue;
        }
        let Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)) = found.host_identifier else {
            return Err(format!("{name}: an endpoint without an address"));
        };
        addresses.push(socket(endpoint.address).map_err(|error| format!("{name}: {error}"))?);
    }
    Ok((name, addresses))
}

fn socket(address: Option<Address>) -> Result<SocketAddr, String> {
    let Some(address::Address::SocketAddress(socket)) = address.and_then(|each| each.address)
    else {
        return Err("an endpoint without an address".to_owned());
    };
    let Some(socket_address::PortSpecifier::PortValue(port)) = socket.port_specifier else {
        return Err("an endpoint without a port".to_owned());
    };
    let port = u16::try_from(port).map_err(|_| format!("{port} is no port"))?;
    let host = socket.address.parse();
    let host = host.map_err(|_| format!("{:?} is no IP address", socket.address))?;
    Ok(SocketAddr::new(host, port))
}
