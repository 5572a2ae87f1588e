//! The circuit breaker of a call's target.
//!
//! A pure state machine of SEMANTICS §7: time is an argument, changes happen inside `acquire` and `report` only, and
//! there are no timers, so every language agrees. The breaker of tasks is the scheduler's.

use crate::retry::grow;
use std::collections::VecDeque;

/// The numbers of a breaker. Times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The sliding window. Default 10,000.
    pub window_ms: u64,
    /// Buckets of the window, at least 1. Default 10.
    pub buckets: u64,
    /// Calls in the window before it may open. Default 20.
    pub min_calls: u64,
    /// Share of failures that opens it, in permille. Default 500.
    pub failure_permille: u64,
    /// The first open time; doubles with each opening in a row. Default 5,000.
    pub open_ms: u64,
    /// The longest open time. Default 60,000.
    pub open_max_ms: u64,
    /// Permits while half open. Default 3.
    pub half_open_probes: u64,
    /// The longest half-open time. Default 10,000.
    pub half_open_max_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            window_ms: 10_000,
            buckets: 10,
            min_calls: 20,
            failure_permille: 500,
            open_ms: 5_000,
            open_max_ms: 60_000,
            half_open_probes: 3,
            half_open_max_ms: 10_000,
        }
    }
}

/// What the breaker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Lets every call through and counts.
    Closed,
    /// Lets nothing through.
    Open,
    /// Lets a few probes through.
    HalfOpen,
}

/// How a call ended, as the breaker counts it; SEMANTICS §2 maps the gRPC codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The target is well, even where the caller was at fault.
    Success,
    /// The target is not well.
    Failure,
    /// Tells nothing, as a call that the caller cancelled; gives a probe's permit back.
    Ignore,
}

/// The answer to `Breaker::acquire`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// Call, and report under this generation.
    Granted {
        /// The generation the permit belongs to.
        generation: u64,
    },
    /// Do not call: `BREAKER_OPEN`.
    Refused {
        /// When to ask again, in milliseconds; 0 while the probes are out.
        retry_after_ms: u64,
    },
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    number: u64,
    calls: u64,
    failures: u64,
}

/// A breaker. Every change of state is a new generation: a report from another one changes nothing.
#[derive(Debug, Clone)]
pub struct Breaker {
    config: Config,
    state: State,
    generation: u64,
    openings: u32,
    buckets: VecDeque<Bucket>,
    open_until: u64,
    half_open_at: u64,
    probes: u64,
    good: u64,
    bad: u64,
}

impl Breaker {
    /// A closed breaker, in generation 0.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            state: State::Closed,
            generation: 0,
            openings: 0,
            buckets: VecDeque::new(),
            open_until: 0,
            half_open_at: 0,
            probes: 0,
            good: 0,
            bad: 0,
        }
    }

    /// What it does, as of the last `acquire` or `report`.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Asks for a permit at `now_ms`, on any clock that does not go back.
    pub fn acquire(&mut self, now_ms: u64) -> Permit {
        self.advance(now_ms);
        match self.state {
            State::Open => {
                return Permit::Refused {
                    retry_after_ms: self.open_until - now_ms,
                };
            }
            State::HalfOpen if self.probes >= self.config.half_open_probes => {
                return Permit::Refused { retry_after_ms: 0 };
            }
            State::HalfOpen => self.probes += 1,
            State::Closed => {}
        }
        Permit::Granted {
            generation: self.generation,
        }
    }

    /// Counts the outcome of a call under the generation of its permit. Returns whether it counted.
    pub fn report(&mut self, now_ms: u64, generation: u64, outcome: Outcome) -> bool {
        self.advance(now_ms);
        if generation != self.generation || self.state == State::Open {
            return false;
        }
        match (outcome, self.state) {
            (Outcome::Ignore, State::HalfOpen) => {
                self.probes = self.probes.saturating_sub(1);
                return false;
            }
            (Outcome::Ignore, _) => return false,
            (_, State::HalfOpen) => self.count_probe(now_ms, outcome),
            _ => self.count_call(now_ms, outcome),
        }
        true
    }

    fn advance(&mut self, now_ms: u64) {
        if self.state == State::Open && now_ms >= self.open_until {
            self.state = State::HalfOpen;
            self.generation += 1;
            self.half_open_at = now_ms;
            (self.probes, self.good, self.bad) = (0, 0, 0);
        } else if self.state == State::HalfOpen
            && now_ms
                >= self
                    .half_open_at
                    .saturating_add(self.config.half_open_max_ms)
        {
            self.open(now_ms);
        }
    }

    fn open(&mut self, now_ms: u64) {
        let open_ms = grow(
            self.config.open_ms,
            2_000,
            self.openings,
            self.config.open_max_ms,
        );
        self.state = State::Open;
        self.generation += 1;
        self.open_until = now_ms.saturating_add(open_ms);
        self.openings += 1;
    }

    fn close(&mut self) {
        self.state = State::Closed;
        self.generation += 1;
        self.openings = 0;
        self.buckets.clear();
    }

    fn count_probe(&mut self, now_ms: u64, outcome: Outcome) {
        let Config {
            half_open_probes,
            failure_permille,
            ..
        } = self.config;
        match outcome {
            Outcome::Failure => self.bad += 1,
            _ => self.good += 1,
        }
        if self.bad > 0 && self.bad * 1_000 >= failure_permille * half_open_probes {
            self.open(now_ms);
        } else if self.good + self.bad == half_open_probes {
            self.close();
        }
    }

    fn count_call(&mut self, now_ms: u64, outcome: Outcome) {
        let buckets = self.config.buckets.max(1);
        let number = now_ms / (self.config.window_ms / buckets).max(1);
        let oldest = (number + 1).saturating_sub(buckets);
        while self
            .buckets
            .front()
            .is_some_and(|bucket| bucket.number < oldest)
        {
            self.buckets.pop_front();
        }
        let failures = u64::from(outcome == Outcome::Failure);
        match self.buckets.back_mut() {
            Some(last) if last.number == number => {
                last.calls += 1;
                last.failures += failures;
            }
            _ => self.buckets.push_back(Bucket {
                number,
                calls: 1,
                failures,
            }),
        }
        let calls: u64 = self.buckets.iter().map(|bucket| bucket.calls).sum();
        let failures: u64 = self.buckets.iter().map(|bucket| bucket.failures).sum();
        if calls >= self.config.min_calls
            && failures * 1_000 >= self.config.failure_permille * calls
        {
            self.open(now_ms);
        }
    }
}
