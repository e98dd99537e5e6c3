//! What supervisors decided, numbered in the order in which it happened.

use std::ops::ControlFlow;

use millstream_core::{Batch, Result, engine::Engine};
use millstream_runtime::{
    node::SUPERVISOR,
    supervisor::{Report, report},
};
use serde::{Deserialize, Serialize};

use super::{LIMIT_MAX, walk};

/// One thing that was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportView {
    /// Its number, counted from 1.
    pub n: u64,
    /// When, in ms since 1970; of the last one if several were merged.
    pub time_ms: i64,
    /// Which flow.
    pub flow: String,
    /// Which stage of it; empty for the flow itself.
    pub stage: String,
    /// Which task of it, if one.
    pub task: Option<u32>,
    /// What was decided.
    pub what: String,
    /// The error's code; empty if there is no error.
    pub code: String,
    /// Why.
    pub reason: String,
    /// How often.
    pub count: u64,
    /// All of it in one line.
    pub line: String,
}

impl ReportView {
    fn of(n: u64, r: Report) -> ReportView {
        ReportView {
            n,
            time_ms: r.time.ms(),
            line: r.to_string(),
            flow: r.flow,
            stage: r.stage,
            task: r.task,
            what: r.what.name().into(),
            code: r.code,
            reason: r.reason,
            count: r.count,
        }
    }
}

/// Reports from number `from`, or the last ones; at most `limit`.
///
/// # Errors
/// If they cannot be read.
pub fn supervisor(engine: &dyn Engine, from: Option<u64>, limit: usize) -> Result<Vec<ReportView>> {
    let limit = limit.min(LIMIT_MAX);
    let mut all = Vec::new();
    let Some(info) = engine.streams().into_iter().find(|info| info.spec.name == SUPERVISOR) else {
        return Ok(all);
    };
    let from = walk::start(&info, from, limit);
    walk::numbered(engine, &info, from, |first, frame| {
        let wire = frame.rows(&Batch::wire_schema(&report::SCHEMA))?;
        let batch = Batch::from_wire(&wire, &report::SCHEMA)?;
        for (n, report) in (first..).zip(report::from_batch(batch.rows())?) {
            if all.len() == limit {
                return Ok(ControlFlow::Break(()));
            }
            if n >= from {
                all.push(ReportView::of(n, report));
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(all)
}
