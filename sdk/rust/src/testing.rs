//! For tests of programs that use Plait.
//!
//! [`attempt`] runs a handler as a worker would, without a mesh: it finds the attempt that the test made up. Its
//! durable calls are not part of this. For those there is [`Mesh`], a real broker and scheduler, and its [`TestKit`],
//! which moves the broker's clock ahead and lets attempts fail.

mod kit;
mod mesh;

pub use kit::{Fault, TestKit};
pub use mesh::Mesh;

use crate::attempt::{Attempt, Facts, Lease};
use crate::clock;
use crate::contracts::Method;
use crate::flags::{Readings, SHARE_MAX};
use crate::flow;
use crate::pb::v1::{AttemptExtra, FlagRule, MethodInfo};
use crate::task::TaskId;
use std::sync::Arc;
use std::time::Duration;

/// An attempt that a test makes up; every fact has a default.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let seen = plait::testing::attempt()
///     .number(3)
///     .key("order-7")
///     .run(async {
///         let attempt = plait::attempt().expect("inside an attempt");
///         (attempt.number(), attempt.idempotency_key())
///     })
///     .await;
/// assert_eq!(seen, (3, "order-7".to_owned()));
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "it does nothing until something runs in it"]
pub struct TestAttempt {
    lease: Lease,
    extra: AttemptExtra,
    timeout: Duration,
    method: String,
    flags: Vec<FlagRule>,
}

/// The first attempt of task 1 under token 1, with a minute left and no key.
pub fn attempt() -> TestAttempt {
    TestAttempt {
        lease: Lease { task: 1, token: 1 },
        extra: AttemptExtra::default(),
        timeout: Duration::from_secs(60),
        method: "/test.Service/Method".to_owned(),
        flags: Vec::new(),
    }
}

impl TestAttempt {
    /// The attempt's number, from 1.
    pub fn number(mut self, number: u32) -> Self {
        self.extra.attempt = number;
        self
    }

    /// The task.
    pub fn task(mut self, task: TaskId) -> Self {
        self.lease.task = task.number();
        self
    }

    /// The fencing token.
    pub fn fencing_token(mut self, token: u64) -> Self {
        self.lease.token = token;
        self
    }

    /// The idempotency key. Default: none, so that the task's id serves as one.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.extra.idempotency_key = key.into();
        self
    }

    /// What is left when it starts. It is told to the handler; nothing stops the handler then.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The method, "/package.Service/Method".
    pub fn method(mut self, path: impl Into<String>) -> Self {
        self.method = path.into();
        self
    }

    /// A feature flag that is on, or off, for everybody. Default: there is none.
    pub fn flag(mut self, name: impl Into<String>, on: bool) -> Self {
        self.flags.push(FlagRule {
            name: name.into(),
            share: if on { SHARE_MAX } else { 0 },
            ..FlagRule::default()
        });
        self
    }

    /// Runs a handler, or anything else, as part of the attempt.
    pub async fn run<F: Future>(self, handler: F) -> F::Output {
        flow::scope(self.start(), handler).await
    }

    fn start(self) -> Attempt {
        let method = Method::from(MethodInfo {
            method: self.method,
            ..MethodInfo::default()
        });
        Attempt::new(Facts {
            lease: self.lease,
            extra: Some(Box::new(self.extra)),
            method: Arc::new(method),
            deadline: clock::now() + self.timeout,
            // No client has this number, so no durable call takes the attempt for its parent.
            client: 0,
            desk: None,
            trace: None,
            flags: Readings::new(Arc::default(), self.flags),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_handler_sees_what_was_made_up() {
        let made_up = attempt()
            .task(TaskId::from(7))
            .fencing_token(9)
            .timeout(Duration::from_secs(5));
        made_up
            .run(async {
                let attempt = crate::attempt().expect("inside");
                attempt.progress(0.5, "nobody listens");
                assert_eq!(attempt.idempotency_key(), "t0000000000000007");
                assert_eq!((attempt.number(), attempt.fencing_token()), (1, 9));
                assert!(attempt.time_remaining() <= Duration::from_secs(5));
            })
            .await;
        assert!(crate::attempt().is_none());
    }
}
