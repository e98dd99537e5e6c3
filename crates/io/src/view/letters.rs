//! Dead letters: what was set aside, numbered per flow in the order in which it happened.

use std::ops::ControlFlow;

use millstream_core::{
    Code, Error, Result,
    engine::{Engine, StreamInfo},
    key::display,
    letter::{self, Letter, Trigger, payload_row},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{LIMIT_MAX, instead, rows::values, walk};

/// The stream that holds a flow's letters.
const DEAD: &str = "$dead";

/// A dead letter.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LetterView {
    /// Its number in its flow, counted from 1.
    pub n: u64,
    /// When it was set aside, in ms since 1970.
    pub time_ms: i64,
    /// Which flow.
    pub flow: String,
    /// Which stage of it.
    pub stage: String,
    /// The operator that failed.
    pub operator: String,
    /// What was being done: `undecodable`, `ahead`, `record`, `message`, `timer`, `firing`,
    /// `suspect`.
    pub trigger: String,
    /// Its number in `docs/errors.md`.
    #[serde(default)]
    pub code: String,
    /// What to do about it.
    #[serde(default)]
    pub help: String,
    /// The key; empty if there is none.
    pub key: String,
    /// The source's name; empty for a derived row.
    pub source: String,
    /// The file that `place` and `bytes` count in; empty if the source reads none.
    #[serde(default)]
    pub file: String,
    /// The place in the source (a line, counted from 1); 0 if none.
    pub place: u64,
    /// The bytes in the source, first and one past the last; both 0 if unknown.
    pub bytes: (u64, u64),
    /// The column at fault; empty if none can be named.
    pub column: String,
    /// Why.
    pub error: String,
    /// Where in the code, if it was a panic; not in lists.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub backtrace: String,
    /// What was set aside; not in lists.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub payload: Value,
}

impl LetterView {
    fn of(n: u64, letter: Letter, whole: bool) -> LetterView {
        LetterView {
            n,
            time_ms: letter.time.ms(),
            trigger: letter.trigger.name().into(),
            code: letter.trigger.code().id().into(),
            help: letter.trigger.help().into(),
            key: if letter.key.is_empty() { String::new() } else { display(&letter.key) },
            payload: if whole { payload(&letter) } else { Value::Null },
            backtrace: if whole { letter.backtrace } else { String::new() },
            flow: letter.flow,
            stage: letter.stage,
            operator: letter.operator,
            source: letter.source,
            file: letter.file,
            place: letter.place,
            bytes: letter.bytes,
            column: letter.column,
            error: letter.error,
        }
    }
}

fn payload(letter: &Letter) -> Value {
    let row = || values(&payload_row(&letter.payload)?).ok()?.into_iter().next();
    match letter.trigger {
        Trigger::Ahead | Trigger::Record | Trigger::Suspect if let Some(row) = row() => row,
        _ => String::from_utf8_lossy(&letter.payload).into_owned().into(),
    }
}

/// The dead-letter streams: of one flow, or of all.
fn streams(engine: &dyn Engine, flow: Option<&str>) -> Result<Vec<StreamInfo>> {
    let all: Vec<StreamInfo> = engine.streams();
    let all = all.into_iter().filter(|info| info.spec.name.ends_with(&format!("/{DEAD}")));
    let Some(flow) = flow else { return Ok(all.collect()) };
    let name = format!("{flow}/{DEAD}");
    let mut names = Vec::new();
    for info in all {
        if info.spec.name == name {
            return Ok(vec![info]);
        }
        names.extend(info.spec.name.strip_suffix(&format!("/{DEAD}")).map(str::to_string));
    }
    let error = Error::new(Code::Unknown, format!("there is no flow `{flow}`"));
    Err(instead(error, flow, names.iter().map(String::as_str), "no flow has run here yet"))
}

/// Letters of one flow, or of each flow: from number `from`, or the last ones; at most `limit` of
/// each. Payloads are left out.
///
/// # Errors
/// If the flow is unknown or its letters cannot be read.
pub fn dead(
    engine: &dyn Engine,
    flow: Option<&str>,
    from: Option<u64>,
    limit: usize,
) -> Result<Vec<LetterView>> {
    let limit = limit.min(LIMIT_MAX);
    let mut all = Vec::new();
    for info in streams(engine, flow)? {
        read(engine, &info, walk::start(&info, from, limit), limit, false, &mut all)?;
    }
    Ok(all)
}

/// One letter, with all that is known of it.
///
/// # Errors
/// [`Code::Unknown`] if there is none of this number, or several flows have one.
pub fn letter(engine: &dyn Engine, flow: Option<&str>, n: u64) -> Result<LetterView> {
    let mut found = Vec::new();
    let mut known = 0;
    for info in streams(engine, flow)? {
        known += info.appended_rows;
        read(engine, &info, n, 1, true, &mut found)?;
    }
    found.retain(|letter| letter.n == n);
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Error::new(Code::Unknown, format!("there is no dead letter {n}"))
            .help(format!("there are {known}, numbered from 1: `millstream dead list`"))),
        _ => {
            let flows: Vec<String> = found.into_iter().map(|letter| letter.flow).collect();
            Err(Error::new(Code::Unknown, format!("several flows have a dead letter {n}"))
                .help(format!("name one: --flow {}", flows.join(" or --flow "))))
        }
    }
}

fn read(
    engine: &dyn Engine,
    info: &StreamInfo,
    from: u64,
    limit: usize,
    whole: bool,
    all: &mut Vec<LetterView>,
) -> Result<()> {
    let end = all.len() + limit;
    walk::numbered(engine, info, from, |first, frame| {
        for (n, letter) in (first..).zip(letter::from_frame(frame)?) {
            if all.len() == end {
                return Ok(ControlFlow::Break(()));
            }
            if n >= from {
                all.push(LetterView::of(n, letter, whole));
            }
        }
        Ok(ControlFlow::Continue(()))
    })
}
