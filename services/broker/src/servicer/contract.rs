//! `ContractService`: making methods known. The scheduler decides; the broker keeps what it decided, so that a known
//! contract needs no scheduler.

use bytes::Bytes;
use plait::pb::control::v1::ContractAnnounced;
use plait::pb::v1 as pb;
use plait::pb::v1::ErrorReason;
use plait::pb::v1::contract_service_server::ContractService;
use plait_broker_core::Partition;
use prost::Message;
use sha2::{Digest, Sha256};
use tonic::{Code, Request, Response, Status};

use super::{Context, pages, validate};
use crate::policy;
use crate::status::{Refused, invalid, too_large};

/// Where contracts are kept in the key-value space; one entry a service, a serialized GetContractResponse.
pub(super) const PREFIX: &str = "contracts/";

/// Where is kept which routes a version of a contract has, by service and digest; each a serialized GetContractResponse
/// without descriptors.
pub(super) const VERSIONS_PREFIX: &str = "contract-versions/";

/// Versions of a service that are kept; languages encode one contract in different ways.
pub(super) const VERSIONS_MAX: usize = 128;

/// A descriptor set that is larger describes something else than a service.
const DESCRIPTOR_BYTES_MAX: usize = 1 << 20;

/// Services of one announcement.
const SERVICES_MAX: usize = 256;

/// Methods of one question.
const METHODS_MAX: usize = 1000;

/// The key of a service's contract.
pub(super) fn key(service: &str) -> String {
    format!("{PREFIX}{service}")
}

/// The prefix of the keys of a service's versions.
pub(super) fn versions(service: &str) -> String {
    format!("{VERSIONS_PREFIX}{service}/")
}

/// The key of a version.
pub(super) fn version_key(service: &str, digest: &str) -> String {
    format!("{VERSIONS_PREFIX}{service}/{digest}")
}

/// Whether a method path belongs to a service.
pub(super) fn serves(service: &str, method: &str) -> bool {
    let rest = method
        .strip_prefix('/')
        .and_then(|path| path.strip_prefix(service));
    rest.is_some_and(|rest| rest.starts_with('/'))
}

/// What is kept of a service's contract.
pub(super) fn record(
    announced: &ContractAnnounced,
    service: &str,
    infos: &[pb::MethodInfo],
) -> Bytes {
    let methods = infos
        .iter()
        .filter(|info| serves(service, &info.method))
        .cloned()
        .collect();
    let record = pb::GetContractResponse {
        descriptor_set: announced.descriptor_set.clone(),
        digest: announced.digest.clone(),
        methods,
    };
    record.encode_to_vec().into()
}

/// What is kept of a version: what tells it from the contract in force.
pub(super) fn version_record(
    announced: &ContractAnnounced,
    service: &str,
    infos: &[pb::MethodInfo],
) -> Bytes {
    let own = infos.iter().filter(|info| serves(service, &info.method));
    let methods = own.map(|info| pb::MethodInfo {
        method: info.method.clone(),
        route: info.route.clone(),
        served_routes: info.served_routes.clone(),
        ..pb::MethodInfo::default()
    });
    let record = pb::GetContractResponse {
        methods: methods.collect(),
        digest: announced.digest.clone(),
        ..pb::GetContractResponse::default()
    };
    record.encode_to_vec().into()
}

/// The service.
#[derive(Debug, Clone)]
pub struct Contracts {
    context: Context,
}

impl Contracts {
    /// Serves the contracts of a broker.
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// What is known of exactly this contract, if it was accepted for all the services.
    async fn known(&self, services: &[String], digest: &str) -> Result<Option<Known>, Status> {
        let (services, digest) = (services.to_vec(), digest.to_owned());
        let known = move |partition: &mut Partition, _| {
            let mut known = Known {
                methods: Vec::new(),
                in_force: true,
            };
            for service in &services {
                let in_force = stored(partition, service).filter(|now| now.digest == digest);
                known.in_force &= in_force.is_some();
                let methods = version(partition, service, &digest);
                known
                    .methods
                    .extend(methods.or_else(|| Some(in_force?.methods))?);
            }
            Some(known)
        };
        Ok(self.context.partition.query(known).await?)
    }
}

type Infos = Vec<pb::MethodInfo>;

/// A contract that was accepted before.
#[derive(Debug)]
struct Known {
    methods: Infos,
    /// Whether it is in force for all the services.
    in_force: bool,
}

/// The methods of a version: policies as they are in force now, routes as they are under that version.
fn version(partition: &Partition, service: &str, digest: &str) -> Option<Infos> {
    let (value, _) = partition.kv_get(&version_key(service, digest))?;
    let version = pb::GetContractResponse::decode(value).ok()?;
    let methods = version.methods.into_iter();
    Some(methods.map(|info| routed(partition, info)).collect())
}

/// A method with its policy as it is in force now, and the routes given.
pub(super) fn routed(partition: &Partition, given: pb::MethodInfo) -> pb::MethodInfo {
    match info_of(partition, &given.method) {
        Some(current) => pb::MethodInfo {
            route: given.route,
            served_routes: given.served_routes,
            ..current
        },
        None => given,
    }
}

/// A contract on record, its methods as they are in force now.
fn stored(partition: &Partition, service: &str) -> Option<pb::GetContractResponse> {
    let (value, _) = partition.kv_get(&key(service))?;
    let mut contract = pb::GetContractResponse::decode(value).ok()?;
    for info in &mut contract.methods {
        if let Some(current) = info_of(partition, &info.method) {
            *info = current;
        }
    }
    Some(contract)
}

fn info_of(partition: &Partition, method: &str) -> Option<pb::MethodInfo> {
    policy::source(partition.policy(method)?).ok()?.info
}

#[tonic::async_trait]
impl ContractService for Contracts {
    async fn announce_contract(
        &self,
        request: Request<pb::AnnounceContractRequest>,
    ) -> Result<Response<pb::AnnounceContractResponse>, Status> {
        self.context.accepting()?;
        let mut request = request.into_inner();
        check_announcement(&request)?;
        request.services.sort_unstable();
        request.services.dedup();
        let digest = digest(&request.descriptor_set);
        let known = self.known(&request.services, &digest).await?;
        let answer = |methods| {
            let digest = digest.clone();
            Ok(Response::new(pb::AnnounceContractResponse {
                methods,
                digest,
            }))
        };
        // Only a worker or an operator can put another contract that is known in force again.
        let wanted = request.for_worker || request.replace || request.validate_only;
        let hub = &self.context.hub;
        let known = match known {
            Some(known) if known.in_force || !wanted => return answer(known.methods),
            Some(known) if !hub.is_observed() && !request.replace => return answer(known.methods),
            known => known.filter(|_| !request.replace && !request.validate_only),
        };
        let announced = ContractAnnounced {
            announcement: 0,
            // A copy: a slice would keep the whole request.
            descriptor_set: Bytes::copy_from_slice(&request.descriptor_set),
            services: request.services,
            validate_only: request.validate_only,
            digest: digest.clone(),
            for_worker: request.for_worker,
            replace: request.replace,
        };
        let waiting = hub.announce(announced);
        let waiting = waiting.ok_or_else(|| undecided("too many contracts wait for a decision"))?;
        match tokio::time::timeout(self.context.limits.decision_timeout, waiting).await {
            Ok(Ok(verdict)) => answer(verdict?),
            _ if known.is_some() => answer(known.map_or_else(Vec::new, |known| known.methods)),
            _ if hub.is_observed() => Err(undecided("the scheduler did not decide in time").into()),
            _ => Err(undecided("no scheduler runs, and the contract is new").into()),
        }
    }

    async fn resolve_methods(
        &self,
        request: Request<pb::ResolveMethodsRequest>,
    ) -> Result<Response<pb::ResolveMethodsResponse>, Status> {
        let methods = request.into_inner().methods;
        if methods.len() > METHODS_MAX {
            return Err(invalid("methods", format!("at most {METHODS_MAX}")).into());
        }
        let resolve = move |partition: &mut Partition, _| -> Infos {
            methods
                .iter()
                .filter_map(|method| info_of(partition, method))
                .collect()
        };
        let methods = self.context.partition.query(resolve).await?;
        Ok(Response::new(pb::ResolveMethodsResponse { methods }))
    }

    async fn get_contract(
        &self,
        request: Request<pb::GetContractRequest>,
    ) -> Result<Response<pb::GetContractResponse>, Status> {
        let service = request.into_inner().service;
        let wanted = service.clone();
        let found = self
            .context
            .partition
            .query(move |p, _| stored(p, &wanted))
            .await?;
        found.map(Response::new).ok_or_else(|| {
            let message = format!("no contract declares the service {service}");
            let metadata = [("service", service)];
            Refused::with(
                Code::NotFound,
                ErrorReason::MethodUnknown,
                message,
                &metadata,
            )
            .into()
        })
    }

    async fn list_contracts(
        &self,
        request: Request<pb::ListContractsRequest>,
    ) -> Result<Response<pb::ListContractsResponse>, Status> {
        let request = request.into_inner();
        let size = pages::size(request.page_size, 1000, 1000)?;
        let after = pages::after(&request.page_token)?;
        let list = move |partition: &mut Partition, _| {
            let after = if after.is_empty() { after } else { key(&after) };
            let entries = partition.kv_list(PREFIX, &after, size + 1);
            let services = entries
                .iter()
                .map(|(key, ..)| key[PREFIX.len()..].to_owned());
            let services: Vec<String> = services.collect();
            let summary = |service: &String| summary(partition, service);
            let contracts: Vec<_> = services.iter().take(size).filter_map(summary).collect();
            let more = services.len() > size;
            (contracts, more.then(|| services[size - 1].clone()))
        };
        let (contracts, last) = self.context.partition.query(list).await?;
        let next_page_token = pages::token(last);
        Ok(Response::new(pb::ListContractsResponse {
            contracts,
            next_page_token,
        }))
    }
}

fn summary(partition: &Partition, service: &str) -> Option<pb::ContractSummary> {
    let contract = stored(partition, service)?;
    let (digest, methods) = (contract.digest, contract.methods);
    Some(pb::ContractSummary {
        service: service.to_owned(),
        digest,
        methods,
    })
}

fn check_announcement(request: &pb::AnnounceContractRequest) -> Result<(), Refused> {
    let len = request.descriptor_set.len();
    if len > DESCRIPTOR_BYTES_MAX {
        return Err(too_large("descriptor_set", len, DESCRIPTOR_BYTES_MAX));
    }
    if len == 0 {
        return Err(invalid("descriptor_set", "it is empty"));
    }
    if request.services.is_empty() || request.services.len() > SERVICES_MAX {
        return Err(invalid(
            "services",
            format!("1 to {SERVICES_MAX} services are announced"),
        ));
    }
    for (index, service) in request.services.iter().enumerate() {
        validate::method_path(&format!("services[{index}]"), &format!("/{service}/M"))?;
    }
    Ok(())
}

fn undecided(message: &str) -> Refused {
    Refused::new(
        Code::Unavailable,
        ErrorReason::SchedulerUnavailable,
        message,
    )
}

fn digest(descriptor_set: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(descriptor_set) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
