//! A scheduler that accepts what it is told to.

use bytes::Bytes;
use plait::pb::control::v1 as control;
use plait::pb::control::v1::observe_response::Event;
use plait::pb::v1 as pb;
use tonic::Streaming;

use super::{Broker, soon};

/// A policy with short times, in the queue "test".
pub(crate) fn policy(method: &str) -> control::MethodPolicy {
    control::MethodPolicy {
        info: Some(pb::MethodInfo {
            method: method.to_owned(),
            queue: "test".to_owned(),
            ..pb::MethodInfo::default()
        }),
        deadline_ms: 60_000,
        attempt_timeout_ms: 30_000,
        max_attempts: 3,
        initial_backoff_ms: 1,
        max_backoff_ms: 10,
        multiplier_permille: 2000,
        // UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED, INTERNAL, UNAVAILABLE.
        retryable_codes: 1 << 2 | 1 << 4 | 1 << 8 | 1 << 10 | 1 << 13 | 1 << 14,
        idempotency_window_ms: 3_600_000,
        priority: 4,
        retention_ms: 3_600_000,
        dead_letter_retention_ms: 3_600_000,
        ..control::MethodPolicy::default()
    }
}

/// A scheduler's stream.
pub(crate) struct Scheduler {
    events: Streaming<control::ObserveResponse>,
}

impl Scheduler {
    pub(crate) async fn observe(broker: &Broker) -> Self {
        let request = control::ObserveRequest {
            scheduler: "test".to_owned(),
            figures_interval: prost_types::Duration::try_from(std::time::Duration::from_millis(50))
                .ok(),
            ..control::ObserveRequest::default()
        };
        let events = broker
            .control()
            .observe(request)
            .await
            .unwrap()
            .into_inner();
        Self { events }
    }

    /// The next event.
    pub(crate) async fn event(&mut self) -> Result<Event, tonic::Status> {
        let event = soon("an event", self.events.message()).await?;
        Ok(event.expect("an open stream").event.unwrap())
    }

    /// The next event that `pick` takes; others are passed over.
    pub(crate) async fn find<T>(&mut self, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        loop {
            if let Some(found) = pick(self.event().await.unwrap()) {
                return found;
            }
        }
    }

    /// The next contract that waits.
    pub(crate) async fn announced(&mut self) -> control::ContractAnnounced {
        self.find(|event| match event {
            Event::ContractAnnounced(announced) => Some(announced),
            _ => None,
        })
        .await
    }

    /// Has the broker know these methods, by the way that workers take.
    pub(crate) async fn declare(&mut self, broker: &Broker, policies: Vec<control::MethodPolicy>) {
        let method = |policy: &control::MethodPolicy| policy.info.clone().unwrap().method;
        let service = |policy| method(policy).split('/').nth(1).unwrap().to_owned();
        let mut services: Vec<String> = policies.iter().map(service).collect();
        services.dedup();
        let descriptor_set = Bytes::from(policies.iter().map(method).collect::<String>());
        let request = pb::AnnounceContractRequest {
            descriptor_set,
            services,
            validate_only: false,
            ..pb::AnnounceContractRequest::default()
        };
        let mut contracts = broker.contracts();
        let announcing = contracts.announce_contract(request);
        let deciding = async {
            let announcement = self.announced().await.announcement;
            let decision = control::DecideContractRequest {
                announcement,
                policies,
                refusal: None,
                ..control::DecideContractRequest::default()
            };
            broker.control().decide_contract(decision).await.unwrap();
        };
        let (announced, ()) =
            soon("a decision", async { tokio::join!(announcing, deciding) }).await;
        announced.unwrap();
    }
}
