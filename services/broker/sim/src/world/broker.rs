//! The broker's shell, in one thread and on virtual time: the order of steps is that of the partition's owner and of
//! the log's thread; the state machine, the journal, the log and recovery are the real ones.

use super::archive::Filling;
use super::story::{Answer, Deferred};
use super::{Action, World};
use crate::points::Point;
use bytes::Bytes;
use plait_broker::journal::{self, EncodedFrame};
use plait_broker::partition::fallback;
use plait_broker_core::command::Command;
use plait_broker_core::effect::Effect;
use plait_broker_core::ids::{Millis, Offset};
use plait_broker_core::record::Record;
use plait_broker_core::{Partition, Step};
use plait_broker_log::format::frame_size;
use plait_broker_log::{FRAME_HEADER_LEN, FileLog, Log, LogReader};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

/// Groups on their way at once, as in the real writer.
const GROUPS_MAX: usize = 2;

/// A broker that lives.
#[derive(Debug)]
pub(super) struct Broker {
    pub(super) partition: Partition,
    pub(super) log: FileLog,
    pub(super) reader: Arc<dyn LogReader>,
    /// Its clock: `base` at virtual time `started`.
    pub(super) base: Millis,
    pub(super) started: u64,
    /// The time of the group that forms.
    group: Option<Millis>,
    step: Step,
    answers: Vec<Answer>,
    pub(super) jobs: VecDeque<Job>,
    tail: Offset,
    sealing: bool,
    syncing: bool,
    snapshot: Option<(Offset, Vec<Bytes>)>,
    /// A snapshot that is being taken from the partition: its place, its time, and what came so far.
    taking: Option<(Offset, Millis, Vec<Bytes>)>,
    tick_at: Option<u64>,
    may_release: bool,
    /// The archive file that is being filled.
    pub(super) filling: Option<Filling>,
}

/// Work of the log's thread, in order.
#[derive(Debug)]
pub(super) enum Job {
    Group {
        frame: Option<EncodedFrame>,
        time: Millis,
        effects: Vec<Effect>,
        answers: Vec<Answer>,
    },
    Snapshot {
        at: Offset,
        chunks: Vec<Bytes>,
    },
    ListSegments,
    Release {
        keep_from: Offset,
        free: Vec<Offset>,
    },
}

impl Broker {
    pub(super) fn new(partition: Partition, log: FileLog, base: Millis, started: u64) -> Self {
        let (reader, tail) = (log.reader(), log.tail());
        let may_release = !log.snapshots().is_empty();
        Self {
            partition,
            reader,
            base,
            started,
            group: None,
            step: Step::default(),
            answers: Vec::new(),
            jobs: VecDeque::new(),
            tail,
            sealing: false,
            syncing: false,
            snapshot: None,
            taking: None,
            tick_at: None,
            may_release,
            filling: None,
            log,
        }
    }

    /// The broker's clock.
    pub(super) fn clock(&self, now: u64) -> Millis {
        self.base + (now - self.started) / 1_000
    }

    /// The virtual time at which the clock reaches `at`.
    pub(super) fn virtual_of(&self, at: Millis) -> u64 {
        self.started
            .saturating_add(at.saturating_sub(self.base).saturating_mul(1_000))
    }

    /// The time that a command would have now.
    pub(super) fn time(&self, now: u64) -> Millis {
        self.group.unwrap_or_else(|| self.clock(now))
    }

    /// The time of the group, which begins now if there is none.
    pub(super) fn open(&mut self, now: u64) -> Millis {
        let clock = self.clock(now);
        *self.group.get_or_insert(clock)
    }

    fn groups(&self) -> usize {
        let is_group = |job: &&Job| matches!(job, Job::Group { .. });
        self.jobs.iter().filter(is_group).count()
    }

    /// Whether nothing that was decided is still on its way to the disk.
    pub(super) fn is_quiet(&self) -> bool {
        self.group.is_none() && self.groups() == 0
    }

    /// Puts a frame into the log, as the log's thread does.
    pub(super) fn append(
        &mut self,
        frame: &EncodedFrame,
    ) -> Result<(), plait_broker_log::LogError> {
        let mut parts = Vec::with_capacity(1 + frame.payloads.len());
        parts.push(IoSlice::new(&frame.head));
        parts.extend(frame.payloads.iter().map(|payload| IoSlice::new(payload)));
        self.log.append(&parts).map(drop)
    }
}

impl World {
    /// A command reaches the state machine.
    pub(super) fn command(&mut self, command: Command) {
        let late = self.dice.permille(self.plan.late_timers);
        self.command_with(command, late);
    }

    /// A command reaches the state machine; with `late`, before the timers that are due.
    pub(super) fn command_with(&mut self, command: Command, late: bool) {
        let entropy = self.dice.number();
        let now = self.now;
        let Some(broker) = self.broker.as_mut() else {
            return;
        };
        if broker.group.is_none() {
            let clock = broker.clock(now);
            if broker
                .partition
                .next_timer()
                .is_some_and(|due| due <= clock)
            {
                if late {
                    self.points.hit(Point::LateTimer);
                } else {
                    let time = broker.open(now);
                    broker
                        .partition
                        .apply(Command::Tick, time, entropy ^ 1, &mut broker.step);
                }
            }
        }
        let time = broker.open(now);
        broker
            .partition
            .apply(command, time, entropy, &mut broker.step);
        self.schedule_seal();
    }

    /// Something to tell with the group that forms.
    pub(super) fn answer(&mut self, answer: Deferred) {
        let now = self.now;
        if let Some(broker) = self.broker.as_mut() {
            broker.open(now);
            broker.answers.push((broker.step.effects.len(), answer));
            self.schedule_seal();
        }
    }

    fn schedule_seal(&mut self) {
        let delay = self.dice.below(300);
        let (at, life) = (self.now + delay, self.life);
        if let Some(broker) = self.broker.as_mut()
            && !broker.sealing
            && broker.group.is_some()
            && broker.groups() < GROUPS_MAX
        {
            broker.sealing = true;
            self.at(at, Action::Seal(life));
        }
    }

    /// Closes the group and hands it to the log's thread.
    pub(super) fn seal(&mut self) {
        let entropy = self.dice.number();
        let snapshot = self.dice.permille(self.plan.snapshots);
        let Some(broker) = self.broker.as_mut() else {
            return;
        };
        broker.sealing = false;
        let Some(time) = broker.group else { return };
        broker.partition.dispatch(time, entropy, &mut broker.step);
        broker.group = None;
        let Step { records, effects } = std::mem::take(&mut broker.step);
        let answers = std::mem::take(&mut broker.answers);
        let releasable = effects
            .iter()
            .any(|effect| matches!(effect, Effect::LogReleasable));
        for record in &records {
            if let Record::Submitted { tasks, .. } = record {
                let ids = tasks.iter().map(|task| (task.id.0, time));
                self.created.extend(ids);
            }
        }
        if records.is_empty() && broker.jobs.is_empty() {
            self.release(time, effects, answers);
        } else {
            self.enqueue(time, records, effects, answers);
        }
        let Some(broker) = self.broker.as_mut() else {
            return;
        };
        if releasable && broker.may_release {
            broker.jobs.push_back(Job::ListSegments);
        }
        if snapshot && broker.snapshot.is_none() && broker.taking.is_none() {
            broker.partition.begin_image(time);
            broker.taking = Some((broker.tail, time, Vec::new()));
        }
        self.take_image();
        self.advance_archive();
        self.schedule_sync();
        self.schedule_tick();
    }

    fn enqueue(
        &mut self,
        time: Millis,
        records: Vec<Record>,
        effects: Vec<Effect>,
        answers: Vec<Answer>,
    ) {
        let Some(broker) = self.broker.as_mut() else {
            return;
        };
        let frame = if records.is_empty() {
            None
        } else {
            let encoded = journal::encode(records, time);
            let Ok(frame) = encoded else {
                let text = format!("records cannot be encoded: {encoded:?}");
                return self.wrong(crate::check::Invariant::AckedIsKept, text);
            };
            let area = broker.tail + FRAME_HEADER_LEN + frame.head.len() as u64;
            broker.partition.place(area);
            broker.tail += frame_size(frame.len());
            Some(frame)
        };
        let (effects, answers) = if crate::mutants::ack_before_sync() {
            self.release(time, effects, answers);
            (Vec::new(), Vec::new())
        } else {
            (effects, answers)
        };
        let Some(broker) = self.broker.as_mut() else {
            return;
        };
        broker.jobs.push_back(Job::Group {
            frame,
            time,
            effects,
            answers,
        });
        if broker.groups() == GROUPS_MAX {
            self.points.hit(Point::TwoGroups);
        }
    }

    /// Takes some parts of the snapshot that was begun. Once it is whole it is written behind everything that is on its
    /// way.
    fn take_image(&mut self) {
        let Some(broker) = self.broker.as_mut() else {
            return;
        };
        let Some((at, time, mut chunks)) = broker.taking.take() else {
            return;
        };
        let parts = [0, 1, 2, 3, usize::MAX][self.dice.below(5) as usize];
        let most = [1, 5, 256][self.dice.below(3) as usize];
        for _ in 0..parts {
            let Some(record) = broker.partition.image_part(most) else {
                broker.snapshot = Some((at, Vec::new()));
                broker.jobs.push_back(Job::Snapshot { at, chunks });
                return;
            };
            match journal::encode_image(vec![record], time) {
                Ok(chunk) => chunks.push(chunk),
                Err(error) => {
                    let text = format!("a snapshot cannot be encoded: {error}");
                    return self.wrong(crate::check::Invariant::AckedIsKept, text);
                }
            }
        }
        if broker.partition.image_backlog() > 0 {
            self.points.hit(Point::SnapshotBehind);
        }
        broker.taking = Some((at, time, chunks));
    }

    fn schedule_sync(&mut self) {
        let delay = self.dice.span(self.plan.sync);
        let (at, life) = (self.now + delay, self.life);
        if let Some(broker) = self.broker.as_mut()
            && !broker.syncing
            && !broker.jobs.is_empty()
        {
            broker.syncing = true;
            self.at(at, Action::Sync(life));
        }
    }

    /// The log's thread has done one piece of work.
    pub(super) fn sync(&mut self) {
        let Some(broker) = self.broker.as_mut() else {
            return;
        };
        broker.syncing = false;
        let Some(job) = broker.jobs.pop_front() else {
            return;
        };
        let done = match job {
            Job::Group {
                frame,
                time,
                effects,
                answers,
            } => {
                let appended = frame.map_or(Ok(()), |frame| broker.append(&frame));
                if appended.is_ok() {
                    self.release(time, effects, answers);
                }
                appended
            }
            Job::Snapshot { at, chunks } => {
                broker.snapshot = Some((at, chunks));
                let delay = self.dice.span(4 * self.plan.sync);
                self.after(delay, Action::WriteSnapshot(self.life));
                Ok(())
            }
            Job::ListSegments => {
                self.list_segments();
                Ok(())
            }
            Job::Release { keep_from, free } => {
                let released = broker
                    .log
                    .release(keep_from, &|base, _| !free.contains(&base));
                released.map(|released| {
                    if !released.segments.is_empty() {
                        self.points.hit(Point::SegmentsReleased);
                    }
                })
            }
        };
        match done {
            Ok(()) => {
                self.schedule_sync();
                self.schedule_seal();
                self.schedule_tick();
            }
            Err(error) => self.log_failed(&error),
        }
    }

    /// Segments that no restart needs and in which no live payload lies may go.
    fn list_segments(&mut self) {
        let Some(broker) = self.broker.as_mut() else {
            return;
        };
        let keep_from = fallback(&broker.log.snapshots());
        let partition = &broker.partition;
        let segments = broker.log.segments();
        let free = segments
            .iter()
            .filter(|s| s.end <= keep_from && !partition.needs(s.base, s.end));
        let free: Vec<Offset> = free.map(|s| s.base).collect();
        if !free.is_empty() {
            broker.jobs.push_back(Job::Release { keep_from, free });
        }
    }

    /// A snapshot that cannot be written is given up; the log goes on.
    pub(super) fn write_snapshot(&mut self) {
        let Some(broker) = self.broker.as_mut() else {
            return;
        };
        let Some((at, chunks)) = broker.snapshot.take() else {
            return;
        };
        let written = broker.log.snapshot_writer().install(at, &mut |out| {
            chunks.iter().try_for_each(|chunk| out.write_all(chunk))
        });
        if written.is_ok() {
            broker.may_release = true;
            broker.jobs.push_back(Job::ListSegments);
            self.points.hit(Point::SnapshotTaken);
            self.schedule_sync();
        } else {
            self.points.hit(Point::SnapshotFailed);
            if self.disk.is_off() {
                self.crash(true);
            }
        }
    }

    pub(super) fn schedule_tick(&mut self) {
        let late = self.dice.permille(self.plan.late_timers);
        let delay = if late { self.dice.below(40_000) } else { 0 };
        let (now, life) = (self.now, self.life);
        let Some(broker) = self.broker.as_mut() else {
            return;
        };
        if broker.group.is_some() {
            return;
        }
        let Some(due) = broker.partition.next_timer() else {
            return;
        };
        let at = broker.virtual_of(due).max(now) + delay;
        if broker
            .tick_at
            .is_none_or(|planned| planned > at || planned <= now)
        {
            broker.tick_at = Some(at);
            self.at(at, Action::Tick(life));
        }
    }

    pub(super) fn ticked(&mut self) {
        let entropy = self.dice.number();
        let now = self.now;
        let Some(broker) = self.broker.as_mut() else {
            return;
        };
        broker.tick_at = None;
        if broker.group.is_some() {
            // The group is sealed soon, and the timers are looked at again.
            return;
        }
        let clock = broker.clock(now);
        if broker
            .partition
            .next_timer()
            .is_some_and(|due| due <= clock)
        {
            let time = broker.open(now);
            broker
                .partition
                .apply(Command::Tick, time, entropy, &mut broker.step);
            self.schedule_seal();
        } else {
            self.schedule_tick();
        }
    }
}
