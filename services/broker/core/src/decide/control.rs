//! Commands of operators and of the scheduler: policies, pauses, windows, redrives, keys.

use crate::command::{Command, Gate, LEADER_KEY, WorkerGate};
use crate::effect::{Effect, Error, Reply};
use crate::ids::{Millis, ReplyTag};
use crate::live::alarms::Alarm;
use crate::live::worker_gate::{self as live, Sayings};
use crate::mutant::{self, Mutant};
use crate::partition::{Partition, Step};
use crate::record::Record;
use bytes::Bytes;
use std::sync::Arc;

impl Partition {
    /// Commands that are answered by one reply.
    pub(super) fn control(&mut self, command: Command, now: Millis, step: &mut Step) {
        let (tag, reply) = match command {
            Command::Redrive {
                tag,
                tasks,
                archived,
                dry_run,
            } => (tag, self.redrive(tasks, &archived, dry_run, now, step)),
            Command::PauseQueue { tag, queue, reason } => {
                (tag, self.pause(queue, Some(reason), step))
            }
            Command::ResumeQueue { tag, queue } => (tag, self.pause(queue, None, step)),
            Command::ApplyPolicies { tag, policies } => {
                if !policies.is_empty() {
                    self.commit(Record::PoliciesApplied { policies }, step);
                    self.divide_new_routes(now);
                }
                (tag, Ok(Reply::Done))
            }
            Command::SetWindows { tag, windows } => (tag, Ok(self.set_windows(windows))),
            Command::SetGates { tag, gates } => (tag, Ok(self.set_gates(gates, now))),
            Command::SetSplits {
                tag,
                splits,
                record,
            } => (tag, self.set_splits(splits, record, now, step)),
            Command::SetWeights {
                tag,
                method,
                weights,
                record,
            } => (tag, self.set_weights((method, weights), record, now, step)),
            Command::SetWorkerGates { tag, gates } => (tag, Ok(self.set_worker_gates(gates, now))),
            Command::AwaitFailures { tag } => match self.live.failures.wait(tag) {
                Some(before) => (before, Ok(Reply::Done)),
                None => return,
            },
            Command::KvPut {
                tag,
                key,
                value,
                expected,
            } => (tag, self.kv_put(key, value, expected, step)),
            Command::KvDelete { tag, key, expected } => (tag, self.kv_delete(key, expected, step)),
            Command::Fenced {
                tag,
                epoch,
                command,
            } => match self.state.kv.version_of(LEADER_KEY) {
                current if current == epoch => return self.control(*command, now, step),
                current => (tag, Ok(Reply::Fenced(current))),
            },
            _ => return,
        };
        answer(tag, reply, step);
    }

    fn pause(
        &mut self,
        queue: Arc<str>,
        reason: Option<Arc<str>>,
        step: &mut Step,
    ) -> Result<Reply, Error> {
        let Some(number) = self.state.methods.by_name.get(&queue) else {
            return Err(Error::QueueNotFound { queue });
        };
        let paused = self.state.methods.queues[*number as usize].paused.as_ref();
        match reason {
            Some(reason) if paused != Some(&reason) => {
                self.commit(Record::QueuePaused { queue, reason }, step);
            }
            None if paused.is_some() => self.commit(Record::QueueResumed { queue }, step),
            _ => {}
        }
        Ok(Reply::Done)
    }

    fn set_windows(&mut self, windows: Vec<(Arc<str>, u32)>) -> Reply {
        let mut unknown = Vec::new();
        for (worker, window) in windows {
            match self.live.workers.by_id.get(&worker).copied() {
                Some(number) => self.live.workers.changing(number).window = Some(window.max(1)),
                None => unknown.push(worker),
            }
        }
        Reply::Unknown(unknown)
    }

    fn set_gates(&mut self, gates: Vec<Gate>, now: Millis) -> Reply {
        let mut unknown = Vec::new();
        // Tokens grow, so those granted from now on are above.
        let since = self.next_token();
        let gates = gates.into_iter();
        for gate in gates.filter(|_| !mutant::is(Mutant::GateIgnored)) {
            let Some(method) = self.state.methods.find(&gate.method) else {
                unknown.push(gate.method);
                continue;
            };
            let until = now.saturating_add(gate.valid_ms);
            let number = self
                .state
                .methods
                .set_gate(method, gate.permits, since, until);
            if gate.permits.is_some() {
                self.live.alarms.set(until, Alarm::Gate(number));
            }
        }
        Reply::Unknown(unknown)
    }

    /// A gate was to be set again by now, if it was not.
    pub(super) fn gate_over(&mut self, number: u32, now: Millis) {
        let gate = self.state.methods.gate(number);
        if gate.permits.is_some() && gate.until <= now && !mutant::is(Mutant::GateStays) {
            let since = self.next_token();
            self.state.methods.set_gate(number, None, since, now);
        }
    }

    fn set_worker_gates(&mut self, gates: Vec<WorkerGate>, now: Millis) -> Reply {
        let mut unknown = Vec::new();
        let since = self.next_token();
        for gate in gates {
            let Some(number) = self.live.workers.by_id.get(&gate.worker).copied() else {
                unknown.push(gate.worker);
                continue;
            };
            let until = now.saturating_add(gate.valid_ms);
            let worker = self.live.workers.changing(number);
            worker.gate = live::WorkerGate::new(gate.permits, since, until);
            worker.said = Sayings::default();
            if gate.permits.is_some() {
                self.live.alarms.set(until, Alarm::WorkerGate(number));
            }
        }
        Reply::Unknown(unknown)
    }

    /// A worker's gate was to be set again by now, if it was not. Another worker may have its number.
    pub(super) fn worker_gate_over(&mut self, number: u32, now: Millis) {
        let since = self.next_token();
        let workers = &mut self.live.workers;
        let worker = workers.slab.get(number);
        if worker.is_some_and(|found| found.gate.permits.is_some() && found.gate.until <= now) {
            let worker = workers.changing(number);
            worker.gate = live::WorkerGate::new(None, since, now);
            worker.said = Sayings::default();
        }
    }

    fn kv_put(
        &mut self,
        key: Arc<str>,
        value: Bytes,
        expected: Option<u64>,
        step: &mut Step,
    ) -> Result<Reply, Error> {
        self.check_version(&key, expected)?;
        let version = self.state.kv.version.saturating_add(1);
        let flag = (Arc::clone(&key), value.clone());
        self.commit(
            Record::KvPut {
                key,
                value,
                version,
            },
            step,
        );
        self.tell_flag(&flag.0, Some(&flag.1), step);
        Ok(Reply::Version(version))
    }

    fn kv_delete(
        &mut self,
        key: Arc<str>,
        expected: Option<u64>,
        step: &mut Step,
    ) -> Result<Reply, Error> {
        self.check_version(&key, expected)?;
        if self.state.kv.version_of(&key) > 0 {
            let name = Arc::clone(&key);
            self.commit(Record::KvDeleted { key }, step);
            self.tell_flag(&name, None, step);
        }
        Ok(Reply::Done)
    }

    fn check_version(&self, key: &str, expected: Option<u64>) -> Result<(), Error> {
        let version = self.state.kv.version_of(key);
        match expected {
            Some(expected) if expected != version => Err(Error::VersionMismatch { version }),
            _ => Ok(()),
        }
    }
}

fn answer(tag: ReplyTag, reply: Result<Reply, Error>, step: &mut Step) {
    let reply = reply.unwrap_or_else(Reply::Error);
    step.effects.push(Effect::Reply { tag, reply });
}
