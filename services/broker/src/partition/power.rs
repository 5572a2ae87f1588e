//! The power goes while finished tasks are archived: what was settled is told the same ever after, once.

use std::collections::BTreeMap;

use bytes::Bytes;
use plait::pb::control::v1 as control;
use plait::pb::v1 as pb;
use plait_broker_core::command::{
    Command, Outcome, Submit, SubmitOrigin, SubmitTask, WorkerAttach,
};
use plait_broker_core::effect::{Effect, Reply, TaskView};
use plait_broker_core::ids::{ConnId, ReplyTag, TaskId};
use plait_broker_core::policy::MethodPolicy;
use plait_broker_core::record::{Acceptance, Failure};
use plait_broker_log::sim::{Random, SimDisk};
use plait_broker_log::{FileLog, FileLogOptions};

use super::*;
use crate::outbound::{Outbound, Outgoing, Taken};

const METHOD: &str = "/test.Echo/Say";

/// Tasks of a round.
const ROUND: usize = 6;

fn options() -> Options {
    Options {
        core: Config {
            reattach_grace_ms: 1,
            session_ttl_ms: 3_600_000,
            finished_in_memory: 16,
            ..super::tests::options().core
        },
        // A snapshot every few rounds.
        snapshot_bytes: 8 << 10,
        ..super::tests::options()
    }
}

fn policy() -> MethodPolicy {
    let policy = control::MethodPolicy {
        info: Some(pb::MethodInfo {
            method: METHOD.to_owned(),
            queue: "test".to_owned(),
            ..pb::MethodInfo::default()
        }),
        deadline_ms: 3_600_000,
        attempt_timeout_ms: 3_600_000,
        max_attempts: 3,
        initial_backoff_ms: 1,
        max_backoff_ms: 1,
        multiplier_permille: 1000,
        idempotency_window_ms: 3_600_000,
        retention_ms: 3_600_000,
        ..control::MethodPolicy::default()
    };
    crate::policy::compiled(&policy).unwrap()
}

/// What must be the same for as long as the task is kept.
fn told(view: &TaskView) -> String {
    let payloads = [&view.request, &view.response].map(|blob| (blob.at, blob.len));
    let ended = (view.state, view.ended_at, &view.failure, &view.events);
    format!("{ended:?} {payloads:?} {:?}", view.idempotency_key)
}

/// A partition on a simulated disk, with a worker.
struct Life {
    running: Running,
    conn: ConnId,
    outbound: Arc<Outbound>,
    sequence: u64,
}

impl Life {
    /// An error: the power went before it had begun.
    async fn begin(disk: &SimDisk, number: u64) -> Result<Self, Box<dyn std::error::Error>> {
        let small = FileLogOptions {
            segment_bytes: 16 * 1024,
            first_segment_bytes: 8 * 1024,
            background: false,
            ..FileLogOptions::default()
        };
        let log = FileLog::inspect_on(disk.mount(), small)?;
        let running = start(Box::new(log), options(), Surroundings::of_process())?;
        let (conn, outbound) = running.handle.open(1 << 20);
        let life = Self {
            running,
            conn,
            outbound,
            sequence: 0,
        };
        let handle = &life.running.handle;
        let policies = |tag| Command::ApplyPolicies {
            tag,
            policies: vec![policy()],
        };
        let applied = handle.call(0, policies).await;
        applied.map_err(|error| format!("{error:?}"))?;
        let attach = WorkerAttach {
            conn,
            worker: format!("w{number}").into(),
            methods: vec![METHOD.into()],
            slots: 100,
            held: Vec::new(),
        };
        handle.post(Command::WorkerAttached(attach))?;
        Ok(life)
    }

    async fn submit(&self, tasks: Vec<SubmitTask>) -> Option<Acceptance> {
        let submit = |tag: ReplyTag| {
            let origin = SubmitOrigin::Call {
                tag,
                request_id: None,
                dry_run: false,
            };
            Command::Submit(Submit {
                origin,
                await_results: false,
                tasks,
            })
        };
        match self.running.handle.call(100, submit).await.ok()? {
            Reply::Accepted(acceptance) => Some(acceptance),
            other => panic!("{other:?}"),
        }
    }

    /// Ends all attempts that come, until `wanted` of them are settled. None: the power went.
    async fn settle(&mut self, wanted: usize) -> Option<Vec<TaskId>> {
        let (mut open, mut settled) = (BTreeMap::new(), Vec::new());
        while settled.len() < wanted {
            let Taken::Items(items) = self.outbound.take().await else {
                return None;
            };
            for item in items {
                match item {
                    Outgoing::Effect(Effect::Attempts { attempts, .. }) => {
                        let outcomes = attempts.iter().map(|attempt| Outcome {
                            task: attempt.task,
                            token: attempt.token,
                            result: ending(attempt.task),
                        });
                        self.sequence += 1;
                        let tasks: Vec<TaskId> = attempts.iter().map(|a| a.task).collect();
                        open.insert(self.sequence, tasks);
                        let outcomes = Command::Outcomes {
                            conn: self.conn,
                            sequence: self.sequence,
                            outcomes: outcomes.collect(),
                        };
                        self.running.handle.post(outcomes).ok()?;
                    }
                    Outgoing::Effect(Effect::Settled { sequence, .. }) => {
                        settled.extend(open.remove(&sequence).unwrap_or_default());
                    }
                    _ => {}
                }
            }
        }
        Some(settled)
    }
}

fn ending(task: TaskId) -> Result<Bytes, (Failure, Option<u64>)> {
    match task.0 % 5 {
        0 => Err((
            Failure {
                code: 3,
                message: format!("bad {task}").into(),
                ..Failure::default()
            },
            None,
        )),
        _ => Ok(Bytes::from(task.to_string())),
    }
}

fn tasks(random: &mut Random) -> Vec<SubmitTask> {
    let mut one = |_| {
        let key = random.number();
        SubmitTask {
            method: METHOD.into(),
            request: Bytes::from(vec![7; random.below(300)]),
            digest: u128::from(key),
            idempotency_key: random.chance(0.5).then(|| format!("k{key}").into()),
            ordering_key: None,
            limit_key: None,
            options: None,
        }
    };
    (0..ROUND).map(&mut one).collect()
}

/// What was told of tasks that were settled, and their keys.
#[derive(Default)]
struct Settled {
    told: BTreeMap<TaskId, String>,
    keyed: Vec<(SubmitTask, TaskId)>,
}

impl Settled {
    /// Works until the power goes, or for some rounds.
    async fn work(&mut self, life: &mut Life, random: &mut Random) -> Option<()> {
        for _ in 0..2 + random.below(10) {
            let tasks = tasks(random);
            let accepted = life.submit(tasks.clone()).await?;
            let done = life.settle(ROUND).await?;
            let views = life.running.handle.tasks(done).await.ok()?;
            for view in views {
                let view = view.ok()?.expect("it was settled");
                self.told.insert(view.id, told(&view));
            }
            let keyed = tasks.into_iter().zip(accepted.tasks);
            let keyed = keyed.filter(|(task, _)| task.idempotency_key.is_some());
            self.keyed
                .extend(keyed.map(|(task, id)| (task, TaskId(id))));
        }
        Some(())
    }

    /// Every task that was settled is there as it was told; no task is there twice; its key stands for it.
    async fn check(&self, life: &Life) {
        let handle = &life.running.handle;
        let ids: Vec<TaskId> = self.told.keys().copied().collect();
        let found = handle.tasks(ids).await.unwrap();
        for ((id, expected), view) in self.told.iter().zip(found) {
            let view = view.unwrap().unwrap_or_else(|| panic!("{id} is lost"));
            assert_eq!(told(&view), *expected, "{id}");
        }
        let (mut listed, mut before) = (Vec::new(), Some(TaskId(u64::MAX)));
        while let Some(at) = before {
            let wanted = Listing {
                before: at,
                limit: 7,
                scan: 1000,
                keep: Arc::new(|_| true),
            };
            let (page, next) = handle.list(wanted).await.unwrap();
            listed.extend(page.into_iter().map(|view| view.id));
            before = next;
        }
        assert!(listed.is_sorted_by(|a, b| a > b), "newest first, each once");
        assert!(self.told.keys().all(|id| listed.contains(id)));
        let (tasks, ids): (Vec<_>, Vec<_>) = self.keyed.iter().cloned().unzip();
        if !tasks.is_empty() {
            let again = life.submit(tasks).await.unwrap();
            assert!(again.tasks.iter().eq(ids.iter().map(|id| &id.0)));
        }
    }
}

async fn run(seed: u64) -> u64 {
    let (disk, mut random) = (SimDisk::new(seed), Random(seed ^ 0x77));
    let mut settled = Settled::default();
    let mut archived = 0;
    for number in 0..5 {
        if random.chance(0.7) {
            disk.cut_power_at(random.below(250) as u64);
        }
        if let Ok(mut life) = Life::begin(&disk, 2 * number).await {
            let _ = settled.work(&mut life, &mut random).await;
            if random.chance(0.2) {
                life.running.handle.stop();
                let _ = life.running.owner.await;
            }
        }
        match disk.is_off() || random.chance(0.6) {
            true => disk.crash(),
            false => disk.kill(),
        }
        let life = Life::begin(&disk, 2 * number + 1).await;
        let life = life.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        settled.check(&life).await;
        let count = life.running.handle.query(|p, _| p.archived().1).await;
        archived += count.unwrap();
        disk.kill();
    }
    archived
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_settled_is_told_the_same_after_the_power_went() {
    let mut archived = 0;
    for seed in 0..40 {
        eprintln!("seed {seed}");
        archived += run(seed).await;
    }
    assert!(archived > 1000, "{archived} tasks were in files");
}
