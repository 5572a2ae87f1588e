//! The spans of a flow and its child, as the protocol's table has them. In a process of its own: the tracer is global.

mod support;

use opentelemetry::global;
use opentelemetry::trace::{SpanKind, Status as SpanStatus, TraceContextExt, Tracer};
use opentelemetry::{Context, trace::FutureExt};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use plait::pb::testing::v1::*;
use std::sync::{Arc, Mutex, PoisonError};
use support::echo::Echo;
use support::{Mesh, soon};

#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(batch);
        Ok(())
    }
}

impl Kept {
    fn named(&self, name: &str) -> Vec<SpanData> {
        let spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spans
            .iter()
            .filter(|span| span.name == name)
            .cloned()
            .collect()
    }
}

fn attribute(span: &SpanData, key: &str) -> String {
    let found = span
        .attributes
        .iter()
        .find(|entry| entry.key.as_str() == key);
    found.map_or_else(String::new, |entry| entry.value.to_string())
}

#[tokio::test]
async fn one_tree_from_the_caller_to_the_child() {
    let kept = Kept::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(kept.clone())
        .build();
    global::set_tracer_provider(provider);
    let mesh = Mesh::start().await;
    let _worker = mesh.serve(&Echo::new(Some(mesh.p.channel()))).await;

    let root = global::tracer("test").start("root");
    let root = Context::new().with_span(root);
    let request = FlowRequest {
        depth: 1,
        ..Default::default()
    };
    let mut client = mesh.client();
    let answer = soon(client.flow(request).with_context(root.clone()))
        .await
        .expect("an answer");
    let task = answer
        .metadata()
        .get("plait-task-id")
        .expect("an id")
        .to_str()
        .expect("text");

    let flow = "testing.v1.EchoService/Flow";
    let child = "testing.v1.EchoService/Fail";
    let [submitted] = &kept.named(&format!("submit {flow}"))[..] else {
        panic!("one submission")
    };
    let [attempted] = &kept.named(&format!("attempt {flow}"))[..] else {
        panic!("one attempt")
    };
    let [child_submitted] = &kept.named(&format!("submit {child}"))[..] else {
        panic!("one child")
    };
    let child_attempts = kept.named(&format!("attempt {child}"));

    assert_eq!(
        submitted.parent_span_id,
        root.span().span_context().span_id()
    );
    assert_eq!(attempted.parent_span_id, submitted.span_context.span_id());
    assert_eq!(
        child_submitted.parent_span_id,
        attempted.span_context.span_id()
    );
    assert_eq!(child_attempts.len(), 2, "it fails once");
    for span in [submitted, attempted, child_submitted]
        .into_iter()
        .chain(&child_attempts)
    {
        assert_eq!(
            span.span_context.trace_id(),
            root.span().span_context().trace_id()
        );
        assert_eq!(attribute(span, "messaging.system"), "plait");
    }

    assert_eq!(
        (&submitted.span_kind, &attempted.span_kind),
        (&SpanKind::Producer, &SpanKind::Consumer)
    );
    for (span, key, want) in [
        (submitted, "messaging.operation.type", "send"),
        (submitted, "messaging.destination.name", "echo.flow"),
        (submitted, "messaging.message.id", task),
        (attempted, "messaging.operation.type", "process"),
        (attempted, "messaging.destination.name", "echo.flow"),
        (attempted, "messaging.message.id", task),
        (attempted, "plait.attempt.number", "1"),
        (attempted, "rpc.system.name", "grpc"),
        (attempted, "rpc.method", flow),
        (attempted, "rpc.status_code", "0"),
    ] {
        assert_eq!(attribute(span, key), want, "{key} of {}", span.name);
    }

    let failed = child_attempts
        .iter()
        .find(|span| attribute(span, "plait.attempt.number") == "1");
    let failed = failed.expect("the first attempt");
    assert_eq!(
        failed.parent_span_id,
        child_submitted.span_context.span_id()
    );
    assert_eq!(attribute(failed, "rpc.status_code"), "14");
    assert_eq!(failed.status, SpanStatus::error("/0"));
}
