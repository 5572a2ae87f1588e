//! The span of a direct call, on either side of it.

use super::{NOOP, SpanStatus, TRACEPARENT, TRACESTATE, parse, start};
use http::{HeaderMap, HeaderValue};
use opentelemetry::trace::{SpanBuilder, SpanContext, SpanKind, TraceContextExt, TraceState};
use opentelemetry::{Context, KeyValue};
use std::str::FromStr;
use std::sync::atomic::Ordering;
use tonic::Status;

/// Whose span it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Caller,
    Worker,
}

/// A direct call's span, or where there is no tracer the context that goes with it.
#[derive(Debug)]
pub(crate) struct Rpc {
    context: Option<Context>,
    own: bool,
}

impl Rpc {
    /// Starts the span of a call of "/package.Service/Method": under the caller's, which is in `headers` where they
    /// came in, else under the current one.
    pub(crate) fn start(path: &str, side: Side, headers: Option<&HeaderMap>) -> Self {
        let parent = match headers {
            Some(headers) => extract(headers).map_or_else(Context::new, |span| {
                Context::new().with_remote_span_context(span)
            }),
            None => Context::current(),
        };
        let traced = parent.has_active_span();
        if !traced && NOOP.load(Ordering::Relaxed) {
            return Self {
                context: None,
                own: false,
            };
        }
        let method = path.trim_start_matches('/').to_owned();
        let kind = match side {
            Side::Caller => SpanKind::Client,
            Side::Worker => SpanKind::Server,
        };
        let span = SpanBuilder::from_name(method.clone())
            .with_kind(kind)
            .with_attributes([
                KeyValue::new("rpc.system.name", "grpc"),
                KeyValue::new("rpc.method", method),
            ]);
        match start(span, &parent) {
            Some(context) => Self {
                context: Some(context),
                own: true,
            },
            None => Self {
                context: traced.then_some(parent),
                own: false,
            },
        }
    }

    /// An attempt after the first is sent.
    pub(crate) fn attempt(&self, number: u32) {
        if let Some(context) = self.context.as_ref().filter(|_| self.own) {
            let number = KeyValue::new("plait.attempt.number", i64::from(number));
            context.span().add_event("attempt", vec![number]);
        }
    }

    /// The context for what is done within it.
    pub(crate) fn context(&self) -> Option<Context> {
        self.context.clone()
    }

    /// Sends the context along. One that the caller has set stands, unless the call has a span of its own.
    pub(crate) fn inject(&self, headers: &mut HeaderMap) {
        let Some(context) = &self.context else { return };
        if !self.own && headers.contains_key(TRACEPARENT) {
            return;
        }
        let span = context.span();
        let span = span.span_context();
        let (trace, id) = (span.trace_id(), span.span_id());
        let parent = format!("00-{trace}-{id}-{:02x}", span.trace_flags().to_u8());
        if let Ok(parent) = HeaderValue::try_from(parent) {
            headers.insert(TRACEPARENT, parent);
        }
        headers.remove(TRACESTATE);
        let state = span.trace_state().header();
        if let Some(state) = (!state.is_empty()).then(|| HeaderValue::try_from(state)) {
            headers.extend(
                state
                    .ok()
                    .map(|state| (http::HeaderName::from_static(TRACESTATE), state)),
            );
        }
    }

    /// Ends the span with the call's outcome.
    pub(crate) fn end(mut self, error: Option<&Status>) {
        let (code, message) =
            error.map_or((0, ""), |status| (status.code() as i32, status.message()));
        self.finish(code, message);
    }

    fn finish(&mut self, code: i32, message: &str) {
        let Some(context) = self.context.take().filter(|_| self.own) else {
            return;
        };
        let span = context.span();
        span.set_attribute(KeyValue::new("rpc.status_code", i64::from(code)));
        if code != 0 {
            span.set_status(SpanStatus::error(message.to_owned()));
        }
        span.end();
    }
}

/// A call that was dropped was cancelled.
impl Drop for Rpc {
    fn drop(&mut self) {
        self.finish(1, "the call was dropped");
    }
}

fn extract(headers: &HeaderMap) -> Option<SpanContext> {
    let find = |key: &str| headers.get(key)?.to_str().ok();
    let state = || find(TRACESTATE).and_then(|state| TraceState::from_str(state).ok());
    parse(find(TRACEPARENT)?, state)
}
