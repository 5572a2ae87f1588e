//! A durable task and the handle to it.

use crate::client::Client;
use crate::errors;
use crate::flow;
use crate::pb::v1::{CancelTaskRequest, GetTaskRequest, TaskView, WatchTaskRequest};
use crate::session::{Outcome, Waiter};
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

pub use crate::pb::v1::{Task as TaskInfo, TaskState};

/// The number of a task. Its text is `t` and 16 lower-case hexadecimal digits, and sorts by submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub(crate) u64);

impl TaskId {
    /// The number itself.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }

    /// Its text, for a header.
    pub(crate) fn text(self) -> [u8; 17] {
        const DIGITS: [u8; 16] = *b"0123456789abcdef";
        std::array::from_fn(|place| match place.checked_sub(1) {
            None => b't',
            Some(place) => DIGITS[(self.0 >> (60 - 4 * place) & 0xf) as usize],
        })
    }
}

impl From<u64> for TaskId {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{:016x}", self.0)
    }
}

/// The text is not the id of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a task id is \"t\" and 16 lower-case hexadecimal digits")]
pub struct ParseTaskIdError;

impl FromStr for TaskId {
    type Err = ParseTaskIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix('t').ok_or(ParseTaskIdError)?;
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() != 16 || !digits.bytes().all(is_digit) {
            return Err(ParseTaskIdError);
        }
        u64::from_str_radix(digits, 16)
            .map(Self)
            .map_err(|_| ParseTaskIdError)
    }
}

/// A handle to a durable task whose result is an `R`. The task goes on whether or not the handle is kept; dropping it
/// cancels nothing. Get one from [`Plait::submit`](crate::Plait::submit), or for an id from
/// [`Plait::task`](crate::Plait::task).
pub struct Task<R> {
    client: Arc<Client>,
    id: TaskId,
    /// Inside a flow the result is asked for with the submission, so that it is at hand when the flow wants it.
    waiter: Mutex<Option<Waiter>>,
    result: PhantomData<fn() -> R>,
}

impl<R> fmt::Debug for Task<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl<R> Task<R> {
    pub(crate) fn new(client: Arc<Client>, id: TaskId, waiter: Option<Waiter>) -> Self {
        Self {
            client,
            id,
            waiter: Mutex::new(waiter),
            result: PhantomData,
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// What the broker knows of it now, without request, response and events.
    ///
    /// # Errors
    /// TASK_NOT_FOUND when its retention has passed; UNAVAILABLE when the broker cannot be reached.
    pub async fn info(&self) -> Result<TaskInfo, Status> {
        let request = GetTaskRequest {
            id: self.id.to_string(),
            view: TaskView::Basic.into(),
        };
        let answer = self.client.tasks().get_task(request).await?;
        Ok(answer.into_inner().task.unwrap_or_default())
    }

    /// The state it is in now.
    ///
    /// # Errors
    /// As [`Task::info`].
    pub async fn state(&self) -> Result<TaskState, Status> {
        Ok(self.info().await?.state())
    }

    /// Cancels it. A task that has not started never will; a running attempt is stopped. Returns the task after that:
    /// cancelled, or in the final state that won the race. `reason` is for people, at most 1 KiB.
    ///
    /// # Errors
    /// As [`Task::info`].
    pub async fn cancel(&self, reason: &str) -> Result<TaskInfo, Status> {
        let request = CancelTaskRequest {
            id: self.id.to_string(),
            reason: reason.to_owned(),
        };
        let answer = self.client.tasks().cancel_task(request).await?;
        Ok(answer.into_inner().task.unwrap_or_default())
    }

    /// The task as it is now and after each change, until it is final.
    ///
    /// # Errors
    /// As [`Task::info`]; the stream ends with an error when the connection breaks.
    pub async fn watch(
        &self,
    ) -> Result<impl Stream<Item = Result<TaskInfo, Status>> + use<R>, Status> {
        let request = WatchTaskRequest {
            id: self.id.to_string(),
            view: TaskView::Basic.into(),
        };
        let changes = self.client.tasks().watch_task(request).await?.into_inner();
        Ok(changes.map(|change| Ok(change?.task.unwrap_or_default())))
    }

    async fn outcome(&self) -> Outcome {
        let attempt = flow::of(&self.client);
        let waiter = self
            .waiter
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let waiter = waiter.unwrap_or_else(|| {
            let flow = attempt.as_ref().map(|attempt| attempt.flow());
            self.client.session().await_result(self.id.0, flow)
        });
        match attempt {
            Some(attempt) => attempt.wait(waiter.done()).await?.1,
            None => waiter.done().await.1,
        }
    }
}

impl<R: prost::Message + Default> Task<R> {
    /// Waits until it is final; its response. May be asked for again. Waits over broken connections for as long as it
    /// takes, so bound it with `tokio::time::timeout` where that matters.
    ///
    /// # Errors
    /// The handler's own status, with its details and trailers; TASK_CANCELLED, TASK_EXPIRED; TASK_NOT_FOUND when its
    /// retention has passed; INTERNAL when the response is no `R`.
    pub async fn result(&self) -> Result<R, Status> {
        let mut outcome = self.outcome().await;
        if let Err(status) = &mut outcome {
            errors::name_task(status, self.id);
        }
        R::decode(outcome?).map_err(|error| {
            Status::internal(format!(
                "the response of {} is not as declared: {error}",
                self.id
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_id_is_refused() {
        for text in [
            "",
            "t",
            "0000000000000001",
            "t1",
            "t000000000000000A",
            "t+00000000000001a",
        ] {
            assert_eq!(text.parse::<TaskId>(), Err(ParseTaskIdError), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn ids_are_read_back_and_sort_by_number(a in any::<u64>(), b in any::<u64>()) {
            let (one, two) = (TaskId(a), TaskId(b));
            prop_assert_eq!(one.to_string().parse(), Ok(one));
            prop_assert_eq!(one.text().to_vec(), one.to_string().into_bytes());
            prop_assert_eq!(one.to_string().cmp(&two.to_string()), a.cmp(&b));
        }
    }
}
