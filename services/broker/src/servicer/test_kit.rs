//! `TestKitService`: moves the clock and makes attempts fail, for tests of users.

use std::sync::Arc;
use std::time::Duration;

use plait::pb::google::rpc;
use plait::pb::plait::testkit::v1 as pb;
use plait::pb::plait::testkit::v1::advance_clock_request::Until as WireUntil;
use plait::pb::plait::testkit::v1::fault::Action;
use plait::pb::plait::testkit::v1::test_kit_service_server::TestKitService;
use plait::pb::v1::{ErrorReason, Failure as WireFailure};
use plait_broker_core::Busy;
use plait_broker_core::effect::Error;
use plait_broker_core::ids::Millis;
use plait_broker_core::record::Failure;
use prost::Message;
use tonic::{Code, Request, Response, Status};

use super::task::task_id;
use super::{Context, failures, times};
use crate::clock::monotonic;
use crate::limits::Limits;
use crate::partition::{Advance, Fault, Harm, Stuck, Until};
use crate::status::{self, Refused, invalid, retry_info_ms};

/// How long the workers have for what is due at one instant when nothing else is asked for.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest that may be asked for.
const PATIENCE_MAX: Duration = Duration::from_secs(600);

/// The furthest that the clock is moved at once.
const SPAN_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// How often it is looked whether the clock moves.
const LOOK: Duration = Duration::from_millis(50);

/// Faults that are kept.
const FAULTS_MAX: usize = 1000;

/// The service.
#[derive(Debug, Clone)]
pub struct TestKit {
    context: Context,
}

impl TestKit {
    /// Serves tests that use a broker.
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    async fn time(&self) -> Result<Millis, Status> {
        Ok(self.context.partition.query(|_, now| now).await?)
    }

    /// What holds the clock, once it was held in one place for so long in real time.
    async fn held(&self, patience: Duration) -> Result<Refused, Status> {
        let (mut since, mut last) = (monotonic(), self.time().await?);
        loop {
            let looked = monotonic();
            tokio::time::sleep(LOOK).await;
            let look = self.context.partition.query(|p, now| (p.busy(now), now));
            let (busy, now) = look.await?;
            let skipped = Duration::from_millis(now.saturating_sub(last)) > looked.elapsed() + LOOK;
            last = now;
            match busy {
                Some(busy) if !skipped => {
                    if since.elapsed() >= patience {
                        return Ok(conflict(in_words(&busy, patience)));
                    }
                }
                _ => since = monotonic(),
            }
        }
    }
}

fn conflict(message: String) -> Refused {
    Refused::new(
        Code::FailedPrecondition,
        ErrorReason::StateConflict,
        message,
    )
}

fn in_words(busy: &Busy, patience: Duration) -> String {
    let what = match busy {
        Busy::Running(method) => format!("attempts of {method} still run"),
        Busy::Unserved(method) => format!("tasks of {method} may start and no worker serves it"),
    };
    format!("the clock is held: {what} after {patience:?}; `regardless` moves it all the same")
}

fn stuck(stuck: &Stuck) -> Refused {
    match stuck {
        Stuck::NoTask(task) => status::refused(&Error::TaskNotFound { task: *task }),
        Stuck::NothingDue(task) => {
            conflict(format!("{task} is not final, and nothing is due any more"))
        }
    }
}

fn asked(request: &pb::AdvanceClockRequest) -> Result<(Advance, Duration), Refused> {
    let span = |field, duration: &prost_types::Duration, most: Duration| {
        let span = Duration::from_millis(times::millis(field, duration)?);
        if span > most {
            return Err(invalid(field, format!("at most {} s", most.as_secs())));
        }
        Ok(span)
    };
    let regardless = request.regardless;
    let until = match &request.until {
        None => return Err(invalid("until", "by or finished is needed")),
        Some(WireUntil::Finished(_)) if regardless => {
            return Err(invalid("regardless", "only with by"));
        }
        Some(WireUntil::Finished(id)) => Until::Finished(task_id("finished", id)?),
        Some(WireUntil::By(by)) => Until::Passed(span("by", by, SPAN_MAX)?.as_millis() as Millis),
    };
    let patience = request.patience.as_ref();
    let patience = patience
        .map(|patience| span("patience", patience, PATIENCE_MAX))
        .transpose()?;
    Ok((Advance { until, regardless }, patience.unwrap_or(PATIENCE)))
}

/// A fault as the partition takes it.
fn fault(fault: pb::Fault, limits: &Limits) -> Result<Fault, Refused> {
    if !fault.method.starts_with('/') || fault.method.matches('/').count() != 2 {
        return Err(invalid("fault.method", "it is \"/package.Service/Method\""));
    }
    let harm = match fault.action {
        None => return Err(invalid("fault.action", "it is needed")),
        Some(Action::FailBefore(status)) => {
            let (failure, pushback) = failure("fault.fail_before", &status, limits)?;
            Harm::FailBefore(failure, pushback)
        }
        Some(Action::FailAfter(status)) => {
            let (failure, pushback) = failure("fault.fail_after", &status, limits)?;
            Harm::FailAfter(failure, pushback)
        }
        Some(Action::DropStream(_)) => Harm::DropStream,
        Some(Action::ExpireLease(_)) => Harm::ExpireLease,
    };
    Ok(Fault {
        method: Arc::from(fault.method),
        attempts: fault.attempts,
        times: fault.times,
        harm,
    })
}

fn failure(
    field: &str,
    status: &rpc::Status,
    limits: &Limits,
) -> Result<(Failure, Option<Millis>), Refused> {
    if !(1..=16).contains(&status.code) {
        return Err(invalid(format!("{field}.code"), "1 to 16"));
    }
    let details = if status.details.is_empty() {
        Vec::new()
    } else {
        status.encode_to_vec()
    };
    let pushback = retry_info_ms(&details);
    let failure = WireFailure {
        code: status.code as u32,
        message: status.message.clone(),
        details: details.into(),
        ..WireFailure::default()
    };
    Ok((failures::incoming(failure, limits), pushback))
}

fn report((fault, struck): (Fault, u32)) -> pb::FaultReport {
    let status = |failure: Failure| {
        rpc::Status::decode(failure.details)
            .ok()
            .filter(|status| status.code != 0)
            .unwrap_or_else(|| rpc::Status {
                code: failure.code as i32,
                message: failure.message.as_ref().to_owned(),
                details: Vec::new(),
            })
    };
    let action = match fault.harm {
        Harm::FailBefore(failure, _) => Action::FailBefore(status(failure)),
        Harm::FailAfter(failure, _) => Action::FailAfter(status(failure)),
        Harm::DropStream => Action::DropStream(pb::DropStream {}),
        Harm::ExpireLease => Action::ExpireLease(pb::ExpireLease {}),
    };
    let fault = pb::Fault {
        method: fault.method.as_ref().to_owned(),
        attempts: fault.attempts,
        times: fault.times,
        action: Some(action),
    };
    pb::FaultReport {
        fault: Some(fault),
        struck,
    }
}

#[tonic::async_trait]
impl TestKitService for TestKit {
    async fn get_clock(
        &self,
        _: Request<pb::GetClockRequest>,
    ) -> Result<Response<pb::GetClockResponse>, Status> {
        let time = times::timestamp(self.time().await?);
        Ok(Response::new(pb::GetClockResponse { time }))
    }

    async fn advance_clock(
        &self,
        request: Request<pb::AdvanceClockRequest>,
    ) -> Result<Response<pb::AdvanceClockResponse>, Status> {
        let (advance, patience) = asked(request.get_ref())?;
        let arrived = tokio::select! {
            biased;
            arrived = self.context.partition.advance(advance) => arrived?,
            held = self.held(patience) => return Err(held?.into()),
        };
        let time = arrived.map_err(|why| stuck(&why))?;
        let time = times::timestamp(time);
        Ok(Response::new(pb::AdvanceClockResponse { time }))
    }

    async fn add_fault(
        &self,
        request: Request<pb::AddFaultRequest>,
    ) -> Result<Response<pb::AddFaultResponse>, Status> {
        let wanted = request.into_inner().fault.unwrap_or_default();
        let fault = fault(wanted, &self.context.limits)?;
        if self.context.partition.faults().await?.len() >= FAULTS_MAX {
            return Err(conflict(format!("{FAULTS_MAX} faults are there: clear them")).into());
        }
        self.context.partition.add_fault(fault)?;
        Ok(Response::new(pb::AddFaultResponse {}))
    }

    async fn list_faults(
        &self,
        _: Request<pb::ListFaultsRequest>,
    ) -> Result<Response<pb::ListFaultsResponse>, Status> {
        let faults = self.context.partition.faults().await?;
        let faults = faults.into_iter().map(report).collect();
        Ok(Response::new(pb::ListFaultsResponse { faults }))
    }

    async fn clear_faults(
        &self,
        _: Request<pb::ClearFaultsRequest>,
    ) -> Result<Response<pb::ClearFaultsResponse>, Status> {
        self.context.partition.clear_faults()?;
        Ok(Response::new(pb::ClearFaultsResponse {}))
    }
}
