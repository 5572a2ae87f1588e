//! What the status of one attempt of a direct call means, by the table that all languages share.

use super::gradient;
use crate::breaker;
use crate::retry::Budget;
use tonic::Code;

/// What an attempt's end does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Whether it may be sent again, as far as the status says.
    pub(super) retry: bool,
    /// Whether the retry budget pays for it; an OK pays back.
    pub(super) costs: bool,
}

/// Codes that the contract has not tried again, as bits by their numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Codes(pub(super) u32);

impl Codes {
    pub(super) fn with(self, code: i32) -> Self {
        let bit = u32::try_from(code)
            .ok()
            .and_then(|shift| 1_u32.checked_shl(shift));
        Self(self.0 | bit.unwrap_or_default())
    }

    fn has(self, code: Code) -> bool {
        self.0 >> (code as u32) & 1 == 1
    }
}

/// Whether to send it again. `pushback_ms` is what the worker said of it: negative is stop.
pub(super) fn verdict(
    code: Code,
    idempotent: bool,
    pushback_ms: Option<i64>,
    never: Codes,
) -> Verdict {
    let stop = pushback_ms.is_some_and(|pushback| pushback < 0);
    let may = match code {
        Code::Unavailable | Code::Aborted => true,
        Code::DeadlineExceeded | Code::Internal | Code::Unknown => idempotent,
        Code::ResourceExhausted => pushback_ms.is_some(),
        _ => false,
    };
    let may = may && !never.has(code);
    Verdict {
        retry: may && !stop,
        costs: code != Code::Ok && (may || stop),
    }
}

/// Whether only its pushback kept it from being sent again, where that may be done twice.
pub(super) fn is_merely_stopped(code: Code, pushback_ms: Option<i64>, never: Codes) -> bool {
    pushback_ms.is_some_and(|pushback| pushback < 0) && is_candidate(code) && !never.has(code)
}

/// Whether it is retried where it may be; for RESOURCE_EXHAUSTED somebody has to say when.
pub(crate) fn is_candidate(code: Code) -> bool {
    verdict(code, true, Some(0), Codes::default()).retry
}

/// Has the budget pay, or be paid back.
pub(super) fn pay(budget: &mut Budget, code: Code, found: Verdict) {
    if code == Code::Ok {
        budget.success();
    } else if found.costs {
        budget.failure();
    }
}

/// What a breaker is told.
pub(super) fn for_breaker(code: Code) -> breaker::Outcome {
    match code {
        Code::Cancelled => breaker::Outcome::Ignore,
        Code::Unavailable
        | Code::ResourceExhausted
        | Code::DeadlineExceeded
        | Code::Internal
        | Code::Unknown
        | Code::DataLoss => breaker::Outcome::Failure,
        _ => breaker::Outcome::Success,
    }
}

/// What a limiter is told.
pub(super) fn for_limiter(code: Code) -> gradient::Outcome {
    match code {
        Code::ResourceExhausted | Code::DeadlineExceeded => gradient::Outcome::Drop,
        Code::Unavailable | Code::Cancelled => gradient::Outcome::Ignore,
        _ => gradient::Outcome::Ok,
    }
}
