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
