//! Which workers of a cluster are left out for a while, since their calls fail: outlier detection by gRPC's A50, as a
//! pure state machine. Time and randomness are arguments.
//!
//! There is no timer: a sweep that is due is done by whatever comes next, as if it had come in time.

/// A host is judged by its calls of one interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Judgement {
    /// Of failures in percent, which more of are too many; or of thousandths of a standard deviation below the mean.
    pub(super) bound: u32,
    /// How many of those found are left out, in percent.
    pub(super) enforcement: u32,
    /// Hosts with enough calls, or nobody is judged.
    pub(super) hosts_min: u32,
    /// Calls of a host in an interval.
    pub(super) volume_min: u32,
}

/// When hosts are left out, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) interval_ms: u64,
    /// The first time; each further ejection is as much longer.
    pub(super) base_ms: u64,
    pub(super) longest_ms: u64,
    /// While fewer of all hosts than these are left out, one more may be.
    pub(super) percent_max: u32,
    /// By the share of failures.
    pub(super) failures: Option<Judgement>,
    /// By the distance from what is usual.
    pub(super) rates: Option<Judgement>,
}

#[derive(Debug)]
struct Host<K> {
    key: K,
    good: u32,
    bad: u32,
    /// Ejections, less the intervals that went well.
    times: u32,
    ejected_ms: Option<u64>,
}

impl<K> Host<K> {
    fn new(key: K) -> Self {
        Self {
            key,
            good: 0,
            bad: 0,
            times: 0,
            ejected_ms: None,
        }
    }

    fn total(&self) -> u32 {
        self.good.saturating_add(self.bad)
    }

    fn is_out(&self) -> bool {
        self.ejected_ms.is_some()
    }

    fn is_quiet(&self) -> bool {
        self.total() == 0 && self.times == 0 && !self.is_out()
    }
}

/// The hosts of one cluster.
#[derive(Debug)]
pub(super) struct Ejection<K> {
    config: Config,
    hosts: Vec<Host<K>>,
    next_ms: u64,
}

impl<K: Copy + Eq> Ejection<K> {
    pub(super) fn new(config: Config, now_ms: u64) -> Self {
        Self {
            config,
            hosts: Vec::new(),
            next_ms: now_ms + config.interval_ms.max(1),
        }
    }

    /// Other rules from now on; what was counted stays.
    pub(super) fn configure(
        &mut self,
        config: Config,
        now_ms: u64,
        draw: &mut impl FnMut() -> u32,
    ) {
        self.catch_up(now_ms, draw);
        if config.interval_ms != self.config.interval_ms {
            self.next_ms = now_ms + config.interval_ms.max(1);
        }
        self.config = config;
    }

    /// These are there now. Those that are new are well.
    pub(super) fn hosts(&mut self, keys: &[K], now_ms: u64, draw: &mut impl FnMut() -> u32) {
        self.catch_up(now_ms, draw);
        let mut before = std::mem::take(&mut self.hosts);
        self.hosts = keys
            .iter()
            .map(|key| {
                let known = before.iter().position(|host| host.key == *key);
                known.map_or_else(|| Host::new(*key), |index| before.swap_remove(index))
            })
            .collect();
    }

    /// A call of a host ended.
    pub(super) fn report(
        &mut self,
        key: K,
        good: bool,
        now_ms: u64,
        draw: &mut impl FnMut() -> u32,
    ) {
        self.catch_up(now_ms, draw);
        if let Some(host) = self.hosts.iter_mut().find(|host| host.key == key) {
            let count = if good { &mut host.good } else { &mut host.bad };
            *count = count.saturating_add(1);
        }
    }

    /// Those that are left out now. `draw` answers a random number from 0 to 99.
    pub(super) fn out(&mut self, now_ms: u64, draw: &mut impl FnMut() -> u32) -> Vec<K> {
        self.catch_up(now_ms, draw);
        let out = self.hosts.iter().filter(|host| host.is_out());
        out.map(|host| host.key).collect()
    }

    fn catch_up(&mut self, now_ms: u64, draw: &mut impl FnMut() -> u32) {
        let interval = self.config.interval_ms.max(1);
        while self.next_ms <= now_ms {
            if self.hosts.iter().all(Host::is_quiet) {
                self.next_ms += ((now_ms - self.next_ms) / interval + 1) * interval;
                return;
            }
            self.sweep(self.next_ms, draw);
            self.next_ms += interval;
        }
    }

    fn sweep(&mut self, now_ms: u64, draw: &mut impl FnMut() -> u32) {
        if let Some(rule) = self.config.rates {
            let found = self.below_mean(rule);
            self.eject(&found, rule.enforcement, now_ms, draw);
        }
        if let Some(rule) = self.config.failures {
            let fails = |host: &Host<K>| {
                u64::from(host.bad) * 100 > u64::from(rule.bound) * u64::from(host.total())
            };
            let judged = self.judged(rule).into_iter();
            let found: Vec<_> = judged.filter(|index| fails(&self.hosts[*index])).collect();
            self.eject(&found, rule.enforcement, now_ms, draw);
        }
        let (base, longest) = (self.config.base_ms, self.config.longest_ms);
        for host in &mut self.hosts {
            (host.good, host.bad) = (0, 0);
            let out_ms = (base.saturating_mul(host.times.into())).min(base.max(longest));
            match host.ejected_ms {
                None => host.times = host.times.saturating_sub(1),
                Some(ejected) if now_ms > ejected + out_ms => host.ejected_ms = None,
                Some(_) => {}
            }
        }
    }

    fn below_mean(&self, rule: Judgement) -> Vec<usize> {
        let judged = self.judged(rule);
        let rate = |index: &usize| {
            let host = &self.hosts[*index];
            f64::from(host.good) / f64::from(host.total())
        };
        let count = f64::from(u32::try_from(judged.len()).unwrap_or(u32::MAX));
        let mean = judged.iter().map(rate).sum::<f64>() / count;
        let squares = judged
            .iter()
            .map(rate)
            .map(|rate| (rate - mean) * (rate - mean));
        let deviation = (squares.sum::<f64>() / count).sqrt();
        let least = mean - deviation * (f64::from(rule.bound) / 1_000.0);
        judged
            .into_iter()
            .filter(|index| rate(index) < least)
            .collect()
    }

    /// Those that say enough; none where they are too few. What is told of one that is out is old.
    fn judged(&self, rule: Judgement) -> Vec<usize> {
        let says = |host: &Host<K>| !host.is_out() && host.total() >= rule.volume_min.max(1);
        let hosts = self.hosts.iter().enumerate();
        let found: Vec<_> = hosts
            .filter(|(_, host)| says(host))
            .map(|(index, _)| index)
            .collect();
        if found.len() < rule.hosts_min as usize {
            return Vec::new();
        }
        found
    }

    fn eject(
        &mut self,
        found: &[usize],
        enforcement: u32,
        now_ms: u64,
        draw: &mut impl FnMut() -> u32,
    ) {
        for index in found {
            let out = self.hosts.iter().filter(|host| host.is_out()).count();
            if out * 100 >= self.config.percent_max as usize * self.hosts.len() {
                return;
            }
            if draw() < enforcement {
                let host = &mut self.hosts[*index];
                (host.ejected_ms, host.times) = (Some(now_ms), host.times + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// interop/vectors/ejection.json: who is left out is the same in every language that does it itself.
    #[test]
    fn every_step_of_every_vector_is_the_same() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../interop/vectors/ejection.json"
        );
        let text = std::fs::read_to_string(path).expect("the vectors");
        let document: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(document["schema"], 1);
        let vectors = document["vectors"].as_array().expect("vectors");
        assert!(!vectors.is_empty());
        for vector in vectors {
            assert_eq!(vector["kind"], "ejection");
            let mut machine = machine(&vector["config"]);
            for (number, step) in vector["steps"]
                .as_array()
                .expect("steps")
                .iter()
                .enumerate()
            {
                let got = machine(&step["in"]);
                let name = &vector["name"];
                assert_eq!(
                    got, step["out"]["ejected"],
                    "{name} step {number}: {}",
                    step["in"]
                );
            }
        }
    }

    fn number(value: &Value, key: &str) -> u32 {
        let found = value[key]
            .as_u64()
            .unwrap_or_else(|| panic!("{key} of {value}"));
        u32::try_from(found).expect("a small number")
    }

    fn rule(value: &Value, bound: &str) -> Option<Judgement> {
        (!value.is_null()).then(|| Judgement {
            bound: number(value, bound),
            enforcement: number(value, "enforcement"),
            hosts_min: number(value, "minimum_hosts"),
            volume_min: number(value, "request_volume"),
        })
    }

    fn machine(said: &Value) -> impl FnMut(&Value) -> Value + use<> {
        let config = Config {
            interval_ms: number(said, "interval_ms").into(),
            base_ms: number(said, "base_ejection_ms").into(),
            longest_ms: number(said, "max_ejection_ms").into(),
            percent_max: number(said, "max_ejected_percent"),
            failures: rule(&said["failure_percentage"], "threshold"),
            rates: rule(&said["success_rate"], "stdev_factor"),
        };
        let draws = said["draws"].as_array().expect("draws").clone();
        let mut draws = draws.into_iter().cycle();
        let mut draw = move || {
            u32::try_from(draws.next().and_then(|each| each.as_u64()).expect("a draw"))
                .expect("small")
        };
        let mut ejection = Ejection::new(config, 0);
        move |step| {
            let now = u64::from(number(step, "t"));
            match step["op"].as_str() {
                Some("hosts") => {
                    let hosts = step["hosts"].as_array().expect("hosts");
                    let keys: Vec<_> = hosts.iter().map(key).collect();
                    ejection.hosts(&keys, now, &mut draw);
                }
                Some("report") => {
                    for (count, good) in [("good", true), ("bad", false)] {
                        for _ in 0..number(step, count) {
                            ejection.report(key(&step["host"]), good, now, &mut draw);
                        }
                    }
                }
                Some("look") => {}
                op => panic!("unknown op {op:?}"),
            }
            let out = ejection.out(now, &mut draw).into_iter();
            out.map(|key| Value::from(key.to_string())).collect()
        }
    }

    fn key(host: &Value) -> char {
        host.as_str()
            .and_then(|text| text.chars().next())
            .expect("a host")
    }
}
