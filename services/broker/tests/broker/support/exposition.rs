//! Metrics as Prometheus reads them: a strict parser of its text format, and a door to get it from.

use std::collections::{BTreeMap, BTreeSet};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Broker, soon};

/// Labels by name.
pub(crate) type Labels = BTreeMap<String, String>;

/// Samples of one scrape.
#[derive(Debug)]
pub(crate) struct Exposition {
    samples: BTreeMap<String, Vec<(Labels, f64)>>,
    pub(crate) kinds: BTreeMap<String, String>,
}

/// An answer of HTTP/1.1: status, headers, body.
pub(crate) async fn http(broker: &Broker, request: &str) -> (u16, String, String) {
    let address = broker.metrics.as_ref().unwrap();
    let asking = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("{request} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = soon("an answer", asking).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

/// What the broker tells now.
pub(crate) async fn scrape(broker: &Broker) -> Exposition {
    let (status, head, body) = http(broker, "GET /metrics").await;
    assert_eq!(status, 200, "{body}");
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    Exposition::parse(&body)
}

impl Exposition {
    /// Reads the format and holds it to its rules: a family begins with HELP and TYPE, comes once and in one piece, no
    /// sample comes twice, counters end in `_total`, buckets grow up to `+Inf`, which is the count.
    fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'));
        let (mut samples, mut kinds) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::new());
        let (mut helped, mut family, mut seen) = (String::new(), String::new(), BTreeSet::new());
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                help.split_once(' ').unwrap().0.clone_into(&mut helped);
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!(name, helped);
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                let before = kinds.insert(name.to_owned(), kind.to_owned());
                assert_eq!(before, None, "{name} begins twice");
                name.clone_into(&mut family);
            } else {
                let (name, labels, value) = sample(line);
                let suffix = name
                    .strip_prefix(family.as_str())
                    .unwrap_or_else(|| panic!("{line}"));
                let histogram = kinds[&family] == "histogram";
                let known = ["_bucket", "_sum", "_count"].contains(&suffix);
                assert_eq!(known && histogram, !suffix.is_empty(), "{line}");
                assert!(
                    seen.insert((name.clone(), labels.clone())),
                    "{line} comes twice"
                );
                samples.entry(name).or_default().push((labels, value));
            }
        }
        let found = Self { samples, kinds };
        found.check_histograms();
        found
    }

    fn check_histograms(&self) {
        let histograms = self.kinds.iter().filter(|(_, kind)| *kind == "histogram");
        for (name, _) in histograms {
            let mut last = BTreeMap::<Labels, (f64, f64)>::new();
            for (labels, count) in self.all(&format!("{name}_bucket")) {
                let mut labels = labels.clone();
                let bound = labels.remove("le").unwrap();
                let bound = bound.replace("+Inf", "inf").parse::<f64>().unwrap();
                if let Some(before) = last.insert(labels, (bound, *count)) {
                    assert!(before.0 < bound && before.1 <= *count, "{name}");
                }
            }
            let counts = self.all(&format!("{name}_count"));
            assert_eq!(counts.len(), last.len(), "{name}");
            for (labels, count) in counts {
                assert_eq!(last[labels], (f64::INFINITY, *count), "{name}");
            }
        }
    }

    /// All samples of a name.
    pub(crate) fn all(&self, name: &str) -> &[(Labels, f64)] {
        self.samples.get(name).map_or(&[], Vec::as_slice)
    }

    /// The sample of a name with these labels and no others.
    #[track_caller]
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let wanted: Labels = labels.iter().map(own).collect();
        let found = self.all(name).iter().find(|(labels, _)| *labels == wanted);
        found.unwrap_or_else(|| panic!("no {name} {labels:?}")).1
    }
}

/// A name, its labels and its value.
fn sample(line: &str) -> (String, Labels, f64) {
    let (head, value) = line.rsplit_once(' ').unwrap();
    let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
    let (name, labels) = match head.split_once('{') {
        None => (head, Labels::new()),
        Some((name, rest)) => (name, labels(rest.strip_suffix('}').unwrap())),
    };
    assert!(!name.is_empty() && is_name(name), "{line}");
    (name.to_owned(), labels, value)
}

fn is_name(text: &str) -> bool {
    text.chars()
        .all(|char| char.is_ascii_lowercase() || char == '_')
}

fn labels(text: &str) -> Labels {
    let mut found = Labels::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").unwrap();
        assert!(is_name(name), "{text}");
        let (mut value, mut chars) = (String::new(), after.char_indices());
        let end = loop {
            match chars.next().unwrap() {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next().unwrap().1 {
                    'n' => '\n',
                    same @ ('\\' | '"') => same,
                    other => panic!("\\{other} in {text}"),
                }),
                (_, char) => value.push(char),
            }
        };
        assert_eq!(found.insert(name.to_owned(), value), None, "{text}");
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or_else(|| {
            assert_eq!(rest, "");
            rest
        });
    }
    found
}
