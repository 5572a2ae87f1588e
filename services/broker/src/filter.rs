//! Filters of tasks: the part of AIP-160 that `ListTasksRequest.filter` documents. Comparisons joined by AND; no
//! OR, no NOT, no parentheses. An error names the position.

mod scan;

use plait_broker_core::effect::{TaskState, TaskView};
use plait_broker_core::ids::{Millis, TaskId};
use scan::{Scanner, Token};

use crate::states;

/// A filter that was understood.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    terms: Vec<Term>,
}

/// Why a filter was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {position}: {problem}")]
pub struct FilterError {
    /// Where, counted from 1.
    pub position: usize,
    /// What is wrong.
    pub problem: String,
}

#[derive(Debug, Clone, PartialEq)]
struct Term {
    field: Field,
    op: Op,
    value: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    State,
    Method,
    Queue,
    Parent,
    Worker,
    IdempotencyKey,
    OrderingKey,
    DeadLetter,
    CreateTime,
    EndTime,
    Attempt,
    Priority,
}

/// The fields and their names.
const FIELDS: [(&str, Field); 12] = [
    ("state", Field::State),
    ("method", Field::Method),
    ("queue", Field::Queue),
    ("parent", Field::Parent),
    ("worker", Field::Worker),
    ("idempotency_key", Field::IdempotencyKey),
    ("ordering_key", Field::OrderingKey),
    ("dead_letter", Field::DeadLetter),
    ("create_time", Field::CreateTime),
    ("end_time", Field::EndTime),
    ("attempt", Field::Attempt),
    ("priority", Field::Priority),
];

/// How a field is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Text(String),
    State(TaskState),
    Task(TaskId),
    Flag(bool),
    Number(u64),
}

impl Field {
    fn is_ordered(self) -> bool {
        matches!(
            self,
            Self::CreateTime | Self::EndTime | Self::Attempt | Self::Priority
        )
    }

    fn value(self, text: &str) -> Result<Value, String> {
        match self {
            Self::State => state(text).map(Value::State),
            Self::Parent if text.is_empty() => Ok(Value::Text(String::new())),
            Self::Parent => text
                .parse()
                .map(Value::Task)
                .map_err(|error| format!("{text:?}: {error}")),
            Self::DeadLetter => text
                .parse()
                .map(Value::Flag)
                .map_err(|_| format!("{text:?} is not true or false")),
            Self::CreateTime | Self::EndTime => time(text).map(Value::Number),
            Self::Attempt | Self::Priority => text
                .parse()
                .map(Value::Number)
                .map_err(|_| format!("{text:?} is not a whole number")),
            Self::Method
            | Self::Queue
            | Self::Worker
            | Self::IdempotencyKey
            | Self::OrderingKey => Ok(Value::Text(text.to_owned())),
        }
    }
}

fn state(text: &str) -> Result<TaskState, String> {
    use plait::pb::v1::TaskState as Wire;
    let name = text.strip_prefix("TASK_STATE_").unwrap_or(text);
    let wire = Wire::from_str_name(&format!("TASK_STATE_{name}"));
    let state = wire.and_then(|wire| states::from_wire(wire.into()));
    state.ok_or_else(|| format!("{text:?} is not a state such as READY or FAILED"))
}

fn time(text: &str) -> Result<Millis, String> {
    let problem = || format!("{text:?} is not a time such as \"2026-01-31T12:00:00Z\"");
    let time: prost_types::Timestamp = text.parse().map_err(|_| problem())?;
    let seconds = u64::try_from(time.seconds).map_err(|_| problem())?;
    let millis = u64::try_from(time.nanos).map_err(|_| problem())? / 1_000_000;
    Ok(seconds * 1000 + millis)
}

impl Filter {
    /// Understands a filter. The empty text accepts every task.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let mut scanner = Scanner::new(text);
        let mut terms = Vec::new();
        if scanner.at_end() {
            return Ok(Self { terms });
        }
        loop {
            terms.push(term(&mut scanner)?);
            if scanner.at_end() {
                return Ok(Self { terms });
            }
            let (position, token) = scanner.next()?;
            if token != Token::Word("AND".to_owned()) {
                let problem = "AND is expected between comparisons; OR, NOT and parentheses are \
                               not supported";
                return Err(FilterError {
                    position,
                    problem: problem.to_owned(),
                });
            }
        }
    }

    /// Whether a task is accepted.
    pub fn accepts(&self, task: &TaskView) -> bool {
        self.terms.iter().all(|term| term.accepts(task))
    }
}

fn term(scanner: &mut Scanner<'_>) -> Result<Term, FilterError> {
    let (position, token) = scanner.next()?;
    let Token::Word(name) = token else {
        return Err(FilterError {
            position,
            problem: "a field is expected".to_owned(),
        });
    };
    let Some((_, field)) = FIELDS.iter().find(|(known, _)| **known == name) else {
        let known: Vec<&str> = FIELDS.iter().map(|(known, _)| *known).collect();
        let problem = format!("{name:?} is not a field; there are {}", known.join(", "));
        return Err(FilterError { position, problem });
    };
    let (position, token) = scanner.next()?;
    let Token::Op(op) = token else {
        let problem = format!("a comparison (= != < <= > >=) is expected after {name}");
        return Err(FilterError { position, problem });
    };
    if !matches!(op, Op::Eq | Op::Ne) && !field.is_ordered() {
        let problem = format!("{name} is compared with = and != only");
        return Err(FilterError { position, problem });
    }
    let (position, token) = scanner.next()?;
    let (Token::Word(text) | Token::Quoted(text)) = token else {
        return Err(FilterError {
            position,
            problem: "a value is expected".to_owned(),
        });
    };
    let value = field
        .value(&text)
        .map_err(|problem| FilterError { position, problem })?;
    Ok(Term {
        field: *field,
        op,
        value,
    })
}

impl Term {
    fn accepts(&self, task: &TaskView) -> bool {
        let text = |found: Option<&str>| {
            self.equals(|value| match value {
                Value::Text(text) => text == found.unwrap_or_default(),
                _ => false,
            })
        };
        match self.field {
            Field::State => self.equals(|value| *value == Value::State(task.state)),
            Field::Method => text(Some(&task.method)),
            Field::Queue => text(Some(&task.queue)),
            Field::Parent => self.equals(|value| match (value, &task.parent) {
                (Value::Task(wanted), Some((parent, _))) => wanted == parent,
                (Value::Text(_), parent) => parent.is_none(),
                _ => false,
            }),
            Field::Worker => text(task.worker.as_deref()),
            Field::IdempotencyKey => text(task.idempotency_key.as_deref()),
            Field::OrderingKey => text(task.ordering_key.as_deref()),
            Field::DeadLetter => self.equals(|value| *value == Value::Flag(task.dead_letter)),
            Field::CreateTime => self.compares(task.created_at),
            // A task without an end is neither before nor after a time.
            Field::EndTime => task.ended_at != 0 && self.compares(task.ended_at),
            Field::Attempt => self.compares(u64::from(task.attempt)),
            Field::Priority => self.compares(u64::from(task.priority)),
        }
    }

    fn equals(&self, is: impl FnOnce(&Value) -> bool) -> bool {
        is(&self.value) == (self.op == Op::Eq)
    }

    fn compares(&self, found: u64) -> bool {
        let Value::Number(wanted) = self.value else {
            return false;
        };
        match self.op {
            Op::Eq => found == wanted,
            Op::Ne => found != wanted,
            Op::Lt => found < wanted,
            Op::Le => found <= wanted,
            Op::Gt => found > wanted,
            Op::Ge => found >= wanted,
        }
    }
}

#[cfg(test)]
mod tests;
