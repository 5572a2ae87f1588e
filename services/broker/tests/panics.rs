//! A panic ends the broker, whatever the profile says of unwinding.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

const ABORTED: i32 = 6;

#[test]
#[ignore = "the next test runs it, in a process of its own"]
fn panics_in_a_thread() {
    plait_broker::panics::abort_process();
    // The thread's end would be the end of nothing else.
    let _ = std::thread::spawn(|| panic!("planted")).join();
}

#[test]
fn a_panic_is_told_and_ends_the_process() {
    let own = std::env::current_exe().expect("this program");
    let args = ["--ignored", "--exact", "--nocapture", "panics_in_a_thread"];
    let ended = Command::new(own).args(args).output().expect("it runs");
    assert_eq!(ended.status.signal(), Some(ABORTED), "{:?}", ended.status);
    assert!(String::from_utf8_lossy(&ended.stderr).contains("planted"));
}
