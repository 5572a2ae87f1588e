use super::*;

fn context(text: &str) -> Option<SpanContext> {
    parse(text, || None)
}

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn a_traceparent_is_read() {
    let context = context(PARENT).expect("valid");
    assert_eq!(
        context.trace_id().to_string(),
        "4bf92f3577b34da6a3ce929d0e0e4736"
    );
    assert_eq!(context.span_id().to_string(), "00f067aa0ba902b7");
    assert!(context.is_sampled() && context.is_remote());
}

#[test]
fn a_later_version_may_say_more() {
    assert!(context(&PARENT.replacen("00", "cc", 1)).is_some());
    assert!(context(&format!("{}-more", PARENT.replacen("00", "cc", 1))).is_some());
}

#[test]
fn what_is_no_traceparent_is_left_alone() {
    for text in [
        "",
        "00",
        &PARENT.replacen("00", "ff", 1),
        &PARENT.to_uppercase(),
        &format!("{PARENT}-more"),
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ] {
        assert_eq!(context(text), None, "{text:?}");
    }
}

#[test]
fn the_submitters_context_goes_into_the_metadata_in_place_of_an_older_one() {
    let entry = |key: &str, value: &'static str| Metadatum {
        key: key.into(),
        value: value.into(),
    };
    let state = || TraceState::from_str("vendor=1").ok();
    let remote = parse(PARENT, state).expect("valid");
    let submission = Submission {
        context: Some(Context::new().with_remote_span_context(remote.clone())),
        own: false,
    };
    let mut metadata = vec![entry("traceparent", "old"), entry("tenant", "a")];
    submission.inject(&mut metadata);
    let want = [
        entry("tenant", "a"),
        entry("traceparent", PARENT),
        entry("tracestate", "vendor=1"),
    ];
    assert_eq!(metadata, want);
    assert_eq!(extract(&metadata), Some(remote));
}

#[test]
fn without_a_context_the_stubs_own_is_kept() {
    let mut metadata = vec![Metadatum {
        key: TRACEPARENT.into(),
        value: Bytes::from_static(b"theirs"),
    }];
    Submission {
        context: None,
        own: false,
    }
    .inject(&mut metadata);
    assert_eq!(metadata.len(), 1);
}
