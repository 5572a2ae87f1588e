//! Many tasks at once: lists, and redriving by filter.

use std::sync::Arc;

use plait::pb::v1 as pb;
use plait_broker_core::effect::{TaskState, TaskView};
use plait_broker_core::ids::TaskId;
use tonic::Status;
use xxhash_rust::xxh3::xxh3_64;

use super::task::task_ids;
use super::{Context, pages, views};
use crate::filter::Filter;
use crate::partition::{Keep, Listing};
use crate::status::{Refused, invalid};

/// Tasks of a page when nothing is said.
const PAGE: usize = 50;

/// Tasks of a page at most.
const PAGE_MAX: usize = 1000;

/// Tasks of an answer with everything.
const FULL_MAX: usize = 100;

/// Tasks looked at for one page: the partition does nothing else meanwhile (about 2 ms).
const SCAN_MAX: usize = 20_000;

/// Tasks redriven by one command.
const REDRIVE_AT_ONCE: usize = 1000;

/// Full answers hold payloads, so they are short.
pub(super) fn check_full(full: bool, count: usize) -> Result<(), Refused> {
    if full && count > FULL_MAX {
        return Err(invalid(
            "view",
            format!("FULL is for at most {FULL_MAX} tasks at once"),
        ));
    }
    Ok(())
}

/// Tasks as messages.
pub(super) async fn messages(
    context: &Context,
    tasks: Vec<TaskView>,
    full: bool,
) -> Result<Vec<pb::Task>, Status> {
    let mut out = Vec::with_capacity(tasks.len());
    for task in tasks {
        out.push(views::task(task, full, &context.partition).await?);
    }
    Ok(out)
}

fn filter(text: &str) -> Result<Filter, Refused> {
    Filter::parse(text).map_err(|error| invalid("filter", error.to_string()))
}

/// One page.
pub(super) async fn list(
    context: &Context,
    request: pb::ListTasksRequest,
) -> Result<pb::ListTasksResponse, Status> {
    let size = pages::size(request.page_size, PAGE, PAGE_MAX)?;
    let full = views::is_full(request.view);
    check_full(full, size)?;
    let accepted = filter(&request.filter)?;
    let before = before(&request.page_token, &request.filter)?;
    let wanted = Listing {
        before,
        limit: size,
        scan: SCAN_MAX,
        keep: Arc::new(move |task| accepted.accepts(task)),
    };
    let (found, next) = context.partition.list(wanted).await?;
    let tasks = messages(context, found, full).await?;
    let next_page_token = next
        .map(|next| token(next, &request.filter))
        .unwrap_or_default();
    Ok(pb::ListTasksResponse {
        tasks,
        next_page_token,
    })
}

/// A token names the task before which the next page begins, and the filter it belongs to.
fn token(before: TaskId, filter: &str) -> String {
    pages::token(Some(format!(
        "{before}.{:016x}",
        xxh3_64(filter.as_bytes())
    )))
}

fn before(token: &str, filter: &str) -> Result<TaskId, Refused> {
    if token.is_empty() {
        return Ok(TaskId(u64::MAX));
    }
    let text = pages::after(token)?;
    let parts = text
        .split_once('.')
        .and_then(|(id, filter)| Some((id.parse().ok()?, filter)));
    let (before, of) = parts.ok_or_else(|| invalid("page_token", "it is not a token of tasks"))?;
    if of != format!("{:016x}", xxh3_64(filter.as_bytes())) {
        return Err(invalid("page_token", "it belongs to another filter"));
    }
    Ok(before)
}

/// Redrives by ids or by filter. Answers with how many.
pub(super) async fn redrive(
    context: &Context,
    request: pb::RedriveTasksRequest,
) -> Result<u64, Status> {
    let dry_run = request.validate_only;
    match (request.ids.is_empty(), request.filter.is_empty()) {
        (false, false) => Err(invalid("filter", "either ids or a filter, not both").into()),
        (true, true) => Err(invalid("ids", "either ids or a filter is needed").into()),
        (false, true) => Ok(context
            .partition
            .redrive(task_ids(&request.ids)?, dry_run)
            .await?),
        (true, false) => matching(context, filter(&request.filter)?, dry_run).await,
    }
}

/// From the newest task to the oldest, piece by piece, so that nobody waits long.
async fn matching(context: &Context, filter: Filter, dry_run: bool) -> Result<u64, Status> {
    let keep: Keep = Arc::new(move |task| task.state == TaskState::Failed && filter.accepts(task));
    let mut before = TaskId(u64::MAX);
    let mut count = 0;
    loop {
        let wanted = Listing {
            before,
            limit: REDRIVE_AT_ONCE,
            scan: SCAN_MAX,
            keep: Arc::clone(&keep),
        };
        let (tasks, next) = context.partition.list(wanted).await?;
        if !tasks.is_empty() {
            let tasks = tasks.into_iter().map(|task| task.id).collect();
            count += context.partition.redrive(tasks, dry_run).await?;
        }
        match next {
            Some(next) => before = next,
            None => return Ok(count),
        }
    }
}
