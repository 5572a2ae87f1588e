//! The limit of direct calls under way as pure state machines: the limit alone, and with its line and its windows.
//! Time is an argument, and the line is one of numbers, which a guard gives a place to.

use crate::limiter::Config;

/// What becomes of a call that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It may be sent.
    Now,
    /// It waits; `Limiter::release` says when it may be sent.
    Wait,
    /// The line is full.
    Refuse,
}

/// How a call ended, as the limiter counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was answered; its time is a sample.
    Ok,
    /// The worker is overloaded or too late.
    Drop,
    /// Not counted, as when nobody was reached or the caller cancelled.
    Ignore,
}

/// The limit alone, fed with one sample a window. Doubles, in the order of the vectors.
#[derive(Debug, Clone)]
pub(super) struct Gradient {
    config: Config,
    exact: f64,
    samples: u32,
    sum_us: f64,
    long_us: f64,
}

impl Gradient {
    /// Begins at `config.initial`.
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            exact: f64::from(config.initial),
            samples: 0,
            sum_us: 0.0,
            long_us: 0.0,
        }
    }

    /// Calls that may be under way.
    pub(super) fn limit(&self) -> u32 {
        whole(self.exact)
    }

    /// What calls take on average, in microseconds; 0 before the first sample.
    pub(super) fn usual_us(&self) -> u32 {
        whole(self.long_us)
    }

    /// The limit after a window with this mean time, this many calls under way at most, and perhaps a drop.
    pub(super) fn sample(&mut self, rtt_us: u32, inflight: u32, dropped: bool) -> u32 {
        let Config {
            min,
            max,
            queue,
            tolerance_permille,
            smoothing_permille,
            ..
        } = self.config;
        if dropped {
            self.exact = f64::from(min).max(self.exact * 0.9);
            return self.limit();
        }
        let rtt_us = f64::from(rtt_us);
        self.remember(rtt_us);
        let long_us = self.long_us;
        if long_us / rtt_us > 2.0 {
            self.long_us *= 0.95;
        }
        if f64::from(inflight) >= self.exact / 2.0 {
            let gradient = f64::from(tolerance_permille) / 1_000.0 * long_us / rtt_us;
            let gradient = gradient.clamp(0.5, 1.0);
            let smoothing = f64::from(smoothing_permille) / 1_000.0;
            let target = self.exact * gradient + f64::from(queue);
            let target = self.exact * (1.0 - smoothing) + target * smoothing;
            self.exact = target.min(f64::from(max)).max(f64::from(min));
        }
        self.limit()
    }

    fn remember(&mut self, rtt_us: f64) {
        if self.samples < self.config.warmup {
            self.samples += 1;
            self.sum_us += rtt_us;
            self.long_us = self.sum_us / f64::from(self.samples);
        } else {
            let weight = 2.0 / (f64::from(self.config.long_window) + 1.0);
            self.long_us = self.long_us * (1.0 - weight) + rtt_us * weight;
        }
    }
}

/// Floored. Never out of range: limits are bounded by a `u32`, and times by those that went in.
fn whole(exact: f64) -> u32 {
    exact as u32
}

/// Who may call, who waits, and the windows that the limit learns from.
#[derive(Debug, Clone)]
pub(super) struct Limiter {
    config: Config,
    gradient: Gradient,
    inflight: u32,
    waiting: u32,
    most: u32,
    begin_ms: Option<u64>,
    sum_us: u64,
    answered: u64,
    dropped: u64,
}

impl Limiter {
    /// Nobody is under way.
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            gradient: Gradient::new(config),
            inflight: 0,
            waiting: 0,
            most: 0,
            begin_ms: None,
            sum_us: 0,
            answered: 0,
            dropped: 0,
        }
    }

    /// Calls that may be under way.
    pub(super) fn limit(&self) -> u32 {
        self.gradient.limit()
    }

    /// What calls take on average, in microseconds; 0 before the first window has ended.
    pub(super) fn usual_us(&self) -> u32 {
        self.gradient.usual_us()
    }

    /// Calls that are under way.
    #[cfg(test)]
    pub(super) fn inflight(&self) -> u32 {
        self.inflight
    }

    /// Calls in the line.
    pub(super) fn waiting(&self) -> u32 {
        self.waiting
    }

    /// Asks for a place. After `Wait`, `release` counts it in, or `leave` takes it out.
    pub(super) fn acquire(&mut self) -> Admission {
        if self.waiting == 0 && self.inflight < self.limit() {
            self.enter();
            return Admission::Now;
        }
        if self.waiting >= self.config.waiting_max {
            return Admission::Refuse;
        }
        self.waiting += 1;
        Admission::Wait
    }

    /// Somebody gave up waiting.
    pub(super) fn leave(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// A call ended, at `now_ms` on any clock that does not go back. Answers how many of those that wait may be sent
    /// now.
    pub(super) fn release(&mut self, now_ms: u64, rtt_us: u32, outcome: Outcome) -> u32 {
        self.inflight = self.inflight.saturating_sub(1);
        if outcome != Outcome::Ignore {
            self.count(now_ms, rtt_us, outcome);
        }
        let mut admitted = 0;
        while self.waiting > 0 && self.inflight < self.limit() {
            self.waiting -= 1;
            admitted += 1;
            self.enter();
        }
        admitted
    }

    fn enter(&mut self) {
        self.inflight += 1;
        self.most = self.most.max(self.inflight);
    }

    fn count(&mut self, now_ms: u64, rtt_us: u32, outcome: Outcome) {
        let begin_ms = *self.begin_ms.get_or_insert(now_ms);
        if outcome == Outcome::Ok {
            self.sum_us += u64::from(rtt_us.max(1));
            self.answered += 1;
        } else {
            self.dropped += 1;
        }
        let Config {
            window_ms,
            window_calls,
            ..
        } = self.config;
        let elapsed = now_ms.saturating_sub(begin_ms);
        if elapsed < window_ms || self.answered + self.dropped < window_calls {
            return;
        }
        let mean = self.sum_us.checked_div(self.answered).unwrap_or_default();
        let mean = u32::try_from(mean).unwrap_or(u32::MAX);
        self.gradient.sample(mean, self.most, self.dropped > 0);
        (self.begin_ms, self.most) = (Some(now_ms), self.inflight);
        (self.sum_us, self.answered, self.dropped) = (0, 0, 0);
    }
}
