//! Trace context through submission, queue, attempt and children, and the two spans that Plait makes.
//!
//! Spans go to the global tracer provider of `opentelemetry`, whoever set it; [`configure`] sets one that exports by
//! OTLP. Set it before the first task is submitted or received. Without one no span is made, and the context of the
//! caller still travels with its tasks.

use crate::contracts::Method;
use crate::pb::v1::Metadatum;
use bytes::Bytes;
use opentelemetry::trace::{
    SpanBuilder, SpanContext, SpanId, SpanKind, Status as SpanStatus, TraceContextExt, TraceFlags,
    TraceId, TraceState,
};
use opentelemetry::{Context, KeyValue, global};
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use tonic::Status;

mod export;
pub(crate) mod rpc;

pub use export::{Exporter, configure};

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// The tracer of this process, taken from the global provider when it is first needed.
static TRACER: OnceLock<global::BoxedTracer> = OnceLock::new();

/// Set once a span came out without a context: no tracer is configured, and asking again for every task would cost.
static NOOP: AtomicBool = AtomicBool::new(false);

/// Starts a span under `parent`; `None` when no tracer is configured.
fn start(span: SpanBuilder, parent: &Context) -> Option<Context> {
    if NOOP.load(Ordering::Relaxed) {
        return None;
    }
    let tracer = TRACER.get_or_init(|| global::tracer("plait"));
    let span = span.start_with_context(tracer, parent);
    if !opentelemetry::trace::Span::span_context(&span).is_valid() {
        NOOP.store(true, Ordering::Relaxed);
        return None;
    }
    Some(parent.with_span(span))
}

/// The span of a submission, or where there is none the context that goes with it.
#[derive(Debug)]
pub(crate) struct Submission {
    context: Option<Context>,
    own: bool,
}

impl Submission {
    /// Starts the PRODUCER span under the current one.
    pub(crate) fn start(method: &Method) -> Self {
        let has_span = Context::map_current(|current| current.has_active_span());
        if !has_span && NOOP.load(Ordering::Relaxed) {
            return Self {
                context: None,
                own: false,
            };
        }
        let parent = Context::current();
        let span = SpanBuilder::from_name(format!("submit {}", method.name()))
            .with_kind(SpanKind::Producer)
            .with_attributes([
                KeyValue::new("messaging.system", "plait"),
                KeyValue::new("messaging.operation.type", "send"),
                KeyValue::new("messaging.destination.name", method.queue.clone()),
            ]);
        match start(span, &parent) {
            Some(context) => Self {
                context: Some(context),
                own: true,
            },
            None => Self {
                context: has_span.then_some(parent),
                own: false,
            },
        }
    }

    /// Puts the trace context into the task's metadata, in place of what the user's stub may have put there.
    pub(crate) fn inject(&self, metadata: &mut Vec<Metadatum>) {
        let Some(context) = &self.context else { return };
        let span = context.span();
        let span = span.span_context();
        if !span.is_valid() {
            return;
        }
        metadata.retain(|entry| entry.key != TRACEPARENT && entry.key != TRACESTATE);
        let (trace, id) = (span.trace_id(), span.span_id());
        let parent = format!("00-{trace}-{id}-{:02x}", span.trace_flags().to_u8());
        metadata.push(Metadatum {
            key: TRACEPARENT.to_owned(),
            value: parent.into(),
        });
        let state = span.trace_state().header();
        if !state.is_empty() {
            metadata.push(Metadatum {
                key: TRACESTATE.to_owned(),
                value: Bytes::from(state),
            });
        }
    }

    /// Ends the span with what became of the submission, or of the call.
    pub(crate) fn end(&mut self, task: Option<u64>, error: Option<&Status>) {
        let Some(context) = self.context.take().filter(|_| self.own) else {
            return;
        };
        let span = context.span();
        if let Some(task) = task {
            span.set_attribute(KeyValue::new("messaging.message.id", task_id(task)));
        }
        if let Some(error) = error {
            span.set_status(SpanStatus::error(error.message().to_owned()));
        }
        span.end();
    }
}

/// The context under which a handler runs: that of its own span, or else the submitter's.
#[derive(Debug)]
pub(crate) struct Attempt {
    context: Context,
    own: bool,
}

/// What the span of an attempt tells.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttemptFacts<'a> {
    pub(crate) method: &'a Method,
    pub(crate) task: u64,
    pub(crate) number: u32,
    pub(crate) metadata: &'a [Metadatum],
}

impl Attempt {
    /// Starts the CONSUMER span under the submitter's. `None`: no tracer here and no context came along.
    pub(crate) fn start(facts: AttemptFacts<'_>) -> Option<Self> {
        let remote = extract(facts.metadata);
        if remote.is_none() && NOOP.load(Ordering::Relaxed) {
            return None;
        }
        let root = Context::new();
        let parent = match &remote {
            Some(remote) => root.with_remote_span_context(remote.clone()),
            None => root,
        };
        let AttemptFacts {
            method,
            task,
            number,
            ..
        } = facts;
        let span = SpanBuilder::from_name(format!("attempt {}", method.name()))
            .with_kind(SpanKind::Consumer)
            .with_attributes([
                KeyValue::new("messaging.system", "plait"),
                KeyValue::new("messaging.operation.type", "process"),
                KeyValue::new("messaging.destination.name", method.queue.clone()),
                KeyValue::new("messaging.message.id", task_id(task)),
                KeyValue::new("plait.attempt.number", i64::from(number)),
                KeyValue::new("rpc.system.name", "grpc"),
                KeyValue::new("rpc.method", method.name().to_owned()),
            ]);
        match start(span, &parent) {
            Some(context) => Some(Self { context, own: true }),
            None => remote.map(|_| Self {
                context: parent,
                own: false,
            }),
        }
    }

    /// The context to run the handler in.
    pub(crate) fn context(&self) -> Context {
        self.context.clone()
    }

    /// Ends the span with the handler's code and, unless it is OK, its message.
    pub(crate) fn end(mut self, code: u32, message: &str) {
        self.finish(code, message);
    }

    fn finish(&mut self, code: u32, message: &str) {
        if !std::mem::take(&mut self.own) {
            return;
        }
        let span = self.context.span();
        span.set_attribute(KeyValue::new("rpc.status_code", i64::from(code)));
        if code != 0 {
            span.set_status(SpanStatus::error(message.to_owned()));
        }
        span.end();
    }
}

/// A handler that was dropped was stopped.
impl Drop for Attempt {
    fn drop(&mut self) {
        self.finish(1, "the attempt was stopped");
    }
}

fn task_id(task: u64) -> String {
    crate::TaskId(task).to_string()
}

/// The submitter's context, where the metadata hold a valid one.
fn extract(metadata: &[Metadatum]) -> Option<SpanContext> {
    let find = |key: &str| {
        let entry = metadata.iter().find(|entry| entry.key == key)?;
        str::from_utf8(&entry.value).ok()
    };
    let state = || find(TRACESTATE).and_then(|state| TraceState::from_str(state).ok());
    parse(find(TRACEPARENT)?, state)
}

/// W3C traceparent: version, trace id, span id, flags. A later version may say more after the flags.
fn parse(text: &str, state: impl FnOnce() -> Option<TraceState>) -> Option<SpanContext> {
    let mut parts = text.trim().split('-');
    let [version, trace, span, flags] =
        [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
    let hex = |text: &str, len| {
        text.len() == len
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    if !(hex(version, 2) && hex(trace, 32) && hex(span, 16) && hex(flags, 2)) {
        return None;
    }
    if version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let trace = TraceId::from_hex(trace).ok()?;
    let span = SpanId::from_hex(span).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let context = SpanContext::new(trace, span, flags, true, state().unwrap_or_default());
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests;
