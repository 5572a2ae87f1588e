use super::*;
use crate::testing;
use serde_json::Value;

fn vectors() -> Value {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../interop/vectors/flags.json"
    );
    let text = std::fs::read_to_string(path).expect("the vectors");
    serde_json::from_str(&text).expect("JSON")
}

fn rule(said: &Value) -> FlagRule {
    let mut rule = FlagRule::default();
    for (field, value) in said.as_object().expect("a rule") {
        let keys = || {
            let keys = value.as_array().expect("keys").iter();
            keys.map(|key| key.as_str().expect("a key").to_owned())
                .collect()
        };
        match field.as_str() {
            "name" => rule.name = value.as_str().expect("a name").to_owned(),
            "share" => rule.share = value.as_u64().expect("a share") as u32,
            "keys_on" => rule.keys_on = keys(),
            "keys_off" => rule.keys_off = keys(),
            "missing" => rule.missing = value.as_bool().expect("true or false"),
            other => panic!("unknown field {other}"),
        }
    }
    rule
}

#[test]
fn keys_stand_where_they_stand_in_every_language() {
    let document = vectors();
    assert_eq!(document["schema"], 1);
    let positions = document["positions"].as_array().expect("positions");
    assert!(!positions.is_empty());
    for vector in positions {
        let text = |field: &str| vector[field].as_str().expect("text");
        let found = position(text("name"), text("key"));
        assert_eq!(u64::from(found), vector["position"], "{vector}");
    }
}

#[test]
fn a_flag_says_what_it_says_in_every_language() {
    let document = vectors();
    for vector in document["cases"].as_array().expect("cases") {
        let said = &vector["rule"];
        let missing = || FlagRule {
            missing: true,
            ..FlagRule::default()
        };
        let rule = if said.is_null() {
            missing()
        } else {
            rule(said)
        };
        let default = vector["default"].as_bool().expect("a default");
        let found = is_on(&rule, vector["key"].as_str(), default);
        assert_eq!(Value::from(found), vector["on"], "{}", vector["why"]);
    }
}

fn share(name: &str, share: u32) -> FlagRule {
    FlagRule {
        name: name.to_owned(),
        share,
        ..FlagRule::default()
    }
}

#[test]
fn an_attempt_sees_the_flags_of_its_beginning_and_the_next_one_the_change() {
    let board = Board::default();
    board.replace([share("a", SHARE_MAX), share("b", SHARE_MAX)]);
    let first = Readings::new(board.now(), Vec::new());
    board.change(FlagFrame {
        flags: vec![share("a", 0)],
        removed: vec!["b".to_owned()],
    });
    assert_eq!(
        (first.read("a").share, first.read("b").share),
        (SHARE_MAX, SHARE_MAX)
    );
    let next = Readings::new(board.now(), Vec::new());
    assert_eq!((next.read("a").share, next.read("b").missing), (0, true));
    board.replace([]);
    assert!(Readings::new(board.now(), Vec::new()).read("a").missing);
}

#[test]
fn what_an_earlier_run_read_holds_and_is_told_again() {
    let board = Board::default();
    board.replace([share("a", SHARE_MAX), share("c", 7)]);
    let recorded = vec![share("a", 0), share("b", 5)];
    let readings = Readings::new(board.now(), recorded);
    assert_eq!(readings.count(), 0);
    assert_eq!((readings.read("a").share, readings.read("c").share), (0, 7));
    assert!(readings.read("d").missing);
    let told = readings.told();
    let names: Vec<&str> = told.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["a", "c", "d"]);
}

#[tokio::test]
async fn a_child_tells_what_was_read_before_it() {
    let attempt = testing::attempt().flag("a", true);
    attempt
        .run(async {
            let attempt = crate::attempt().expect("inside");
            let flags = |options: Arc<crate::pb::v1::TaskOptions>| {
                options.parent.as_ref().expect("a child").flags.len()
            };
            assert_eq!(flags(attempt.child_options()), 0);
            assert!(flag("a").is_on());
            assert!(!flag("Not a name").is_on());
            assert_eq!(flags(attempt.child_options()), 1);
            assert_eq!(attempt.flow_parent(String::new()).flags.len(), 1);
        })
        .await;
    assert!(!flag("a").is_on() && flag("a").or(true).is_on());
}

#[tokio::test]
async fn a_direct_call_sees_flags_but_has_no_key() {
    let board = Board::default();
    board.replace([share("all", SHARE_MAX), share("most", SHARE_MAX - 1)]);
    let seen = board.around(async {
        (
            flag("all").is_on(),
            flag("most").is_on(),
            flag("most").key("k").is_on(),
        )
    });
    assert_eq!(seen.await, (true, false, true));
}
