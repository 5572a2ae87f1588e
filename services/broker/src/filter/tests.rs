use std::sync::Arc;

use plait_broker_core::record::{Blob, ChildKey};

use super::*;

fn task() -> TaskView {
    TaskView {
        id: TaskId(7),
        method: Arc::from("/shop.Orders/Charge"),
        queue: Arc::from("payments"),
        state: TaskState::Failed,
        priority: 4,
        attempt: 3,
        max_attempts: 20,
        worker: Some(Arc::from("w-1")),
        idempotency_key: Some(Arc::from("a \"b\"")),
        ordering_key: None,
        created_at: 1_800_000_000_500,
        start_at: 0,
        expire_at: 0,
        ended_at: 0,
        parent: Some((TaskId(3), ChildKey::Nth(0, 0))),
        child_count: 0,
        dead_letter: true,
        failure: None,
        request: Blob::default(),
        response: Blob::default(),
        envelope: Blob::default(),
        progress: None,
        events: Vec::new(),
    }
}

#[test]
fn comparisons_hold_or_do_not() {
    let cases = [
        ("", true),
        ("  ", true),
        ("state = FAILED", true),
        ("state=TASK_STATE_FAILED", true),
        ("state != FAILED", false),
        ("method = \"/shop.Orders/Charge\"", true),
        ("method = /shop.Orders/Charge AND queue = payments", true),
        ("queue = payments AND state = READY", false),
        ("queue = 'payments'", true),
        ("idempotency_key = \"a \\\"b\\\"\"", true),
        ("ordering_key = \"\"", true),
        ("ordering_key != \"\"", false),
        ("worker = w-1", true),
        ("worker = w-2", false),
        ("parent = t0000000000000003", true),
        ("parent = t0000000000000004", false),
        ("parent = \"\"", false),
        ("parent != \"\"", true),
        ("dead_letter = true", true),
        ("dead_letter = false", false),
        (
            "attempt >= 3 AND attempt <= 3 AND attempt > 2 AND attempt < 4",
            true,
        ),
        ("attempt > 3", false),
        ("priority = 4", true),
        ("priority != 4", false),
        ("create_time > \"2027-01-15T08:00:00Z\"", true),
        ("create_time > 2027-01-15T08:00:01Z", false),
        ("create_time = \"2027-01-15T08:00:00.500Z\"", true),
        ("end_time < \"2100-01-01T00:00:00Z\"", false),
        ("end_time > \"2000-01-01T00:00:00Z\"", false),
    ];
    for (text, expected) in cases {
        let filter = Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(filter.accepts(&task()), expected, "{text}");
    }
}

#[test]
fn errors_name_the_position() {
    let cases = [
        ("colour = red", 1, "\"colour\" is not a field"),
        ("state", 6, "ends too early"),
        ("state FAILED", 7, "a comparison"),
        ("state =", 8, "ends too early"),
        ("state = BROKEN", 9, "not a state"),
        ("state < FAILED", 7, "= and != only"),
        ("queue = a OR queue = b", 11, "AND is expected"),
        ("queue = a queue = b", 11, "AND is expected"),
        ("(queue = a)", 1, "no meaning"),
        ("queue = \"a", 9, "not closed"),
        ("queue = a AND", 14, "ends too early"),
        ("attempt > many", 11, "whole number"),
        ("parent = 5", 10, "task id"),
        ("dead_letter = yes", 15, "true or false"),
        ("create_time < yesterday", 15, "not a time"),
        ("= 5", 1, "a field is expected"),
        ("queue = =", 9, "a value is expected"),
        ("queue ! a", 7, "no meaning"),
    ];
    for (text, position, problem) in cases {
        let error = Filter::parse(text).expect_err(text);
        assert_eq!(error.position, position, "{text}: {error}");
        assert!(error.problem.contains(problem), "{text}: {error}");
    }
}
