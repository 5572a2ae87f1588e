//! Submitters as the protocol wants them: numbered frames, kept until they are acknowledged and sent again in order.

use super::archive::Asker;
use super::conns::Peer;
use super::story::Call;
use super::{Action, World};
use crate::check::Invariant;
use crate::history::{Event, Name, Task};
use crate::points::Point;
use plait_broker_core::command::{Command, Submit, SubmitOrigin};
use plait_broker_core::effect::{Effect, TaskResult};
use plait_broker_core::ids::{ConnId, SessionId, TaskId};
use plait_broker_core::record::Acceptance;
use std::collections::{BTreeMap, BTreeSet};

pub(super) use super::submit::Submitted;

/// Frames that a client keeps unacknowledged at most.
const UNACKED_MAX: usize = 20;

/// A frame that was sent.
#[derive(Debug, Clone)]
struct Frame {
    ids: Vec<u64>,
    wait: bool,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) name: Name,
    session: SessionId,
    /// The worker process that it lives in, for children of flows.
    owner: Option<usize>,
    conn: Option<ConnId>,
    open: bool,
    sequence: u64,
    acked: u64,
    unacked: BTreeMap<u64, Frame>,
    waiting: BTreeSet<TaskId>,
    gone: bool,
}

impl Client {
    pub(super) fn is_content(&self) -> bool {
        self.gone || (self.unacked.is_empty() && self.waiting.is_empty())
    }

    pub(super) fn conn(&self) -> Option<ConnId> {
        self.conn
    }

    pub(super) fn describe(&self) -> String {
        format!(
            "{}: open {}, unacked {:?}, waiting {:?}",
            self.name,
            self.open,
            self.unacked.keys().collect::<Vec<_>>(),
            self.waiting
        )
    }
}

impl World {
    pub(super) fn new_client(&mut self, owner: Option<usize>) -> usize {
        let number = self.clients.len();
        let session = self.new_session();
        self.clients.push(Client {
            name: format!("c{number}").into(),
            session,
            owner,
            conn: None,
            open: false,
            sequence: 0,
            acked: 0,
            unacked: BTreeMap::new(),
            waiting: BTreeSet::new(),
            gone: false,
        });
        self.connect_client(number);
        if owner.is_none() {
            let delay = self.dice.span(self.plan.client_every);
            self.after(delay, Action::Client(number));
        }
        number
    }

    fn new_session(&mut self) -> SessionId {
        (u128::from(self.dice.number()) << 64 | u128::from(self.dice.number())).to_le_bytes()
    }

    pub(super) fn connect_client(&mut self, client: usize) {
        if self.clients[client].gone {
            return;
        }
        let conn = self.connect(Peer::Client(client));
        let entry = &mut self.clients[client];
        entry.conn = Some(conn);
        entry.open = false;
        let session = entry.session;
        self.send_up(conn, Command::SessionOpened { conn, session });
    }

    /// A client's stream came to its end.
    pub(super) fn client_lost(&mut self, client: usize, conn: ConnId) {
        let entry = &mut self.clients[client];
        if entry.conn == Some(conn) && !entry.gone {
            entry.conn = None;
            entry.open = false;
            let delay = self.dice.span(50_000);
            self.after(delay, Action::Reconnect(Peer::Client(client)));
        }
    }

    /// The process of a client ends; nobody knows of what it had sent.
    pub(super) fn client_dies(&mut self, client: usize) {
        let entry = &mut self.clients[client];
        entry.gone = true;
        entry.waiting.clear();
        let frames = std::mem::take(&mut entry.unacked);
        if let Some(conn) = entry.conn.take() {
            self.conn(conn).peer_open = false;
            let delay = self.dice.span(10_000);
            self.end_broker(conn, delay);
        }
        for id in frames.into_values().flat_map(|frame| frame.ids) {
            self.tell(Event::SubmitInfo { id });
        }
    }

    pub(super) fn client_acts(&mut self, client: usize) {
        if self.healing.is_some() {
            return;
        }
        let delay = self.dice.span(self.plan.client_every);
        self.after(delay, Action::Client(client));
        match self.dice.below(100) {
            0..62 => {
                let count = 1 + self.dice.below(self.plan.frame);
                let ids = (0..count).map(|_| self.new_submission(client)).collect();
                let wait = self.dice.permille(850);
                self.send_frame(client, ids, wait);
            }
            62..68 => self.submit_by_call(client),
            68..80 => self.cancel_some(),
            80..88 => self.get_some(),
            88..92 => self.forget_some(client),
            92..96 => self.await_some(client),
            _ => self.reconnect_early(client),
        }
    }

    pub(super) fn send_frame(&mut self, client: usize, ids: Vec<u64>, wait: bool) {
        let entry = &mut self.clients[client];
        if entry.gone || entry.unacked.len() >= UNACKED_MAX {
            return;
        }
        entry.sequence += 1;
        let sequence = entry.sequence;
        let frame = Frame {
            ids: ids.clone(),
            wait,
        };
        entry.unacked.insert(sequence, frame.clone());
        let open = entry.open;
        for (index, id) in ids.iter().enumerate() {
            self.tell_invoke(client, *id, Some((sequence, index as u32)));
        }
        if open {
            self.put_frame(client, sequence, frame);
        }
    }

    fn put_frame(&mut self, client: usize, sequence: u64, frame: Frame) {
        let entry = &self.clients[client];
        let (Some(conn), session) = (entry.conn, entry.session) else {
            return;
        };
        let tasks = frame
            .ids
            .iter()
            .map(|id| self.submitted[*id as usize].task_to_submit.clone())
            .collect();
        self.conn(conn).frames.insert(sequence, frame.ids);
        let origin = SubmitOrigin::Session {
            conn,
            session,
            sequence,
        };
        self.send_up(
            conn,
            Command::Submit(Submit {
                origin,
                await_results: frame.wait,
                tasks,
            }),
        );
    }

    fn submit_by_call(&mut self, client: usize) {
        let ids: Vec<u64> = (0..1 + self.dice.below(3))
            .map(|_| self.new_submission(client))
            .collect();
        for id in &ids {
            self.tell_invoke(client, *id, None);
        }
        let request = self.dice.permille(700).then(|| self.new_session());
        self.call_submit(ids, request, 5_000);
    }

    fn some_task(&mut self) -> Option<TaskId> {
        let index = self.dice.index(self.submitted.len())?;
        // The newest are the ones that something still happens to.
        let recent = self.submitted.len().saturating_sub(1 + index % 12);
        self.submitted[recent].task
    }

    fn cancel_some(&mut self) {
        let Some(task) = self.some_task() else { return };
        self.tell(Event::CancelInvoke { task: Task(task.0) });
        let tag = self.tag(Call::Cancel(task));
        let delay = self.dice.span(5_000);
        let reason = "simulation".into();
        self.after(delay, Action::Call(Command::Cancel { tag, task, reason }));
    }

    fn get_some(&mut self) {
        let Some(task) = self.some_task() else { return };
        if self.broker.is_some() {
            self.look_up_later(Asker::Get(task));
        }
    }

    fn forget_some(&mut self, client: usize) {
        let entry = &mut self.clients[client];
        let Some(task) = entry.waiting.pop_last() else {
            return;
        };
        if let Some(conn) = entry.conn.filter(|_| entry.open) {
            let command = Command::Await {
                conn,
                tasks: Vec::new(),
                forget: vec![task],
                parent: None,
            };
            self.send_up(conn, command);
        }
    }

    fn await_some(&mut self, client: usize) {
        let Some(task) = self.some_task() else { return };
        let entry = &mut self.clients[client];
        entry.waiting.insert(task);
        if let Some(conn) = entry.conn.filter(|_| entry.open) {
            let command = Command::Await {
                conn,
                tasks: vec![task],
                forget: Vec::new(),
                parent: None,
            };
            self.send_up(conn, command);
        }
    }

    /// A client opens a new stream while the old one still lives on the broker's side.
    fn reconnect_early(&mut self, client: usize) {
        if let Some(conn) = self.clients[client].conn.take() {
            self.conn(conn).peer_open = false;
            let delay = self.dice.span(60_000);
            self.end_broker(conn, delay);
        }
        self.connect_client(client);
    }

    pub(super) fn client_told(&mut self, client: usize, conn: ConnId, effect: Effect) {
        if self.clients[client].conn != Some(conn) {
            return;
        }
        match effect {
            Effect::SessionOpened { last_sequence, .. } => {
                self.client_opened(client, last_sequence)
            }
            Effect::Accepted {
                sequence,
                acceptance,
                ..
            } => self.client_acked(client, sequence, &acceptance),
            Effect::Results { results, .. } => self.client_results(client, &results),
            _ => {}
        }
    }

    fn client_opened(&mut self, client: usize, last: u64) {
        let entry = &mut self.clients[client];
        if last < entry.acked {
            let text = format!(
                "{} had {} frames acknowledged, and {last} are known",
                entry.name, entry.acked
            );
            return self.wrong(Invariant::AckedIsKept, text);
        }
        let entry = &mut self.clients[client];
        entry.open = true;
        let Some(conn) = entry.conn else { return };
        let frames: Vec<(u64, Frame)> = entry
            .unacked
            .iter()
            .map(|(sequence, frame)| (*sequence, frame.clone()))
            .collect();
        let tasks: Vec<TaskId> = entry.waiting.iter().copied().collect();
        for (sequence, frame) in frames {
            if sequence <= last {
                self.hit(Point::FrameAgain);
            }
            self.put_frame(client, sequence, frame);
        }
        if !tasks.is_empty() {
            let command = Command::Await {
                conn,
                tasks,
                forget: Vec::new(),
                parent: None,
            };
            self.send_up(conn, command);
        }
    }

    fn client_acked(&mut self, client: usize, sequence: u64, acceptance: &Acceptance) {
        let entry = &mut self.clients[client];
        entry.acked = entry.acked.max(sequence);
        let Some(frame) = entry.unacked.remove(&sequence) else {
            return;
        };
        if frame.wait {
            let accepted = acceptance.tasks.iter().filter(|id| **id != 0);
            entry.waiting.extend(accepted.map(|id| TaskId(*id)));
        }
        if let Some(worker) = entry.owner {
            self.children_accepted(worker, &frame.ids, acceptance);
        }
    }

    fn client_results(&mut self, client: usize, results: &[TaskResult]) {
        let entry = &mut self.clients[client];
        let owner = entry.owner;
        for result in results {
            entry.waiting.remove(&result.task);
        }
        if let Some(worker) = owner {
            for result in results {
                self.child_ended(worker, result);
            }
        }
    }
}
