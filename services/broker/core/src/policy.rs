//! What the scheduler decided for a method, as the state machine needs it.

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
    /// A started attempt is never repeated.
    pub at_most_once: bool,
    /// How long a finished task is kept, ms.
    pub retention_ms: u64,
    /// How long a dead letter is kept, ms; 0: a failed task is no dead letter.
    pub dead_letter_retention_ms: u64,
    /// The policy as it came, limits of later stages included; handed back to whoever asks, never read here.
    pub source: Bytes,
}
