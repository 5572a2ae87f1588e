//! The gRPC services: they check what comes in, turn it into commands, and turn effects into messages.
//!
//! Generated types end here; decisions about tasks are made in the state machine.

mod attempts;
mod blobs;
mod contract;
mod control;
mod epoch;
mod failures;
mod figures;
mod flag;
mod frames;
mod hello;
mod hub;
mod key_value;
mod limits;
mod listing;
mod observer;
mod options;
mod outcomes;
mod pages;
mod results;
mod routes;
mod split;
mod submit_stream;
mod task;
mod test_kit;
mod times;
mod validate;
mod views;
mod watch;
mod worker;

use std::sync::Arc;

use tokio::sync::watch::Receiver;

pub use contract::Contracts;
pub use control::Control;
pub use flag::Flags;
pub use hub::Hub;
pub use key_value::KeyValues;
pub use task::Tasks;
pub use test_kit::TestKit;
pub use worker::Workers;

use crate::limits::Limits;
use crate::partition::Handle;
use crate::status::{self, Refused};

/// What every servicer has.
#[derive(Debug, Clone)]
pub struct Context {
    /// The partition.
    pub partition: Handle,
    /// Limits of what comes in and goes out.
    pub limits: Arc<Limits>,
    /// Whether what is acknowledged was synced; told to submitters.
    pub synced: bool,
    /// Whether the broker is going, and how long it waits for outcomes.
    pub draining: Receiver<Option<std::time::Duration>>,
    /// Workers, announcements and the scheduler.
    pub hub: Arc<Hub>,
}

impl Context {
    /// Refuses what would begin something new while the broker is going.
    fn accepting(&self) -> Result<(), Refused> {
        if self.draining.borrow().is_some() {
            Err(status::draining())
        } else {
            Ok(())
        }
    }
}

/// The stream type of our answers.
type Answers<T> =
    std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<T, tonic::Status>> + Send>>;
