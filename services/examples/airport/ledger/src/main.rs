//! The Rust worker of the airport example: intake (raw rows to flights) and the double-entry ledger.
#![allow(dead_code)]
mod domain;
mod store;
fn main() {}
