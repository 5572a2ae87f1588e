//! Parts of a snapshot.

use bytes::Bytes;
use plait::pb::plait::log::v1::{self as pb, record::Fact};
use plait_broker_core::image::Image;
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
