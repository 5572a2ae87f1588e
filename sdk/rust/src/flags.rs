//! Feature flags, as a handler reads them: [`flag`](crate::flag). The broker tells workers of them; what a flag says for
//! a key is worked out here.

use crate::flow;
use crate::pb::v1::{FlagFrame, FlagRule};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// All keys; a share is told in parts of it.
pub(crate) const SHARE_MAX: u32 = 10_000;

/// The longest name; a longer one is no flag's.
const NAME_LEN_MAX: usize = 64;

/// The flags of a moment, by name.
type Rules = BTreeMap<String, Arc<FlagRule>>;

tokio::task_local! {
    /// The flags of a call that is served directly.
    static CALL: Arc<Rules>;
}

/// A question about a feature flag; [`flag`] begins it.
#[derive(Debug, Clone)]
#[must_use = "`is_on` answers it"]
pub struct Flag<'a> {
    name: &'a str,
    key: Option<&'a str>,
    default: bool,
}

/// Asks for a feature flag.
///
/// A handler sees the flags as they were when its attempt began, all the time. Outside a handler, and where there is no
/// such flag, its default holds.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # plait::testing::attempt().flag("new-pricing", true).run(async {
/// if plait::flag("new-pricing").is_on() {
///     // for the share of tasks that the flag says
/// }
/// assert!(plait::flag("new-pricing").key("customer-7").is_on());
/// assert!(plait::flag("no-such-flag").or(true).is_on());
/// # }).await;
/// # }
/// ```
pub fn flag(name: &str) -> Flag<'_> {
    Flag {
        name,
        key: None,
        default: false,
    }
}

impl<'a> Flag<'a> {
    /// For whom it is asked. Default: the task's ordering key, else its idempotency key, else that of its flow, else its
    /// id. A direct call has none: for it a flag is on that is on for everybody.
    pub fn key(mut self, key: &'a str) -> Self {
        self.key = Some(key);
        self
    }

    /// The answer where there is no such flag. Default: off.
    pub fn or(mut self, default: bool) -> Self {
        self.default = default;
        self
    }

    /// Whether it is on.
    #[must_use]
    pub fn is_on(self) -> bool {
        if !is_name(self.name) {
            return self.default;
        }
        if let Some(attempt) = flow::attempt() {
            let rule = attempt.flags().read(self.name);
            return match self.key {
                Some(key) => is_on(&rule, Some(key), self.default),
                None => is_on(&rule, Some(&attempt.flag_key()), self.default),
            };
        }
        let rule = CALL.try_with(|rules| rules.get(self.name).cloned());
        match rule.ok().flatten() {
            Some(rule) => is_on(&rule, self.key, self.default),
            None => self.default,
        }
    }
}

/// What a flag says for a key; none is of a call that has none.
fn is_on(rule: &FlagRule, key: Option<&str>, default: bool) -> bool {
    if rule.missing {
        return default;
    }
    let said = |keys: &[String]| key.is_some_and(|key| keys.iter().any(|said| said == key));
    if said(&rule.keys_on) {
        return true;
    }
    if said(&rule.keys_off) {
        return false;
    }
    match key {
        _ if rule.share >= SHARE_MAX => true,
        Some(key) => position(&rule.name, key) < rule.share,
        None => false,
    }
}

/// Where a key stands among all, 0 to 9,999: equal in every language.
fn position(name: &str, key: &str) -> u32 {
    let mut hash = Sha256::new();
    hash.update(name.as_bytes());
    hash.update([0]);
    hash.update(key.as_bytes());
    let first = hash
        .finalize()
        .iter()
        .take(8)
        .fold(0, |number, byte| number << 8 | u64::from(*byte));
    (first % u64::from(SHARE_MAX)) as u32
}

/// Whether a flag may have this name. Another one is never set, so there is nothing to remember of it.
fn is_name(name: &str) -> bool {
    let legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    (1..=NAME_LEN_MAX).contains(&name.len()) && name.bytes().all(legal)
}

/// The flags that a worker was told of; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Board {
    rules: Arc<RwLock<Arc<Rules>>>,
}

impl Board {
    /// The flags as they are now.
    pub(crate) fn now(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// These are all.
    pub(crate) fn replace(&self, flags: impl IntoIterator<Item = FlagRule>) {
        let rules = flags.into_iter().map(named).collect();
        self.put(rules);
    }

    /// Some changed.
    pub(crate) fn change(&self, frame: FlagFrame) {
        let mut rules = Rules::clone(&self.now());
        rules.extend(frame.flags.into_iter().map(named));
        for name in &frame.removed {
            rules.remove(name);
        }
        self.put(rules);
    }

    /// Runs the handler of a direct call, which sees the flags as they are now.
    pub(crate) async fn around<F: Future>(&self, handler: F) -> F::Output {
        CALL.scope(self.now(), handler).await
    }

    fn put(&self, rules: Rules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }
}

fn named(rule: FlagRule) -> (String, Arc<FlagRule>) {
    (rule.name.clone(), Arc::new(rule))
}

/// The flags of one attempt, and those of them that it has read.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    now: Arc<Rules>,
    /// What earlier runs of the flow had read holds for this one.
    recorded: Vec<FlagRule>,
    read: Mutex<Rules>,
}

impl Readings {
    pub(crate) fn new(now: Arc<Rules>, recorded: Vec<FlagRule>) -> Self {
        Self {
            now,
            recorded,
            read: Mutex::default(),
        }
    }

    /// A flag; one that is not there is read, too, as missing.
    fn read(&self, name: &str) -> Arc<FlagRule> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rule) = read.get(name) {
            return Arc::clone(rule);
        }
        let recorded = self.recorded.iter().find(|rule| rule.name == name);
        let rule = recorded.cloned().map(Arc::new);
        let rule = rule.or_else(|| self.now.get(name).cloned());
        let rule = rule.unwrap_or_else(|| {
            Arc::new(FlagRule {
                name: name.to_owned(),
                missing: true,
                ..FlagRule::default()
            })
        });
        read.insert(name.to_owned(), Arc::clone(&rule));
        rule
    }

    /// All that was read so far; what a child tells the broker.
    pub(crate) fn told(&self) -> Vec<FlagRule> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.values().map(|rule| FlagRule::clone(rule)).collect()
    }

    /// How many were read so far; it only grows.
    pub(crate) fn count(&self) -> usize {
        self.read
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }
}

#[cfg(test)]
mod tests;
