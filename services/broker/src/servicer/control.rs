//! `ControlService`: what the scheduler observes and decides.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plait::pb::control::v1 as pb;
use plait::pb::control::v1::control_service_server::ControlService;
use plait::pb::v1::{ErrorReason, MethodInfo};
use plait_broker_core::Partition;
use plait_broker_core::command::{Command, Gate, WorkerGate};
use plait_broker_core::effect::Reply;
use plait_broker_core::policy::MethodPolicy;
use prost::Message;
use tonic::{Code, Request, Response, Status};

use super::contract;
use super::epoch;
use super::hub::Verdict;
use super::limits;
use super::observer::{self, FIGURES_INTERVAL, Figures};
use super::routes;
use super::{Answers, Context, times, validate};
use crate::policy;
use crate::splits;
use crate::status::{Refused, invalid};
use crate::weights;

/// Figures are not computed more often.
const FIGURES_INTERVAL_MIN: Duration = Duration::from_millis(50);

/// The service.
#[derive(Debug, Clone)]
pub struct Control {
    context: Context,
}

impl Control {
    /// Serves the scheduler of a broker.
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// Puts accepted policies in force unless they are beside others, and then the contract on record. All is durable
    /// on return.
    async fn accept(
        &self,
        epoch: Option<u64>,
        announced: &pb::ContractAnnounced,
        policies: Vec<pb::MethodPolicy>,
        beside: Vec<String>,
    ) -> Result<Vec<MethodInfo>, Status> {
        let mut compiled = Vec::with_capacity(policies.len());
        for (index, policy) in policies.iter().enumerate() {
            let field = format!("policies[{index}]");
            compiled.push(compiled_for(announced, &field, policy)?);
        }
        let infos = policies.into_iter().filter_map(|policy| policy.info);
        let infos: Vec<MethodInfo> = infos.collect();
        if announced.validate_only {
            return Ok(infos);
        }
        let partition = &self.context.partition;
        let (given, aside) = (infos.clone(), beside.clone());
        let routed = partition.query(move |p, _| routes::routed(p, &given, compiled, &aside));
        let (policies, infos) = routed.await?;
        partition
            .call_in(epoch, 0, |tag| Command::ApplyPolicies { tag, policies })
            .await?;
        for service in &announced.services {
            if !beside.contains(service) {
                let value = contract::record(announced, service, &infos);
                self.put(epoch, contract::key(service), value).await?;
            }
            self.keep_version(epoch, announced, service, &infos).await?;
        }
        Ok(infos)
    }

    /// Keeps which routes a version has; the oldest versions go.
    async fn keep_version(
        &self,
        epoch: Option<u64>,
        announced: &pb::ContractAnnounced,
        service: &str,
        infos: &[MethodInfo],
    ) -> Result<(), Status> {
        let prefix = contract::versions(service);
        let list = move |p: &mut Partition, _| p.kv_list(&prefix, "", contract::VERSIONS_MAX + 1);
        let mut kept = self.context.partition.query(list).await?;
        let key = contract::version_key(service, &announced.digest);
        kept.retain(|(known, ..)| **known != *key);
        kept.sort_unstable_by_key(|(.., version)| *version);
        let over = (kept.len() + 1).saturating_sub(contract::VERSIONS_MAX);
        for (key, ..) in kept.drain(..over) {
            let delete = |tag| Command::KvDelete {
                tag,
                key,
                expected: None,
            };
            self.context.partition.call_in(epoch, 0, delete).await?;
        }
        let record = contract::version_record(announced, service, infos);
        self.put(epoch, key, record).await
    }

    async fn put(&self, epoch: Option<u64>, key: String, value: Bytes) -> Result<(), Status> {
        let (key, bytes) = (Arc::from(key), value.len());
        let put = |tag| Command::KvPut {
            tag,
            key,
            value,
            expected: None,
        };
        self.context.partition.call_in(epoch, bytes, put).await?;
        Ok(())
    }
}

/// A policy of the announced services.
fn compiled_for(
    announced: &pb::ContractAnnounced,
    field: &str,
    policy: &pb::MethodPolicy,
) -> Result<MethodPolicy, Refused> {
    let policy = policy::compiled(policy).ok_or_else(|| invalid(field, "it names no method"))?;
    let mut services = announced.services.iter();
    if !services.any(|service| contract::serves(service, &policy.method)) {
        let problem = format!("{} is no method of the announced services", policy.method);
        return Err(invalid(field, problem));
    }
    routes::check(field, &policy)?;
    Ok(policy)
}

#[tonic::async_trait]
impl ControlService for Control {
    type ObserveStream = Answers<pb::ObserveResponse>;

    async fn observe(
        &self,
        request: Request<pb::ObserveRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let epoch = epoch::of(&request)?;
        self.context.leading(epoch).await?;
        let request = request.into_inner();
        let interval = request.figures_interval.as_ref();
        let interval = interval
            .map(|d| times::millis("figures_interval", d))
            .transpose()?;
        let interval = interval.map_or(FIGURES_INTERVAL, Duration::from_millis);
        let interval = interval.max(FIGURES_INTERVAL_MIN);
        tracing::info!(scheduler = %request.scheduler, "a scheduler observes");
        let (number, events) = self.context.hub.observe();
        let figures = Figures::new(interval, request.early_figures);
        let answers = observer::stream(self.context.clone(), events, figures, number);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn decide_contract(
        &self,
        request: Request<pb::DecideContractRequest>,
    ) -> Result<Response<pb::DecideContractResponse>, Status> {
        let epoch = epoch::of(&request)?;
        self.context.leading(epoch).await?;
        let request = request.into_inner();
        let announcement = request.announcement;
        let announced = self.context.hub.announced(announcement).ok_or_else(|| {
            let message = format!("announcement {announcement} does not wait for a decision");
            Refused::new(
                Code::FailedPrecondition,
                ErrorReason::StateConflict,
                message,
            )
        })?;
        let verdict: Verdict = match request.refusal {
            Some(refusal) if refusal.code != 0 => Err(Refused::relayed(refusal)),
            _ => {
                let (policies, beside) = (request.policies, request.beside_services);
                Ok(self.accept(epoch, &announced, policies, beside).await?)
            }
        };
        self.context.hub.decided(announcement, &verdict);
        Ok(Response::new(pb::DecideContractResponse {}))
    }

    async fn set_windows(
        &self,
        request: Request<pb::SetWindowsRequest>,
    ) -> Result<Response<pb::SetWindowsResponse>, Status> {
        let epoch = epoch::of(&request)?;
        let windows = request.into_inner().windows.into_iter();
        let windows = windows
            .map(|w| (Arc::from(w.worker.as_str()), w.window))
            .collect();
        let set = |tag| Command::SetWindows { tag, windows };
        let unknown = match self.context.partition.call_in(epoch, 0, set).await? {
            Reply::Unknown(names) => names.iter().map(|name| name.to_string()).collect(),
            _ => Vec::new(),
        };
        Ok(Response::new(pb::SetWindowsResponse { unknown }))
    }

    async fn set_gates(
        &self,
        request: Request<pb::SetGatesRequest>,
    ) -> Result<Response<pb::SetGatesResponse>, Status> {
        let epoch = epoch::of(&request)?;
        let mut gates = Vec::new();
        for (index, gate) in request.into_inner().gates.into_iter().enumerate() {
            let valid_ms = valid_ms(index, gate.valid_for.as_ref())?;
            gates.push(Gate {
                method: Arc::from(gate.method.as_str()),
                permits: gate.permits,
                valid_ms,
            });
        }
        let set = |tag| Command::SetGates { tag, gates };
        let unknown = match self.context.partition.call_in(epoch, 0, set).await? {
            Reply::Unknown(names) => names.iter().map(|name| name.to_string()).collect(),
            _ => Vec::new(),
        };
        Ok(Response::new(pb::SetGatesResponse { unknown }))
    }

    async fn set_splits(
        &self,
        request: Request<pb::SetSplitsRequest>,
    ) -> Result<Response<pb::SetSplitsResponse>, Status> {
        let epoch = epoch::of(&request)?;
        let request = request.into_inner();
        let record = Bytes::from(request.encode_to_vec());
        let (splits, bytes) = (splits::compiled(&request), record.len());
        let set = |tag| Command::SetSplits {
            tag,
            splits,
            record,
        };
        self.context.partition.call_in(epoch, bytes, set).await?;
        Ok(Response::new(pb::SetSplitsResponse {}))
    }

    async fn set_worker_gates(
        &self,
        request: Request<pb::SetWorkerGatesRequest>,
    ) -> Result<Response<pb::SetWorkerGatesResponse>, Status> {
        let epoch = epoch::of(&request)?;
        let mut gates = Vec::new();
        for (index, gate) in request.into_inner().gates.into_iter().enumerate() {
            gates.push(WorkerGate {
                worker: Arc::from(gate.worker.as_str()),
                permits: gate.permits,
                valid_ms: valid_ms(index, gate.valid_for.as_ref())?,
            });
        }
        let set = |tag| Command::SetWorkerGates { tag, gates };
        let unknown = match self.context.partition.call_in(epoch, 0, set).await? {
            Reply::Unknown(names) => names.iter().map(|name| name.to_string()).collect(),
            _ => Vec::new(),
        };
        Ok(Response::new(pb::SetWorkerGatesResponse { unknown }))
    }

    async fn set_limits(
        &self,
        request: Request<pb::SetLimitsRequest>,
    ) -> Result<Response<pb::SetLimitsResponse>, Status> {
        let epoch = epoch::of(&request)?;
        let wanted = request.into_inner().limits;
        let partition = &self.context.partition;
        let limited = partition.query(move |p, _| limits::limited(p, &wanted));
        let (policies, unknown) = limited.await?;
        partition
            .call_in(epoch, 0, |tag| Command::ApplyPolicies { tag, policies })
            .await?;
        Ok(Response::new(pb::SetLimitsResponse { unknown }))
    }

    async fn set_weights(
        &self,
        request: Request<pb::SetWeightsRequest>,
    ) -> Result<Response<pb::SetWeightsResponse>, Status> {
        let epoch = epoch::of(&request)?;
        let request = request.into_inner();
        validate::method_path("method", &request.method)?;
        let record = Bytes::from(request.encode_to_vec());
        let (weights, bytes) = (weights::compiled(&request), record.len());
        let set = |tag| Command::SetWeights {
            tag,
            method: Arc::from(request.method.as_str()),
            weights,
            record,
        };
        self.context.partition.call_in(epoch, bytes, set).await?;
        Ok(Response::new(pb::SetWeightsResponse {}))
    }
}

/// How long a gate holds.
fn valid_ms(index: usize, valid_for: Option<&prost_types::Duration>) -> Result<u64, Refused> {
    let field = format!("gates[{index}].valid_for");
    valid_for.map_or(Ok(0), |held| times::millis(&field, held))
}
