//! Watching one task.

use std::collections::VecDeque;

use futures_util::{Stream, stream};
use plait::pb::v1::WatchTaskResponse;
use plait_broker_core::command::Command;
use plait_broker_core::effect::{Effect, Error, TaskView};
use plait_broker_core::ids::{ConnId, TaskId};
use tonic::Status;

use super::{Context, views};
use crate::outbound::{End, Outbound, Outgoing, Taken};
use crate::status::refused;
use std::sync::Arc;

/// Opens the stream: the task now, and after each change, until it is final.
pub(super) async fn open(
    context: Context,
    task: TaskId,
    full: bool,
) -> Result<impl Stream<Item = Result<WatchTaskResponse, Status>> + Send + 'static, Status> {
    let (conn, outbound) = context.partition.open(context.limits.outbound_bytes_max);
    let watch = Watch {
        context,
        conn,
        outbound,
        full,
        ready: VecDeque::new(),
        archived: None,
        is_final: false,
    };
    watch
        .context
        .partition
        .send(Command::Watch { conn, task }, 0)
        .await?;
    Ok(stream::unfold(Some(watch), async |watch| {
        watch?.next().await
    }))
}

/// What is polled for answers.
struct Watch {
    context: Context,
    conn: ConnId,
    outbound: Arc<Outbound>,
    full: bool,
    ready: VecDeque<Box<TaskView>>,
    /// The task, if it is to be read from an archive file.
    archived: Option<TaskId>,
    is_final: bool,
}

impl Watch {
    async fn next(mut self) -> Option<(Result<WatchTaskResponse, Status>, Option<Self>)> {
        loop {
            if let Some(view) = self.ready.pop_front() {
                self.is_final = view.state.is_final();
                let partition = &self.context.partition;
                let task = match views::task(*view, self.full, partition).await {
                    Ok(task) => task,
                    Err(status) => return Some((Err(status), None)),
                };
                return Some((Ok(WatchTaskResponse { task: Some(task) }), Some(self)));
            }
            if let Some(task) = self.archived.take() {
                match self.read(task).await {
                    Ok(()) => continue,
                    Err(status) => return Some((Err(status), None)),
                }
            }
            if self.is_final {
                return None;
            }
            match self.outbound.take().await {
                Taken::Items(items) => items.into_iter().for_each(|item| self.note(item)),
                Taken::End(End::Gone) => return None,
                Taken::End(End::Status(status)) => return Some((Err(*status), None)),
            }
        }
    }
}

impl Watch {
    fn note(&mut self, item: Outgoing) {
        match item {
            Outgoing::Effect(Effect::TaskChanged { task, .. }) => self.ready.push_back(task),
            Outgoing::Effect(Effect::WatchArchived { task, .. }) => self.archived = Some(task),
            _ => {}
        }
    }

    /// Reads a task that is not in memory.
    async fn read(&mut self, task: TaskId) -> Result<(), Status> {
        let found = self.context.partition.task(task).await?;
        let view = found.ok_or_else(|| refused(&Error::TaskNotFound { task }))?;
        if view.state.is_final() {
            self.ready.push_back(Box::new(view));
            return Ok(());
        }
        // Somebody runs it again: now it can be watched.
        let conn = self.conn;
        let watch = Command::Watch { conn, task };
        Ok(self.context.partition.send(watch, 0).await?)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // A partition that is down has forgotten the stream by itself.
        let _ = self
            .context
            .partition
            .post(Command::Unwatch { conn: self.conn });
        self.context.partition.close(self.conn);
    }
}
