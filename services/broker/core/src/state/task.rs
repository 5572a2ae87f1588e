//! One task in memory. Compact, because a backlog of ten million of them has to fit: what only some
//! tasks have is boxed, and bytes of payloads are kept apart.

use super::slab::NONE;
use super::timeline::History;
use crate::effect::TaskState;
use crate::ids::{Millis, Offset, TaskId, Token};
use crate::record::{ChildKey, Failure};
use std::sync::Arc;

/// The end of time: deadlines and delays are cut here, so that a time fits 48 bits.
pub(crate) const FAR: Millis = (1 << 48) - 1;

/// Stands for "not yet in the log".
pub(crate) const UNPLACED: Offset = Offset::MAX;

/// A place in a doubly linked list.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Link {
    pub(crate) prev: u32,
    pub(crate) next: u32,
}

impl Link {
    pub(crate) const FREE: Self = Self {
        prev: NONE,
        next: NONE,
    };
}

/// The one timer of a task: when, in which bucket of the wheel, and its neighbours there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timer {
    /// 48 bits of time, 16 bits of bucket.
    packed: u64,
    pub(crate) link: Link,
}

impl Timer {
    /// The bucket of a timer that is not set.
    pub(crate) const OFF: u16 = u16::MAX;

    pub(crate) const UNSET: Self = Self {
        packed: u64::MAX,
        link: Link::FREE,
    };

    pub(crate) fn new(at: Millis, bucket: u16) -> Self {
        Self {
            packed: at.min(FAR) | u64::from(bucket) << 48,
            link: Link::FREE,
        }
    }

    pub(crate) fn at(&self) -> Millis {
        self.packed & FAR
    }

    pub(crate) fn bucket(&self) -> u16 {
        (self.packed >> 48) as u16
    }
}

/// What depends on whether the task is over.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Unfinished.
    Open {
        /// The latest token; 0: never leased.
        token: Token,
        /// Its lease, or NONE.
        lease: u32,
        /// Its place in a ready list or in its ordering line.
        link: Link,
    },
    /// Final.
    Done {
        ended_at: Millis,
        /// Where the log has the response.
        response_at: Offset,
        response_len: u32,
        /// Name of the worker that ran it last, or NONE.
        worker: u32,
    },
}

/// Flags of a task.
pub(crate) mod flag {
    /// It stands in the ready list of its method and priority.
    pub(crate) const IN_READY: u8 = 1;
    /// It waits in its ordering line behind the head.
    pub(crate) const IN_LINE: u8 = 2;
    /// It is a dead letter.
    pub(crate) const DEAD_LETTER: u8 = 4;
    /// It expired while an attempt was running.
    pub(crate) const EXPIRED_RUNNING: u8 = 8;
    /// Somebody watches it.
    pub(crate) const WATCHED: u8 = 16;
    /// More than one stream waits for it; they are listed apart.
    pub(crate) const MANY_WAITERS: u8 = 32;
    /// It is counted as running by its method's limits.
    pub(crate) const COUNTED: u8 = 64;
    /// It waits in the lane of its limit key.
    pub(crate) const IN_LANE: u8 = 128;
}

/// A task.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) id: TaskId,
    pub(crate) created_at: Millis,
    pub(crate) start_at: Millis,
    pub(crate) expire_at: Millis,
    pub(crate) timer: Timer,
    /// Where the log has the request; the envelope follows it unless [`More::envelope_at`] says otherwise.
    pub(crate) request_at: Offset,
    pub(crate) stage: Stage,
    pub(crate) rare: Option<Box<Rare>>,
    pub(crate) request_len: u32,
    pub(crate) envelope_len: u32,
    pub(crate) method: u32,
    /// Its bytes in memory, or NONE.
    pub(crate) resident: u32,
    /// The stream that waits for its result, or NONE.
    pub(crate) waiter: u32,
    /// From acceptance to the latest start, ms; NONE: never started.
    pub(crate) started_after: u32,
    pub(crate) attempt: u16,
    pub(crate) state: TaskState,
    pub(crate) priority: u8,
    pub(crate) flags: u8,
}

/// What tasks with a key have, and the way to what is rarer still.
#[derive(Debug, Default)]
pub(crate) struct Rare {
    /// Digest of the request; kept for tasks with an idempotency key or a parent.
    pub(crate) digest: u128,
    pub(crate) idempotency_key: Option<Arc<str>>,
    pub(crate) ordering_key: Option<Arc<str>>,
    pub(crate) limit_key: Option<Arc<str>>,
    /// When the idempotency key is forgotten.
    pub(crate) key_until: Millis,
    /// Its ordering line, or NONE.
    pub(crate) line: u32,
    /// The number of its limit key among those of its method, while it waits or runs under it; or NONE.
    pub(crate) limit: u32,
    pub(crate) backoff_step: u32,
    pub(crate) more: Option<Box<More>>,
}

/// What few tasks have.
#[derive(Debug, Default)]
pub(crate) struct More {
    pub(crate) parent: Option<Box<Birth>>,
    pub(crate) family: Option<Family>,
    pub(crate) failure: Option<Box<Failure>>,
    pub(crate) history: Option<Box<History>>,
    pub(crate) progress: Option<Box<(f64, Arc<str>)>>,
    /// Where the envelope is, when not behind the request.
    pub(crate) envelope_at: Option<Offset>,
}

/// Where a child comes from.
#[derive(Debug)]
pub(crate) struct Birth {
    pub(crate) parent: TaskId,
    pub(crate) key: ChildKey,
    /// Its place among its siblings.
    pub(crate) sibling: Link,
    /// Feature flags as the parent's run had read them; shared with the sibling before, where they are equal.
    pub(crate) flags: Option<Arc<[u8]>>,
    /// Token of the parent's run that asked for it last. Not durable: runs end with the process.
    pub(crate) asked: Token,
    /// Token of the parent's run that awaits it. Not durable.
    pub(crate) awaited: Token,
}

/// The children of a flow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Family {
    pub(crate) first: u32,
    pub(crate) count: u64,
    pub(crate) unfinished: u64,
    /// Children whose record tells of feature flags.
    pub(crate) readers: u64,
}

impl Task {
    pub(crate) fn flag(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn set_flag(&mut self, flag: u8, on: bool) {
        if on {
            self.flags |= flag;
        } else {
            self.flags &= !flag;
        }
    }

    pub(crate) fn is_final(&self) -> bool {
        self.state.is_final()
    }

    /// The rare part, made if missing.
    pub(crate) fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_with(|| {
            Box::new(Rare {
                line: NONE,
                limit: NONE,
                ..Rare::default()
            })
        })
    }

    /// The rarest part, made if missing.
    pub(crate) fn more_mut(&mut self) -> &mut More {
        self.rare_mut().more.get_or_insert_default()
    }

    pub(crate) fn more(&self) -> Option<&More> {
        self.rare.as_ref()?.more.as_deref()
    }

    pub(crate) fn birth(&self) -> Option<&Birth> {
        self.more()?.parent.as_deref()
    }

    pub(crate) fn birth_mut(&mut self) -> Option<&mut Birth> {
        self.rare.as_mut()?.more.as_mut()?.parent.as_deref_mut()
    }

    /// It is no child any more.
    pub(crate) fn disown(&mut self) {
        let Some(rare) = self.rare.as_mut() else {
            return;
        };
        if let Some(more) = rare.more.as_mut() {
            more.parent = None;
        }
        // What is not compared any more is not kept: a snapshot would not keep it either.
        if rare.idempotency_key.is_none() {
            rare.digest = 0;
        }
    }

    pub(crate) fn family(&self) -> Option<&Family> {
        self.more()?.family.as_ref()
    }

    pub(crate) fn idempotency_key(&self) -> Option<&Arc<str>> {
        self.rare.as_ref()?.idempotency_key.as_ref()
    }

    pub(crate) fn ordering_key(&self) -> Option<&Arc<str>> {
        self.rare.as_ref()?.ordering_key.as_ref()
    }

    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.more()?.failure.as_deref()
    }

    pub(crate) fn line(&self) -> u32 {
        self.rare.as_ref().map_or(NONE, |rare| rare.line)
    }

    pub(crate) fn backoff_step(&self) -> u32 {
        self.rare.as_ref().map_or(0, |rare| rare.backoff_step)
    }

    /// Its lease, or NONE.
    pub(crate) fn lease(&self) -> u32 {
        match self.stage {
            Stage::Open { lease, .. } => lease,
            Stage::Done { .. } => NONE,
        }
    }

    /// The latest token; 0 for one that is final.
    pub(crate) fn token(&self) -> Token {
        match self.stage {
            Stage::Open { token, .. } => token,
            Stage::Done { .. } => Token(0),
        }
    }

    /// When it became final; 0: not yet.
    pub(crate) fn ended_at(&self) -> Millis {
        match self.stage {
            Stage::Open { .. } => 0,
            Stage::Done { ended_at, .. } => ended_at,
        }
    }

    pub(crate) fn link(&self) -> Link {
        match self.stage {
            Stage::Open { link, .. } => link,
            Stage::Done { .. } => Link::FREE,
        }
    }

    pub(crate) fn link_mut(&mut self) -> Option<&mut Link> {
        match &mut self.stage {
            Stage::Open { link, .. } => Some(link),
            Stage::Done { .. } => None,
        }
    }

    /// Where the envelope is in the log.
    pub(crate) fn envelope_at(&self) -> Offset {
        match self.more().and_then(|more| more.envelope_at) {
            Some(at) => at,
            None if self.request_at == UNPLACED => UNPLACED,
            // A record that no log of ours holds may claim the very end of all offsets.
            None => self
                .request_at
                .saturating_add(Offset::from(self.request_len)),
        }
    }

    /// When its latest attempt started, if one did.
    pub(crate) fn started_at(&self) -> Option<Millis> {
        (self.started_after != NONE).then(|| self.created_at + Millis::from(self.started_after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_fits_two_cache_lines() {
        assert_eq!(std::mem::size_of::<Task>(), 128);
        assert!(std::mem::size_of::<Rare>() <= 96);
    }

    #[test]
    fn a_timer_keeps_time_and_bucket() {
        let timer = Timer::new(1_800_000_000_123, 511);
        assert_eq!((timer.at(), timer.bucket()), (1_800_000_000_123, 511));
        assert_eq!(Timer::new(u64::MAX, 3).at(), FAR);
        assert_eq!(Timer::UNSET.bucket(), Timer::OFF);
    }
}
