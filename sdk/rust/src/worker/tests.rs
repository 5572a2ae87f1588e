use super::*;

#[test]
fn a_wish_is_only_raised() {
    let mut wish = Wish::Run;
    assert!(raise(&mut wish, Wish::Stop));
    assert!(!raise(&mut wish, Wish::Drain));
    assert_eq!(wish, Wish::Stop);
}

#[test]
fn a_program_has_a_name() {
    assert!(!program().is_empty());
}

#[test]
fn a_supervisor_knows_its_worker_by_the_id() {
    let id = worker_id(Some("echo.2.7f3a-9c"), [7; 16]);
    assert_eq!(id, "echo.2.7f3a-9c-07070707070707070707070707070707");
    let id = worker_id(Some(&"ä b".repeat(40)), [7; 16]);
    assert_eq!(id, format!("{}-{}", "b".repeat(31), "07".repeat(16)));
    assert_eq!(worker_id(None, [7; 16]).len(), 36);
    assert_eq!(worker_id(Some("ä"), [7; 16]).len(), 36);
}
