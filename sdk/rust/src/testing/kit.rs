//! The clock of a broker that was started for tests, and attempts that are made to fail.

use crate::flags::SHARE_MAX;
use crate::pb::google::rpc;
use crate::pb::plait::testkit::v1 as pb;
use crate::pb::plait::testkit::v1::advance_clock_request::Until;
use crate::pb::plait::testkit::v1::fault::Action;
use crate::pb::plait::testkit::v1::test_kit_service_client::TestKitServiceClient;
use crate::pb::v1::flag_service_client::FlagServiceClient;
use crate::pb::v1::{Flag, FlagRule, SetFlagRequest};
use crate::task::TaskId;
use std::time::{Duration, SystemTime};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// Moves the broker's clock ahead and lets attempts fail.
///
/// Delays, backoffs, deadlines and retention go by the broker's clock; what a handler itself waits for does not. Its
/// errors are gRPC's, UNAVAILABLE where nothing listens.
#[derive(Debug, Clone)]
pub struct TestKit {
    address: String,
    patience: Option<Duration>,
}

/// Attempts that are to fail. Of several that fit, the newest strikes.
#[derive(Debug, Clone)]
pub struct Fault {
    wire: pb::Fault,
    after: bool,
}

impl Fault {
    /// The first attempt of every task of a method, "package.Service/Method"; its handler is not run.
    #[must_use]
    pub fn of(method: &str) -> Self {
        let wire = pb::Fault {
            method: format!("/{}", method.trim_start_matches('/')),
            attempts: vec![1],
            ..pb::Fault::default()
        };
        Self { wire, after: false }
    }

    /// These attempts of a task, from 1; none: all.
    #[must_use]
    pub fn attempts(mut self, attempts: impl IntoIterator<Item = u32>) -> Self {
        self.wire.attempts = attempts.into_iter().collect();
        self
    }

    /// No more often than this. Default, and 0: as often as it fits.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.wire.times = times;
        self
    }

    /// The handler is run, and its answer thrown away; for [`TestKit::fail`].
    #[must_use]
    pub fn after(mut self) -> Self {
        self.after = true;
        self
    }
}

impl TestKit {
    pub(super) fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            patience: None,
        }
    }

    /// How long the workers may take for what is due at one instant, in real time. Default 10 s.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// The broker's time.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn now(&self) -> Result<SystemTime, Status> {
        let clock = self.client()?.get_clock(pb::GetClockRequest {}).await?;
        time(clock.into_inner().time)
    }

    /// Moves the clock ahead, from one thing that is due to the next, and lets the workers finish what each begins;
    /// zero waits for what is due now. The time it is then.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` where the patience is not enough; it says what the workers do.
    pub async fn advance(&self, by: Duration) -> Result<SystemTime, Status> {
        self.advance_until(Until::By(duration(by)?), false).await
    }

    /// As [`TestKit::advance`], although attempts run, or wait for a worker.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn advance_regardless(&self, by: Duration) -> Result<SystemTime, Status> {
        self.advance_until(Until::By(duration(by)?), true).await
    }

    /// Moves the clock ahead until a task is final. The time it is then.
    ///
    /// # Errors
    /// As [`TestKit::advance`], and where nothing is due any more; `NOT_FOUND`.
    pub async fn finish(&self, task: TaskId) -> Result<SystemTime, Status> {
        let until = Until::Finished(task.to_string());
        self.advance_until(until, false).await
    }

    /// Lets attempts end with a status.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for OK, or for a method that is none.
    pub async fn fail(&self, fault: Fault, status: &Status) -> Result<(), Status> {
        let said = rpc::Status {
            code: status.code() as i32,
            message: status.message().to_owned(),
            details: Vec::new(),
        };
        let action = if fault.after {
            Action::FailAfter(said)
        } else {
            Action::FailBefore(said)
        };
        self.add(fault, action).await
    }

    /// Breaks the worker's stream as soon as it has such an attempt.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a method that is none.
    pub async fn drop_stream(&self, fault: Fault) -> Result<(), Status> {
        self.add(fault, Action::DropStream(pb::DropStream {})).await
    }

    /// Ends the lease of such an attempt as soon as the worker has it: the handler is stopped, and what it still
    /// answers is refused.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a method that is none.
    pub async fn expire_lease(&self, fault: Fault) -> Result<(), Status> {
        self.add(fault, Action::ExpireLease(pb::ExpireLease {}))
            .await
    }

    /// How often each fault struck, in the order in which they were asked for.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn struck(&self) -> Result<Vec<u32>, Status> {
        let listed = self.client()?.list_faults(pb::ListFaultsRequest {}).await?;
        let faults = listed.into_inner().faults;
        Ok(faults.into_iter().map(|fault| fault.struck).collect())
    }

    /// Forgets all faults.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn clear(&self) -> Result<(), Status> {
        let clear = pb::ClearFaultsRequest {};
        self.client()?.clear_faults(clear).await?;
        Ok(())
    }

    /// Sets a feature flag, on or off for everybody. Handlers of tasks that are submitted after it see it.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for what is no flag's name.
    pub async fn set_flag(&self, name: &str, on: bool) -> Result<(), Status> {
        let rule = FlagRule {
            name: name.to_owned(),
            share: if on { SHARE_MAX } else { 0 },
            ..FlagRule::default()
        };
        let flag = Flag {
            rule: Some(rule),
            ..Flag::default()
        };
        let set = SetFlagRequest {
            flag: Some(flag),
            expected_version: None,
        };
        let mut flags = FlagServiceClient::new(self.channel()?);
        flags.set_flag(set).await?;
        Ok(())
    }

    async fn add(&self, fault: Fault, action: Action) -> Result<(), Status> {
        let fault = pb::Fault {
            action: Some(action),
            ..fault.wire
        };
        let add = pb::AddFaultRequest { fault: Some(fault) };
        self.client()?.add_fault(add).await?;
        Ok(())
    }

    async fn advance_until(&self, until: Until, regardless: bool) -> Result<SystemTime, Status> {
        let advance = pb::AdvanceClockRequest {
            until: Some(until),
            regardless,
            patience: self.patience.map(duration).transpose()?,
        };
        let clock = self.client()?.advance_clock(advance).await?;
        time(clock.into_inner().time)
    }

    /// A connection of its own for each call, so that a kit may be used from any runtime.
    fn client(&self) -> Result<TestKitServiceClient<Channel>, Status> {
        Ok(TestKitServiceClient::new(self.channel()?))
    }

    fn channel(&self) -> Result<Channel, Status> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address));
        let endpoint = endpoint.map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(endpoint.connect_lazy())
    }
}

fn duration(span: Duration) -> Result<prost_types::Duration, Status> {
    prost_types::Duration::try_from(span)
        .map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))
}

fn time(time: Option<prost_types::Timestamp>) -> Result<SystemTime, Status> {
    SystemTime::try_from(time.unwrap_or_default())
        .map_err(|error| Status::internal(format!("the broker's time: {error}")))
}
