//! The workers of a version that are left out for a while: the pure machine with a clock, shared by all calls.

use super::ejection::{Config, Ejection};
use super::verdicts::for_breaker;
use crate::breaker::Outcome;
use crate::clock;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tonic::Code;

/// Of one cluster.
#[derive(Debug)]
pub(super) struct Health(Mutex<Ejection<SocketAddr>>);

impl Health {
    pub(super) fn new(config: Config) -> Self {
        Self(Mutex::new(Ejection::new(config, clock::now_ms())))
    }

    /// The scheduler's newest word.
    pub(super) fn update(&self, config: Config, addresses: &[SocketAddr]) {
        let (mut ejection, now_ms) = (self.locked(), clock::now_ms());
        ejection.configure(config, now_ms, &mut percent);
        ejection.hosts(addresses, now_ms, &mut percent);
    }

    /// A call to a worker ended. What is the caller's fault, as NOT_FOUND, says nothing against the worker.
    pub(super) fn report(&self, address: SocketAddr, code: Code) {
        let good = match for_breaker(code) {
            Outcome::Ignore => return,
            found => found == Outcome::Success,
        };
        let now_ms = clock::now_ms();
        self.locked().report(address, good, now_ms, &mut percent);
    }

    /// Who is left out now.
    pub(super) fn out(&self) -> Vec<SocketAddr> {
        self.locked().out(clock::now_ms(), &mut percent)
    }

    fn locked(&self) -> MutexGuard<'_, Ejection<SocketAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Random, 0 to 99.
fn percent() -> u32 {
    clock::random_ppm() % 100
}
