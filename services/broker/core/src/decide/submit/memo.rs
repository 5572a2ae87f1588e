//! Child calls of flows: what names them, and what they were answered before.

use super::super::Partition;
use super::draft::{Call, Child, Draft, key_of};
use crate::command::{SubmitOptions, SubmitTask};
use crate::effect::Error;
use crate::ids::{Millis, TaskId};
use crate::record::ChildKey;
use std::sync::Arc;

impl Partition {
    /// Whether a call would make a new child, as things stand.
    pub(super) fn is_unrecorded(&self, task: &SubmitTask, now: Millis) -> bool {
        let draft = &mut Draft::default();
        let Some(options) = task.options.as_deref() else {
            return false;
        };
        let Ok((flow, key)) = self.child_key(draft, task, options) else {
            return false;
        };
        let flow = self.state.tasks[flow].id;
        if self
            .state
            .families
            .find(&self.state.tasks, flow, &key)
            .is_some()
        {
            return false;
        }
        let Ok(method) = self.method_of(draft, &task.method) else {
            return false;
        };
        let Some(key) = key_of(&task.idempotency_key) else {
            return true;
        };
        self.state.first_of(method, key, now).is_none()
    }

    /// What a task is as a child call, if it is one.
    pub(super) fn child_of(
        &self,
        draft: &Draft,
        index: usize,
        task: &SubmitTask,
    ) -> Result<Option<Child>, Error> {
        let Some(options) = task
            .options
            .as_deref()
            .filter(|options| options.parent.is_some())
        else {
            return Ok(None);
        };
        let (flow, key) = self.child_key(draft, task, options)?;
        let counted = matches!(key, ChildKey::Nth(..)).then_some(task.digest);
        let call = Call {
            flow,
            index,
            counted,
            new: true,
        };
        Ok(Some(Child {
            flow: self.state.tasks[flow].id,
            key,
            call,
        }))
    }

    /// The flow that calls, and what names the child among its children.
    fn child_key(
        &self,
        draft: &Draft,
        task: &SubmitTask,
        options: &SubmitOptions,
    ) -> Result<(u32, ChildKey), Error> {
        let Some((parent, token, name)) = &options.parent else {
            return Err(Error::Invalid {
                field: "parent",
                problem: "is missing".into(),
            });
        };
        let lost = || Error::LeaseLost { task: *parent };
        let flow = self.running(*parent, *token).ok_or_else(lost)?;
        let key = match name {
            Some(name) if !name.is_empty() => ChildKey::Named(Arc::clone(name)),
            _ => {
                let staged = draft
                    .counted
                    .get(&(*parent, task.digest))
                    .copied()
                    .unwrap_or(0);
                ChildKey::Nth(task.digest, self.calls(flow, task.digest) + staged)
            }
        };
        Ok((flow, key))
    }

    /// How many calls with this digest the present run of a flow has made.
    pub(super) fn calls(&self, flow: u32, digest: u128) -> u32 {
        let run = self.lease(flow).and_then(|lease| lease.run.as_ref());
        run.and_then(|run| run.calls.get(&digest))
            .copied()
            .unwrap_or(0)
    }

    /// The child that a key stands for already.
    pub(super) fn recorded(
        &self,
        draft: &Draft,
        task: &SubmitTask,
        flow: TaskId,
        key: &ChildKey,
    ) -> Result<Option<TaskId>, Error> {
        let staged = match key {
            ChildKey::Named(name) => draft.named.get(&(flow, Arc::clone(name))),
            ChildKey::Nth(..) => None,
        };
        let (id, digest) = if let Some(at) = staged {
            let first = &draft.tasks[*at as usize];
            (first.id, first.digest)
        } else {
            let Some(slot) = self.state.families.find(&self.state.tasks, flow, key) else {
                return Ok(None);
            };
            if crate::mutant::is(crate::mutant::Mutant::ChildForgotten) {
                return Ok(None);
            }
            let first = &self.state.tasks[slot];
            (first.id, first.rare.as_ref().map_or(0, |rare| rare.digest))
        };
        if digest != task.digest {
            let child = describe(&task.method, key).into();
            return Err(Error::FlowDiverged {
                parent: flow,
                child,
            });
        }
        Ok(Some(id))
    }
}

/// A call as a person would name it.
pub(super) fn describe(method: &str, key: &ChildKey) -> String {
    match key {
        ChildKey::Named(name) => format!("{method} as {name:?}"),
        ChildKey::Nth(_, 0) => method.to_owned(),
        ChildKey::Nth(_, n) => {
            format!("{method}, call {} with an equal request", u64::from(*n) + 1)
        }
    }
}
