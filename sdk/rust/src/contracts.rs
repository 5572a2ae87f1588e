//! What the broker enforces for methods: asked for once, and announced where nobody did.

use crate::clock;
use crate::descriptors::Descriptors;
use crate::errors::{self, ErrorReason};
use crate::pb::v1::contract_service_client::ContractServiceClient;
use crate::pb::v1::{
    AnnounceContractRequest, AnnounceContractResponse, KeyPath, MethodInfo, ResolveMethodsRequest,
};
use crate::retry::Backoff;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tonic::Status;
use tonic::transport::Channel;

/// Backoff of everything that waits for the broker: full jitter, 50 ms to 2 s.
pub(crate) const RECONNECT: Backoff = Backoff {
    initial_ms: 50,
    max_ms: 2_000,
    multiplier_permille: 2_000,
    jitter_low_permille: 0,
    jitter_high_permille: 1_000,
};

/// Waits before attempt `attempt` to reach the broker; 2 is the first retry.
pub(crate) async fn pause(attempt: u32) {
    let delay_ms = RECONNECT.delay_ms(attempt, clock::random_ppm());
    tokio::time::sleep(Duration::from_millis(delay_ms)).await;
}

/// A method as the SDK needs it.
#[derive(Debug)]
pub(crate) struct Method {
    /// "/package.Service/Method".
    pub(crate) path: Arc<str>,
    /// What its submissions name, so that only workers that can take them do.
    pub(crate) route: Arc<str>,
    /// What a worker of it names in its hello.
    pub(crate) served_routes: Vec<String>,
    /// The queue its tasks wait in.
    pub(crate) queue: String,
    pub(crate) idempotency_key: Option<KeyPath>,
    pub(crate) ordering_key: Option<KeyPath>,
    pub(crate) limit_key: Option<KeyPath>,
}

impl Method {
    /// "package.Service/Method".
    pub(crate) fn name(&self) -> &str {
        self.path.trim_start_matches('/')
    }
}

impl From<MethodInfo> for Method {
    fn from(info: MethodInfo) -> Self {
        let path: Arc<str> = info.method.into();
        let or_path = |route: &str| match route {
            "" => Arc::clone(&path),
            route => Arc::from(route),
        };
        let route = or_path(&info.route);
        let served_routes = match info.served_routes.is_empty() {
            true => vec![path.to_string()],
            false => info.served_routes,
        };
        let MethodInfo {
            queue,
            idempotency_key,
            ordering_key,
            limit_key,
            ..
        } = info;
        Self {
            path,
            route,
            served_routes,
            queue,
            idempotency_key,
            ordering_key,
            limit_key,
        }
    }
}

/// The methods known so far, over one connection.
#[derive(Debug)]
pub(crate) struct Contracts {
    transport: Channel,
    descriptors: Descriptors,
    methods: RwLock<HashMap<String, Arc<Method>>>,
    asking: tokio::sync::Mutex<()>,
}

impl Contracts {
    pub(crate) fn new(transport: Channel, descriptors: Descriptors) -> Self {
        let (methods, asking) = Default::default();
        Self {
            transport,
            descriptors,
            methods,
            asking,
        }
    }

    /// The method, if it is known already.
    pub(crate) fn known(&self, path: &str) -> Option<Arc<Method>> {
        self.methods
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(path)
            .cloned()
    }

    /// The broker does not know it any more.
    pub(crate) fn forget(&self, path: &str) {
        self.methods
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(path);
    }

    /// The method, from what is known or else from the broker; see `resolve`.
    pub(crate) async fn method(&self, path: &str) -> Result<Arc<Method>, Status> {
        match self.known(path) {
            Some(method) => Ok(method),
            None => self.resolve(path).await,
        }
    }

    /// The method, asked for if need be and announced if the SDK has its descriptor. Waits for the broker as long as
    /// it takes. METHOD_UNKNOWN when nobody can tell.
    async fn resolve(&self, path: &str) -> Result<Arc<Method>, Status> {
        // One question at a time: the calls of a burst wait for the first one's answer.
        let _asking = self.asking.lock().await;
        if let Some(method) = self.known(path) {
            return Ok(method);
        }
        let answer = retry(|| self.find(path)).await?;
        self.learn(answer);
        self.known(path).ok_or_else(|| unknown(path))
    }

    /// What the broker says of a method: under the contract that this program has, if it has one, so that its tasks go
    /// to workers that know what it knows. Else, or while nobody can decide on it, under the one in force.
    async fn find(&self, path: &str) -> Result<Vec<MethodInfo>, Status> {
        let mut parts = path.trim_start_matches('/').split('/');
        let service = parts.next().unwrap_or_default().to_owned();
        if self.descriptors.service(&service).is_none() {
            return self.ask(vec![path.to_owned()]).await;
        }
        let request = self.announcement(&self.descriptors, &[service])?;
        match self.announce_once(request).await {
            Err(status) if errors::reason(&status) == Some(ErrorReason::SchedulerUnavailable) => {
                let known = self.ask(vec![path.to_owned()]).await?;
                match known.is_empty() {
                    true => Err(status),
                    false => Ok(known),
                }
            }
            answer => Ok(answer?.methods),
        }
    }

    async fn ask(&self, methods: Vec<String>) -> Result<Vec<MethodInfo>, Status> {
        let request = ResolveMethodsRequest { methods };
        let mut client = ContractServiceClient::new(self.transport.clone());
        Ok(client.resolve_methods(request).await?.into_inner().methods)
    }

    fn announcement(
        &self,
        descriptors: &Descriptors,
        services: &[String],
    ) -> Result<AnnounceContractRequest, Status> {
        Ok(AnnounceContractRequest {
            descriptor_set: descriptors.set_of(services)?,
            services: services.to_vec(),
            ..AnnounceContractRequest::default()
        })
    }

    async fn announce_once(
        &self,
        request: AnnounceContractRequest,
    ) -> Result<AnnounceContractResponse, Status> {
        let mut client = ContractServiceClient::new(self.transport.clone());
        Ok(client.announce_contract(request).await?.into_inner())
    }

    /// Announces the services of a worker; answers with their methods and the contract's digest when it may serve
    /// them. UNAVAILABLE is tried again, for ever.
    pub(crate) async fn announce(
        &self,
        descriptors: &Descriptors,
        services: &[String],
    ) -> Result<(Vec<Arc<Method>>, String), Status> {
        let mut request = self.announcement(descriptors, services)?;
        request.for_worker = true;
        let answer = retry(|| self.announce_once(request.clone())).await?;
        Ok((self.learn(answer.methods), answer.digest))
    }

    fn learn(&self, methods: Vec<MethodInfo>) -> Vec<Arc<Method>> {
        let methods: Vec<_> = methods
            .into_iter()
            .map(|info| Arc::new(Method::from(info)))
            .collect();
        let mut known = self.methods.write().unwrap_or_else(PoisonError::into_inner);
        for method in &methods {
            known.insert(method.path.to_string(), Arc::clone(method));
        }
        methods
    }
}

/// Whether the broker refused because it does not know the method.
pub(crate) fn is_unknown(status: &Status) -> bool {
    errors::reason(status) == Some(ErrorReason::MethodUnknown)
}

fn unknown(path: &str) -> Status {
    let message = format!(
        "no contract declares {path}: start a worker that serves it, push its contract, or give \
         Plait::builder() its descriptors"
    );
    errors::refusal(
        ErrorReason::MethodUnknown,
        message,
        [("method", path.to_owned())],
    )
}

/// Asks until there is an answer other than that nobody is there to give one.
async fn retry<T, F>(mut ask: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    let mut attempt = 1;
    loop {
        match ask().await {
            Err(status) if is_away(&status) => {
                tracing::debug!(%status, attempt, "the broker gives no answer yet");
                attempt += 1;
                pause(attempt).await;
            }
            answer => return answer,
        }
    }
}

/// A connection that broke under the call has UNKNOWN or INTERNAL of tonic's own making, with what broke as its
/// source; a status that the broker sent has none.
fn is_away(status: &Status) -> bool {
    matches!(
        status.code(),
        tonic::Code::Unavailable | tonic::Code::Cancelled
    ) || std::error::Error::source(status).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test(start_paused = true)]
    async fn an_absent_broker_is_asked_again() {
        let asked = Cell::new(0);
        let answer = retry(|| async {
            asked.set(asked.get() + 1);
            if asked.get() < 4 {
                Err(Status::unavailable("away"))
            } else {
                Ok(7)
            }
        });
        assert_eq!(answer.await.expect("an answer"), 7);
        assert_eq!(asked.get(), 4);
    }

    /// A broker that is killed while it thinks about the answer.
    #[tokio::test(start_paused = true)]
    async fn a_broken_connection_is_asked_again() {
        let asked = Cell::new(0);
        let answer = retry(|| async {
            asked.set(asked.get() + 1);
            if asked.get() < 3 {
                let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
                let status = Status::from_error(Box::new(broken));
                assert_eq!(status.code(), tonic::Code::Unknown);
                Err(status)
            } else {
                Ok(7)
            }
        });
        assert_eq!(answer.await.expect("an answer"), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_not_asked_again() {
        let asked = Cell::new(0);
        let answer: Result<(), _> = retry(|| async {
            asked.set(asked.get() + 1);
            Err(Status::invalid_argument("no"))
        })
        .await;
        assert_eq!(
            answer.expect_err("refused").code(),
            tonic::Code::InvalidArgument
        );
        assert_eq!(asked.get(), 1);
    }
}
