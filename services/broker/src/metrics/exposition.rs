//! The text format of Prometheus, version 0.0.4.

use std::fmt::{Display, Write};

use plait_broker_core::ids::Millis;

/// The content type of what [`Exposition`] makes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Names and values of labels.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

/// Text that families of samples are added to, one after the other.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
    name: &'static str,
}

impl Exposition {
    /// Begins a counter; its name ends in `_total`.
    pub(super) fn counter(&mut self, name: &'static str, help: &str) {
        self.family(name, "counter", help);
    }

    /// Begins a gauge.
    pub(super) fn gauge(&mut self, name: &'static str, help: &str) {
        self.family(name, "gauge", help);
    }

    /// Begins a histogram.
    pub(super) fn histogram(&mut self, name: &'static str, help: &str) {
        self.family(name, "histogram", help);
    }

    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// A sample of the family that was begun last.
    pub(super) fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        self.line("", labels, None, value);
    }

    /// Counts by ascending bounds, as a sample of the histogram that was begun last. The last has no bound.
    pub(super) fn spans(
        &mut self,
        labels: Labels<'_>,
        up_to: impl IntoIterator<Item = (Option<f64>, u64)>,
        sum_s: f64,
    ) {
        let mut all = 0;
        for (bound, count) in up_to {
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| bound.to_string());
            self.line("_bucket", labels, Some(&bound), count);
            all = count;
        }
        self.line("_sum", labels, None, sum_s);
        self.line("_count", labels, None, all);
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, le: Option<&str>, value: impl Display) {
        let name = self.name;
        self.put(format_args!("{name}{suffix}"));
        let bound = le.map(|bound| ("le", bound));
        let mut opened = false;
        for (label, value) in labels.iter().copied().chain(bound) {
            let before = if opened { ',' } else { '{' };
            self.put(format_args!("{before}{label}=\"{}\"", Escaped(value)));
            opened = true;
        }
        let after = if opened { "}" } else { "" };
        self.put(format_args!("{after} {value}\n"));
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // A String takes all that is written.
        let _ = self.text.write_fmt(text);
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.text
    }
}

/// Milliseconds as seconds, the base unit of metrics.
pub(super) fn seconds(ms: Millis) -> f64 {
    ms as f64 / 1_000.0
}

/// A label's value, as it may stand between quotation marks.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for char in self.0.chars() {
            match char {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Exposition;

    #[test]
    fn what_stands_between_quotation_marks_is_escaped() {
        let mut found = Exposition::default();
        found.gauge("depth", "Tasks.");
        found.sample(&[("queue", "a\"b\\c\nd"), ("state", "READY")], 3);
        found.sample(&[], 0.5);
        let expected = "# HELP depth Tasks.\n# TYPE depth gauge\n\
            depth{queue=\"a\\\"b\\\\c\\nd\",state=\"READY\"} 3\ndepth 0.5\n";
        assert_eq!(found.finish(), expected);
    }

    #[test]
    fn a_histogram_ends_with_all_its_sum_and_its_count() {
        let mut found = Exposition::default();
        found.histogram("took_seconds", "Time.");
        found.spans(
            &[("queue", "q")],
            [(Some(0.001), 1), (Some(2048.0), 3), (None, 4)],
            5000.25,
        );
        let expected = "# HELP took_seconds Time.\n# TYPE took_seconds histogram\n\
            took_seconds_bucket{queue=\"q\",le=\"0.001\"} 1\n\
            took_seconds_bucket{queue=\"q\",le=\"2048\"} 3\n\
            took_seconds_bucket{queue=\"q\",le=\"+Inf\"} 4\n\
            took_seconds_sum{queue=\"q\"} 5000.25\ntook_seconds_count{queue=\"q\"} 4\n";
        assert_eq!(found.finish(), expected);
    }
}
