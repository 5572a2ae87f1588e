//! What bars a worker while its breaker is not closed, and what its attempts have said of it since.

use crate::ids::{Millis, Token};

/// Codes that say that a worker, or what a method works with, is ill: UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED,
/// INTERNAL, UNAVAILABLE, DATA_LOSS. Others are the caller's fault or a conflict.
const ILL: u32 = 1 << 2 | 1 << 4 | 1 << 8 | 1 << 13 | 1 << 14 | 1 << 15;

/// gRPC's code.
const CANCELLED: u32 = 1;

/// What the end of an attempt says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Well,
    Ill,
    /// It was cancelled.
    Nothing,
}

impl Verdict {
    pub(crate) fn of(code: u32) -> Self {
        match code {
            CANCELLED => Self::Nothing,
            0..32 if ILL & 1 << code != 0 => Self::Ill,
            _ => Self::Well,
        }
    }
}

/// How many attempts a worker may be given, beside what its window has room for.
#[derive(Debug, Clone)]
pub(crate) struct WorkerGate {
    /// `None`: any number.
    pub(crate) permits: Option<u32>,
    /// The first token of attempts that begin under it.
    since: Token,
    /// When it is over.
    pub(crate) until: Millis,
}

/// How attempts of a method ended at a worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said {
    /// The method's number.
    pub(crate) method: u32,
    pub(crate) well: u64,
    pub(crate) ill: u64,
}

/// What was said of a worker since figures were taken last.
#[derive(Debug, Default)]
pub(crate) struct Sayings {
    /// By the number of the method, ascending; those of which nothing was said are left out.
    pub(crate) methods: Vec<Said>,
    pub(crate) nothing: u64,
}

impl Default for WorkerGate {
    fn default() -> Self {
        Self {
            permits: None,
            since: Token(0),
            until: 0,
        }
    }
}

impl WorkerGate {
    pub(crate) fn new(permits: Option<u32>, since: Token, until: Millis) -> Self {
        Self {
            permits,
            since,
            until,
        }
    }

    /// An attempt is given to the worker.
    pub(crate) fn take_permit(&mut self) {
        let ignored = crate::mutant::is(crate::mutant::Mutant::WorkerGateIgnored);
        if let Some(left) = self.permits.as_mut().filter(|_| !ignored) {
            *left = left.saturating_sub(1);
        }
    }

    /// Whether an attempt began under it.
    pub(crate) fn covers(&self, token: Token) -> bool {
        token >= self.since
    }
}

impl Sayings {
    /// An attempt of a method ended.
    pub(crate) fn add(&mut self, method: u32, verdict: Verdict) {
        if verdict == Verdict::Nothing {
            self.nothing += 1;
            return;
        }
        let place = self
            .methods
            .binary_search_by_key(&method, |said| said.method);
        let place = place.unwrap_or_else(|place| {
            let said = Said {
                method,
                well: 0,
                ill: 0,
            };
            self.methods.insert(place, said);
            place
        });
        let said = &mut self.methods[place];
        match verdict {
            Verdict::Ill => said.ill += 1,
            _ => said.well += 1,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.methods.is_empty() && self.nothing == 0
    }
}
