//! How errors are read, against the vectors that every language shares.

use plait::errors::{self, ErrorReason};
use serde_json::{Value, json};
use tonic::{Code, Status};

fn document() -> Value {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../interop/vectors/error_codes.json"
    );
    let text = std::fs::read_to_string(path).expect("the vectors");
    let document: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(document["schema"], 1);
    document
}

fn rows<'a>(document: &'a Value, name: &str) -> &'a Vec<Value> {
    document[name].as_array().expect("rows")
}

/// The name of a code in the contracts.
fn code_name(code: Code) -> String {
    let words = format!("{code:?}");
    let mut name = String::new();
    for letter in words.chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    if code == Code::Ok {
        "OK".to_owned()
    } else {
        name
    }
}

fn reason_name(reason: ErrorReason) -> &'static str {
    reason.as_str_name().trim_start_matches("ERROR_REASON_")
}

#[test]
fn every_reason_has_the_code_of_the_vectors() {
    let document = document();
    let reasons = rows(&document, "reasons");
    for row in reasons {
        let number = i32::try_from(row["number"].as_i64().expect("a number")).expect("small");
        let reason = ErrorReason::try_from(number).expect("a reason");
        assert_eq!(reason_name(reason), row["reason"]);
        assert_eq!(code_name(errors::code_of(reason)), row["code"], "{row}");
    }
    let last = reasons.last().expect("a row")["number"].as_i64();
    let next = i32::try_from(last.expect("a number")).expect("small") + 1;
    let known = (1..=next)
        .filter(|number| ErrorReason::try_from(*number).is_ok())
        .count();
    assert_eq!(known, reasons.len(), "a reason is not in the vectors");
}

#[test]
fn tasks_are_retried_by_the_table_of_the_vectors() {
    let document = document();
    let codes = rows(&document, "codes");
    assert_eq!(codes.len(), 17);
    for row in codes {
        let number = i32::try_from(row["number"].as_i64().expect("a number")).expect("small");
        let code = Code::from_i32(number);
        assert_eq!(code_name(code), row["code"]);
        assert_eq!(errors::task_is_retried(code), row["task_retried"], "{row}");
    }
}

#[test]
fn every_error_is_read_as_the_vectors_say() {
    let document = document();
    let errors = rows(&document, "errors");
    assert!(errors.len() >= 37);
    for vector in errors {
        assert_eq!(&read(vector), vector);
    }
}

/// What is read of the status in a vector, in the vector's form.
fn read(vector: &Value) -> Value {
    let hex = vector["details_hex"].as_str().expect("details");
    let details: Vec<u8> = (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"))
        .collect();
    let number = i32::try_from(vector["number"].as_i64().expect("a number")).expect("small");
    let message = vector["message"].as_str().expect("a message");
    let status = Status::with_details(Code::from_i32(number), message, details.into());
    let reason = errors::reason(&status).map(reason_name);
    // A reason of a newer Plait is read as its text only.
    let info = errors::error_info(&status).filter(|info| info.domain == errors::DOMAIN);
    let text = info.as_ref().map(|info| info.reason.as_str());
    json!({
        "name": vector["name"],
        "number": number,
        "code": code_name(status.code()),
        "message": status.message(),
        "details_hex": hex,
        "reason": text,
        "known": reason == text,
        "metadata": info.as_ref().map(|info| info.metadata.clone()).unwrap_or_default(),
        "retry_after_ms": errors::retry_after(&status).map(|delay| delay.as_millis() as u64),
    })
}
