//! What stands before the attempts of direct calls, with the clock that the state machines lack: a limiter, a breaker
//! and a hedge's delay for each method, a retry budget for each service.

use super::attempts::HedgeDelay;
use super::balance::service_of;
use super::gradient::{Admission, Limiter, Outcome};
use super::rules::Rules;
use super::too_late;
use super::verdicts::{for_breaker, for_limiter};
use crate::breaker::{Breaker, Permit};
use crate::clock;
use crate::errors::{self, ErrorReason};
use crate::retry::Budget;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tonic::{Code, Status};

/// What a refused call is told to wait at least.
const WAIT_MIN: Duration = Duration::from_millis(10);

/// Of all methods that a channel calls.
#[derive(Debug, Default)]
pub(super) struct Guards {
    guards: Mutex<HashMap<String, Arc<Guard>>>,
    budgets: Mutex<HashMap<String, Arc<Mutex<Budget>>>>,
}

impl Guards {
    /// The method's, made by these rules at its first call.
    pub(super) fn of(&self, path: &str, rules: &Rules) -> Arc<Guard> {
        let mut guards = locked(&self.guards);
        if let Some(found) = guards.get(path) {
            return Arc::clone(found);
        }
        let budget = {
            let mut budgets = locked(&self.budgets);
            let full = || Arc::new(Mutex::new(Budget::new(rules.budget_tokens, 100)));
            let service = service_of(path).to_owned();
            Arc::clone(budgets.entry(service).or_insert_with(full))
        };
        let guard = Arc::new(Guard {
            path: path.to_owned(),
            budget,
            inner: Mutex::new(Inner {
                breaker: rules.breaker.map(Breaker::new),
                limiter: rules.limiter.map(Limiter::new),
                delay: HedgeDelay::default(),
                line: VecDeque::new(),
                tickets: 0,
            }),
        });
        guards.insert(path.to_owned(), Arc::clone(&guard));
        guard
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of one method.
#[derive(Debug)]
pub(super) struct Guard {
    path: String,
    budget: Arc<Mutex<Budget>>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    breaker: Option<Breaker>,
    limiter: Option<Limiter>,
    delay: HedgeDelay,
    /// Those who wait for a place, in order and by number; as many as the limiter counts.
    line: VecDeque<(u64, oneshot::Sender<()>)>,
    tickets: u64,
}

impl Guard {
    /// The budget of the service.
    pub(super) fn budget(&self) -> MutexGuard<'_, Budget> {
        locked(&self.budget)
    }

    /// How long to wait before a hedge, in milliseconds; `None`: too little is known.
    pub(super) fn hedge_delay_ms(&self) -> Option<u64> {
        locked(&self.inner).delay.delay_ms()
    }

    /// A place, waited for until `end`. RESOURCE_EXHAUSTED when too many wait, UNAVAILABLE while the method is given a
    /// rest, DEADLINE_EXCEEDED.
    pub(super) async fn enter(self: &Arc<Self>, end: Instant) -> Result<Entry, Status> {
        let waiting = {
            let mut inner = locked(&self.inner);
            match inner
                .limiter
                .as_mut()
                .map_or(Admission::Now, Limiter::acquire)
            {
                Admission::Now => None,
                Admission::Refuse => return Err(self.line_full(&inner)),
                Admission::Wait => Some(self.stand(&mut inner)),
            }
        };
        if let Some(mut waiting) = waiting {
            let admitted = tokio::time::timeout_at(end.into(), &mut waiting.admitted).await;
            if admitted.is_err() {
                return Err(too_late());
            }
            waiting.over = true;
        }
        self.through_breaker()
    }

    /// A place, if there is one.
    pub(super) fn enter_now(self: &Arc<Self>) -> Option<Entry> {
        let mut inner = locked(&self.inner);
        if let Some(limiter) = &mut inner.limiter {
            match limiter.acquire() {
                Admission::Now => {}
                Admission::Wait => {
                    limiter.leave();
                    return None;
                }
                Admission::Refuse => return None,
            }
        }
        drop(inner);
        self.through_breaker().ok()
    }

    fn stand(self: &Arc<Self>, inner: &mut Inner) -> Waiting {
        let (admit, admitted) = oneshot::channel();
        inner.tickets += 1;
        inner.line.push_back((inner.tickets, admit));
        Waiting {
            guard: Arc::clone(self),
            ticket: inner.tickets,
            admitted,
            over: false,
        }
    }

    fn through_breaker(self: &Arc<Self>) -> Result<Entry, Status> {
        let mut inner = locked(&self.inner);
        let generation = match inner
            .breaker
            .as_mut()
            .map(|each| each.acquire(clock::now_ms()))
        {
            None => 0,
            Some(Permit::Granted { generation }) => generation,
            Some(Permit::Refused { retry_after_ms }) => {
                inner.release(0, Outcome::Ignore);
                return Err(self.breaker_open(retry_after_ms));
            }
        };
        Ok(Entry {
            guard: Arc::clone(self),
            generation,
            began: clock::now(),
            ended: false,
        })
    }

    fn breaker_open(&self, left_ms: u64) -> Status {
        let path = &self.path;
        let message = format!("{path} failed too often and is given a rest");
        let about = [("method", path.clone())];
        let after = Duration::from_millis(left_ms).max(WAIT_MIN);
        errors::refusal_after(ErrorReason::BreakerOpen, message, about, after)
    }

    fn line_full(&self, inner: &Inner) -> Status {
        let found = inner.limiter.as_ref();
        let (limit, waiting) = found.map_or((0, 0), |each| (each.limit(), each.waiting()));
        let usual = found.map_or(0, |each| u64::from(each.usual_us()));
        let path = &self.path;
        let message =
            format!("{limit} calls of {path} may be under way, and {waiting} wait already");
        let about = [
            ("method", path.clone()),
            ("limit", limit.to_string()),
            ("waiting", waiting.to_string()),
        ];
        let after = Duration::from_micros(usual).max(WAIT_MIN);
        errors::refusal_after(ErrorReason::QueueFull, message, about, after)
    }
}

impl Inner {
    fn release(&mut self, rtt_us: u32, outcome: Outcome) {
        let Some(limiter) = &mut self.limiter else {
            return;
        };
        for _ in 0..limiter.release(clock::now_ms(), rtt_us, outcome) {
            if let Some((_, admit)) = self.line.pop_front() {
                // Whoever waits takes itself out of the line before it goes.
                let _ = admit.send(());
            }
        }
    }
}

/// A call in the line.
#[derive(Debug)]
struct Waiting {
    guard: Arc<Guard>,
    ticket: u64,
    admitted: oneshot::Receiver<()>,
    over: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut inner = locked(&self.guard.inner);
        let before = inner.line.len();
        inner.line.retain(|(ticket, _)| *ticket != self.ticket);
        if inner.line.len() == before {
            // It was admitted, and does not come.
            inner.release(0, Outcome::Ignore);
        } else if let Some(limiter) = &mut inner.limiter {
            limiter.leave();
        }
    }
}

/// A place for one attempt. One that is dropped was cancelled.
#[derive(Debug)]
pub(super) struct Entry {
    guard: Arc<Guard>,
    generation: u64,
    began: Instant,
    ended: bool,
}

impl Entry {
    /// The attempt is over.
    pub(super) fn end(mut self, code: Code) {
        self.finish(code);
    }

    fn finish(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let took = clock::now().saturating_duration_since(self.began);
        let mut inner = locked(&self.guard.inner);
        if let Some(breaker) = &mut inner.breaker {
            breaker.report(clock::now_ms(), self.generation, for_breaker(code));
        }
        if code == Code::Ok {
            inner
                .delay
                .add(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        }
        let rtt_us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        inner.release(rtt_us, for_limiter(code));
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.finish(Code::Cancelled);
    }
}
