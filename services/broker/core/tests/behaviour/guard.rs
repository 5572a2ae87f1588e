//! The guard against starvation: of 16 starts that could have been a lower priority's, one is, and no more.

use crate::harness::*;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::policy::{Limits, MethodPolicy};
use std::collections::VecDeque;

fn urgent(priority: u8) -> SubmitTask {
    let options = SubmitOptions {
        priority: Some(priority),
        ..SubmitOptions::default()
    };
    with(task(METHOD), options)
}

/// One worker that ends its tasks one by one.
struct Line {
    h: Harness,
    running: VecDeque<Attempt>,
    /// All that it began, in order.
    started: Vec<u64>,
}

impl Line {
    /// A worker that is given twice as many as it has slots.
    fn new(h: Harness, slots: u32) -> Self {
        let mut line = Self {
            h,
            running: VecDeque::new(),
            started: Vec::new(),
        };
        let effects = line.h.attach(WORKER, "w1", &[METHOD], slots);
        line.take(&effects);
        line
    }

    fn take(&mut self, effects: &[Effect]) {
        let new = attempts(effects, WORKER);
        self.started
            .extend(new.iter().map(|attempt| attempt.task.0));
        self.running.extend(new);
    }

    /// Goes on until so many were begun, or nothing runs.
    fn until(&mut self, started: usize) {
        while self.started.len() < started
            && let Some(attempt) = self.running.pop_front()
        {
            let effects = self.h.succeed(WORKER, &attempt);
            self.take(&effects);
        }
    }
}

#[test]
fn of_sixteen_starts_one_is_a_lower_priority_s_in_turn() {
    let mut h = Harness::new();
    for (priority, count) in [(9, 100), (5, 2), (0, 3)] {
        h.submit(vec![urgent(priority); count]);
    }
    let mut line = Line::new(h, 1);
    line.until(usize::MAX);
    let numbered = line.started.iter().zip(1..);
    let lower: Vec<(u64, u64)> = numbered
        .filter_map(|(id, at)| (*id > 100).then_some((at, *id)))
        .collect();
    assert_eq!(
        lower,
        [(16, 103), (32, 101), (48, 104), (64, 102), (80, 105)]
    );
}

#[test]
fn starts_that_pass_over_nobody_do_not_count() {
    let mut h = Harness::new();
    h.submit(vec![urgent(9); 60]);
    let mut line = Line::new(h, 1);
    line.until(20);
    line.h.submit(vec![urgent(1)]);
    line.until(usize::MAX);
    assert_eq!(line.started.iter().position(|id| *id == 61), Some(35));
}

#[test]
fn a_start_that_leaves_nobody_lower_ends_the_count() {
    let limits = Limits {
        running_per_key_max: 1,
        ..Limits::default()
    };
    let policy = MethodPolicy {
        limits,
        ..policy(METHOD)
    };
    let mut h = Harness::with_policies(config(), vec![policy]);
    let mut submit = |priority, key: u32| {
        let mut task = urgent(priority);
        task.limit_key = Some(format!("k{key}").into());
        h.submit_one(task).0
    };
    let low = submit(0, 0);
    for key in 0..60 {
        submit(9, key);
    }
    // The first start of 22 holds the lower one by their key; the others pass over nobody.
    let mut line = Line::new(h, 11);
    assert_eq!(line.started.len(), 22);
    line.until(usize::MAX);
    let at = line.started.iter().position(|id| *id == low.0);
    assert_eq!(at, Some(22 + 14));
}

#[test]
fn what_expired_takes_no_turn() {
    let mut h = Harness::new();
    let short = SubmitOptions {
        deadline_ms: Some(1_000),
        priority: Some(0),
        ..SubmitOptions::default()
    };
    h.submit(vec![with(task(METHOD), short); 3]);
    h.submit(vec![urgent(0)]);
    h.submit(vec![urgent(9); 30]);
    let mut line = Line::new(h, 1);
    line.until(15);
    assert!(line.started.iter().all(|id| *id > 4));
    // No timer was heeded: the dispatch itself finds what is overdue.
    line.h.now += 2_000;
    line.until(16);
    assert_eq!(line.started[15], 4);
}

#[test]
fn workers_that_leave_after_few_tasks_starve_nobody() {
    let mut h = Harness::new();
    h.submit(vec![urgent(9); 100]);
    h.submit(vec![urgent(3), urgent(0)]);
    let mut started = Vec::new();
    for _ in 0..8 {
        let effects = h.attach(WORKER, "w1", &[METHOD], 4);
        started.extend(attempts(&effects, WORKER));
        h.apply(Command::WorkerDraining { conn: WORKER });
        for attempt in attempts(&effects, WORKER) {
            h.succeed(WORKER, &attempt);
        }
        h.apply(Command::WorkerDetached {
            conn: WORKER,
            reason: name(""),
        });
    }
    let order: Vec<u64> = started.iter().map(|attempt| attempt.task.0).collect();
    assert_eq!((order[15], order[31]), (102, 101));
}
