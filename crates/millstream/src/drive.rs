//! Drives one operator by hand, turn by turn: for tests of what no flow shows.

use millstream_core::{
    Batch, Time,
    operator::{Advance, Mode, Operator, Outputs, Probe, Scope},
    turn::Delta,
};
use millstream_runtime::catch::catch;

use crate::process::Result;

/// A careful turn up to a watermark, sealed: what it has put out, and whether it is to go on.
pub fn turn(
    operator: &mut dyn Operator,
    rows: Option<&Batch>,
    watermark: Time,
    budget: usize,
) -> (Outputs, Advance) {
    let (out, state) = run(operator, rows, watermark, budget).unwrap();
    operator.tables().into_iter().try_for_each(|t| t.seal(&mut Delta::default())).unwrap();
    operator.sealed();
    (out, state)
}

/// A turn that is undone.
pub fn undone_turn(operator: &mut dyn Operator, rows: Option<&Batch>, watermark: Time) {
    run(operator, rows, watermark, usize::MAX).unwrap();
    operator.tables().into_iter().for_each(|t| t.undo());
    operator.undone();
}

fn run(
    operator: &mut dyn Operator,
    rows: Option<&Batch>,
    watermark: Time,
    budget: usize,
) -> Result<(Outputs, Advance)> {
    let (mut out, probe) = (Outputs::default(), Probe::default());
    let mut scope = Scope {
        clock: Time::from_ms(0),
        watermark,
        others: watermark,
        mode: Mode::Careful,
        attempt: 1,
        out: &mut out,
        probe: &probe,
        suspects: &[],
        catch,
    };
    if let Some(rows) = rows {
        operator.process(rows, &mut scope)?;
    }
    let state = operator.advance(budget, &mut scope)?;
    Ok((out, state))
}
