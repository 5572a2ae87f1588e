//! The broker's process against raw clients of its protocol.

mod contracts;
mod plain_path;
mod support;
