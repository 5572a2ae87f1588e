//! Hands READY tasks to workers with room: the highest rank first, but for what is owed to lower ones; queues by their
//! shares, methods in turn, the least loaded worker first. A step costs what it hands out, not what waits.

use crate::effect::{Attempt, AttemptExtra, Effect};
use crate::ids::{Millis, Token};
use crate::live::classes::{Kind, Turn};
use crate::partition::{Partition, Step};
use crate::record::{ExpiryCause, Record, Start};
use crate::state::families;
use crate::state::slab::NONE;

/// The counter of a token takes its lower 40 bits; the epoch stands above.
const COUNTER_BITS: u32 = 40;

impl Partition {
    /// Assigns until no class of workers has both work and room.
    pub(crate) fn assign(&mut self, now: Millis, step: &mut Step) {
        self.live.workers.refresh_stale();
        self.live.workers.classes.heed(&self.state.methods);
        for (method, priority) in std::mem::take(&mut self.state.methods.woken) {
            self.live
                .workers
                .classes
                .wake(method, priority, &self.state.methods);
        }
        let mut overdue = Vec::new();
        while !self.live.workers.classes.active.is_empty() {
            self.round(now, &mut overdue);
        }
        // What is past its deadline never starts, however late the timer is.
        self.expire(overdue, ExpiryCause::BeforeStart, step);
        self.send(step);
    }

    /// Gives every hungry worker of every active class its share of what is ready.
    fn round(&mut self, now: Millis, overdue: &mut Vec<u32>) {
        let classes = &mut self.live.workers.classes;
        let mut active: Vec<u32> = classes.active.iter().copied().collect();
        let hungry: u64 = active
            .iter()
            .map(|class| classes.list[*class].hungry.len() as u64)
            .sum();
        self.live.rounds += 1;
        let turn = self.live.rounds as usize % active.len().max(1);
        active.rotate_left(turn);
        for class in active {
            self.serve_class(class, hungry.max(1), now, overdue);
        }
    }

    fn serve_class(&mut self, class: u32, hungry: u64, now: Millis, overdue: &mut Vec<u32>) {
        // No worker gets more than a frame in a round, so there is no need to count further.
        let enough = hungry.saturating_mul(self.config.frame_attempts_max.max(1) as u64);
        let classes = &mut self.live.workers.classes;
        let entry = &mut classes.list[class];
        let mut ready = if entry.hungry.is_empty() {
            0
        } else {
            entry.ready(&self.state.methods, enough, now)
        };
        if ready == 0 {
            classes.active.remove(&class);
            return;
        }
        // While anybody has a free slot, nobody is given work ahead that would wait there.
        let free = entry.with_free_slots();
        let others = entry.hungry.len() - free.unwrap_or(entry.hungry.len());
        let share = ready.div_ceil(hungry.saturating_sub(others as u64).max(1));
        let most = usize::try_from(ready.div_ceil(share)).unwrap_or(usize::MAX);
        let mut all = 0;
        let workers: Vec<u32> = entry
            .hungry
            .iter()
            .take(most.min(free.unwrap_or(usize::MAX)))
            .map(|(_, _, worker)| *worker)
            .collect();
        for worker in workers {
            if ready == 0 {
                break;
            }
            let entry = &self.live.workers.slab[worker];
            let room = if free.is_some() {
                entry.free_slots().min(entry.room())
            } else {
                entry.room()
            };
            let room = u64::from(room);
            let given = self.give(class, worker, share.min(room).min(ready), now, overdue);
            all += given;
            ready = ready.saturating_sub(given);
            self.live.workers.slab[worker].served = self.live.rounds;
            self.live.workers.refresh(worker);
        }
        // What is left needs free slots. When there are any again, the class is told.
        if all == 0 {
            self.live.workers.classes.active.remove(&class);
        }
    }

    /// Gives a worker up to `count` tasks. How many left the ready lists.
    fn give(
        &mut self,
        class: u32,
        worker: u32,
        count: u64,
        now: Millis,
        overdue: &mut Vec<u32>,
    ) -> u64 {
        let mut taken = 0;
        while taken < count && self.live.workers.slab[worker].room() > 0 {
            let free = u64::from(self.live.workers.slab[worker].free_slots());
            let entry = &mut self.live.workers.classes.list[class];
            let Some(turn) = entry.turn(free, &self.state.methods) else {
                break;
            };
            let most = turn.most.min(count - taken);
            let before = self.live.tokens;
            taken += self.serve(class, worker, (turn, most), now, overdue);
            // Each start has a token.
            let began = self.live.tokens - before;
            self.live.workers.classes.list[class].ended(&turn, began, &self.state.methods);
            self.live.workers.tell(worker);
        }
        taken
    }

    /// Gives a worker up to so many tasks of a turn. How many left the ready list.
    fn serve(
        &mut self,
        class: u32,
        worker: u32,
        (turn, most): (Turn, u64),
        now: Millis,
        overdue: &mut Vec<u32>,
    ) -> u64 {
        let position = self.live.workers.slab[worker].positions[turn.index as usize];
        for taken in 0..most {
            let methods = &mut self.state.methods;
            let slot = methods.first_ready(turn.method, turn.priority);
            let room = self.live.workers.slab[worker].room();
            if slot == NONE || room == 0 || methods.is_barred(turn.method) {
                return taken;
            }
            // A start may leave nothing to pass over: what limits one priority limits the others.
            if let Kind::Over(method, priority) = turn.kind
                && !methods.may_start_first(method, priority)
            {
                return taken;
            }
            let tasks = &mut self.state.tasks;
            let grace = u64::from(crate::mutant::is(crate::mutant::Mutant::ExpiredStarts));
            if tasks[slot].expire_at + grace <= now {
                methods.remove_ready(tasks, slot, now);
                overdue.push(slot);
            } else {
                methods.begin(tasks, slot, now);
                self.grant(slot, worker, position, now);
                self.live.workers.classes.list[class].began(&turn);
            }
        }
        most
    }

    /// The token of the next attempt.
    pub(crate) fn next_token(&self) -> Token {
        let epoch = if crate::mutant::is(crate::mutant::Mutant::TokenWithoutEpoch) {
            0
        } else {
            self.config.epoch
        };
        Token(epoch << COUNTER_BITS | (self.live.tokens + 1))
    }

    fn grant(&mut self, slot: u32, worker: u32, method: u32, now: Millis) {
        let token = self.next_token();
        self.live.tokens += 1;
        debug_assert!(
            self.live.tokens < 1 << COUNTER_BITS,
            "the counter stays below the epoch"
        );
        let task = &self.state.tasks[slot];
        let attempt = u32::from(task.attempt) + 1;
        let policy = self.state.methods.policy(task.method);
        let remaining = task.expire_at - now;
        let granted = Attempt {
            task: task.id,
            token,
            method,
            attempt,
            timeout_ms: remaining.min(policy.attempt_timeout_ms),
            request: self.state.blobs.request(task),
            envelope: self.state.blobs.envelope(task),
            extra: task.rare.as_ref().and_then(|_| self.extra(slot)),
            created_at: task.created_at,
        };
        let start = Start {
            task: task.id,
            token,
            attempt,
        };
        let worker_number = worker;
        let worker = &mut self.live.workers.slab[worker];
        if worker.starts.is_empty() {
            self.live.workers.touched.push(worker_number);
        }
        *worker.counter(false, policy.latency) += 1;
        worker.gate.take_permit();
        worker.sends(u64::from(granted.request.len) + u64::from(granted.envelope.len));
        worker.starts.push(start);
        worker.attempts.push(granted);
    }

    /// Records what was granted and makes frames of it.
    fn send(&mut self, step: &mut Step) {
        let frame = self.config.frame_attempts_max.max(1);
        for number in std::mem::take(&mut self.live.workers.touched) {
            let worker = &mut self.live.workers.slab[number];
            let starts = std::mem::take(&mut worker.starts);
            let attempts = std::mem::take(&mut worker.attempts);
            let (conn, first) = (worker.conn, worker.sent + 1);
            worker.sent += attempts.len().div_ceil(frame) as u64;
            let record = Record::Started {
                worker: worker.id.clone(),
                starts,
            };
            self.commit(record, step);
            let mut sequence = first;
            let mut in_frame = 0;
            for attempt in &attempts {
                if in_frame == frame {
                    (sequence, in_frame) = (sequence + 1, 0);
                }
                in_frame += 1;
                if let Some(slot) = self.state.tasks.find(attempt.task) {
                    self.hold(slot, number, sequence);
                }
            }
            let mut attempts = attempts.into_iter().peekable();
            let mut sequence = first;
            while attempts.peek().is_some() {
                step.effects.push(Effect::Attempts {
                    conn,
                    sequence,
                    attempts: attempts.by_ref().take(frame).collect(),
                });
                sequence += 1;
            }
        }
    }

    /// Ties a lease to an attached worker; its attempt's own time is limited from now on.
    pub(crate) fn hold(&mut self, slot: u32, worker: u32, sequence: u64) {
        let lease = self.state.tasks[slot].lease();
        if lease == NONE {
            debug_assert!(false, "a task that was started has a lease");
            return;
        }
        let latency = self.latency_of(slot);
        self.state.leases.slab[lease].latency = latency;
        let entry = &mut self.live.workers.slab[worker];
        self.state
            .leases
            .attach(&mut entry.first_lease, lease, worker, sequence);
        self.state.arm(slot);
        self.changed(slot);
    }

    fn extra(&self, slot: u32) -> Option<Box<AttemptExtra>> {
        let task = &self.state.tasks[slot];
        let extra = AttemptExtra {
            idempotency_key: task.idempotency_key().cloned(),
            ordering_key: task.ordering_key().cloned(),
            recorded_children: task.family().map_or(0, |family| family.count),
            parent: task.birth().map(|birth| birth.parent),
            flag_key: self.inherited_flag_key(slot),
            flags: families::flags(&self.state.tasks, slot),
        };
        let rare = extra.idempotency_key.is_some()
            || extra.ordering_key.is_some()
            || extra.recorded_children > 0
            || extra.parent.is_some();
        rare.then(|| Box::new(extra))
    }
}
