//! What a panic does to the process.

/// From here on a panic, in any thread or task, ends the process once it is told. A broker that went on without one of
/// its parts would look alive and be deaf; whoever supervises it starts it again, and the log has what was
/// acknowledged.
///
/// Not `panic = "abort"` in the release profile, of which a workspace has one: workers of the same workspace answer a
/// handler's panic with UNKNOWN and live on, for which it must unwind.
pub fn abort_process() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
}
