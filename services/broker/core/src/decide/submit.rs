//! Accepting tasks: each is accepted, known already, or refused on its own; one record holds the whole answer.

mod draft;
mod held;
mod memo;
mod sessions;

use crate::command::{Submit, SubmitOrigin, SubmitTask};
use crate::effect::{Effect, Error, Reply};
use crate::ids::{ConnId, Millis, SessionId, TaskId};
use crate::live::held::{RunKey, Why};
use crate::partition::{Partition, Step};
use crate::record::{Acceptance, Record};
use draft::Draft;

impl Partition {
    pub(super) fn submit(&mut self, submit: Submit, now: Millis, step: &mut Step) {
        if let SubmitOrigin::Session { conn, session, .. } = submit.origin
            && self.live.streams.session(conn) != Some(session)
        {
            step.effects.push(Effect::SessionReplaced { conn });
            return;
        }
        if is_dry_run(&submit.origin) {
            return self.admit(submit, Vec::new(), false, now, step);
        }
        let mut allowed = self.release_runs_of(&submit, now, step);
        if let Some(submit) = self.queue_behind_held(submit, now, step) {
            allowed.sort_unstable();
            self.admit(submit, allowed, false, now, step);
        }
    }

    /// Accepts a submission whose turn it is, or holds it for the runs that may have diverged or whose workers are not
    /// back. `allowed` ones have not diverged; with `refuse` nothing is waited for any more.
    fn admit(
        &mut self,
        submit: Submit,
        allowed: Vec<RunKey>,
        refuse: bool,
        now: Millis,
        step: &mut Step,
    ) {
        let place = match self.place_of(&submit.origin) {
            Ok(place) => place,
            Err(error) => return self.refuse(&submit.origin, error, step),
        };
        if let Some((session, sequence)) = place
            && let Some(known) = self.state.sessions.answer(&session, sequence)
            && !crate::mutant::is(crate::mutant::Mutant::FrameTwice)
        {
            return self.answer(&submit, known, step);
        }
        let dry_run = is_dry_run(&submit.origin);
        // A dry run is no call of a flow: it neither waits nor clears one that does.
        let doubtful = if dry_run {
            Vec::new()
        } else {
            self.doubtful_runs(&submit, &allowed, now)
        };
        let absent = if dry_run || refuse {
            Vec::new()
        } else {
            self.absent_runs(&submit)
        };
        if !absent.is_empty() {
            return self.hold_call(submit, (Why::Absent, absent), allowed, now);
        }
        if !doubtful.is_empty() && !refuse {
            return self.hold_call(submit, (Why::Doubtful, doubtful), allowed, now);
        }
        let Draft {
            acceptance,
            tasks,
            calls,
            ..
        } = self.draft(&submit, &doubtful, dry_run, now);
        if !dry_run {
            // A run begins with what earlier ones recorded, so before its own children are.
            for call in &calls {
                self.run_mut(call.flow);
            }
        }
        if !dry_run && (place.is_some() || !tasks.is_empty()) {
            let acceptance = acceptance.clone();
            self.commit(
                Record::Submitted {
                    session: place,
                    acceptance,
                    tasks,
                },
                step,
            );
        }
        for call in calls.into_iter().filter(|_| !dry_run) {
            let child = TaskId(acceptance.tasks[call.index]);
            self.called(call, child);
        }
        self.answer(&submit, acceptance, step);
    }

    /// The numbered place of a submission in its session, if it has one.
    fn place_of(&self, origin: &SubmitOrigin) -> Result<Option<(SessionId, u64)>, Error> {
        let (session, sequence) = match origin {
            SubmitOrigin::Session {
                session, sequence, ..
            } => (*session, *sequence),
            // A call that must not be done twice is a session of one submission.
            SubmitOrigin::Call {
                request_id: Some(id),
                dry_run: false,
                ..
            } => (*id, 1),
            SubmitOrigin::Call { .. } => return Ok(None),
        };
        let last = self.state.sessions.last(&session);
        if sequence != last.saturating_add(1)
            && self.state.sessions.answer(&session, sequence).is_none()
        {
            return Err(Error::SequenceGap { sequence, last });
        }
        Ok(Some((session, sequence)))
    }

    fn refuse(&mut self, origin: &SubmitOrigin, error: Error, step: &mut Step) {
        match origin {
            SubmitOrigin::Session { conn, .. } => {
                self.live.streams.close(*conn);
                step.effects
                    .push(Effect::SessionClosed { conn: *conn, error });
            }
            SubmitOrigin::Call { tag, .. } => {
                step.effects.push(Effect::Reply {
                    tag: *tag,
                    reply: Reply::Error(error),
                });
            }
        }
    }

    /// Answers a submission, and sees to the results that it wants.
    fn answer(&mut self, submit: &Submit, acceptance: Acceptance, step: &mut Step) {
        match submit.origin {
            SubmitOrigin::Session { conn, sequence, .. } => {
                if submit.await_results {
                    self.await_submitted(conn, submit, &acceptance);
                }
                step.effects.push(Effect::Accepted {
                    conn,
                    sequence,
                    acceptance,
                });
            }
            SubmitOrigin::Call { tag, .. } => {
                step.effects.push(Effect::Reply {
                    tag,
                    reply: Reply::Accepted(acceptance),
                });
            }
        }
    }

    fn await_submitted(&mut self, conn: ConnId, submit: &Submit, acceptance: &Acceptance) {
        let Some(stream) = self.live.streams.number(conn) else {
            return;
        };
        for (index, id) in acceptance.tasks.iter().enumerate() {
            if *id == 0 {
                continue;
            }
            let parent = submit
                .tasks
                .get(index)
                .and_then(|task| task.options.as_ref());
            let parent = parent.and_then(|options| options.parent.as_ref());
            let run = parent.and_then(|(task, token, _)| self.running(*task, *token));
            self.await_one(stream, TaskId(*id), run);
        }
    }

    /// A child call of a run was accepted.
    fn called(&mut self, call: draft::Call, child: TaskId) {
        let token = self.state.tasks[call.flow].token();
        let Some(slot) = self.state.tasks.find(child) else {
            return;
        };
        let Some(birth) = self.state.tasks[slot].birth_mut() else {
            return;
        };
        let before = std::mem::replace(&mut birth.asked, token);
        let Some(run) = self.run_mut(call.flow) else {
            return;
        };
        run.news = false;
        if let Some(digest) = call.counted {
            *run.calls.entry(digest).or_default() += 1;
        }
        if !call.new && before != token {
            run.asked += 1;
        }
    }
}

/// The run of a flow that a task is a child call of.
fn run_of(task: &SubmitTask) -> Option<RunKey> {
    let options = task.options.as_ref()?;
    options
        .parent
        .as_ref()
        .map(|(parent, token, _)| (*parent, *token))
}

fn is_dry_run(origin: &SubmitOrigin) -> bool {
    matches!(origin, SubmitOrigin::Call { dry_run: true, .. })
}
