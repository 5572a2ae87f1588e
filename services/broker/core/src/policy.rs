//! What the scheduler decided for a method, as the state machine needs it.

pub use crate::rate::Rate;
use bytes::Bytes;
use std::sync::Arc;

/// A set of gRPC status codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CodeSet(pub u32);

impl CodeSet {
    /// Whether the code is in the set. Codes above 31 never are.
    pub fn contains(self, code: u32) -> bool {
        code < 32 && self.0 & (1 << code) != 0
    }
}

/// The method of a route: a route is a method's path, or the path with "@" and a number. Tasks of one method that not
/// every worker of it can take are told apart by their routes.
pub fn method_of(route: &str) -> &str {
    route.split_once('@').map_or(route, |(method, _)| method)
}

/// How soon tasks of a method are to begin beside others of the same workers. Ascending: the higher one goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Latency {
    /// In what room the others leave.
    Background,
    /// As nothing else is said.
    #[default]
    Standard,
    /// At once: the others leave room for it.
    Critical,
}

impl Latency {
    /// All of them, ascending.
    pub const ALL: [Self; 3] = [Self::Background, Self::Standard, Self::Critical];
}

/// The compiled policy of one method. Every field is decided; nothing is a default here.
#[derive(Clone, PartialEq, Debug)]
pub struct MethodPolicy {
    /// Full path, "/package.Service/Method", or a further [route](method_of) of it.
    pub method: Arc<str>,
    /// The queue its tasks wait in.
    pub queue: Arc<str>,
    /// Time for the whole task, ms.
    pub deadline_ms: u64,
    /// Time for one attempt, ms.
    pub attempt_timeout_ms: u64,
    /// Attempts in all, at least 1.
    pub max_attempts: u32,
    /// Bound of the first wait, ms.
    pub initial_backoff_ms: u64,
    /// Bound of every wait, ms.
    pub max_backoff_ms: u64,
    /// Growth of the bound, permille.
    pub multiplier_permille: u32,
    /// Codes that are retried.
    pub retryable: CodeSet,
    /// A submission without an idempotency key is refused.
    pub needs_idempotency_key: bool,
    /// A submission without an ordering key is refused.
    pub needs_ordering_key: bool,
    /// How long an idempotency key is remembered, ms from submission.
    pub idempotency_window_ms: u64,
    /// 0 to 9, higher first.
    pub priority: u8,
    /// Goes before the priority.
    pub latency: Latency,
    /// The share of starts that its queue gets beside others of the same rank, 1 to 1000; 0: the method does not say.
    pub queue_weight: u32,
    /// A started attempt is never repeated.
    pub at_most_once: bool,
    /// How long a finished task is kept, ms.
    pub retention_ms: u64,
    /// How long a dead letter is kept, ms; 0: a failed task is no dead letter.
    pub dead_letter_retention_ms: u64,
    /// How many attempts may begin and run, over all workers and routes of the method.
    pub limits: Limits,
    /// The policy as it came; handed back to whoever asks, never read here.
    pub source: Bytes,
}

/// How many attempts of one method may begin in a time and run at once. A task that a limit holds stays READY.
///
/// An attempt begins when it is leased to a worker, and runs until its lease ends: also while its flow waits for
/// children in the worker's memory, and after a restart until its worker is back or lost. A flow that was unloaded
/// holds no lease; taking it up again is another beginning. The key is what the submitter read from the request;
/// tasks without one have a limit together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// How fast attempts may begin; None: at any rate.
    pub rate: Option<Rate>,
    /// Whether each key has the rate for itself, rather than the method.
    pub rate_by_key: bool,
    /// Attempts of the method at once; 0: any number.
    pub running_max: u32,
    /// Attempts of one key at once; 0: any number.
    pub running_per_key_max: u32,
    /// Whether keys take turns where nothing else is limited by key; where something is, they do in any case.
    pub fair_by_key: bool,
}

impl Limits {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        let limited = self.rate.is_some() || self.running_max > 0 || self.running_per_key_max > 0;
        !limited && !self.fair_by_key
    }

    /// Whether keys have limits or turns of their own.
    pub fn is_keyed(&self) -> bool {
        let skipped = crate::mutant::is(crate::mutant::Mutant::TurnsSkipped);
        let fair = self.fair_by_key && !skipped;
        self.running_per_key_max > 0 || self.key_rate().is_some() || fair
    }

    /// The rate of each key.
    pub(crate) fn key_rate(&self) -> Option<Rate> {
        self.rate.filter(|_| self.rate_by_key)
    }

    /// The rate of the method.
    pub(crate) fn method_rate(&self) -> Option<Rate> {
        self.rate.filter(|_| !self.rate_by_key)
    }
}
