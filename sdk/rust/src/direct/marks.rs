//! Retries stay next to the failure: a handler whose own call was tried again, or was not to be, and failed for good
//! tells its caller not to try it once more.

use super::verdicts::is_candidate;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tonic::Status;

/// What a worker says of trying again, in milliseconds; negative: not at all.
pub(crate) const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

tokio::task_local! {
    static MARK: Mark;
}

/// What a call that is being served knows of those it makes: whether one of them failed for good.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mark(Arc<AtomicBool>);

impl Mark {
    /// Runs a handler that may be marked.
    pub(crate) async fn around<F: Future>(&self, handler: F) -> F::Output {
        MARK.scope(self.clone(), handler).await
    }

    /// Adds the word to a failure. `headers` are those that hold the status.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        let status = Status::from_header_map(headers);
        if self.0.load(Ordering::Relaxed)
            && status.is_some_and(|status| is_candidate(status.code()))
        {
            headers.insert(PUSHBACK, HeaderValue::from_static("-1"));
        }
    }
}

/// A call that was made here failed, with a code to retry, and is not to be tried again above.
pub(super) fn stop_above() {
    // Where nothing is being served there is nobody above.
    let _ = MARK.try_with(|mark| mark.0.store(true, Ordering::Relaxed));
}
