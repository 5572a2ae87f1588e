//! Flows: handlers that ask for children, the same ones whenever they run, and wait for them.

use super::submit::Asked;
use super::worker::Run;
use super::{Action, World};
use crate::check::Invariant;
use crate::points::Point;
use plait_broker_core::command::Command;
use plait_broker_core::effect::TaskResult;
use plait_broker_core::ids::{TaskId, Token};
use plait_broker_core::record::{Acceptance, Failure};
use std::collections::BTreeMap;

/// What a run of a flow did so far.
#[derive(Debug, Default)]
pub(super) struct FlowRun {
    children: u64,
    concurrent: bool,
    named: bool,
    asked: u64,
    /// Submissions that were not answered.
    open: Vec<u64>,
    /// Children that are not over.
    waiting: BTreeMap<TaskId, ()>,
    /// Children that ended before their acceptance was heard of.
    failed: bool,
}

impl World {
    pub(super) fn begin_flow(&mut self, worker: usize, token: Token) {
        let Some(run) = self.flow_run(worker, token) else {
            return;
        };
        // The shape follows from the task, so that every run is the same.
        let shape = run.task.0;
        run.flow = Some(FlowRun {
            children: 1 + shape % 3,
            concurrent: shape % 2 == 0,
            named: shape % 5 < 2,
            ..FlowRun::default()
        });
        self.ask_children(worker, token);
    }

    fn flow_run(&mut self, worker: usize, token: Token) -> Option<&mut Run> {
        let runs = &mut self.workers[worker].runs;
        runs.iter_mut().find(|run| run.token == token)
    }

    /// Asks for the next child, or for all at once; ends when there is nothing to wait for.
    fn ask_children(&mut self, worker: usize, token: Token) {
        let Some(run) = self.flow_run(worker, token) else {
            return;
        };
        let task = run.task;
        let Some(flow) = &mut run.flow else { return };
        if !flow.open.is_empty() || !flow.waiting.is_empty() {
            return;
        }
        if flow.failed {
            let failure = Failure {
                code: 14,
                message: "a child failed".into(),
                ..Failure::default()
            };
            return self.conclude(worker, token, Err((failure, None)));
        }
        if flow.asked == flow.children {
            let delay = self.dice.span(self.plan.handler);
            return self.after(delay, Action::Finish(worker, token));
        }
        let first = flow.asked;
        flow.asked = if flow.concurrent {
            flow.children
        } else {
            first + 1
        };
        let (last, named) = (flow.asked, flow.named);
        let client = self.workers[worker].client;
        let ids: Vec<u64> = (first..last)
            .map(|index| {
                let asked = Asked {
                    flow: task,
                    token,
                    index,
                    named,
                };
                self.new_child(client, asked)
            })
            .collect();
        if let Some(flow) = self
            .flow_run(worker, token)
            .and_then(|run| run.flow.as_mut())
        {
            flow.open.clone_from(&ids);
        }
        self.send_frame(client, ids, true);
    }

    /// The broker answered for children.
    pub(super) fn children_accepted(
        &mut self,
        worker: usize,
        ids: &[u64],
        acceptance: &Acceptance,
    ) {
        let mut touched = Vec::new();
        for run in &mut self.workers[worker].runs {
            let token = run.token;
            let Some(flow) = &mut run.flow else { continue };
            for (id, task) in ids.iter().zip(&acceptance.tasks) {
                let Some(at) = flow.open.iter().position(|open| open == id) else {
                    continue;
                };
                flow.open.swap_remove(at);
                if *task == 0 {
                    flow.failed = true;
                } else {
                    flow.waiting.insert(TaskId(*task), ());
                }
                touched.push(token);
            }
        }
        for refusal in &acceptance.refusals {
            if super::story::reason(&refusal.error) == "FLOW_DIVERGED" {
                let text = format!("a flow that repeats itself has diverged: {}", refusal.error);
                self.wrong(Invariant::OneTaskPerKey, text);
            }
        }
        touched.dedup();
        for token in touched {
            self.ask_children(worker, token);
        }
    }

    /// A child's result came.
    pub(super) fn child_ended(&mut self, worker: usize, result: &TaskResult) {
        let mut touched = None;
        for run in &mut self.workers[worker].runs {
            let Some(flow) = &mut run.flow else { continue };
            if flow.waiting.remove(&result.task).is_some() {
                flow.failed |= result.result.is_err();
                touched = Some(run.token);
            }
        }
        if let Some(token) = touched {
            self.ask_children(worker, token);
        }
    }

    /// A worker unloads a flow that waits.
    pub(super) fn suspend_some(&mut self, worker: usize) {
        let entry = &mut self.workers[worker];
        let Some(conn) = entry.conn else { return };
        let waits = |run: &Run| {
            run.flow
                .as_ref()
                .is_some_and(|flow| !flow.waiting.is_empty())
        };
        let Some(at) = entry.runs.iter().position(waits) else {
            return;
        };
        let run = entry.runs.swap_remove(at);
        self.hit(Point::FlowSuspended);
        let leases = vec![(run.task, run.token)];
        self.send_up(conn, Command::Suspend { conn, leases });
    }
}
