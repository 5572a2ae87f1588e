//! Behaviour of a partition as SEMANTICS tells it, one file a subject; the tests' names say what is promised.

mod harness;
mod lifecycle;
