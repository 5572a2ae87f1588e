//! Calls that tonic refuses before a servicer sees them, in our words.

use tonic::Status;
use tonic::codegen::http::Response;

use crate::status;

/// The answer, or the same refusal with Plait's reason: see [`status::incoming`].
pub(super) fn in_our_words<B: Default>(answer: Response<B>) -> Response<B> {
    // A refusal at once has its status in the headers. Others, and answers, are not looked at.
    match Status::from_header_map(answer.headers()) {
        Some(status) if status.code() == tonic::Code::OutOfRange => {
            status::incoming(status).into_http()
        }
        _ => answer,
    }
}
