//! That nothing stays behind of tasks that are forgotten.

use super::State;
use crate::ids::TaskId;
use crate::ids::Token;
use crate::policy::{CodeSet, MethodPolicy};
use crate::record::Failure;
use crate::record::{Acceptance, Blob, ChildKey, ExpiryCause, NewTask, Record, Start};
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
        at_most_once: false,
        retention_ms: 0,
        dead_letter_retention_ms: 0,
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
}
