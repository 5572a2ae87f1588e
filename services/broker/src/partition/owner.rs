//! The task that owns the state machine.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;

use plait_broker_core::Partition;
use plait_broker_core::command::Command;
use plait_broker_core::ids::{ConnId, Millis, Offset};
use plait_broker_log::format::frame_size;
use plait_broker_log::{FRAME_HEADER_LEN, SegmentInfo};
use tokio::sync::{mpsc, watch};
use tokio::time::Sleep;

use super::Failure;
use super::archiver::Archiver;
use super::group::Group;
use super::handle::Input;
use super::snapshot::{Schedule, Taking};
use super::test_kit::{Deed, TestKit};
use super::writer::{Job, Sealed, Writer};
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::journal;
use crate::outbound::End;
use crate::outbox::Outbox;
use crate::status;

/// Inputs taken from the inbox at once.
const INPUTS_AT_ONCE: usize = 256;

/// What an owner is made of.
pub(super) struct Parts {
    pub(super) partition: Partition,
    pub(super) clock: Clock,
    pub(super) entropy: Entropy,
    pub(super) inputs: mpsc::UnboundedReceiver<Input>,
    pub(super) writer: Writer,
    pub(super) archiver: Archiver,
    pub(super) outbox: Arc<Outbox>,
    /// Where the next frame will be.
    pub(super) tail: Offset,
    pub(super) snapshots: Schedule,
    /// Told when nothing runs after a drain began.
    pub(super) drained: watch::Sender<bool>,
    /// Only for tests of users.
    pub(super) test_kit: Option<TestKit>,
}

/// Applies commands, seals groups, and hands them to the log's thread.
pub(super) struct Owner {
    parts: Parts,
    group: Group,
    taking: Taking,
    timer: Timer,
    draining: bool,
    stopping: bool,
}

impl Owner {
    pub(super) fn new(parts: Parts) -> Self {
        let (group, timer) = (Group::default(), Timer::default());
        Self {
            parts,
            group,
            taking: Taking::default(),
            timer,
            draining: false,
            stopping: false,
        }
    }

    /// Runs until stopped, or until the log fails. Either way every stream and call is told.
    pub(super) async fn run(mut self) -> Result<(), Failure> {
        let mut result = self.work().await;
        self.parts.archiver.finish().await;
        if result.is_ok() {
            self.parts.inputs.close();
            result = self.parts.writer.finish().await;
        }
        let end = match &result {
            Ok(()) => status::draining(),
            Err(_) => status::log_failed(),
        };
        // First the inbox, so that a call that comes now finds it closed, then those that wait.
        drop(self.parts.inputs);
        self.parts
            .outbox
            .end_all(&End::Status(Box::new(end.into())));
        result
    }

    async fn work(&mut self) -> Result<(), Failure> {
        let mut inputs = Vec::with_capacity(INPUTS_AT_ONCE);
        loop {
            // A timer waits for the open group: its time is over, the next group's is later.
            let due = if self.group.is_open() {
                None
            } else {
                self.parts.partition.next_timer()
            };
            let timer = self.timer.until(due, &self.parts.clock);
            tokio::select! {
                biased;
                () = self.parts.writer.progress(self.group.is_open()) => {}
                taken = self.parts.inputs.recv_many(&mut inputs, INPUTS_AT_ONCE),
                    if !self.group.is_full() => {
                    if taken == 0 {
                        return Ok(());
                    }
                }
                () = timer => {}
                () = self.parts.archiver.room() => {}
                () = self.taking.room() => {}
            }
            self.parts.writer.check()?;
            self.tick();
            self.take_all(&mut inputs);
            if self.parts.writer.has_room() {
                self.seal()?;
            }
            if self.move_clock() && self.parts.writer.has_room() {
                self.seal()?;
            }
            self.archive();
            self.taking.advance(&mut self.parts.partition).await?;
            if self.stopping && !self.group.is_open() {
                return self.last_snapshot().await;
            }
        }
    }

    /// Lets the timers that are due go off, at the start of a group.
    fn tick(&mut self) {
        if self.group.is_open() {
            return;
        }
        let now = self.parts.clock.now();
        if self
            .parts
            .partition
            .next_timer()
            .is_some_and(|due| due <= now)
        {
            self.group.time(|| now);
            self.apply(Command::Tick);
        }
    }

    fn take_all(&mut self, inputs: &mut Vec<Input>) {
        for input in inputs.drain(..) {
            self.take(input);
        }
        while !self.group.is_full() {
            let Ok(input) = self.parts.inputs.try_recv() else {
                return;
            };
            self.take(input);
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Command(command, cost) => {
                self.group.add_cost(cost);
                self.apply(command);
            }
            Input::Query(query) => {
                let now = self.now();
                let answer = query(&mut self.parts.partition, now);
                self.group.add_answer(answer);
            }
            Input::SnapshotDone { written } => {
                if self.parts.snapshots.done(written) {
                    self.parts.writer.send(Job::ListSegments);
                }
            }
            Input::Archived { archive, written } => {
                if !written {
                    self.parts.archiver.failed(self.parts.clock.now());
                }
                self.apply(Command::ArchiveWritten { archive, written });
            }
            Input::Segments {
                keep_from,
                segments,
            } => self.release(keep_from, &segments),
            Input::Kit(order) => {
                if let Some(kit) = &mut self.parts.test_kit {
                    kit.take(order);
                }
            }
            Input::Drain => {
                self.draining = true;
                // Opens a group, so that the state is looked at when it is sealed.
                self.now();
            }
            Input::Stop => self.stopping = true,
        }
    }

    /// Moves the clock ahead where a test asked for it and nothing but time is missing. Whether that opened a group.
    fn move_clock(&mut self) -> bool {
        let Some(kit) = &mut self.parts.test_kit else {
            return false;
        };
        if self.group.is_open() {
            return false;
        }
        let answer = kit.advance(&self.parts.partition, &mut self.parts.clock);
        // It was set by the clock as it was.
        self.timer = Timer::default();
        let Some(answer) = answer else {
            return false;
        };
        self.now();
        self.group.add_answer(answer);
        true
    }

    /// Moves some finished tasks on to their archive file.
    fn archive(&mut self) {
        if !self.stopping {
            let now = self.parts.clock.now();
            self.parts.archiver.advance(&mut self.parts.partition, now);
        }
    }

    fn now(&mut self) -> Millis {
        self.group.time(|| self.parts.clock.now())
    }

    fn apply(&mut self, command: Command) {
        let now = self.now();
        let mut command = command;
        let harm = match &mut self.parts.test_kit {
            Some(kit) => kit.arriving(&mut command),
            None => Vec::new(),
        };
        let entropy = self.parts.entropy.draw();
        self.parts.outbox.applying(now, &command);
        self.parts
            .partition
            .apply(command, now, entropy, &mut self.group.step);
        for harm in harm {
            self.harm(harm);
        }
    }

    /// Does to a worker what a test asked for.
    fn harm(&mut self, (conn, deed): (ConnId, Deed)) {
        match deed {
            Deed::EndStream(status) => self.parts.outbox.end(conn, End::Status(status)),
            Deed::Tell(command, stop) => {
                self.apply(command);
                self.group.step.effects.extend(stop);
            }
        }
    }

    /// Hands READY tasks out. Attempts that are to fail before they begin are over at once, so there may be more.
    fn dispatch(&mut self, now: Millis) {
        loop {
            let entropy = self.parts.entropy.draw();
            let step = &mut self.group.step;
            let before = step.effects.len();
            self.parts.partition.dispatch(now, entropy, step);
            let Some(kit) = &mut self.parts.test_kit else {
                return;
            };
            let failed = kit.leaving(&self.parts.partition, &mut step.effects[before..]);
            if failed.is_empty() {
                return;
            }
            failed.into_iter().for_each(|command| self.apply(command));
        }
    }

    /// Closes the group and sends it to the log's thread; one without records and with nothing before it is
    /// carried out at once.
    fn seal(&mut self) -> Result<(), Failure> {
        if !self.group.is_open() {
            return Ok(());
        }
        let now = self.now();
        if self.draining {
            let running = self.parts.partition.in_flight();
            // Whoever waited may be gone.
            let _ = self.parts.drained.send(running == 0);
        } else {
            self.dispatch(now);
        }
        let releasable = self.group.log_releasable();
        let released = self.group.archives_released();
        if !released.is_empty() {
            let remove = self.parts.archiver.remover(released);
            self.group.add_answer(Box::new(remove));
        }
        let (records, release) = self.group.close();
        if records.is_empty() {
            if self.parts.writer.is_idle() {
                self.parts.outbox.release(release);
            } else if !release.is_empty() {
                self.parts.writer.send_group(Sealed {
                    frame: None,
                    at: self.parts.tail,
                    release,
                });
            }
        } else {
            let frame = journal::encode(records, now)?;
            let (at, len) = (self.parts.tail, frame.len());
            self.parts
                .partition
                .place(at + FRAME_HEADER_LEN + frame.head.len() as u64);
            self.parts.tail += frame_size(len);
            self.parts.writer.send_group(Sealed {
                frame: Some(frame),
                at,
                release,
            });
        }
        if releasable && self.parts.snapshots.may_release() {
            self.parts.writer.send(Job::ListSegments);
        }
        let (_, tasks) = self.parts.partition.load();
        if self.parts.snapshots.is_due(self.parts.tail, tasks) {
            self.snapshot(now);
        }
        Ok(())
    }

    /// Begins to take the state as it is after the last sealed frame.
    fn snapshot(&mut self, now: Millis) {
        let at = self.parts.tail;
        let (_, tasks) = self.parts.partition.load();
        let parts = self.taking.begin(&mut self.parts.partition, now);
        self.parts.snapshots.begun(at, tasks);
        self.parts.writer.send(Job::Snapshot { at, parts });
    }

    async fn last_snapshot(&mut self) -> Result<(), Failure> {
        self.taking.finish(&mut self.parts.partition).await?;
        if self.parts.snapshots.is_stale(self.parts.tail) {
            let now = self.parts.clock.now();
            self.snapshot(now);
            self.taking.finish(&mut self.parts.partition).await?;
        }
        Ok(())
    }

    /// Lets go of the segments below `keep_from` in which no live payload lies.
    fn release(&mut self, keep_from: Offset, segments: &[SegmentInfo]) {
        let partition = &self.parts.partition;
        let free = |s: &&SegmentInfo| s.end <= keep_from && !partition.needs(s.base, s.end);
        let free: Vec<Offset> = segments.iter().filter(free).map(|s| s.base).collect();
        if !free.is_empty() {
            self.parts.writer.send(Job::Release { keep_from, free });
        }
    }
}

/// A timer that is set anew only when its time changes.
#[derive(Debug, Default)]
struct Timer {
    due: Option<Millis>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    async fn until(&mut self, due: Option<Millis>, clock: &Clock) {
        let Some(at) = due else {
            return pending().await;
        };
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(clock.instant_of(at))));
        if self.due != due {
            sleep.as_mut().reset(clock.instant_of(at));
            self.due = due;
        }
        sleep.await;
        // A timer that went off is not polled again.
        self.sleep = None;
        self.due = None;
    }
}
