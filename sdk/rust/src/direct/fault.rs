//! Faults that an operator has set: calls that are late or fail, by gRPC's A33. They are drawn for each attempt, before
//! a worker is chosen, so none sees an attempt that fails by one.

use crate::generated::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use crate::generated::envoy::extensions::filters::http::fault::v3::{
    HttpFault, fault_abort::ErrorType,
};
use crate::generated::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use prost::Message;
use prost_types::Any;
use std::time::Duration;
use tonic::{Code, Status};

const TYPE: &str = "envoy.extensions.filters.http.fault.v3.HTTPFault";

/// What becomes of the calls of a route. Shares are in millionths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fault {
    abort: Option<(Code, u32)>,
    delay: Option<(Duration, u32)>,
}

impl Fault {
    /// Reads a filter's configuration; `None`: it is of another filter, or does nothing.
    pub(super) fn read(config: &Any) -> Result<Option<Self>, String> {
        if config.type_url.rsplit('/').next() != Some(TYPE) {
            return Ok(None);
        }
        let HttpFault { abort, delay } =
            HttpFault::decode(config.value.as_slice()).map_err(|error| error.to_string())?;
        let abort = abort.and_then(|abort| {
            let ErrorType::GrpcStatus(code) = abort.error_type?;
            let code = Code::from_i32(i32::try_from(code).unwrap_or(-1));
            Some((code, millionths(abort.percentage.as_ref())))
        });
        let delay = delay.map(|delay| {
            let FaultDelaySecifier::FixedDelay(fixed) =
                delay.fault_delay_secifier.ok_or("a delay of no length")?;
            let fixed = Duration::try_from(fixed).map_err(|_| "a delay of no length")?;
            Ok::<_, &str>((fixed, millionths(delay.percentage.as_ref())))
        });
        let delay = delay.transpose()?;
        Ok(Some(Self { abort, delay }).filter(|found| *found != Self::default()))
    }

    /// How late an attempt is; `drawn` is random, 0 to 999,999.
    pub(super) fn delay(&self, drawn: u32) -> Option<Duration> {
        let (delay, share) = self.delay?;
        (drawn < share).then_some(delay)
    }

    /// What an attempt fails with; `drawn` is random, 0 to 999,999.
    pub(super) fn abort(&self, drawn: u32) -> Option<Status> {
        let (code, share) = self.abort?;
        (drawn < share).then(|| Status::new(code, "Fault injected"))
    }
}

fn millionths(share: Option<&FractionalPercent>) -> u32 {
    let Some(share) = share else { return 0 };
    let each = match share.denominator() {
        DenominatorType::Hundred => 10_000,
        DenominatorType::TenThousand => 100,
        DenominatorType::Million => 1,
    };
    share.numerator.saturating_mul(each)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generated::envoy::extensions::filters::common::fault::v3::FaultDelay;
    use crate::generated::envoy::extensions::filters::http::fault::v3::FaultAbort;

    fn percent(numerator: u32, denominator: DenominatorType) -> Option<FractionalPercent> {
        let denominator = denominator as i32;
        Some(FractionalPercent {
            numerator,
            denominator,
        })
    }

    fn packed(fault: &HttpFault) -> Any {
        Any {
            type_url: format!("type.googleapis.com/{TYPE}"),
            value: fault.encode_to_vec(),
        }
    }

    #[test]
    fn shares_are_of_a_million_and_late_is_not_failed() {
        let delayed = prost_types::Duration {
            seconds: 0,
            nanos: 200_000_000,
        };
        let fault = HttpFault {
            abort: Some(FaultAbort {
                error_type: Some(ErrorType::GrpcStatus(14)),
                percentage: percent(10, DenominatorType::Hundred),
            }),
            delay: Some(FaultDelay {
                fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(delayed)),
                percentage: percent(5, DenominatorType::Million),
            }),
        };
        let found = Fault::read(&packed(&fault)).expect("a fault").expect("one");
        let code = |drawn| found.abort(drawn).map(|status| status.code());
        assert_eq!(
            (code(99_999), code(100_000)),
            (Some(Code::Unavailable), None)
        );
        assert_eq!(found.delay(4), Some(Duration::from_millis(200)));
        assert_eq!(found.delay(5), None);
    }

    #[test]
    fn other_filters_and_empty_faults_are_none() {
        assert_eq!(Fault::read(&packed(&HttpFault::default())), Ok(None));
        assert_eq!(Fault::read(&Any::default()), Ok(None));
        let late = HttpFault {
            delay: Some(FaultDelay::default()),
            ..HttpFault::default()
        };
        assert!(Fault::read(&packed(&late)).is_err());
    }
}
