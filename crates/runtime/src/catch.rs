//! Catches a panic of user code and says where it came from.
//!
//! *Why a hook of ours:* a panic in a handler is an expected, handled failure. It must not print a
//! backtrace to stderr a hundred thousand times, and its place must reach the dead letter. Outside
//! of [`catch`] the hook that was there before does its work as always.
//!
//! *Cost:* resolving a backtrace takes milliseconds, so it is done once per panicking place and
//! remembered, for at most [`PLACES_MAX`] places.

use std::{
    backtrace::Backtrace,
    cell::{Cell, RefCell},
    collections::HashMap,
    panic::{AssertUnwindSafe, Location, catch_unwind},
    sync::{LazyLock, Mutex, Once, PoisonError},
};

use millstream_core::{Code, Error, operator::Failure};

/// How many panicking places are remembered with their backtrace.
pub const PLACES_MAX: usize = 1000;

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    static PLAIN: Cell<bool> = const { Cell::new(false) };
    static CAUGHT: RefCell<Option<Failure>> = const { RefCell::new(None) };
}

static BACKTRACES: LazyLock<Mutex<HashMap<String, String>>> = LazyLock::new(Default::default);
static HOOK: Once = Once::new();

/// Leaves backtraces out of failures caught on this thread: their text depends on what else the
/// process has done, and a simulation must not.
pub fn without_backtraces() {
    PLAIN.set(true);
}

/// Runs `f`; a panic in it becomes a [`Failure`] with place and backtrace.
pub fn catch(f: &mut dyn FnMut() -> Result<(), Failure>) -> Result<(), Failure> {
    HOOK.call_once(install_hook);
    let before = CATCHING.replace(true);
    // What a panic leaves half changed is taken back by the caller: outputs by mark, state by the
    // table, or the whole turn by undo.
    let result = catch_unwind(AssertUnwindSafe(|| call_what_may_panic(f)));
    CATCHING.set(before);
    result.unwrap_or_else(|_| {
        Err(CAUGHT.take().unwrap_or_else(|| Failure::new("panic without a message")))
    })
}

/// A frame of its own, by whose name [`own_frames`] knows where a backtrace ends: optimised code
/// has no frame for `catch_unwind`, and none for this one if the call were the last thing it does.
#[inline(never)]
fn call_what_may_panic(f: &mut dyn FnMut() -> Result<(), Failure>) -> Result<(), Failure> {
    std::hint::black_box(f())
}

/// Runs a connector's code; a panic in it is an error, which its task's supervisor sees.
///
/// # Errors
/// What `f` returns, or [`Code::Failed`] after a panic.
pub fn guard<T>(
    what: &str,
    f: impl FnOnce() -> millstream_core::Result<T>,
) -> millstream_core::Result<T> {
    let (mut f, mut result) = (Some(f), None);
    let caught = catch(&mut || {
        result = f.take().map(|f| f());
        Ok(())
    });
    match (caught, result) {
        (Ok(()), Some(result)) => result,
        (caught, _) => {
            let failure = caught.err().unwrap_or_default();
            Err(Error::new(Code::Failed, format!("{what}: {failure}")).help(failure.backtrace))
        }
    }
}

fn install_hook() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !CATCHING.get() {
            return before(info);
        }
        let message = info
            .payload()
            .downcast_ref::<&str>()
            .map(|s| s.to_string())
            .or_else(|| info.payload().downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic whose payload is no text".into());
        let place = info.location().map(Location::to_string).unwrap_or_default();
        let backtrace = if PLAIN.get() { String::new() } else { backtrace(&place) };
        CAUGHT.set(Some(Failure {
            message: format!("panic '{message}' at {place}"),
            backtrace,
            ..Failure::default()
        }));
    }));
}

fn backtrace(place: &str) -> String {
    let mut known = BACKTRACES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(text) = known.get(place) {
        return text.clone();
    }
    let text = own_frames(&Backtrace::force_capture().to_string());
    if known.len() < PLACES_MAX {
        known.insert(place.to_string(), text.clone());
    }
    text
}

/// The frames between the panic and [`catch`]; all of them if these two cannot be made out.
fn own_frames(backtrace: &str) -> String {
    let mut frames: Vec<String> = Vec::new();
    for line in backtrace.lines() {
        let number = line.trim_start().split(':').next().unwrap_or_default();
        match frames.last_mut() {
            Some(frame) if number.parse::<u32>().is_err() => *frame += &format!("\n{line}"),
            _ => frames.push(line.to_string()),
        }
    }
    let name = |frame: &String| frame.split_once(": ").map_or("", |(_, name)| name).to_string();
    let panics = |frame: &String| {
        let name = name(frame);
        ["core::panicking", "core::option", "core::result"].iter().any(|p| name.starts_with(p))
    };
    let Some(begun) = frames.iter().position(|f| f.contains("rust_begin_unwind")) else {
        return backtrace.to_string();
    };
    let first = begun + 1 + frames[begun + 1..].iter().take_while(|f| panics(f)).count();
    let own = frames[first..].iter().take_while(|f| !f.contains("call_what_may_panic"));
    let own: Vec<&str> = own.map(String::as_str).collect();
    if own.is_empty() { backtrace.to_string() } else { own.join("\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_failure_that_names_its_place() {
        let failure = catch(&mut || panic!("odd {}", 7)).unwrap_err();
        assert!(failure.message.starts_with("panic 'odd 7' at "), "{failure}");
        assert!(failure.message.contains("catch.rs:"), "{failure}");
        assert!(failure.backtrace.contains("catch"), "{}", failure.backtrace);
        assert_eq!(catch(&mut || Err(Failure::new("plain"))).unwrap_err().message, "plain");
        assert_eq!(catch(&mut || Ok(())), Ok(()));
    }

    #[test]
    fn a_backtrace_begins_where_the_panic_was_and_ends_where_it_was_caught() {
        let failure = catch(&mut || panic!("odd")).unwrap_err();
        let first = failure.backtrace.lines().next().unwrap_or_default();
        assert!(first.contains("catch::tests::"), "{}", failure.backtrace);
        assert!(failure.backtrace.lines().count() < 12, "{}", failure.backtrace);
    }

    #[test]
    fn a_backtrace_ends_where_it_was_caught_though_the_rest_is_inlined() {
        let optimised = "   4: millstream_runtime::catch::install_hook::{{closure}}
   5: __rustc::rust_begin_unwind
   6: core::panicking::panic_fmt
   7: app::Account::handle
             at ./src/main.rs:7:9
   8: millstream_runtime::catch::call_what_may_panic
   9: millstream_runtime::catch::catch
  10: std::sys::backtrace::__rust_begin_short_backtrace";
        let own = "   7: app::Account::handle\n             at ./src/main.rs:7:9";
        assert_eq!(own_frames(optimised), own);
    }

    #[test]
    fn panics_unwind() {
        const { assert!(cfg!(panic = "unwind"), "supervision needs panics that unwind") };
    }
}
