//! Calls of flows that are held until it is known what to say to them. Nothing of them is recorded yet.

use crate::command::Submit;
use crate::ids::{SessionId, TaskId, Token};
use std::collections::{BTreeMap, VecDeque};

/// A run of a flow.
pub(crate) type RunKey = (TaskId, Token);

/// Why a call waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It matches no record, so its run may have diverged.
    Doubtful,
    /// The worker of its run has not come back since the restart.
    Absent,
}

/// A submission with a call that waits, and those of its session behind it.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) why: Why,
    /// The runs that it waits for.
    pub(crate) runs: Vec<RunKey>,
    /// Runs of the submission that have not.
    pub(crate) allowed: Vec<RunKey>,
    pub(crate) session: Option<SessionId>,
    /// The held submission first.
    pub(crate) queue: VecDeque<Submit>,
}

/// All held submissions.
#[derive(Debug, Default)]
pub(crate) struct HeldCalls {
    held: BTreeMap<u64, Held>,
    by_session: BTreeMap<SessionId, u64>,
    by_run: BTreeMap<RunKey, u64>,
    next: u64,
}

impl HeldCalls {
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Holds a submission; gives it a number.
    pub(crate) fn hold(&mut self, held: Held) -> u64 {
        self.next += 1;
        if let Some(session) = held.session {
            self.by_session.insert(session, self.next);
        }
        self.by_run
            .extend(held.runs.iter().map(|run| (*run, self.next)));
        self.held.insert(self.next, held);
        self.next
    }

    /// Lets a held submission go.
    pub(crate) fn take(&mut self, number: u64) -> Option<Held> {
        let held = self.held.remove(&number)?;
        if let Some(session) = held.session {
            self.by_session.remove(&session);
        }
        for run in &held.runs {
            if self.by_run.get(run) == Some(&number) {
                self.by_run.remove(run);
            }
        }
        Some(held)
    }

    /// The submission that a session waits behind.
    pub(crate) fn of_session(&mut self, session: &SessionId) -> Option<(u64, &mut Held)> {
        let number = *self.by_session.get(session)?;
        Some((number, self.held.get_mut(&number)?))
    }

    /// The held submission of a run.
    pub(crate) fn of_run(&self, run: RunKey) -> Option<u64> {
        self.by_run.get(&run).copied()
    }

    /// A session's stream is gone: what was held was never answered, and will be sent again.
    pub(crate) fn drop_session(&mut self, session: &SessionId) {
        if let Some(number) = self.by_session.get(session).copied() {
            self.take(number);
        }
    }
}
