//! That nothing stays behind of tasks that are forgotten.

use super::State;
use super::slab::NONE;
use crate::ids::TaskId;
use crate::ids::Token;
use crate::policy::{CodeSet, Limits, MethodPolicy, Rate};
use crate::record::Failure;
use crate::record::{Acceptance, Blob, ChildKey, ExpiryCause, NewTask, Record, Start};
use crate::weight::Weights;
use bytes::Bytes;

fn policy() -> MethodPolicy {
    MethodPolicy {
        method: "/a.B/C".into(),
        queue: "q".into(),
        deadline_ms: 1_000,
        attempt_timeout_ms: 1_000,
        max_attempts: 3,
        initial_backoff_ms: 1,
        max_backoff_ms: 1,
        multiplier_permille: 1_000,
        retryable: CodeSet(0),
        needs_idempotency_key: false,
        needs_ordering_key: false,
        idempotency_window_ms: 0,
        priority: 4,
        latency: crate::policy::Latency::default(),
        queue_weight: 0,
        at_most_once: false,
        retention_ms: 0,
        dead_letter_retention_ms: 0,
        limits: Limits {
            rate: Some(Rate {
                starts: 1,
                period_ms: 10,
                burst: 3,
            }),
            rate_by_key: true,
            running_max: 100,
            running_per_key_max: 100,
            fair_by_key: false,
        },
        source: Bytes::new(),
    }
}

fn new(id: u64) -> NewTask {
    NewTask {
        id: TaskId(id),
        method: "/a.B/C".into(),
        priority: 4,
        start_at: 0,
        expire_at: 9_000,
        idempotency_key: Some(format!("k{id}").into()),
        ordering_key: Some("o".into()),
        limit_key: Some("l".into()),
        parent: (id > 1).then_some((TaskId(1), ChildKey::Nth(7, id as u32))),
        flags: Bytes::from_static(b"flags"),
        digest: 7,
        request: Blob::resident(Bytes::from_static(b"request")),
        envelope: Blob::resident(Bytes::from_static(b"envelope")),
    }
}

#[test]
fn nothing_is_left_of_forgotten_tasks() {
    let mut state = State::new(1 << 20, 7);
    state.evolve(
        &Record::PoliciesApplied {
            policies: vec![policy()],
        },
        1,
    );
    state.index(1);
    let ids: Vec<TaskId> = (1..=4).map(TaskId).collect();
    let submitted = Record::Submitted {
        session: None,
        acceptance: Acceptance::default(),
        tasks: (1..=4).map(new).collect(),
    };
    state.evolve(&submitted, 2);
    state.place(100);
    let start = |id: u64| Start {
        task: TaskId(id),
        token: Token(id),
        attempt: 1,
    };
    let starts = vec![start(1), start(2), start(3), start(99)];
    state.evolve(
        &Record::Started {
            worker: "w".into(),
            starts,
        },
        3,
    );
    let succeeded = Blob::resident(Bytes::from_static(b"response"));
    state.evolve(
        &Record::Succeeded {
            tasks: vec![(ids[0], succeeded)],
        },
        4,
    );
    let failure = Failure::default();
    state.evolve(
        &Record::Failed {
            task: ids[1],
            failure,
            dead_letter: true,
        },
        5,
    );
    state.evolve(
        &Record::Cancelled {
            task: ids[2],
            reason: "r".into(),
        },
        6,
    );
    let expired = Record::Expired {
        tasks: vec![ids[3]],
        cause: ExpiryCause::BeforeStart,
    };
    state.evolve(&expired, 7);
    state.place(200);
    assert_eq!(state.names.len(), 1);
    state.evolve(&Record::Dropped { tasks: ids }, 8);
    let tables = (
        state.tasks.len(),
        state.names.len(),
        state.leases.slab.len(),
    );
    let keys = (state.dedup.len(), state.families.len(), state.lines.len());
    assert_eq!((tables, keys), ((0, 0, 0), (0, 0, 0)));
    assert_eq!(
        (state.blobs.len(), state.blobs.bytes, state.wheel.next()),
        (0, 0, None)
    );
    assert_eq!(state.methods.get(0).unfinished(), 0);
    assert_eq!(keys_after(&mut state, 4_000), (0, 0));
}

/// Limit keys that are known once what is due by then was looked at, and what is still due.
fn keys_after(state: &mut State, now: u64) -> (usize, usize) {
    state.methods.limits_due(&mut state.tasks, now, usize::MAX);
    let limiters = &state.methods.limiters;
    (limiters.slab[0].keys.len(), limiters.due.len())
}

/// A task with a key of its own runs and is forgotten.
fn one_of_many_keys(state: &mut State, id: u64, time: u64) {
    let task = NewTask {
        limit_key: Some(format!("key {id}").into()),
        idempotency_key: None,
        ordering_key: None,
        parent: None,
        ..new(id)
    };
    let submitted = Record::Submitted {
        session: None,
        acceptance: Acceptance::default(),
        tasks: vec![NewTask {
            expire_at: time + 9_000,
            ..task
        }],
    };
    let started = Record::Started {
        worker: "w".into(),
        starts: vec![Start {
            task: TaskId(id),
            token: Token(id),
            attempt: 1,
        }],
    };
    let succeeded = Record::Succeeded {
        tasks: vec![(TaskId(id), Blob::default())],
    };
    let dropped = Record::Dropped {
        tasks: vec![TaskId(id)],
    };
    for record in [submitted, started, succeeded, dropped] {
        state.evolve(&record, time);
    }
}

#[test]
fn keys_that_do_not_matter_any_more_are_forgotten() {
    for live in [false, true] {
        let mut state = State::new(1 << 20, 7);
        let policies = vec![policy()];
        state.evolve(&Record::PoliciesApplied { policies }, 1);
        if live {
            state.index(1);
        }
        let mut most = 0;
        for id in 1..=60_000 {
            // 20 keys a ms; each matters for 10 ms, and is looked for every 1,024 ms.
            let now = 1 + id / 20;
            one_of_many_keys(&mut state, id, now);
            if live {
                state.methods.limits_due(&mut state.tasks, now, 4_096);
            }
            most = most.max(state.methods.limiters.slab[0].keys.len());
        }
        assert!((10_000..30_000).contains(&most), "{most}");
        assert_eq!(keys_after(&mut state, 10_000), (0, 0));
    }
}

/// Keys that are known, and those that ready lists remember.
fn remembered(state: &State) -> (usize, usize) {
    let turns = state
        .methods
        .get(0)
        .turns
        .iter()
        .flat_map(|turns| &turns[..]);
    let keys = turns.map(|turns| turns.keys().count()).sum();
    (state.methods.limiters.slab[0].keys.len(), keys)
}

#[test]
fn keys_whose_turns_are_over_are_forgotten() {
    let mut fair = policy();
    fair.limits = Limits {
        fair_by_key: true,
        ..Limits::default()
    };
    let mut state = State::new(1 << 20, 7);
    let policies = vec![fair];
    state.evolve(&Record::PoliciesApplied { policies }, 1);
    state.index(1);
    let weigh = |state: &mut State, weight: Option<u32>| {
        let weights = Weights::new(weight.map(|weight| ("key 7".into(), weight)));
        let method = "/a.B/C".into();
        state
            .methods
            .set_weights(&mut state.tasks, (&method, weights), 1);
    };
    weigh(&mut state, Some(5));
    for id in 1..=2_000 {
        let tasks = vec![NewTask {
            limit_key: Some(format!("key {}", id % 50).into()),
            idempotency_key: None,
            ordering_key: None,
            parent: None,
            ..new(id)
        }];
        let acceptance = Acceptance::default();
        let submitted = Record::Submitted {
            session: None,
            acceptance,
            tasks,
        };
        state.evolve(&submitted, 1);
    }
    let begin = |state: &mut State| {
        let slot = state.methods.first_ready(0, 4);
        let task = state.tasks[slot].id;
        state.methods.begin(&mut state.tasks, slot, 2);
        let starts = vec![Start {
            task,
            token: Token(task.0),
            attempt: 1,
        }];
        let worker = "w".into();
        state.evolve(&Record::Started { worker, starts }, 2);
        let tasks = vec![(task, Blob::default())];
        state.evolve(&Record::Succeeded { tasks }, 2);
    };
    (0..1_000).for_each(|_| begin(&mut state));
    // The one with the weight has had all its tasks, and the others were as far soon.
    assert_eq!(remembered(&state), (49, 49));
    weigh(&mut state, None);
    assert_eq!(remembered(&state).1, 0);
    weigh(&mut state, Some(9));
    for id in (1..=2_000).map(TaskId) {
        let waits = state
            .tasks
            .find(id)
            .is_some_and(|slot| !state.tasks[slot].is_final());
        if waits && id.0 % 2 == 0 {
            let reason = "r".into();
            state.evolve(&Record::Cancelled { task: id, reason }, 3);
        }
    }
    while state.methods.first_ready(0, 4) != NONE {
        begin(&mut state);
    }
    assert_eq!(remembered(&state), (0, 0));
}
