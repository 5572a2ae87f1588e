//! What a caller may say about one task beyond its request.

use crate::pb::v1::TaskOptions;
use std::time::Duration;

/// Options of a submission. Everything is optional; the method's policy says what holds otherwise.
///
/// ```
/// use plait::Options;
/// use std::time::Duration;
///
/// let options = Options::new().key("order-7").delay(Duration::from_secs(60)).priority(8);
/// # let _ = options;
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    pub(crate) key: Option<String>,
    pub(crate) ordering_key: Option<String>,
    pub(crate) child_key: Option<String>,
    pub(crate) delay: Option<Duration>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) priority: Option<u8>,
}

impl Options {
    /// No options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The idempotency key, in place of the one that the policy reads from the request: a second submission under it
    /// answers with the first task.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The ordering key, in place of the one that the policy reads from the request: unfinished tasks of a queue with
    /// one key run one at a time, in the order of submission.
    #[must_use]
    pub fn ordering_key(mut self, key: impl Into<String>) -> Self {
        self.ordering_key = Some(key.into());
        self
    }

    /// The task starts no earlier than this after it was accepted. Default: at once.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Time for the whole task, from submission; the shorter of this and the policy's holds.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// 0 to 9; tasks of higher priority start first. Default: the policy's. The broker refuses other numbers.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Names the child among the children of the flow that asks for it, so that a re-run finds its result wherever it
    /// asks. Another request under the name is refused with FLOW_DIVERGED. Means nothing outside a flow.
    #[must_use]
    pub fn child_key(mut self, key: impl Into<String>) -> Self {
        self.child_key = Some(key.into());
        self
    }

    /// Whether nothing but keys was said.
    pub(crate) fn is_plain(&self) -> bool {
        self.delay.is_none() && self.deadline.is_none() && self.priority.is_none()
    }

    /// What goes to the broker; keys and parent apart. `timeout` is the caller's own deadline.
    pub(crate) fn to_task_options(&self, timeout: Option<Duration>) -> TaskOptions {
        let deadline = match (self.deadline, timeout) {
            (Some(wanted), Some(timeout)) => Some(wanted.min(timeout)),
            (wanted, timeout) => wanted.or(timeout),
        };
        TaskOptions {
            delay: self.delay.map(wire),
            deadline: deadline.map(wire),
            priority: self.priority.map(i32::from),
            ..TaskOptions::default()
        }
    }
}

/// A duration for the wire. Beyond the wire's range, some 10,000 years, the longest one stands.
pub(crate) fn wire(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).unwrap_or(prost_types::Duration {
        seconds: 315_576_000_000,
        nanos: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_deadline_holds() {
        let second = Duration::from_secs(1);
        for (wanted, timeout, want) in [
            (None, None, None),
            (Some(second), None, Some(1)),
            (None, Some(2 * second), Some(2)),
            (Some(3 * second), Some(2 * second), Some(2)),
            (Some(second), Some(2 * second), Some(1)),
        ] {
            let options = Options {
                deadline: wanted,
                ..Options::default()
            };
            let told = options
                .to_task_options(timeout)
                .deadline
                .map(|told| told.seconds);
            assert_eq!(told, want);
        }
    }
}
