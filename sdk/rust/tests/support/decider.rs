//! A scheduler that only decides contracts, by their policies: what the tests and the bench of one language need of the
//! real one. It checks nothing and leaves windows to the broker.

use plait::pb::control::v1::control_service_client::ControlServiceClient;
use plait::pb::control::v1::observe_response::Event;
use plait::pb::control::v1::{
    ContractAnnounced, DecideContractRequest, MethodPolicy, ObserveRequest,
};
use plait::pb::v1::{Delivery, KeyKind, KeyPath, MethodInfo, TaskPolicy};
use prost::Message;
use prost_types::DescriptorProto;
use prost_types::field_descriptor_proto::Type;
use std::time::Duration;
use tokio::sync::oneshot;
use tonic::Status;
use tonic::transport::Channel;

/// Decides every contract that is announced over this connection, for as long as the broker is there. `observing` is
/// told once it would notice one.
pub(crate) async fn decide(broker: Channel, observing: oneshot::Sender<()>) -> Result<(), Status> {
    let mut control = ControlServiceClient::new(broker);
    let request = ObserveRequest {
        scheduler: "decider".into(),
        figures_interval: None,
        ..ObserveRequest::default()
    };
    let mut events = control.observe(request).await?.into_inner();
    let _ = observing.send(());
    while let Some(event) = events.message().await? {
        if let Some(Event::ContractAnnounced(announced)) = event.event {
            let verdict = DecideContractRequest {
                announcement: announced.announcement,
                policies: policies(&announced),
                refusal: None,
                ..DecideContractRequest::default()
            };
            control.decide_contract(verdict).await?;
        }
    }
    Ok(())
}

/// The parts of a `FileDescriptorSet` that hold policies; generated code drops custom options.
#[derive(Clone, PartialEq, Message)]
struct Files {
    #[prost(message, repeated, tag = "1")]
    files: Vec<File>,
}

#[derive(Clone, PartialEq, Message)]
struct File {
    #[prost(string, tag = "2")]
    package: String,
    #[prost(message, repeated, tag = "4")]
    messages: Vec<DescriptorProto>,
    #[prost(message, repeated, tag = "6")]
    services: Vec<Service>,
}

#[derive(Clone, PartialEq, Message)]
struct Service {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    methods: Vec<Method>,
    #[prost(message, optional, tag = "3")]
    options: Option<Extension>,
}

#[derive(Clone, PartialEq, Message)]
struct Method {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    input: String,
    #[prost(message, optional, tag = "4")]
    options: Option<Extension>,
}

/// The options of a service or a method: both have theirs under this number.
#[derive(Clone, PartialEq, Message)]
struct Extension {
    #[prost(bytes = "vec", optional, tag = "50710")]
    policy: Option<Vec<u8>>,
}

fn policies(announced: &ContractAnnounced) -> Vec<MethodPolicy> {
    let files = Files::decode(announced.descriptor_set.as_ref())
        .expect("descriptors")
        .files;
    let mut policies = Vec::new();
    for file in &files {
        for service in &file.services {
            let name = format!("{}.{}", file.package, service.name);
            if announced.services.contains(&name) {
                let policy = |method| policy(&files, &name, service, method, &announced.digest);
                policies.extend(service.methods.iter().map(policy));
            }
        }
    }
    policies
}

fn policy(
    files: &[File],
    service: &str,
    declared: &Service,
    method: &Method,
    digest: &str,
) -> MethodPolicy {
    // Of two encoded messages one after the other the later fields win: a method's over its service's.
    let mut merged = Vec::new();
    for options in [&declared.options, &method.options].into_iter().flatten() {
        merged.extend_from_slice(options.policy.as_deref().unwrap_or_default());
    }
    let task = TaskPolicy::decode(merged.as_slice()).expect("a policy");
    let retry = task.retry.clone().unwrap_or_default();
    let key = |path: Option<&str>| {
        path.filter(|path| !path.is_empty())
            .map(|path| key_path(files, &method.input, path))
    };
    let limits = task.concurrency.clone().unwrap_or_default();
    let deadline = millis(task.deadline, Duration::from_secs(24 * 3_600));
    let attempt_timeout = millis(task.attempt_timeout, Duration::from_secs(60)).min(deadline);
    let at_most_once = task.delivery() == Delivery::AtMostOnce;
    let retention = millis(task.retention, Duration::from_secs(24 * 3_600));
    MethodPolicy {
        info: Some(MethodInfo {
            method: format!("/{service}/{}", method.name),
            queue: task.queue.clone().unwrap_or_else(|| service.to_owned()),
            idempotency_key: key(task.idempotency_key.as_deref()),
            ordering_key: key(task.ordering_key.as_deref()),
            limit_key: key(limits.key.as_deref()),
            deadline: Duration::from_millis(deadline).try_into().ok(),
            attempt_timeout: Duration::from_millis(attempt_timeout).try_into().ok(),
            contract: digest.to_owned(),
            ..MethodInfo::default()
        }),
        deadline_ms: deadline,
        attempt_timeout_ms: attempt_timeout,
        max_attempts: if at_most_once {
            1
        } else {
            retry.max_attempts.unwrap_or(20).unsigned_abs()
        },
        initial_backoff_ms: millis(retry.initial_backoff, Duration::from_millis(200)),
        max_backoff_ms: millis(retry.max_backoff, Duration::from_secs(60)),
        multiplier_permille: 2_000,
        retryable_codes: (0..17)
            .filter(|code| plait::errors::task_is_retried(tonic::Code::from_i32(*code)))
            .fold(0, |codes, code| codes | 1 << code),
        idempotency_window_ms: millis(task.idempotency_window, Duration::ZERO).max(retention),
        priority: task.priority.unwrap_or(4).unsigned_abs(),
        at_most_once,
        retention_ms: retention,
        dead_letter_retention_ms: u64::from(task.dead_letter.is_some()) * 3_600_000,
        rate_limit: 0,
        rate_period_ms: 1_000,
        rate_burst: 0,
        rate_by_key: false,
        concurrency_limit: limits.limit.unwrap_or_default().unsigned_abs(),
        concurrency_per_key: limits.per_key_limit.unwrap_or_default().unsigned_abs(),
        ..MethodPolicy::default()
    }
}

fn millis(told: Option<prost_types::Duration>, default: Duration) -> u64 {
    let told = told
        .and_then(|told| Duration::try_from(told).ok())
        .unwrap_or(default);
    u64::try_from(told.as_millis()).expect("a policy's time")
}

fn key_path(files: &[File], input: &str, path: &str) -> KeyPath {
    let mut message = find(files, input);
    let (mut numbers, mut kind) = (Vec::new(), KeyKind::Unspecified);
    for name in path.split('.') {
        let declared = message.expect("an embedded message").field.iter();
        let field = declared
            .clone()
            .find(|field| field.name() == name)
            .expect("a field");
        numbers.push(field.number().unsigned_abs());
        kind = kind_of(field.r#type());
        message = find(files, field.type_name());
    }
    KeyPath {
        path: path.to_owned(),
        numbers,
        kind: kind.into(),
    }
}

fn find<'a>(files: &'a [File], name: &str) -> Option<&'a DescriptorProto> {
    files.iter().find_map(|file| {
        let local = name.strip_prefix(&format!(".{}.", file.package))?;
        file.messages.iter().find(|message| message.name() == local)
    })
}

fn kind_of(kind: Type) -> KeyKind {
    match kind {
        Type::String => KeyKind::String,
        Type::Bytes => KeyKind::Bytes,
        Type::Int32 | Type::Int64 | Type::Enum => KeyKind::Int,
        Type::Uint32 | Type::Uint64 => KeyKind::Uint,
        Type::Sint32 | Type::Sint64 => KeyKind::Sint,
        Type::Bool => KeyKind::Bool,
        Type::Fixed32 => KeyKind::Fixed32,
        Type::Fixed64 => KeyKind::Fixed64,
        Type::Sfixed32 => KeyKind::Sfixed32,
        Type::Sfixed64 => KeyKind::Sfixed64,
        Type::Float | Type::Double | Type::Group | Type::Message => KeyKind::Unspecified,
    }
}
