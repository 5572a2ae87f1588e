//! What is submitted: every request tells the number of its submission, so that whoever runs it can be known.

use super::policies::{FLOW, METHODS, ONCE, PLAIN, POISON};
use super::story::Call;
use super::{Action, World};
use crate::history::{Digest, Event, Submission, Task};
use crate::points::Point;
use bytes::Bytes;
use plait_broker_core::command::{Command, Submit, SubmitOptions, SubmitOrigin, SubmitTask};
use plait_broker_core::ids::{ReplyTag, TaskId, Token};

/// A submission of this world.
#[derive(Debug)]
pub(super) struct Submitted {
    pub(super) task_to_submit: SubmitTask,
    pub(super) task: Option<TaskId>,
    pub(super) child: bool,
}

/// The flow and token that ask for a child, and which one it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) flow: TaskId,
    pub(super) token: Token,
    pub(super) index: u64,
    pub(super) named: bool,
}

/// Bytes that begin with a number and are wrong if any one changes.
pub(crate) fn payload(number: u64, most: u64) -> Bytes {
    let filler = (number.wrapping_mul(7_919) % (most + 1)) as usize;
    let mut bytes = Vec::with_capacity(8 + filler);
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend((0..filler).map(|at| (number as usize).wrapping_add(at) as u8));
    bytes.into()
}

/// The number that a payload begins with, if the payload is whole.
pub(crate) fn number_of(bytes: &[u8]) -> Option<u64> {
    let (number, filler) = bytes.split_first_chunk::<8>()?;
    let number = u64::from_le_bytes(*number);
    let whole = filler
        .iter()
        .enumerate()
        .all(|(at, byte)| *byte == (number as usize).wrapping_add(at) as u8);
    whole.then_some(number)
}

/// A unary submission.
pub(super) fn request_id(
    tag: ReplyTag,
    request: Option<[u8; 16]>,
    tasks: Vec<SubmitTask>,
) -> Command {
    Command::Submit(Submit {
        origin: SubmitOrigin::Call {
            tag,
            request_id: request,
            dry_run: false,
        },
        await_results: false,
        tasks,
    })
}

impl World {
    /// A new call's tag.
    pub(super) fn tag(&mut self, call: Call) -> ReplyTag {
        self.numbers += 1;
        let tag = ReplyTag(self.numbers);
        self.calls.insert(tag, call);
        tag
    }

    /// A call reaches the broker, if there is one.
    pub(super) fn called(&mut self, command: Command) {
        let tag = match &command {
            Command::Submit(Submit {
                origin: SubmitOrigin::Call { tag, .. },
                ..
            })
            | Command::Cancel { tag, .. }
            | Command::Redrive { tag, .. }
            | Command::PauseQueue { tag, .. }
            | Command::ResumeQueue { tag, .. }
            | Command::SetWindows { tag, .. }
            | Command::SetWorkerGates { tag, .. }
            | Command::SetGates { tag, .. }
            | Command::SetSplits { tag, .. }
            | Command::SetWeights { tag, .. } => *tag,
            _ => return,
        };
        // The caller heard meanwhile that the broker is gone.
        if !self.calls.contains_key(&tag) {
            return;
        }
        if self.broker.is_some() {
            self.command_told(command);
        } else {
            self.after(1_000, Action::CallLost(tag));
        }
    }

    /// A task that some client wants now.
    pub(super) fn new_submission(&mut self, client: usize) -> u64 {
        let method = match self.dice.below(1_000) {
            share if share < self.plan.flows => FLOW,
            share if share % 10 == 9 => ONCE,
            share if share % 10 > 6 => POISON,
            _ => PLAIN,
        };
        let key = self
            .dice
            .permille(self.plan.keyed)
            .then(|| self.dice.below(30));
        let order = self
            .dice
            .permille(self.plan.ordered)
            .then(|| self.dice.below(4));
        let odd = self.dice.permille(60);
        let digest = key.map_or(0, |key| key + u64::from(odd) * 1_000);
        let limit_key = self.plan.limits.key(&mut self.dice).map(Into::into);
        let options = SubmitOptions {
            delay_ms: if self.dice.permille(self.plan.delayed) {
                self.dice.span(900)
            } else {
                0
            },
            deadline_ms: self
                .dice
                .permille(self.plan.hurried)
                .then(|| self.dice.span(500)),
            priority: self.dice.permille(100).then(|| self.dice.below(10) as u8),
            ..SubmitOptions::default()
        };
        let task = SubmitTask {
            method: method.into(),
            request: Bytes::new(),
            digest: u128::from(digest),
            idempotency_key: key.map(|key| format!("k{key}").into()),
            ordering_key: order.map(|order| format!("o{order}").into()),
            limit_key,
            options: Some(Box::new(options)),
        };
        self.note_submission(client, task, None)
    }

    /// A child that a flow wants; the same one whenever the flow runs.
    pub(super) fn new_child(&mut self, client: usize, asked: Asked) -> u64 {
        let method = METHODS[usize::from(asked.flow.0 + asked.index == 4)];
        let name = asked.named.then(|| format!("c{}", asked.index).into());
        let options = SubmitOptions {
            parent: Some((asked.flow, asked.token, name)),
            ..SubmitOptions::default()
        };
        let task = SubmitTask {
            method: method.into(),
            request: Bytes::new(),
            digest: u128::from(asked.flow.0 << 8 | asked.index),
            idempotency_key: None,
            ordering_key: None,
            limit_key: None,
            options: Some(Box::new(options)),
        };
        self.hit(Point::FlowChild);
        self.note_submission(client, task, Some(asked))
    }

    fn note_submission(
        &mut self,
        client: usize,
        mut task: SubmitTask,
        child: Option<Asked>,
    ) -> u64 {
        let id = self.submitted.len() as u64;
        task.request = payload(id, self.plan.payload);
        if let (Some(key), None) = (&task.idempotency_key, child) {
            self.keys
                .push((task.method.clone(), key.clone(), task.digest as u64));
        }
        self.submitted.push(Submitted {
            task_to_submit: task,
            task: None,
            child: child.is_some(),
        });
        let _ = client;
        id
    }

    /// Tells of a submission; `place` is its frame and place in the client's session.
    pub(super) fn tell_invoke(&mut self, client: usize, id: u64, place: Option<(u64, u32)>) {
        let name = self.clients[client].name.clone();
        let task = &self.submitted[id as usize].task_to_submit;
        let options = task.options.as_deref();
        let parent = options.and_then(|options| options.parent.as_ref());
        let submission = Submission {
            id,
            client: name,
            method: task.method.clone(),
            key: task.idempotency_key.clone(),
            order: task.ordering_key.clone(),
            limit: task.limit_key.clone(),
            digest: Some(Digest(task.digest as u64)),
            delay_ms: options.map_or(0, |options| options.delay_ms),
            deadline_ms: options.and_then(|options| options.deadline_ms),
            place,
            parent: parent.map(|(flow, _, name)| {
                let name = name
                    .clone()
                    .unwrap_or_else(|| format!("n{:x}", task.digest).into());
                (Task(flow.0), name)
            }),
            priority: options.and_then(|options| options.priority),
        };
        self.tell(Event::SubmitInvoke(submission));
    }

    /// Now and then a queue is held until the very instant at which a task's deadline is over.
    pub(super) fn plan_edge(&mut self, id: u64, task: u64) {
        let first = &self.submitted[id as usize].task_to_submit;
        let deadline = first
            .options
            .as_ref()
            .and_then(|options| options.deadline_ms);
        let policies = super::policies::all(self.plan.brief, &self.plan.limits);
        let policy = policies.iter().find(|policy| policy.method == first.method);
        let Some((deadline, policy)) = deadline.zip(policy) else {
            return;
        };
        if self.healing.is_some() || !self.dice.permille(150) {
            return;
        }
        let created = self.created.get(&task).copied();
        let Some((broker, created)) = self.broker.as_ref().zip(created) else {
            return;
        };
        let at = broker.virtual_of(created + deadline);
        self.pause(policy.queue.clone());
        if at > self.now {
            self.at(at, Action::Edge(policy.queue.clone()));
        }
    }

    /// Uses the key of a new task again at the last instant of its window and at the first after it.
    pub(super) fn plan_boundary(&mut self, id: u64, task: u64) {
        let first = &self.submitted[id as usize];
        if first.child || first.task_to_submit.idempotency_key.is_none() || !self.dice.permille(400)
        {
            return;
        }
        let (again, created) = (
            first.task_to_submit.clone(),
            self.created.get(&task).copied(),
        );
        let window = super::policies::all(self.plan.brief, &self.plan.limits)
            .iter()
            .find(|policy| policy.method == again.method)
            .map(|policy| policy.idempotency_window_ms);
        let Some((created, window)) = created.zip(window) else {
            return;
        };
        let instant = created + window - u64::from(self.dice.permille(700));
        let Some(broker) = &self.broker else { return };
        let at = broker.virtual_of(instant);
        if at <= self.now || self.healing.is_some() {
            return;
        }
        self.hit(Point::KeyBoundary);
        let id = self.note_submission(0, again, None);
        self.tell_invoke(0, id, None);
        let tag = self.tag(Call::Submit(vec![id], None));
        let tasks = vec![self.submitted[id as usize].task_to_submit.clone()];
        self.at(at, Action::Call(request_id(tag, None, tasks)));
    }
}
