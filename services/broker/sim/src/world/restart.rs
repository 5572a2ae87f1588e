//! The broker's death and its next life.

use super::broker::{Broker, Job};
use super::{Action, START, World, policies};
use crate::check::Invariant;
use crate::disk::Watched;
use crate::history::Event;
use crate::points::Point;
use plait_broker::partition::{RecoveryError, check_archives, claim, recover};
use plait_broker::{splits, weights};
use plait_broker_core::Config;
use plait_broker_core::command::Command;
use plait_broker_core::ids::{Millis, ReplyTag};
use plait_broker_core::split::SPLITS_KEY;
use plait_broker_core::weight::WEIGHTS_PREFIX;
use plait_broker_log::sim::Faults;
use plait_broker_log::{FileLog, FileLogOptions, Log, LogError};

/// Opens that fail by faults in a row, after which the disk is healed: a machine that never comes up shows nothing.
const BOOTS_MAX: u32 = 4;

impl World {
    /// The log failed: the broker stops, as it must.
    pub(super) fn log_failed(&mut self, error: &LogError) {
        let injected = matches!(error, LogError::Io { .. } | LogError::Poisoned);
        if !injected {
            self.wrong(Invariant::AckedIsKept, format!("the log says: {error}"));
        }
        self.hit(Point::AppendFailed);
        let power = self.disk.is_off();
        self.crash(power);
    }

    /// The broker dies, in the midst of whatever it does.
    pub(super) fn crash(&mut self, power: bool) {
        let Some(mut broker) = self.broker.take() else {
            return;
        };
        if !self.disk.is_off() {
            self.last_write(&mut broker, power);
        }
        if power || self.disk.is_off() {
            self.disk.crash();
            self.hit(Point::PowerLost);
        } else {
            self.disk.kill();
            self.hit(Point::ProcessKilled);
        }
        drop(broker);
        self.note_disk();
        self.life += 1;
        self.crashes += 1;
        self.tell(Event::Crash {
            what: "broker".into(),
        });
        self.end_all();
        for tag in self.calls.keys().copied().collect::<Vec<ReplyTag>>() {
            let delay = self.dice.span(20_000);
            self.after(delay, Action::CallLost(tag));
        }
        let down = if self.dice.permille(50) {
            5_000_000
        } else {
            150_000
        };
        let delay = self.dice.span(down);
        self.after(delay, Action::Boot);
    }

    /// How far the log's thread came with the group that it was about to write.
    fn last_write(&mut self, broker: &mut Broker, power: bool) {
        let Some(Job::Group {
            frame: Some(frame), ..
        }) = broker.jobs.pop_front()
        else {
            return;
        };
        match self.dice.below(3) {
            0 => self.hit(Point::CutBeforeWrite),
            1 if power => {
                self.disk.cut_power_at(self.dice.below(3));
                // It fails, or it is durable and nobody hears of it.
                let _ = broker.append(&frame);
            }
            _ => {
                if broker.append(&frame).is_ok() {
                    self.hit(Point::CutAfterSync);
                }
            }
        }
    }

    /// What the disk met since this was asked last.
    fn note_disk(&mut self) {
        for point in self.seen.take() {
            self.hit(point);
        }
    }

    fn config(&self, epoch: u64) -> Config {
        Config {
            epoch,
            resident_bytes_max: self.plan.resident_bytes_max,
            queue_tasks_max: self.plan.queue_tasks_max,
            reattach_grace_ms: 700,
            divergence_grace_ms: 200,
            session_ttl_ms: 3_600_000,
            finished_in_memory: self.plan.finished_in_memory,
            frame_attempts_max: self.plan.frame_attempts_max,
        }
    }

    /// Opens the log, rebuilds the state, goes on.
    pub(super) fn boot(&mut self) {
        if self.broker.is_some() {
            return;
        }
        let errors = self.seen.errors();
        if self.crashes > 0 && self.healing.is_none() && self.dice.permille(80) {
            self.disk.cut_power_at(self.dice.below(25));
        }
        let options = FileLogOptions {
            segment_bytes: 32 * 1024,
            first_segment_bytes: 8 * 1024,
            background: false,
            spares_max: 2,
            ..FileLogOptions::default()
        };
        let disk = Watched::mount(&self.disk, &self.seen);
        let opened = FileLog::inspect_on(disk, options)
            .map_err(RecoveryError::from)
            .and_then(|mut log| {
                let config = self.config(log.epoch());
                let state = recover(&log, config, self.seed)?;
                let stale = check_archives(&*log.archive(), &state.partition)?;
                claim(&mut log, &stale)?;
                Ok((log, state))
            });
        let injected = self.seen.errors() > errors || self.disk.is_off();
        let in_recovery = self.disk.is_off();
        match opened {
            Ok((log, state)) => {
                if state.found.snapshot_records > 0 {
                    self.hit(Point::SnapshotLoaded);
                }
                self.serve(state.partition, log, state.time);
            }
            Err(error) if injected => {
                self.hit(if in_recovery {
                    Point::CutInRecovery
                } else {
                    Point::OpenFailed
                });
                let _ = error;
                self.boot_again(in_recovery);
            }
            Err(error) => {
                let text =
                    format!("the log does not open, and nothing is wrong with the disk: {error}");
                self.wrong(Invariant::AckedIsKept, text);
            }
        }
        self.note_disk();
    }

    fn boot_again(&mut self, power: bool) {
        if power {
            self.disk.crash();
        } else {
            self.disk.kill();
        }
        self.crashes += u64::from(power);
        self.boot_attempts += 1;
        if self.boot_attempts >= BOOTS_MAX {
            self.disk.set_faults(Faults::default());
        }
        let delay = self.dice.span(100_000);
        self.after(delay, Action::Boot);
    }

    fn serve(&mut self, mut partition: plait_broker_core::Partition, log: FileLog, last: Millis) {
        self.boot_attempts = 0;
        if self.crashes > 0 && self.plan.clock_steps && self.dice.permille(400) {
            self.step_clock();
        }
        let wall = (START + self.now / 1_000).saturating_add_signed(self.skew);
        let base = wall.max(last);
        partition.recovered(base);
        splits::restore(&mut partition, base);
        if !partition
            .kv_get(SPLITS_KEY)
            .is_none_or(|(value, _)| value.is_empty())
        {
            self.hit(Point::SplitRestored);
        }
        weights::restore(&mut partition, base);
        if !partition.kv_list(WEIGHTS_PREFIX, "", 1).is_empty() {
            self.hit(Point::WeightsRestored);
        }
        let known = !partition.policies().is_empty();
        self.broker = Some(Broker::new(partition, log, base, self.now));
        self.tell(Event::Restart {
            what: "broker".into(),
            broker_at: Some(base),
        });
        if !known {
            let policies = policies::all(self.plan.brief, &self.plan.limits);
            self.command(Command::ApplyPolicies {
                tag: ReplyTag(0),
                policies,
            });
        }
        self.schedule_tick();
    }

    fn step_clock(&mut self) {
        const HOUR_MS: i64 = 3_600_000;
        let steps = [10_000, HOUR_MS, 48 * HOUR_MS];
        let step = steps[self.dice.below(3) as usize];
        if self.dice.permille(500) {
            self.skew += step;
            self.hit(Point::ClockForward);
        } else {
            self.skew -= step;
            self.hit(Point::ClockBack);
        }
    }
}
