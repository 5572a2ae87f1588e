//! What a simulated broker tells of workers, gates, splits and weights is judged: each kind of wrong start is found,
//! and its twin that is right is not.

use plait_broker_sim::{check, history};

/// Methods: the service's own two of different queues, of which keys of the first take turns; and a lower and a higher
/// latency class.
const METHODS: [(&str, &str, &str); 4] = [
    (
        "/s.v1.S/A",
        "a",
        r#"{"latency":1,"priority":4,"weight":2,"fair":true}"#,
    ),
    ("/s.v1.S/B", "b", r#"{"latency":1,"priority":4,"weight":1}"#),
    (
        "/s.v1.Low/M",
        "low",
        r#"{"latency":0,"priority":4,"weight":1}"#,
    ),
    (
        "/s.v1.High/M",
        "high",
        r#"{"latency":2,"priority":4,"weight":1}"#,
    ),
];

/// A history as it grows, and the broker's clock.
struct Story {
    lines: Vec<String>,
    clock: u64,
    tasks: u64,
    starts: u64,
}

impl Story {
    fn new() -> Self {
        let mut story = Self {
            lines: Vec::new(),
            clock: 100,
            tasks: 0,
            starts: 0,
        };
        story.tell(r#""rules","slack_ms":0,"complete":false"#);
        for (method, queue, rank) in METHODS {
            story.tell(&format!(
                r#""method","method":"{method}","queue":"{queue}","deadline_ms":90000,"attempt_timeout_ms":80000,
                "max_attempts":2,"max_backoff_ms":100,"window_ms":5000,"retention_ms":60000,"dead_letter_ms":0,
                "at_most_once":false,"retryable":[14],"rank":{rank}"#
            ));
        }
        story.restart();
        story
    }

    fn tell(&mut self, event: &str) {
        let at = self.lines.len();
        let line = format!(r#"{{"at":{at},"event":{event}}}"#);
        self.lines.push(line.replace('\n', " "));
    }

    fn restart(&mut self) {
        self.clock += 10;
        let at = self.clock;
        self.tell(&format!(r#""restart","what":"broker","broker_at":{at}"#));
    }

    /// A worker comes, named after its stream.
    fn worker(&mut self, (conn, version): (u64, &str), methods: &[&str], slots: u32) {
        let at = self.clock;
        let methods = methods.join("\",\"");
        self.tell(&format!(
            r#""worker.on","worker":"w{conn}","conn":{conn},"version":"{version}","methods":["{methods}"],
            "slots":{slots},"broker_at":{at}"#
        ));
    }

    fn leaves(&mut self, conn: u64) {
        let at = self.clock;
        self.tell(&format!(r#""worker.off","conn":{conn},"broker_at":{at}"#));
    }

    /// A letter is a task: A and B, low and high; x, y and z are keys of A.
    fn submit(&mut self, letters: &str) -> Vec<u64> {
        let each = letters.chars().map(|letter| {
            let (method, key) = match letter {
                'B' => (METHODS[1].0, String::new()),
                'l' => (METHODS[2].0, String::new()),
                'h' => (METHODS[3].0, String::new()),
                'A' => (METHODS[0].0, String::new()),
                key => (METHODS[0].0, format!(r#","limit":"{key}""#)),
            };
            self.tasks += 1;
            self.clock += 1;
            let (task, at) = (self.tasks, self.clock);
            self.tell(&format!(
                r#""submit.invoke","id":{task},"client":"c","method":"{method}","digest":{task}{key}"#
            ));
            self.tell(&format!(
                r#""submit.ok","id":{task},"task":{task},"created_at":{at}"#
            ));
            task
        });
        each.collect()
    }

    fn start(&mut self, task: u64, conn: u64) {
        self.starts += 1;
        let (token, at) = (self.starts, self.clock);
        self.tell(&format!(
            r#""dispatch","task":{task},"token":{token},"attempt":1,"worker":"w{conn}","of":{task},"broker_at":{at}"#
        ));
    }

    /// Tasks that all wait start in that order.
    fn order(&mut self, letters: &str) {
        for task in self.submit(letters) {
            self.start(task, 1);
        }
    }

    fn found(&self) -> Vec<&'static str> {
        let text = self.lines.join("\n");
        let entries = history::read(text.as_bytes()).unwrap_or_else(|e| panic!("{e}: {text}"));
        let report = check::check(&entries);
        let names = report.violations.iter().map(|v| v.invariant.name());
        names.collect()
    }
}

/// A worker of everything that the service has.
fn served() -> Story {
    let mut story = Story::new();
    story.worker((1, "1"), &[METHODS[0].0, METHODS[1].0], 100);
    story
}

fn weights(story: &mut Story, told: &str) {
    let method = METHODS[0].0;
    story.tell(&format!(r#""weights.invoke","method":"{method}""#));
    if !told.is_empty() {
        story.tell(&format!(
            r#""weights.ok","method":"{method}","weights":{told}"#
        ));
    }
}

#[test]
fn queues_share_by_weight() {
    let cases = [
        ("AABAAB", true),
        ("AAABAABAB", true),
        ("AAAABB", false),
        ("BBAAAA", false),
        ("AAABBAA", false),
    ];
    for (order, holds) in cases {
        let mut story = served();
        story.order(order);
        let expected: &[&str] = if holds { &[] } else { &["queues share"] };
        let mut found = story.found();
        found.dedup();
        assert_eq!(found, expected, "{order}");
    }
}

#[test]
fn keys_take_turns_by_weight() {
    let cases = [
        ("", "xyxyxy", true),
        ("", "xyyx", false),
        ("", "xxy", false),
        ("", "yxyxxy", false),
        (r#"{"x":2}"#, "xxyxxy", true),
        (r#"{"x":2}"#, "xxxy", false),
        (r#"{"x":2}"#, "yyx", false),
        (r#"{"x":2,"z":40}"#, "xxyxxy", true),
        (r#"{}"#, "xxy", false),
    ];
    for (told, order, holds) in cases {
        let mut story = served();
        if !told.is_empty() {
            weights(&mut story, told);
        }
        story.order(order);
        let holds_not = story.found().contains(&"keys take turns");
        assert_eq!(holds_not, !holds, "{order} by {told}");
    }
}

#[test]
fn weights_that_may_be_in_force_or_not_judge_nothing() {
    let mut story = served();
    weights(&mut story, r#"{"x":2}"#);
    weights(&mut story, "");
    story.tell(r#""crash","what":"broker""#);
    story.restart();
    story.worker((1, "1"), &[METHODS[0].0], 100);
    story.order("xxxxy");
    assert_eq!(story.found(), Vec::<&str>::new());
    weights(&mut story, r#"{"x":1}"#);
    story.order("xxy");
    assert_eq!(story.found(), ["keys take turns"]);
}

#[test]
fn weights_outlast_the_broker() {
    let mut story = served();
    weights(&mut story, r#"{"x":3}"#);
    story.tell(r#""crash","what":"broker""#);
    story.restart();
    story.worker((1, "1"), &[METHODS[0].0], 100);
    story.order("xxxyxxxy");
    assert_eq!(story.found(), Vec::<&str>::new());
    story.order("yyx");
    assert_eq!(story.found(), ["keys take turns"]);
}

#[test]
fn lower_classes_leave_slots_to_higher_ones() {
    for (order, holds) in [("lll", true), ("llll", false), ("lllh", true)] {
        let mut story = Story::new();
        story.worker((1, "1"), &[METHODS[2].0, METHODS[3].0], 4);
        story.order(order);
        for task in 1..=order.len() {
            story.tell(&format!(
                r#""outcome.invoke","task":{task},"token":{task},"code":0,"digest":{task}"#
            ));
            story.tell(&format!(r#""outcome.ok","task":{task},"token":{task}"#));
        }
        let expected: &[&str] = if holds { &[] } else { &["reserve is kept"] };
        assert_eq!(story.found(), expected, "{order}");
    }
}

fn split(story: &mut Story, share: u32) {
    let at = story.clock;
    story.tell(r#""splits.invoke""#);
    story.tell(&format!(
        r#""splits.ok","broker_at":{at},"splits":[{{"service":"s.v1.S","version":"2","share":{share},
        "sticky":"task","salt":"s","fallback_ms":50}}]"#
    ));
}

/// Starts a task on the second worker, of the version that has the share, some time after the first one came or left.
fn started_on_the_version(share: u32, leaves: bool, later_ms: u64) -> Vec<&'static str> {
    let mut story = served();
    story.worker((2, "2"), &[METHODS[0].0, METHODS[1].0], 100);
    split(&mut story, share);
    if leaves {
        story.leaves(1);
    }
    story.clock += later_ms;
    let task = story.submit("B")[0];
    story.start(task, 2);
    story.found()
}

#[test]
fn a_task_goes_to_its_side() {
    let wrong = ["split by version"];
    assert_eq!(started_on_the_version(10_000, false, 0), [""; 0]);
    assert_eq!(started_on_the_version(0, false, 0), wrong);
    // A version that has no share gets nothing from others that were there.
    assert_eq!(started_on_the_version(0, true, 60), wrong);
    // The share of so little is not of this task.
    assert_eq!(started_on_the_version(1, false, 0), wrong);
    assert_eq!(started_on_the_version(1, true, 0), wrong);
    assert_eq!(started_on_the_version(1, true, 60), [""; 0]);
    let mut story = served();
    split(&mut story, 10_000);
    story.order("B");
    assert_eq!(story.found(), [""; 0], "the version is away");
    story.worker((2, "2"), &[METHODS[1].0], 100);
    story.order("B");
    assert_eq!(story.found(), wrong);
}

#[test]
fn gates_hold() {
    let wrong = ["gates hold"];
    for gate in [r#""gate","of":"/s.v1.S/B""#, r#""worker_gate","of":"w1""#] {
        let mut story = served();
        let at = story.clock;
        story.tell(&format!(
            r#"{gate},"permits":1,"valid_ms":40,"broker_at":{at}"#
        ));
        story.order("B");
        assert_eq!(story.found(), [""; 0], "{gate}");
        story.clock += 40;
        story.order("B");
        assert_eq!(story.found(), [""; 0], "{gate} is over");
        story.clock -= 20;
        story.order("B");
        assert_eq!(story.found(), wrong, "{gate}");
    }
    let mut story = served();
    story.leaves(1);
    story.order("B");
    assert_eq!(story.found(), wrong, "nobody is there");
}
