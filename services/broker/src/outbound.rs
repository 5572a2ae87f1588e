//! What waits to be sent on one stream, bounded by bytes. A reader that is too slow is cut, so that it costs its own
//! stream and not everybody's memory.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plait_broker_core::effect::Effect;
use plait_broker_core::record::Blob;
use tokio::sync::Notify;

/// Why a stream ends.
#[derive(Debug, Clone)]
pub enum End {
    /// The state machine or the shell says so.
    Status(Box<tonic::Status>),
    /// The other side closed it.
    Gone,
}

/// Something to send.
#[derive(Debug)]
pub enum Outgoing {
    /// What the state machine asked for.
    Effect(Effect),
    /// This frame of a submitter was not taken; it is to come again after a pause.
    NotNow {
        /// Its number.
        sequence: u64,
        /// How long to wait.
        pause: Duration,
    },
    /// The broker is going and waits so long for a worker's outcomes.
    Drain {
        /// How long.
        grace: Duration,
    },
}

/// The queue of one stream. One side pushes, the other takes all that there is.
#[derive(Debug)]
pub struct Outbound {
    state: Mutex<State>,
    changed: Notify,
    ended: Notify,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Outgoing>,
    bytes: usize,
    end: Option<End>,
}

/// What a taker finds.
#[derive(Debug)]
pub enum Taken {
    /// What is to be sent, oldest first; never none.
    Items(VecDeque<Outgoing>),
    /// Nothing more comes.
    End(End),
}

impl Outbound {
    /// An empty queue that is cut when more than `bytes_max` wait.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
            ended: Notify::new(),
            bytes_max,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds something to send. `false`: the stream has ended, or ends now because its reader is too slow.
    pub fn push(&self, item: Outgoing) -> bool {
        let mut state = self.lock();
        if state.end.is_some() {
            return false;
        }
        state.bytes += weight(&item);
        if state.bytes > self.bytes_max {
            state.queue.clear();
            state.end = Some(End::Status(Box::new(crate::status::slow_reader(
                self.bytes_max,
            ))));
        } else {
            state.queue.push_back(item);
        }
        let alive = state.end.is_none();
        drop(state);
        self.changed.notify_one();
        if !alive {
            self.ended.notify_waiters();
        }
        alive
    }

    /// Ends the stream after what is queued. The first end wins.
    pub fn end(&self, end: End) {
        self.lock().end.get_or_insert(end);
        self.changed.notify_one();
        self.ended.notify_waiters();
    }

    /// Waits until the stream has ended.
    pub async fn closed(&self) {
        loop {
            let mut notified = std::pin::pin!(self.ended.notified());
            notified.as_mut().enable();
            if self.lock().end.is_some() {
                return;
            }
            notified.await;
        }
    }

    /// Waits for something to send and takes all of it.
    pub async fn take(&self) -> Taken {
        loop {
            {
                let mut state = self.lock();
                if !state.queue.is_empty() {
                    state.bytes = 0;
                    return Taken::Items(std::mem::take(&mut state.queue));
                }
                if let Some(end) = &state.end {
                    return Taken::End(end.clone());
                }
            }
            self.changed.notified().await;
        }
    }
}

/// About how much memory an item keeps.
fn weight(item: &Outgoing) -> usize {
    const FIXED: usize = 96;
    let Outgoing::Effect(effect) = item else {
        return FIXED;
    };
    let resident = |blob: &Blob| blob.bytes.as_ref().map_or(0, bytes::Bytes::len);
    match effect {
        Effect::Results { results, .. } => results
            .iter()
            .map(|result| match &result.result {
                Ok(response) => FIXED + resident(response),
                Err((_, failure)) => FIXED + failure.message.len() + failure.details.len(),
            })
            .sum(),
        Effect::ResultsArchived { tasks, .. } => FIXED + tasks.len() * 8,
        Effect::Attempts { attempts, .. } => attempts
            .iter()
            .map(|a| FIXED + resident(&a.request) + resident(&a.envelope))
            .sum(),
        Effect::Accepted { acceptance, .. } => FIXED + acceptance.tasks.len() * 8,
        Effect::FlagChanged { name, value, .. } => {
            FIXED + name.len() + value.as_ref().map_or(0, bytes::Bytes::len)
        }
        Effect::TaskChanged { task, .. } => {
            8 * FIXED + resident(&task.request) + resident(&task.response)
        }
        _ => FIXED,
    }
}

/// Ends a stream when whoever sent on it goes away.
#[derive(Debug)]
pub struct Closing(pub std::sync::Arc<Outbound>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.end(End::Gone);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use plait_broker_core::ids::ConnId;

    use super::*;

    fn item() -> Outgoing {
        Outgoing::Effect(Effect::WorkerWelcome {
            conn: ConnId(1),
            lost: Vec::new(),
            flags: Vec::new(),
        })
    }

    fn taken(outbound: &Outbound) -> Option<Taken> {
        outbound.take().now_or_never()
    }

    #[test]
    fn all_that_waits_is_taken_at_once_and_then_the_end() {
        let outbound = Outbound::new(1 << 20);
        assert!(taken(&outbound).is_none());
        assert!(outbound.push(item()) && outbound.push(item()));
        outbound.end(End::Gone);
        assert!(!outbound.push(item()));
        assert!(matches!(taken(&outbound), Some(Taken::Items(items)) if items.len() == 2));
        assert!(matches!(taken(&outbound), Some(Taken::End(End::Gone))));
        assert!(outbound.closed().now_or_never().is_some());
    }

    #[test]
    fn a_reader_that_lets_too_much_wait_is_cut_and_what_waits_is_let_go() {
        let outbound = Outbound::new(1000);
        let pushed = (0..100).take_while(|_| outbound.push(item())).count();
        assert!((1..100).contains(&pushed));
        outbound.end(End::Gone);
        let Some(Taken::End(End::Status(status))) = taken(&outbound) else {
            panic!("not cut")
        };
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    }

    #[test]
    fn what_was_taken_counts_no_more() {
        let outbound = Outbound::new(1000);
        for _ in 0..100 {
            assert!(outbound.push(item()));
            assert!(taken(&outbound).is_some());
        }
    }
}
