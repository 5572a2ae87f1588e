//! What is submitted: a request tells the number of its submission, or of its key.

use bytes::Bytes;
use plait::pb::v1 as pb;

use super::plan::Plan;
use super::story::{KEYED, Story};
use crate::dice::Dice;
use crate::history::{Digest, Name, Submission};
use crate::world::policies::{ONCE, PLAIN, POISON};
use crate::world::submit::payload;

/// Keys that are in use.
const KEYS: u64 = 30;

/// A task that somebody wants.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) id: u64,
    method: &'static str,
    number: u64,
    request: Bytes,
    key: Option<Name>,
    order: Option<Name>,
    limit: Option<String>,
    delay_ms: u64,
    deadline_ms: Option<u64>,
}

impl Draft {
    pub(super) fn draw(dice: &mut Dice, plan: &Plan, story: &mut Story) -> Self {
        let method = match dice.below(10) {
            0..7 => PLAIN,
            7..9 => POISON,
            _ => ONCE,
        };
        let key = dice.permille(plan.keyed).then(|| dice.below(KEYS));
        let order = dice.permille(plan.ordered).then(|| dice.below(4));
        let odd = dice.permille(60);
        let delayed = dice.permille(plan.delayed);
        let id = story.submissions;
        story.submissions += 1;
        let number = key.map_or(id, |key| KEYED + key + u64::from(odd) * KEYS);
        Self {
            id,
            method,
            number,
            request: payload(number, plan.payload),
            key: key.map(|key| format!("k{key}").into()),
            order: order.map(|order| format!("o{order}").into()),
            limit: plan.limits.key(dice),
            delay_ms: if delayed { dice.span(900) } else { 0 },
            deadline_ms: dice.permille(plan.hurried).then(|| dice.span(500)),
        }
    }

    /// As the history tells it; `place` is its frame and its place in it.
    pub(super) fn submission(&self, client: &Name, place: (u64, u32)) -> Submission {
        Submission {
            id: self.id,
            client: client.clone(),
            method: self.method.into(),
            key: self.key.clone(),
            order: self.order.clone(),
            limit: self.limit.as_deref().map(Into::into),
            digest: Some(Digest(self.number)),
            delay_ms: self.delay_ms,
            deadline_ms: self.deadline_ms,
            place: Some(place),
            parent: None,
            priority: None,
        }
    }

    /// As the wire has them.
    pub(super) fn frame(drafts: &[Self]) -> pb::SubmitFrame {
        let mut frame = pb::SubmitFrame {
            methods: vec![PLAIN.to_owned(), POISON.to_owned(), ONCE.to_owned()],
            ..pb::SubmitFrame::default()
        };
        for (index, draft) in drafts.iter().enumerate() {
            let method = frame.methods.iter().position(|name| name == draft.method);
            frame.method_index.push(method.unwrap_or_default() as u32);
            frame.payloads.push(draft.request.clone());
            let text = |key: &Option<Name>| key.as_deref().unwrap_or_default().to_owned();
            frame.idempotency_keys.push(text(&draft.key));
            frame.ordering_keys.push(text(&draft.order));
            frame
                .limit_keys
                .push(draft.limit.clone().unwrap_or_default());
            frame.options.extend(draft.options(index as u32));
        }
        frame
    }

    fn options(&self, index: u32) -> Option<pb::IndexedOptions> {
        if self.delay_ms == 0 && self.deadline_ms.is_none() {
            return None;
        }
        let span = |ms: u64| pb_duration(ms);
        let options = pb::TaskOptions {
            delay: (self.delay_ms > 0).then(|| span(self.delay_ms)),
            deadline: self.deadline_ms.map(span),
            ..pb::TaskOptions::default()
        };
        Some(pb::IndexedOptions {
            index,
            options: Some(options),
        })
    }
}

fn pb_duration(ms: u64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: (ms / 1_000) as i64,
        nanos: (ms % 1_000) as i32 * 1_000_000,
    }
}
