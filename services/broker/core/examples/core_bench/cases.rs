//! What is measured.

use crate::rig::{
    Bench, CLIENT, FRAME, START, Shape, config, frames, per_task, policy, resident_kib, timed,
};
use bytes::Bytes;
use plait_broker_core::command::{
    Command, Submit, SubmitOptions, SubmitOrigin, SubmitTask, WorkerAttach,
};
use plait_broker_core::ids::{ConnId, ReplyTag};
use plait_broker_core::policy::{Limits, Rate};
use plait_broker_core::split::{Split, Sticky};
use plait_broker_core::{Config, Partition, Step};
use std::sync::Arc;
use std::time::Duration;

/// Frames made before the clock runs.
const CHUNK: u64 = 64;

/// Frames are submitted, handed out and settled one after the other.
pub(crate) fn at_once(what: &str, shape: Shape, tasks: u64) {
    let mut bench = Bench::new(shape);
    bench.log = None;
    bench.attach(1024);
    let mut spent = Duration::ZERO;
    let mut done = 0;
    while done < tasks {
        let chunk: Vec<Command> = (0..CHUNK).map(|_| bench.frame()).collect();
        spent += timed(|| {
            for submit in chunk {
                done += bench.run(submit);
            }
        })
        .1;
    }
    per_task(what, spent, done);
}

/// Tasks of one priority, of two and of all: with several, starts take turns.
pub(crate) fn priorities(tasks: u64) {
    for count in [1, 2, 10] {
        let shape = Shape {
            priorities: count,
            ..Shape::default()
        };
        at_once(&format!("priorities: {count}, at once"), shape, tasks);
    }
}

/// What shares cost: the same tasks of one queue, of several, of latency classes, and of tenants that take turns.
pub(crate) fn shares(tasks: u64) {
    let fair_by_key = Limits {
        fair_by_key: true,
        ..Limits::default()
    };
    let cases = [
        ("one queue", 1, false, 0, Limits::default()),
        ("2 queues", 2, false, 0, Limits::default()),
        ("20 queues", 20, false, 0, Limits::default()),
        (
            "2 queues of two latency classes",
            2,
            true,
            0,
            Limits::default(),
        ),
        (
            "10,000 keys without turns",
            1,
            false,
            10_000,
            Limits::default(),
        ),
        ("10,000 keys in turns", 1, false, 10_000, fair_by_key),
    ];
    for (what, queues, mixed, limit_keys, limits) in cases {
        let shape = Shape {
            queues,
            mixed,
            limit_keys,
            limits,
            ..Shape::default()
        };
        at_once(&format!("shares: {what}"), shape, tasks);
    }
    for weighted in [0, 1, 1_000] {
        let shape = Shape {
            limit_keys: 1_000,
            limits: fair_by_key,
            weighted,
            ..Shape::default()
        };
        let keys = format!("1,000 keys, {weighted} with weights");
        at_once(&format!("shares: {keys}"), shape, tasks);
        drained(&format!("shares: backlog of {keys}"), shape, tasks);
    }
    beside_backlog(
        "shares: others beside a hot tenant's backlog",
        fair_by_key,
        1,
        10_000,
        tasks,
    );
}

/// A backlog is handed out and settled: what a start costs while tasks of every key wait.
fn drained(what: &str, shape: Shape, tasks: u64) {
    let mut bench = Bench::new(shape);
    bench.log = None;
    for _ in 0..tasks / FRAME as u64 {
        let submit = bench.frame();
        bench.apply(vec![submit]);
    }
    let (done, spent) = timed(|| {
        let step = bench.attach(1024);
        bench.finish(step)
    });
    per_task(what, spent, done);
}

/// What it costs to divide a backlog between versions, and how long a partition stands still for a part of it.
pub(crate) fn splits(tasks: u64) {
    let mut bench = Bench::new(Shape::default());
    bench.log = None;
    for _ in 0..tasks / FRAME as u64 {
        let submit = bench.frame();
        bench.apply(vec![submit]);
    }
    for share in [1_000, 5_000, 2_500] {
        let split = Split {
            service: "bench.v1.Echo".into(),
            version: "2".into(),
            share,
            sticky: Sticky::Task,
            salt: "bench".into(),
            fallback_ms: 10_000,
        };
        let mut next = vec![Command::SetSplits {
            tag: ReplyTag(1),
            splits: vec![split],
            record: Bytes::new(),
        }];
        let (mut spent, mut steps) = (Duration::ZERO, 0);
        while !next.is_empty() {
            spent += timed(|| drop(bench.apply(std::mem::take(&mut next)))).1;
            steps += 1;
            if bench
                .partition
                .next_timer()
                .is_some_and(|at| at <= bench.now)
            {
                next.push(Command::Tick);
            }
        }
        per_task(&format!("splits: {share} of 10,000"), spent, tasks);
        println!("    {steps} steps of {} µs", (spent / steps).as_micros());
    }
}

/// A backlog builds up, is measured, survives a crash, and is drained.
pub(crate) fn backlog(what: &str, shape: Shape, tasks: u64) {
    let mut bench = Bench::new(shape);
    let mut spent = Duration::ZERO;
    for _ in 0..tasks / FRAME as u64 / CHUNK {
        let chunk: Vec<Command> = (0..CHUNK).map(|_| bench.frame()).collect();
        spent += timed(|| {
            chunk
                .into_iter()
                .for_each(|submit| drop(bench.apply(vec![submit])))
        })
        .1;
    }
    let tasks = bench.partition.load().1;
    per_task(&format!("{what}: submit"), spent, tasks);
    let log = bench.log.take().unwrap_or_default();
    let epoch = Config {
        epoch: 2,
        ..config()
    };
    drop(bench);
    let mut restored = Partition::new(epoch);
    let ((), replay) = timed(|| {
        for (time, record) in log {
            restored.replay(record, time);
        }
    });
    let ((), index) = timed(|| restored.recovered(START));
    per_task(&format!("{what}: replay"), replay, tasks);
    per_task(&format!("{what}: index after replay"), index, tasks);
    let (records, image) = timed(|| restored.image(START).count());
    per_task(
        &format!("{what}: snapshot, {records} records"),
        image,
        tasks,
    );
    let mut bench = Bench {
        partition: restored,
        log: None,
        ..Bench::new(shape)
    };
    let (done, spent) = timed(|| {
        let mut step = bench.attach(1024);
        let mut done = 0;
        loop {
            let batch = frames(std::mem::take(&mut step));
            if batch.is_empty() {
                return done;
            }
            for (_, attempts) in batch {
                done += attempts.len() as u64;
                let settle = bench.settle(attempts);
                step.effects.extend(bench.apply(vec![settle]).effects);
            }
        }
    });
    per_task(&format!("{what}: drain"), spent, done);
}

/// How much memory waiting tasks take, their payloads evicted.
pub(crate) fn memory(what: &str, shape: Shape, tasks: u64) {
    let before = resident_kib();
    let mut bench = Bench::with(
        shape,
        Config {
            resident_bytes_max: 0,
            ..config()
        },
    );
    bench.log = None;
    for _ in 0..tasks / FRAME as u64 {
        let submit = bench.frame();
        bench.apply(vec![submit]);
    }
    let bytes = resident_kib().saturating_sub(before) * 1024;
    println!("{what:<44} {:>6} B a waiting task", bytes / tasks);
}

/// How much memory finished tasks take while they are retained; those beyond `in_memory` are archived, and what that
/// takes is told, too.
pub(crate) fn finished(what: &str, shape: Shape, in_memory: u64, tasks: u64) {
    let before = resident_kib();
    let limits = Config {
        finished_in_memory: in_memory,
        ..config()
    };
    let mut bench = Bench::with(shape, limits);
    bench.log = None;
    bench.attach(1024);
    let (mut done, mut spent, mut pause) = (0, Duration::ZERO, Duration::ZERO);
    while done < tasks {
        let submit = bench.frame();
        done += bench.run(submit);
        bench.now = START;
        while let Some(archive) = bench.partition.begin_archive() {
            let ((), took) = timed(|| while !bench.partition.archive_part(512).is_empty() {});
            let written = Command::ArchiveWritten {
                archive,
                written: true,
            };
            let (_, last) = timed(|| bench.apply(vec![written]));
            spent += took + last;
            pause = pause.max(last);
        }
    }
    let bytes = resident_kib().saturating_sub(before) * 1024;
    println!("{what:<44} {:>6} B a finished task", bytes / done);
    let (_, archived) = bench.partition.archived();
    if archived > 0 {
        per_task("  archiving", spent, archived);
        println!("  the longest pause {:>6} us", pause.as_micros());
    }
}

/// One flow with many awaited children: what a child costs must not depend on their number.
pub(crate) fn flow(children: u64) {
    let mut bench = Bench::new(Shape::default());
    bench.log = None;
    bench.attach(1 << 20);
    let submit = bench.frame();
    let step = bench.apply(vec![submit]);
    let Some((_, mut attempts)) = frames(step).pop() else {
        return;
    };
    let Some(parent) = attempts.pop() else { return };
    let parent_key = Some((parent.task, parent.token, None));
    let mut started = Vec::new();
    let mut made = 0u64;
    let mut spent = Duration::ZERO;
    while made < children {
        let tasks = (0..FRAME as u64).map(|n| SubmitTask {
            method: Arc::clone(&bench.methods[0]),
            request: Bytes::from_static(b"child"),
            digest: u128::from(made + n),
            idempotency_key: None,
            ordering_key: None,
            limit_key: None,
            options: Some(Box::new(SubmitOptions {
                parent: parent_key.clone(),
                ..SubmitOptions::default()
            })),
        });
        bench.sequence += 1;
        let origin = SubmitOrigin::Session {
            conn: CLIENT,
            session: [1; 16],
            sequence: bench.sequence,
        };
        let submit = Command::Submit(Submit {
            origin,
            await_results: true,
            tasks: tasks.collect(),
        });
        let (step, took) = timed(|| bench.apply(vec![submit]));
        spent += took;
        started.extend(frames(step).into_iter().flat_map(|(_, attempts)| attempts));
        made += FRAME as u64;
    }
    while !started.is_empty() {
        let rest = started.split_off(FRAME.min(started.len()));
        let settle = bench.settle(std::mem::replace(&mut started, rest));
        spent += timed(|| bench.apply(vec![settle])).1;
    }
    per_task(&format!("a flow of {made} children"), spent, made);
}

/// What limits cost: the same tasks without, with limits that hold nothing, and with limits that do.
pub(crate) fn limits(tasks: u64) {
    let rate = |starts, period_ms, burst| {
        Some(Rate {
            starts,
            period_ms,
            burst,
        })
    };
    let none = Limits::default();
    let far = Limits {
        rate: rate(1_000_000_000, 1_000, 1_000_000),
        running_max: 1_000_000,
        ..none
    };
    let far_by_key = Limits {
        rate_by_key: true,
        running_per_key_max: 1_000_000,
        ..far
    };
    let one_a_key = Limits {
        running_per_key_max: 1,
        ..none
    };
    let slow_keys = Limits {
        rate: rate(1, 1, 1),
        rate_by_key: true,
        ..none
    };
    let cases = [
        ("no limit", 0, none),
        ("far method limits", 0, far),
        ("no limit, 10,000 limit keys", 10_000, none),
        ("far key limits, 10,000 keys", 10_000, far_by_key),
        ("no limit, 32 limit keys", 32, none),
        ("one at once of each of 32 keys", 32, one_a_key),
    ];
    for (what, limit_keys, limits) in cases {
        let shape = Shape {
            limit_keys,
            limits,
            ..Shape::default()
        };
        at_once(&format!("limits: {what}"), shape, tasks);
    }
    for (what, limits) in [("no limit", none), ("one a ms of each", slow_keys)] {
        beside_backlog(
            &format!("limits: {what}, 128 keys, backlog"),
            limits,
            128,
            128,
            tasks,
        );
    }
    beside_backlog(
        "limits: others beside a hot key's backlog",
        one_a_key,
        1,
        10_000,
        tasks,
    );
}

/// Tasks come and go while others wait that came before, as many, under this many keys.
fn beside_backlog(what: &str, limits: Limits, keys_before: u64, limit_keys: u64, tasks: u64) {
    let mut bench = Bench::new(Shape {
        limit_keys: keys_before,
        limits,
        ..Shape::default()
    });
    bench.log = None;
    for _ in 0..tasks / FRAME as u64 {
        let submit = bench.frame();
        bench.apply(vec![submit]);
    }
    let step = bench.attach(1024);
    bench.finish(step);
    bench.shape.limit_keys = limit_keys;
    let (mut spent, mut done) = (Duration::ZERO, 0);
    while done < tasks {
        let chunk: Vec<Command> = (0..CHUNK).map(|_| bench.frame()).collect();
        spent += timed(|| {
            for submit in chunk {
                done += bench.run(submit);
            }
        })
        .1;
    }
    per_task(what, spent, done);
}

/// Steps that do nothing, beside many workers, many methods, and a backlog that nobody serves.
pub(crate) fn idle() {
    let methods: Vec<Arc<str>> = (0..50)
        .map(|n| format!("/bench.v1.Many/M{n}").into())
        .collect();
    let mut bench = Bench::new(Shape::default());
    bench.log = None;
    let policies = methods.iter().map(|method| policy(method)).collect();
    bench.apply(vec![Command::ApplyPolicies {
        tag: ReplyTag(0),
        policies,
    }]);
    for n in 0..1000u64 {
        // Each worker serves its own choice, the worst case for grouping them.
        let own = methods
            .iter()
            .enumerate()
            .filter(|(at, _)| *at as u64 != n % 50);
        let attach = WorkerAttach {
            version: "".into(),
            conn: ConnId(1000 + n),
            worker: format!("w{n}").into(),
            methods: own.map(|(_, method)| Arc::clone(method)).collect(),
            slots: 10,
            held: Vec::new(),
        };
        bench.apply(vec![Command::WorkerAttached(attach)]);
    }
    for _ in 0..1000 {
        let submit = bench.frame();
        bench.apply(vec![submit]);
    }
    let steps = 100_000u64;
    let ((), took) = timed(|| {
        for _ in 0..steps {
            let mut step = Step::default();
            bench.partition.dispatch(bench.now, 1, &mut step);
        }
    });
    let ns = took.as_nanos() / u128::from(steps);
    println!("an idle step: 1000 workers, 128,000 waiting     {ns:>6} ns");
}
