//! Faults built in on purpose, so that the tests can prove that they would notice them.
//!
//! Without the feature `mutants`, which only tests switch on, [`is`] is `false` at compile time and
//! nothing of this is in the program.

/// A fault of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutant {
    /// What was written counts as durable before it was synced.
    AcknowledgeBeforeSync = 1,
    /// A turn's frames are appended twice.
    ApplyTwice,
    /// One of many frames is not appended.
    DropFrame,
    /// One key of a failed turn keeps what the turn did to it.
    SkipUndo,
    /// A timer that has fired fires again.
    FireTwice,
    /// A late row vanishes.
    SwallowLate,
    /// A lease that was taken over still commits.
    AcceptFenced,
    /// A dead letter vanishes.
    LoseLetter,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 8] = [
        Mutant::AcknowledgeBeforeSync,
        Mutant::ApplyTwice,
        Mutant::DropFrame,
        Mutant::SkipUndo,
        Mutant::FireTwice,
        Mutant::SwallowLate,
        Mutant::AcceptFenced,
        Mutant::LoseLetter,
    ];
}

#[cfg(feature = "mutants")]
static ACTIVE: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Lets one mutant live, or none; for the whole process.
#[cfg(feature = "mutants")]
pub fn set(mutant: Option<Mutant>) {
    let n = mutant.map_or(0, |m| m as u8);
    ACTIVE.store(n, std::sync::atomic::Ordering::Relaxed);
}

/// Whether this mutant lives.
#[inline(always)]
pub fn is(mutant: Mutant) -> bool {
    #[cfg(feature = "mutants")]
    return ACTIVE.load(std::sync::atomic::Ordering::Relaxed) == mutant as u8;
    #[cfg(not(feature = "mutants"))]
    {
        let _ = mutant;
        false
    }
}
