//! Where work is done that may wait for the disk: beside the runtime, so that no connection waits for it.
//!
//! Such work is a future that awaits nothing but its queue and blocks on nothing but the disk. A broker gives each a
//! thread; a simulation runs all of them on the one thread that it has.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use tokio::sync::{mpsc, oneshot};

/// Work that goes on until its queue is closed.
pub type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One piece of work.
pub type Errand = Box<dyn FnOnce() + Send>;

/// Ends with the work; with an error if it panicked, or was given up.
pub type Ended = oneshot::Receiver<()>;

/// Where work is done.
pub trait Threads: fmt::Debug + Send + Sync {
    /// Starts work that goes on for long. It may block on what comes through a channel only if
    /// [`Threads::may_block`].
    fn start(&self, name: &'static str, work: Work) -> io::Result<Ended>;

    /// Does one piece of work soon.
    fn run(&self, errand: Errand);

    /// Whether work may block its thread until others send something.
    fn may_block(&self) -> bool;
}

/// A thread for each work, and those of the runtime for errands.
#[derive(Debug, Clone, Copy, Default)]
pub struct OwnThreads;

impl Threads for OwnThreads {
    fn start(&self, name: &'static str, work: Work) -> io::Result<Ended> {
        let (done, ended) = oneshot::channel();
        let drive = move || {
            drive(work);
            // Whoever started it may be gone.
            let _ = done.send(());
        };
        thread::Builder::new().name(name.to_owned()).spawn(drive)?;
        Ok(ended)
    }

    fn run(&self, errand: Errand) {
        drop(tokio::task::spawn_blocking(errand));
    }

    fn may_block(&self) -> bool {
        true
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Polls on this thread until done. No runtime is entered, so the work may block.
fn drive(mut work: Work) {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    while work.as_mut().poll(&mut context) == Poll::Pending {
        thread::park();
    }
}

/// What comes through a channel, for code that cannot await.
#[derive(Debug)]
pub(crate) struct Inflow<T> {
    here: std::vec::IntoIter<T>,
    coming: Option<mpsc::Receiver<T>>,
}

impl<T> Inflow<T> {
    /// All that comes from now on. Where nothing may block, it is awaited first.
    pub(crate) async fn of(mut channel: mpsc::Receiver<T>, may_block: bool) -> Self {
        let mut here = Vec::new();
        if !may_block {
            while let Some(item) = channel.recv().await {
                here.push(item);
            }
        }
        Self {
            here: here.into_iter(),
            coming: may_block.then_some(channel),
        }
    }

    /// The next one; none when the sender is gone.
    pub(crate) fn next(&mut self) -> Option<T> {
        let coming = || self.coming.as_mut()?.blocking_recv();
        self.here.next().or_else(coming)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_goes_on_beside_the_runtime_and_may_block() {
        let (jobs, mut queue) = mpsc::unbounded_channel::<mpsc::Receiver<u32>>();
        let (sums, mut told) = mpsc::unbounded_channel();
        let work = async move {
            while let Some(numbers) = queue.recv().await {
                let mut numbers = Inflow::of(numbers, true).await;
                let sum: u32 = std::iter::from_fn(|| numbers.next()).sum();
                sums.send(sum).expect("somebody listens");
            }
        };
        let ended = OwnThreads.start("sums", Box::pin(work)).expect("a thread");
        for round in 1..=3 {
            let (numbers, coming) = mpsc::channel(1);
            jobs.send(coming).expect("the thread works");
            numbers.send(round).await.expect("it is read");
            numbers.send(round).await.expect("it is read");
            drop(numbers);
            assert_eq!(told.recv().await, Some(2 * round));
        }
        drop(jobs);
        ended.await.expect("it ended well");
    }

    #[tokio::test]
    async fn where_nothing_may_block_all_is_awaited_first() {
        let (numbers, coming) = mpsc::channel(1);
        let sender = tokio::spawn(async move {
            for number in 0..5 {
                numbers.send(number).await.expect("it is read");
            }
        });
        let mut inflow = Inflow::of(coming, false).await;
        let all: Vec<i32> = std::iter::from_fn(|| inflow.next()).collect();
        assert_eq!(all, [0, 1, 2, 3, 4]);
        sender.await.expect("it ended well");
    }
}
