//! Faults, and what connections bring.

use super::conns::Peer;
use super::{Action, World};
use crate::history::Name;
use crate::points::Point;
use plait_broker_core::command::Command;
use plait_broker_core::effect::Effect;
use plait_broker_core::ids::ConnId;

impl World {
    /// One fault, of a kind that this seed knows.
    pub(super) fn fault(&mut self) {
        let (Some(every), None) = (self.plan.fault_every, self.healing) else {
            return;
        };
        let delay = self.dice.span(every);
        self.after(delay, Action::Fault);
        let plan = &self.plan;
        let weights = [
            plan.crash,
            plan.power,
            plan.power / 2,
            plan.cut,
            plan.worker_fault,
            plan.disk_fault,
        ];
        let mut drawn = self.dice.below(weights.iter().sum());
        let kind = weights.iter().position(|weight| {
            let here = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            here
        });
        match kind {
            Some(0) => self.crash(false),
            Some(1) => self.crash(true),
            // The power goes in the midst of one of the next changes of the disk.
            Some(2) => self.disk.cut_power_at(self.dice.below(12)),
            Some(3) => self.cut_some(),
            Some(4) => self.trouble_worker(),
            Some(5) => {
                self.disk.set_faults(self.plan.disk);
                let span = self.dice.span(500_000);
                self.after(span, Action::DiskHeals);
            }
            _ => {}
        }
    }

    fn cut_some(&mut self) {
        let clients = self.clients.iter().filter_map(super::client::Client::conn);
        let workers = self.workers.iter().filter_map(|worker| worker.conn);
        let conns: Vec<ConnId> = clients.chain(workers).collect();
        if let Some(at) = self.dice.index(conns.len()) {
            self.hit(Point::ConnectionCut);
            self.cut(conns[at]);
        }
    }

    fn trouble_worker(&mut self) {
        let alive: Vec<usize> = (0..self.workers.len())
            .filter(|worker| !self.workers[*worker].gone)
            .collect();
        let Some(at) = self.dice.index(alive.len()) else {
            return;
        };
        let worker = alive[at];
        match self.dice.below(10) {
            0..3 => self.kill_worker(worker),
            3..6 => self.deafen(worker),
            6 => self.attach(worker),
            7 => self.hand_back(worker, false),
            8 => self.hand_back(worker, true),
            _ => self.suspend_some(worker),
        }
    }

    pub(super) fn name_of(&self, peer: Peer) -> Name {
        match peer {
            Peer::Client(client) => self.clients[client].name.clone(),
            Peer::Worker(worker) => self.workers[worker].name.clone(),
        }
    }

    /// What a peer sent reaches the broker.
    pub(super) fn arrive(&mut self, conn: ConnId, command: Command) {
        if !self.reaches(conn) {
            // Nobody listens there: the peer will notice.
            if self.conn(conn).peer_open {
                self.end_peer(conn);
            }
            return;
        }
        let present = match self.conn(conn).peer {
            Peer::Client(client) => self.clients[client].conn(),
            Peer::Worker(worker) => self.workers[worker].conn,
        };
        if present.is_some_and(|present| present > conn) {
            self.hit(Point::MessageAfterCut);
        }
        self.command_told(command);
    }

    /// What the broker sent reaches a peer.
    pub(super) fn deliver(&mut self, conn: ConnId, effect: Effect) {
        let entry = self.conn(conn);
        if !entry.peer_open {
            return;
        }
        match entry.peer {
            Peer::Client(client) => self.client_told(client, conn, effect),
            Peer::Worker(worker) => self.worker_told(worker, conn, effect),
        }
    }

    pub(super) fn peer_lost(&mut self, conn: ConnId) {
        let entry = self.conn(conn);
        if !std::mem::replace(&mut entry.peer_open, false) {
            return;
        }
        match entry.peer {
            Peer::Client(client) => self.client_lost(client, conn),
            Peer::Worker(worker) => self.worker_lost(worker, conn),
        }
    }

    /// The broker learns that a stream is over.
    pub(super) fn broker_lost(&mut self, conn: ConnId) {
        let alive = self.broker.is_some() && self.is_of_this_life(conn);
        let entry = self.conn(conn);
        let was_open = std::mem::replace(&mut entry.broker_open, false);
        let peer = entry.peer;
        if was_open {
            self.end_peer(conn);
        }
        if alive {
            self.command_told(match peer {
                Peer::Client(_) => Command::SessionClosed { conn },
                Peer::Worker(_) => Command::WorkerDetached {
                    conn,
                    reason: "the stream ended".into(),
                },
            });
        }
    }

    pub(super) fn reconnect(&mut self, peer: Peer) {
        match peer {
            Peer::Client(client) if self.clients[client].conn().is_none() => {
                self.connect_client(client);
            }
            Peer::Worker(worker) if self.workers[worker].conn.is_none() => self.attach(worker),
            _ => {}
        }
    }
}
