//! Handlers that end their process, for the tests of what ends with it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::OpenOptions;
use std::io::{self, Write};

const EXIT: i32 = 3;
/// What a process may take on top of what it has.
const EATEN_AT_MOST: u64 = 512 << 20;
const BITE: usize = 16 << 20;

/// Ends the process in the way that a request asks for, if ECHO_RUIN names the file in which each such attempt is noted
/// first. Without it, or for another word, it does nothing.
pub(crate) fn obey(how: &str) -> io::Result<()> {
    let Some(path) = std::env::var_os("ECHO_RUIN") else {
        return Ok(());
    };
    if !["exit", "abort", "eat"].contains(&how) {
        return Ok(());
    }
    let attempt = plait::attempt().ok_or(io::ErrorKind::NotFound)?;
    let line = format!("rust\t{}\t{how}\t{}\n", attempt.task_id(), attempt.number());
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(line.as_bytes())?;
    match how {
        "exit" => std::process::exit(EXIT),
        "abort" => std::process::abort(),
        _ => eat(),
    }
}

/// Takes memory until the limit of the process is reached, and the allocator cannot go on.
fn eat() -> io::Result<()> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm
        .split(' ')
        .next()
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0);
    let limit = pages * rustix::param::page_size() as u64 + EATEN_AT_MOST;
    let maximum = getrlimit(Resource::As).maximum;
    setrlimit(
        Resource::As,
        Rlimit {
            current: Some(limit),
            maximum,
        },
    )?;
    let mut eaten = Vec::new();
    loop {
        eaten.push(vec![1_u8; BITE]);
    }
}
