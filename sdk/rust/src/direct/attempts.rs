//! The attempts of one direct call, as pure state machines: one after the other, or beside each other. The numbers are
//! whole milliseconds; time and randomness are arguments, and so is the budget, which outlives the call.

use super::verdicts::{Codes, is_merely_stopped, pay, verdict};
use crate::retry::{Backoff, Budget};
use std::collections::VecDeque;
use tonic::Code;

/// Of a method that may be hedged.
pub(super) const HEDGED_ATTEMPTS: u32 = 2;

/// What comes after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Send {
        attempt: u32,
        at_ms: u64,
    },
    /// `stop_above`: it was a failure to retry, and nobody above is to.
    End {
        stop_above: bool,
    },
}

/// One attempt after the other.
#[derive(Debug)]
pub(super) struct Retry {
    pub(super) attempts_max: u32,
    pub(super) end_ms: u64,
    pub(super) idempotent: bool,
    pub(super) backoff: Backoff,
    pub(super) never: Codes,
    attempt: u32,
    /// Attempts since the backoff began.
    step: u32,
}

impl Retry {
    /// `end_ms` is the call's deadline.
    pub(super) fn new(attempts_max: u32, end_ms: u64, idempotent: bool, never: Codes) -> Self {
        Self {
            attempts_max,
            end_ms,
            idempotent,
            backoff: Backoff::default(),
            never,
            attempt: 1,
            step: 1,
        }
    }

    /// What comes after the attempt that ended like this.
    pub(super) fn status(
        &mut self,
        budget: &mut Budget,
        (now_ms, rnd_ppm): (u64, u32),
        code: Code,
        pushback_ms: Option<i64>,
    ) -> Next {
        let found = verdict(code, self.idempotent, pushback_ms, self.never);
        pay(budget, code, found);
        let end = Next::End {
            stop_above: found.costs,
        };
        if !found.retry || self.attempt >= self.attempts_max || !budget.may_retry() {
            return end;
        }
        let wait_ms = match pushback_ms.and_then(Backoff::pushback) {
            Some(pushback_ms) => {
                self.step = 1;
                pushback_ms
            }
            None => {
                self.step += 1;
                self.backoff.delay_ms(self.step, rnd_ppm)
            }
        };
        if wait_ms >= self.end_ms.saturating_sub(now_ms) {
            return end;
        }
        self.attempt += 1;
        Next::Send {
            attempt: self.attempt,
            at_ms: now_ms + wait_ms,
        }
    }
}

/// How a hedged call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    /// The attempt whose status it has; 0: none, since the deadline passed.
    pub(super) attempt: u32,
    pub(super) code: Code,
    pub(super) stop_above: bool,
}

/// What to do now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) send: Option<u32>,
    /// When to say `wake`; `None`: not any more.
    pub(super) wake_ms: Option<u64>,
    pub(super) cancel: Vec<u32>,
    pub(super) end: Option<End>,
}

/// Attempts beside each other. Only for methods that may be done twice.
#[derive(Debug)]
pub(super) struct Hedge {
    delay_ms: u64,
    end_ms: u64,
    attempts_max: u32,
    never: Codes,
    sent: u32,
    open: Vec<u32>,
    next_ms: Option<u64>,
    stopped: bool,
    ended: bool,
    last: End,
}

impl Hedge {
    /// `delay_ms` is the time from one attempt to the next, `end_ms` the call's deadline.
    pub(super) fn new(attempts_max: u32, delay_ms: u64, end_ms: u64, never: Codes) -> Self {
        Self {
            delay_ms,
            end_ms,
            attempts_max,
            never,
            sent: 0,
            open: Vec::new(),
            next_ms: None,
            stopped: false,
            ended: false,
            last: LATE,
        }
    }

    /// The first attempt.
    pub(super) fn start(&mut self, now_ms: u64) -> Move {
        self.send(now_ms)
    }

    /// So late is it.
    pub(super) fn wake(&mut self, budget: &Budget, now_ms: u64) -> Move {
        if !self.ended && now_ms >= self.end_ms {
            return self.finish(LATE);
        }
        if !self.ended && self.next_ms.is_some_and(|next| now_ms >= next) {
            return self.another(budget, now_ms);
        }
        self.go_on(None)
    }

    /// An attempt after the first could not be sent; no other one is.
    pub(super) fn refused(&mut self, attempt: u32) -> Move {
        if !self.close(attempt) {
            return self.go_on(None);
        }
        self.no_more()
    }

    /// An attempt ended. What comes of one that was cancelled changes nothing.
    pub(super) fn status(
        &mut self,
        budget: &mut Budget,
        (now_ms, attempt): (u64, u32),
        code: Code,
        pushback_ms: Option<i64>,
    ) -> Move {
        if !self.close(attempt) {
            return self.go_on(None);
        }
        let found = verdict(code, true, pushback_ms, self.never);
        pay(budget, code, found);
        let end = |stop_above| End {
            attempt,
            code,
            stop_above,
        };
        if !found.retry && !is_merely_stopped(code, pushback_ms, self.never) {
            return self.finish(end(found.costs));
        }
        self.last = end(true);
        match pushback_ms.map(u64::try_from) {
            Some(Err(_)) => (self.stopped, self.next_ms) = (true, None),
            Some(Ok(pushback_ms)) => self.plan(now_ms + pushback_ms),
            None if !self.stopped && self.sent < self.attempts_max => {
                return self.another(budget, now_ms);
            }
            None => {}
        }
        if self.open.is_empty() && self.next_ms.is_none() {
            return self.finish(self.last);
        }
        self.go_on(None)
    }

    fn close(&mut self, attempt: u32) -> bool {
        let before = self.open.len();
        self.open.retain(|each| *each != attempt);
        self.open.len() < before
    }

    /// Sends the next attempt where there is time and the budget has it; a refusal is for good.
    fn another(&mut self, budget: &Budget, now_ms: u64) -> Move {
        if now_ms < self.end_ms && budget.may_retry() {
            self.send(now_ms)
        } else {
            self.no_more()
        }
    }

    /// Those under way go on.
    fn no_more(&mut self) -> Move {
        (self.stopped, self.next_ms) = (true, None);
        if self.open.is_empty() {
            return self.finish(self.last);
        }
        self.go_on(None)
    }

    fn send(&mut self, now_ms: u64) -> Move {
        self.sent += 1;
        self.open.push(self.sent);
        self.plan(now_ms + self.delay_ms);
        self.go_on(Some(self.sent))
    }

    fn plan(&mut self, at_ms: u64) {
        let more = self.sent < self.attempts_max && !self.stopped;
        self.next_ms = (more && at_ms < self.end_ms).then_some(at_ms);
    }

    fn finish(&mut self, end: End) -> Move {
        (self.next_ms, self.ended) = (None, true);
        Move {
            cancel: std::mem::take(&mut self.open),
            end: Some(end),
            ..Move::default()
        }
    }

    fn go_on(&self, send: Option<u32>) -> Move {
        if self.ended {
            return Move::default();
        }
        Move {
            send,
            wake_ms: Some(self.next_ms.unwrap_or(self.end_ms)),
            ..Move::default()
        }
    }
}

/// The end of a call whose deadline passed.
const LATE: End = End {
    attempt: 0,
    code: Code::DeadlineExceeded,
    stop_above: true,
};

/// The time by which most of a method's latest calls were answered.
#[derive(Debug)]
pub(super) struct HedgeDelay {
    pub(super) samples: usize,
    pub(super) samples_min: usize,
    pub(super) permille: usize,
    pub(super) delay_ms_min: u64,
    latest: VecDeque<u64>,
}

impl Default for HedgeDelay {
    /// 95 % of the latest 100, at least 10 ms; nothing before 20.
    fn default() -> Self {
        Self::new(100, 20, 950, 10)
    }
}

impl HedgeDelay {
    /// The `permille` share of the latest `samples`, by the nearest rank.
    pub(super) fn new(
        samples: usize,
        samples_min: usize,
        permille: usize,
        delay_ms_min: u64,
    ) -> Self {
        Self {
            samples,
            samples_min,
            permille,
            delay_ms_min,
            latest: VecDeque::new(),
        }
    }

    /// A call was answered.
    pub(super) fn add(&mut self, latency_ms: u64) {
        if self.latest.len() >= self.samples {
            self.latest.pop_front();
        }
        self.latest.push_back(latency_ms);
    }

    /// How long to wait before a hedge, in milliseconds; `None`: too little is known.
    pub(super) fn delay_ms(&self) -> Option<u64> {
        let count = self.latest.len();
        if count < self.samples_min {
            return None;
        }
        let mut sorted: Vec<u64> = self.latest.iter().copied().collect();
        sorted.sort_unstable();
        let rank = (count * self.permille).div_ceil(1_000);
        let found = sorted.get(rank.saturating_sub(1))?;
        Some(self.delay_ms_min.max(*found))
    }
}
