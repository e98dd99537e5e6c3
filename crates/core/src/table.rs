//! What a task asks of keyed state, whatever its values are.

use crate::{
    Result,
    turn::{Change, Delta, TableId},
};

/// Keyed state of one operator. The task calls these; operators only read and write values.
pub trait StateTable {
    /// The table's number.
    fn id(&self) -> TableId;
    /// Takes back every change since the last seal.
    fn undo(&mut self);
    /// Writes every change since the last seal into `delta` and makes it the new base.
    ///
    /// # Errors
    /// A [`crate::operator::Failure`] as error if a value cannot be serialised; nothing is sealed
    /// then.
    fn seal(&mut self, delta: &mut Delta) -> Result<(), crate::operator::Failure>;
    /// Takes one committed change while the task is opened.
    fn restore(&mut self, change: Change<'_>) -> Result<()>;
    /// How many keys there are.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The committed bytes of a key, for inspection.
    fn sealed(&self, key: &[u8]) -> Option<&[u8]>;
}
