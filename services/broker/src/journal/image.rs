//! Parts of a snapshot.

use std::sync::Arc;

use bytes::Bytes;
use plait::pb::plait::log::v1::{self as pb, record::Fact};
use plait_broker_core::image::{Image, KeyArrival, RateImage};
use plait_broker_core::record::Acceptance;

use super::decode::{self, Decoder};
use super::encode::acceptance_of;
use super::{JournalError, archives, task_images};

pub(super) fn encode(part: Image) -> Result<Fact, JournalError> {
    Ok(match part {
        Image::Counters {
            next_task,
            kv_version,
            time,
        } => Fact::Counters(pb::Counters {
            next_task,
            entry_version: kv_version,
            time_ms: time,
        }),
        Image::Tasks(tasks) => Fact::TaskImages(task_images::encode(&tasks)?),
        Image::Archives { files, keys } => {
            Fact::ArchiveImages(archives::encode_images(&files, &keys))
        }
        Image::Rate(rate) => Fact::RateImage(rate_image(&rate)),
        Image::Session {
            session,
            last_used,
            answers,
        } => {
            let answer = |(sequence, acceptance): &(u64, Acceptance)| pb::SessionAnswer {
                sequence: *sequence,
                acceptance: Some(acceptance_of(acceptance)),
            };
            Fact::SessionImage(pb::SessionImage {
                session: Bytes::copy_from_slice(&session),
                last_used_ms: last_used,
                answers: answers.iter().map(answer).collect(),
            })
        }
    })
}

fn rate_image(image: &RateImage) -> pb::RateImage {
    let arrival = |(at_ms, parts): (u64, u64)| pb::RateArrival { at_ms, parts };
    let key = |(key, _): &KeyArrival| key.as_deref().unwrap_or_default().to_owned();
    pb::RateImage {
        method: image.method.to_string(),
        arrival: Some(arrival(image.arrival)),
        keys: image.keys.iter().map(key).collect(),
        key_arrivals: image.keys.iter().map(|(_, at)| arrival(*at)).collect(),
    }
}

pub(super) fn rate(image: &pb::RateImage) -> Result<Image, JournalError> {
    let (found, count) = (image.key_arrivals.len(), image.keys.len());
    if found != count {
        let name = "key_arrivals";
        return Err(JournalError::Column { name, found, count });
    }
    let arrival = |at: &pb::RateArrival| (at.at_ms, at.parts);
    let keys = image.keys.iter().zip(&image.key_arrivals);
    Ok(Image::Rate(RateImage {
        method: Arc::from(image.method.as_str()),
        arrival: image.arrival.as_ref().map_or((0, 0), arrival),
        keys: keys
            .map(|(key, at)| (decode::key(key), arrival(at)))
            .collect(),
    }))
}

pub(super) fn counters(counters: &pb::Counters) -> Image {
    Image::Counters {
        next_task: counters.next_task,
        kv_version: counters.entry_version,
        time: counters.time_ms,
    }
}

pub(super) fn session(session: &pb::SessionImage) -> Result<Image, JournalError> {
    let answer = |answer: &pb::SessionAnswer| {
        let acceptance = answer.acceptance.clone().unwrap_or_default();
        Ok((answer.sequence, decode::acceptance_of(&acceptance)?))
    };
    Ok(Image::Session {
        session: decode::session_id(&session.session)?,
        last_used: session.last_used_ms,
        answers: session
            .answers
            .iter()
            .map(answer)
            .collect::<Result<_, JournalError>>()?,
    })
}

pub(super) fn tasks(decoder: &mut Decoder, images: &pb::TaskImages) -> Result<Image, JournalError> {
    Ok(Image::Tasks(task_images::decode(decoder, images)?))
}
