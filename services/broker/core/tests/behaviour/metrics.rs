//! What metrics tell: sums that nobody takes, and that replay does not make.

use crate::harness::*;
use plait_broker_core::command::{Command, SubmitOptions};
use plait_broker_core::ids::ReplyTag;
use plait_broker_core::metrics::{LeaseEnd, MethodMetrics, Spans};

const LATER: &str = "/shop.v1.Orders/Charge@2";

fn told(h: &Harness) -> MethodMetrics {
    let found = h.partition.metrics(h.now).methods;
    let own = found.into_iter().find(|each| *each.method == *METHOD);
    own.expect("the method is told")
}

/// How many there are, and all of them together, ms.
fn all(spans: &Spans) -> (u64, u64) {
    (spans.up_to().last().map_or(0, |all| all.1), spans.sum_ms())
}

#[test]
fn figures_that_are_taken_stay_in_the_sums() {
    let mut h = Harness::new();
    h.attach(WORKER, "w", &[METHOD], 8);
    for _ in 0..2 {
        let (_, effects) = h.submit_one(task(METHOD));
        h.succeed(WORKER, &attempt(&effects, WORKER));
        h.partition.take_figures(h.now);
    }
    let (_, effects) = h.submit_one(task(METHOD));
    h.fail(WORKER, &attempt(&effects, WORKER), UNAVAILABLE);
    let told = told(&h);
    assert_eq!((told.submitted, told.retried), (3, 1));
    assert_eq!(
        (told.attempts[0], told.attempts[UNAVAILABLE as usize]),
        (2, 1)
    );
    assert_eq!(told.ended, [2, 0, 0, 0]);
}

#[test]
fn a_method_is_told_once_whatever_its_routes() {
    let policies = [METHOD, LATER].map(policy).to_vec();
    let mut h = Harness::with_policies(config(), policies);
    h.attach(WORKER, "w", &[METHOD, LATER], 8);
    for route in [METHOD, LATER] {
        let (_, effects) = h.submit_one(task(route));
        h.succeed(WORKER, &attempt(&effects, WORKER));
    }
    let found = h.partition.metrics(h.now).methods;
    let paths: Vec<&str> = found.iter().map(|each| &*each.method).collect();
    assert_eq!(
        paths.iter().filter(|path| path.starts_with(METHOD)).count(),
        1
    );
    assert_eq!((told(&h).submitted, told(&h).ended[0]), (2, 2));
}

#[test]
fn a_wait_is_the_first_one_and_a_duration_is_the_whole() {
    let mut h = Harness::new();
    let (_, effects) = h.submit_one(task(METHOD));
    assert!(attempts(&effects, WORKER).is_empty());
    h.advance(70);
    h.attach(WORKER, "w", &[METHOD], 8);
    assert_eq!(all(&told(&h).waits), (1, 70));
    // Its lease ends with the attempt's time, and another attempt begins after the pause.
    h.advance(60_000);
    let told_once = told(&h).leases_expired;
    assert_eq!(told_once[LeaseEnd::AttemptTimedOut as usize], 1);
    let effects = h.advance(60_000);
    let again = attempts(&effects, WORKER);
    assert_eq!(again[0].attempt, 2);
    h.succeed(WORKER, &again[0]);
    let told = told(&h);
    assert_eq!(all(&told.waits), (1, 70));
    assert_eq!(all(&told.durations), (1, 70 + 120_000));
    assert_eq!(told.leases_expired, [1, 0, 0]);
}

#[test]
fn a_delay_is_no_wait() {
    let mut h = Harness::new();
    h.attach(WORKER, "w", &[METHOD], 8);
    let options = SubmitOptions {
        delay_ms: 5_000,
        ..SubmitOptions::default()
    };
    h.submit_one(with(task(METHOD), options));
    h.advance(5_000);
    assert_eq!(all(&told(&h).waits), (1, 0));
}

#[test]
fn another_process_counts_anew() {
    let mut h = Harness::new();
    h.attach(WORKER, "w", &[METHOD], 8);
    let (_, effects) = h.submit_one(task(METHOD));
    h.succeed(WORKER, &attempt(&effects, WORKER));
    let (id, _) = h.submit_one(task(METHOD));
    h.restart();
    let after = told(&h);
    assert_eq!((after.submitted, after.ended), (0, [0; 4]));
    assert_eq!((all(&after.waits), all(&after.durations)), ((0, 0), (0, 0)));
    // Nobody comes back with the second one's lease.
    h.advance(5_000);
    h.attach(WORKER, "other", &[METHOD], 8);
    assert_eq!(told(&h).leases_expired, [0, 0, 1]);
    h.apply(Command::Cancel {
        tag: ReplyTag(9),
        task: id,
        reason: name("no more"),
    });
    assert_eq!(told(&h).ended, [0, 0, 1, 0]);
}
