//! The submitter: it numbers its frames, sends again what was not acknowledged, and checks the answers.

use super::super::ledger::Ledger;
use super::super::policies::METHODS;
use super::{World, request};
use plait_broker_core::command::*;
use plait_broker_core::effect::TaskResult;
use plait_broker_core::ids::*;
use plait_broker_core::record::*;
use std::collections::{BTreeMap, BTreeSet};

const SESSION: SessionId = [5; 16];

#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) conn: Option<ConnId>,
    opened: bool,
    sequence: u64,
    /// Frames that were not acknowledged.
    unacked: BTreeMap<u64, Vec<SubmitTask>>,
    /// What was answered: it must never change.
    acked: BTreeMap<u64, Acceptance>,
    /// Tasks whose result is waited for.
    waiting: BTreeSet<TaskId>,
}

impl Client {
    pub(super) fn disconnected(&mut self) {
        self.conn = None;
        self.opened = false;
    }

    pub(super) fn is_content(&self) -> bool {
        self.unacked.is_empty() && self.waiting.is_empty()
    }

    pub(super) fn opened(&mut self, conn: ConnId, last: u64) {
        if self.conn == Some(conn) {
            self.opened = true;
            let highest = self.acked.keys().last().copied().unwrap_or(0);
            assert!(last >= highest, "I1: an acknowledged frame is never lost");
        }
    }

    pub(super) fn accepted(&mut self, conn: ConnId, sequence: u64, acceptance: Acceptance) {
        let known = self
            .acked
            .entry(sequence)
            .or_insert_with(|| acceptance.clone());
        assert_eq!(*known, acceptance, "a repeated frame has the same answer");
        if self.conn == Some(conn)
            && let Some(tasks) = self.unacked.remove(&sequence)
        {
            assert_eq!(tasks.len(), acceptance.tasks.len());
            let accepted = acceptance.tasks.into_iter().filter(|id| *id != 0);
            self.waiting.extend(accepted.map(TaskId));
        }
    }

    pub(super) fn results(&mut self, conn: ConnId, results: &[TaskResult]) {
        if self.conn == Some(conn) {
            for result in results {
                self.waiting.remove(&result.task);
            }
        }
    }

    /// I1: what was acknowledged is in the log.
    pub(super) fn check_acked(&self, ledger: &Ledger, log: &[(Millis, Record)]) {
        let mut ids = BTreeSet::new();
        for (_, record) in log {
            if let Record::Submitted { tasks, .. } = record {
                ids.extend(tasks.iter().map(|task| task.id.0));
            }
        }
        for acceptance in self.acked.values() {
            for id in acceptance.tasks.iter().filter(|id| **id != 0) {
                assert!(ids.contains(id), "I1: {id} was acknowledged and is lost");
            }
        }
        assert!(ledger.tasks.keys().all(|id| ids.contains(&id.0)));
    }
}

impl World {
    pub(super) fn connect_client(&mut self) {
        let conn = self.conn();
        self.client.disconnected();
        self.client.conn = Some(conn);
        self.command(Command::SessionOpened {
            conn,
            session: SESSION,
        });
        self.sync(usize::MAX);
        assert!(self.client.opened);
        let frames = self.client.unacked.clone();
        for (sequence, tasks) in frames {
            self.send(sequence, tasks);
        }
        let tasks = self.client.waiting.iter().copied().collect();
        self.command(Command::Await {
            conn,
            tasks,
            forget: Vec::new(),
            parent: None,
        });
    }

    pub(super) fn client_reconnects(&mut self) {
        if let (Some(conn), true) = (self.client.conn, self.random.permille(500)) {
            self.command(Command::SessionClosed { conn });
        }
        self.connect_client();
    }

    fn send(&mut self, sequence: u64, tasks: Vec<SubmitTask>) {
        let Some(conn) = self.client.conn else { return };
        let origin = SubmitOrigin::Session {
            conn,
            session: SESSION,
            sequence,
        };
        self.command(Command::Submit(Submit {
            origin,
            await_results: true,
            tasks,
        }));
    }

    pub(super) fn client_waits(&mut self) {
        let Some(conn) = self.client.conn else { return };
        let known: Vec<TaskId> = self.ledger.tasks.keys().copied().collect();
        let Some(at) = self.random.index(known.len()) else {
            return;
        };
        let (some, parent) = (vec![known[at]], self.some_run());
        // It cannot give up what it was not told of yet, and would wait for it then.
        let (acked, unacked) = (&self.client.acked, &self.client.unacked);
        let mut acked = acked
            .iter()
            .filter(|(sequence, _)| !unacked.contains_key(sequence));
        let told = acked.any(|(_, acceptance)| acceptance.tasks.contains(&known[at].0));
        let (tasks, forget) = if self.random.permille(700) || !told {
            (some, vec![])
        } else {
            (vec![], some)
        };
        for id in &forget {
            self.client.waiting.remove(id);
        }
        self.command(Command::Await {
            conn,
            tasks,
            forget,
            parent,
        });
    }

    pub(super) fn client_submits(&mut self) {
        let count = 1 + self.random.below(8);
        let tasks: Vec<SubmitTask> = (0..count).map(|_| self.some_task()).collect();
        if self.random.permille(30) {
            let origin = SubmitOrigin::Call {
                tag: ReplyTag(3),
                request_id: None,
                dry_run: true,
            };
            self.command(Command::Submit(Submit {
                origin,
                await_results: false,
                tasks,
            }));
            let last = self.pending.back().expect("the step");
            assert!(
                last.records
                    .iter()
                    .all(|record| !matches!(record, Record::Submitted { .. }))
            );
            return;
        }
        self.client.sequence += 1;
        let sequence = self.client.sequence;
        self.client.unacked.insert(sequence, tasks.clone());
        self.send(sequence, tasks.clone());
        if self.random.permille(100) {
            self.send(sequence, tasks);
        }
    }

    /// A run of a flow that a worker has, perhaps an old one.
    fn some_run(&mut self) -> Option<(TaskId, Token)> {
        let held = self.workers.iter().flat_map(|worker| &worker.held);
        let runs: Vec<(TaskId, Token)> = held
            .filter(|held| held.flow)
            .map(|held| (held.task, held.token))
            .collect();
        self.random.index(runs.len()).map(|at| runs[at])
    }

    fn some_task(&mut self) -> SubmitTask {
        let random = &mut self.random;
        let mut method = METHODS[random.below(4) as usize];
        let key = random
            .permille(300)
            .then(|| format!("k{}", random.below(30)));
        let order = random
            .permille(400)
            .then(|| format!("o{}", random.below(4)));
        let digest = u128::from(random.below(3));
        let mut options = SubmitOptions {
            delay_ms: if random.permille(150) {
                random.below(3_000)
            } else {
                0
            },
            deadline_ms: random.permille(150).then(|| random.below(4_000)),
            priority: random.permille(200).then(|| random.below(10) as u8),
            ..SubmitOptions::default()
        };
        if random.permille(300) {
            options.envelope = request(random);
        }
        let limit_key = random
            .permille(700)
            .then(|| format!("l{}", random.below(3)).into());
        let name = random
            .permille(300)
            .then(|| format!("c{}", random.below(3)).into());
        let child = random.permille(400);
        let request = request(random);
        if child && let Some((task, token)) = self.some_run() {
            options.parent = Some((task, token, name));
            if self.random.permille(700) {
                method = METHODS[0];
            }
        }
        SubmitTask {
            method: method.into(),
            request,
            digest,
            idempotency_key: key.map(Into::into),
            ordering_key: order.map(Into::into),
            limit_key,
            options: Some(Box::new(options)),
        }
    }
}
