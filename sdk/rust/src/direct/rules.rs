//! How calls of a method are tried again, given a rest and bounded: what its contract says, and what a program says
//! over it. The contract is the one in force, which the broker knows: generated code does not carry its options.

use super::verdicts::Codes;
use crate::pb::v1::contract_service_client::ContractServiceClient;
use crate::pb::v1::{BreakerPolicy, Delivery, GetContractRequest, GetContractResponse};
use crate::pb::v1::{MethodInfo, RetryPolicy, TaskPolicy};
use crate::session::MESSAGE_MAX;
use crate::{breaker, errors, limiter};
use prost::Message;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tonic::Status;
use tonic::transport::Channel;

/// A task may be tried for days; a call has a caller who waits.
const ATTEMPTS: u32 = 3;
/// A6.
const ATTEMPTS_MAX: u32 = 5;
const BUDGET_TOKENS: u64 = 10;
/// Of a method that the broker does not know.
const TIMEOUT: Duration = Duration::from_secs(60);
/// `google.protobuf.MethodOptions.IdempotencyLevel`.
const NO_SIDE_EFFECTS: i32 = 1;
const IDEMPOTENT: i32 = 2;

/// What a program says of a channel. What it does not say is the contract's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) max_attempts: Option<u32>,
    pub(super) idempotent: Option<bool>,
    pub(super) hedge: Option<bool>,
    pub(super) hedge_delay: Option<Duration>,
    pub(super) breaker: Option<Option<breaker::Config>>,
    pub(super) limiter: Option<Option<limiter::Config>>,
    pub(super) budget_tokens: Option<u64>,
}

/// What holds for the calls of one method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rules {
    /// The longest that a call may take.
    pub(super) timeout: Duration,
    pub(super) max_attempts: u32,
    pub(super) idempotent: bool,
    pub(super) hedge: bool,
    /// Before a hedge; `None`: as long as most of the latest calls took.
    pub(super) hedge_delay_ms: Option<u64>,
    /// Codes that are not tried again.
    pub(super) never: Codes,
    pub(super) breaker: Option<breaker::Config>,
    pub(super) limiter: Option<limiter::Config>,
    pub(super) budget_tokens: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            timeout: TIMEOUT,
            max_attempts: ATTEMPTS,
            idempotent: false,
            hedge: false,
            hedge_delay_ms: None,
            never: Codes::default(),
            breaker: Some(breaker::Config::default()),
            limiter: Some(limiter::Config::default()),
            budget_tokens: BUDGET_TOKENS,
        }
    }
}

impl Rules {
    /// These, where a program says nothing else.
    pub(super) fn under(mut self, said: &Said) -> Self {
        let attempts = said.max_attempts.map(|each| each.clamp(1, ATTEMPTS_MAX));
        self.max_attempts = attempts.unwrap_or(self.max_attempts);
        self.idempotent = said.idempotent.unwrap_or(self.idempotent);
        self.hedge = said.hedge.unwrap_or(self.hedge);
        let delay = said.hedge_delay.map(|delay| milliseconds(delay).max(1));
        self.hedge_delay_ms = delay.or(self.hedge_delay_ms);
        self.breaker = said.breaker.unwrap_or(self.breaker);
        self.limiter = said.limiter.unwrap_or(self.limiter);
        self.budget_tokens = said.budget_tokens.unwrap_or(self.budget_tokens);
        self
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The rules of a service's methods, by their paths.
type Methods = HashMap<String, Rules>;

/// The contracts that calls go by, asked for once and again every now and then.
#[derive(Debug)]
pub(super) struct Contracts {
    broker: Channel,
    known: RwLock<HashMap<String, Arc<Methods>>>,
    asking: tokio::sync::Mutex<()>,
}

impl Contracts {
    pub(super) fn new(broker: Channel) -> Self {
        Self {
            broker,
            known: RwLock::default(),
            asking: tokio::sync::Mutex::default(),
        }
    }

    /// The rules of "/package.Service/Method"; the default ones where nobody has declared it. The first time the broker
    /// is asked, whose error is UNAVAILABLE.
    pub(super) async fn rules(&self, service: &str, path: &str) -> Result<Rules, Status> {
        let methods = match self.known(service) {
            Some(methods) => methods,
            None => {
                let _asking = self.asking.lock().await;
                match self.known(service) {
                    Some(methods) => methods,
                    None => self.ask(service).await?,
                }
            }
        };
        Ok(methods.get(path).cloned().unwrap_or_default())
    }

    /// Asks again for what is known: another contract may be in force by now.
    pub(super) async fn refresh(&self) {
        for service in self.services() {
            if let Err(status) = self.ask(&service).await {
                tracing::debug!(%status, service, "what is known of the contract stands");
            }
        }
    }

    fn services(&self) -> Vec<String> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.keys().cloned().collect()
    }

    fn known(&self, service: &str) -> Option<Arc<Methods>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(service).cloned()
    }

    async fn ask(&self, service: &str) -> Result<Arc<Methods>, Status> {
        let client = ContractServiceClient::new(self.broker.clone());
        let mut client = client.max_decoding_message_size(MESSAGE_MAX);
        let request = GetContractRequest {
            service: service.to_owned(),
        };
        let methods = match client.get_contract(request).await {
            Ok(answer) => methods(service, answer.get_ref()),
            Err(status) if errors::reason(&status).is_some() || !errors::is_transient(&status) => {
                // The broker knows of none.
                Methods::new()
            }
            Err(status) if status.code() == tonic::Code::NotFound => Methods::new(),
            Err(status) => {
                let text = format!("the broker does not answer: {}", status.message());
                return Err(Status::unavailable(text));
            }
        };
        let methods = Arc::new(methods);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(service.to_owned(), Arc::clone(&methods));
        Ok(methods)
    }
}

/// A descriptor set as far as it is looked at here: prost's own messages drop the options that are extensions.
#[derive(Clone, PartialEq, Message)]
struct Set {
    #[prost(message, repeated, tag = "1")]
    file: Vec<File>,
}

#[derive(Clone, PartialEq, Message)]
struct File {
    #[prost(string, tag = "2")]
    package: String,
    #[prost(message, repeated, tag = "6")]
    service: Vec<Service>,
}

#[derive(Clone, PartialEq, Message)]
struct Service {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    method: Vec<Method>,
    #[prost(message, optional, tag = "3")]
    options: Option<ServiceOptions>,
}

#[derive(Clone, PartialEq, Message)]
struct ServiceOptions {
    #[prost(message, optional, tag = "50710")]
    task_defaults: Option<TaskPolicy>,
}

#[derive(Clone, PartialEq, Message)]
struct Method {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "4")]
    options: Option<MethodOptions>,
}

#[derive(Clone, PartialEq, Message)]
struct MethodOptions {
    #[prost(int32, tag = "34")]
    idempotency_level: i32,
    #[prost(message, optional, tag = "50710")]
    task: Option<TaskPolicy>,
}

pub(super) fn methods(service: &str, answer: &GetContractResponse) -> Methods {
    let (package, name) = service.rsplit_once('.').unwrap_or(("", service));
    let set = Set::decode(answer.descriptor_set.clone()).unwrap_or_default();
    let files = set.file.iter().filter(|file| file.package == package);
    let mut services = files.flat_map(|file| &file.service);
    let declared = services.find(|each| each.name == name);
    let infos = answer.methods.iter();
    infos
        .map(|info| (info.method.clone(), rules(declared, info)))
        .collect()
}

fn rules(declared: Option<&Service>, info: &MethodInfo) -> Rules {
    let limits = [info.attempt_timeout, info.deadline].into_iter().flatten();
    let limits = limits.filter_map(|each| Duration::try_from(each).ok());
    let name = info.method.rsplit('/').next();
    let method = declared.and_then(|service| {
        let mut methods = service.method.iter();
        methods.find(|method| name == Some(&method.name))
    });
    let options = method.and_then(|method| method.options.clone());
    let MethodOptions {
        idempotency_level: level,
        task,
    } = options.unwrap_or_default();
    let own = task.unwrap_or_default();
    let service = declared.and_then(|service| service.options.clone());
    let defaults = service.and_then(|options| options.task_defaults);
    let defaults = defaults.unwrap_or_default();
    let retries = [&own.retry, &defaults.retry].map(|retry| retry.clone().unwrap_or_default());
    let set = retries.iter().find_map(|retry| retry.max_attempts);
    let attempts = set.and_then(|set| u32::try_from(set).ok());
    let delivery = match own.delivery {
        0 => defaults.delivery,
        delivery => delivery,
    };
    let once = delivery == Delivery::AtMostOnce as i32;
    Rules {
        timeout: limits.min().unwrap_or(TIMEOUT),
        max_attempts: match once {
            true => 1,
            false => attempts.unwrap_or(ATTEMPTS).clamp(1, ATTEMPTS),
        },
        idempotent: info.idempotency_key.is_some()
            || [NO_SIDE_EFFECTS, IDEMPOTENT].contains(&level),
        hedge: level == NO_SIDE_EFFECTS && !once,
        never: never(&retries),
        breaker: breaker(&[own.breaker, defaults.breaker].map(Option::unwrap_or_default)),
        ..Rules::default()
    }
}

/// What the method, else its service, says is not to be tried again; a method without a list of its own may have
/// codes of its service's list tried again after all.
fn never([own, defaults]: &[RetryPolicy; 2]) -> Codes {
    if !own.non_retryable_codes.is_empty() {
        return codes(own.non_retryable_codes.iter());
    }
    let again = match own.retryable_codes.is_empty() {
        true => &defaults.retryable_codes,
        false => &own.retryable_codes,
    };
    let said = defaults.non_retryable_codes.iter();
    codes(said.filter(|code| !again.contains(code)))
}

fn codes<'a>(said: impl Iterator<Item = &'a i32>) -> Codes {
    said.fold(Codes::default(), |codes, code| codes.with(*code))
}

fn breaker(said: &[BreakerPolicy; 2]) -> Option<breaker::Config> {
    let first = |read: fn(&BreakerPolicy) -> Option<i64>, default: u64| {
        let found = said.iter().find_map(read);
        found
            .and_then(|found| u64::try_from(found).ok())
            .unwrap_or(default)
    };
    if said.iter().find_map(|each| each.disabled).unwrap_or(false) {
        return None;
    }
    let base = breaker::Config::default();
    Some(breaker::Config {
        min_calls: first(|each| each.min_calls.map(i64::from), base.min_calls),
        failure_permille: first(
            |each| each.failure_permille.map(i64::from),
            base.failure_permille,
        ),
        half_open_probes: first(
            |each| each.half_open_probes.map(i64::from),
            base.half_open_probes,
        ),
        window_ms: first(|each| each.window.map(wire_ms), base.window_ms),
        open_ms: first(|each| each.open.map(wire_ms), base.open_ms),
        open_max_ms: first(|each| each.open_max.map(wire_ms), base.open_max_ms),
        ..base
    })
}

fn wire_ms(duration: prost_types::Duration) -> i64 {
    duration.seconds.saturating_mul(1_000) + i64::from(duration.nanos / 1_000_000)
}
