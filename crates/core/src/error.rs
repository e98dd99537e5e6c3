//! One error type for contracts, made for people: where, what, why, what to do.

use std::fmt;

/// A [`std::result::Result`] with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who can do something about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The input, the flow or the command line is wrong.
    User,
    /// The world outside is: a disk, a network, another process.
    External,
    /// We are.
    Bug,
}

/// A stable number for each error that a person can meet; `docs/errors.md` has a section each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Code {
    /// Bytes that fail their checksum, version or structure.
    Corrupt,
    /// A stream, task or table exists with another specification.
    Conflict,
    /// Another node uses the directory.
    InUse,
    /// The disk is full; the write is retried when there is room.
    DiskFull,
    /// Any other failure of the operating system.
    Io,
    /// A newer owner has taken over the task.
    Fenced,
    /// The flow cannot run as written.
    Plan,
    /// A name that nothing has.
    Unknown,
    /// State on disk was written by another version of the process.
    StateVersion,
    /// Input that cannot be decoded.
    Input,
    /// An argument out of its range.
    Limit,
    /// The node answers nothing.
    Unreachable,
    /// A file or directory that cannot be read or written.
    Permission,
    /// The flow has failed and was given up by its supervisor.
    Failed,
    /// A record failed and the policy of its process says `stop`.
    Stopped,
    /// A dead letter: a record that could not be decoded.
    Undecodable,
    /// A dead letter: a handler failed at it.
    Handler,
    /// A dead letter: its event time lies too far ahead of the clock.
    Ahead,
    /// A dead letter: set aside unexecuted, since it would not return or took the node down.
    Unexecuted,
    /// Too many handlers never returned: the node ends, to be started again.
    WornOut,
    /// A broken invariant.
    Bug,
}

impl Code {
    /// The code as printed, for example `M0007`.
    pub fn id(self) -> &'static str {
        match self {
            Code::Corrupt => "M0001",
            Code::Conflict => "M0002",
            Code::Io => "M0003",
            Code::DiskFull => "M0004",
            Code::Permission => "M0005",
            Code::Limit => "M0006",
            Code::InUse => "M0007",
            Code::Unreachable => "M0008",
            Code::Fenced => "M0009",
            Code::Plan => "M0010",
            Code::Unknown => "M0011",
            Code::Input => "M0012",
            Code::Failed => "M0013",
            Code::Stopped => "M0014",
            Code::Undecodable => "M0015",
            Code::Handler => "M0016",
            Code::Ahead => "M0017",
            Code::Unexecuted => "M0018",
            Code::WornOut => "M0019",
            Code::StateVersion => "M0021",
            Code::Bug => "M0099",
        }
    }

    /// The inverse of [`Code::id`].
    pub fn from_id(id: &str) -> Option<Code> {
        use Code::*;
        let all = [
            Corrupt,
            Conflict,
            InUse,
            DiskFull,
            Io,
            Fenced,
            Plan,
            Unknown,
            StateVersion,
            Input,
            Limit,
            Unreachable,
            Permission,
            Failed,
            Stopped,
            Undecodable,
            Handler,
            Ahead,
            Unexecuted,
            WornOut,
            Bug,
        ];
        all.into_iter().find(|code| code.id() == id)
    }

    /// Who can do something about it.
    pub fn kind(self) -> Kind {
        match self {
            Code::Conflict
            | Code::Plan
            | Code::Unknown
            | Code::StateVersion
            | Code::Input
            | Code::Limit
            | Code::Failed
            | Code::Stopped
            | Code::Undecodable
            | Code::Handler
            | Code::Ahead
            | Code::Unexecuted
            | Code::WornOut => Kind::User,
            Code::Bug => Kind::Bug,
            _ => Kind::External,
        }
    }

    /// Whether trying the same again can succeed.
    pub fn retry(self) -> bool {
        matches!(self, Code::DiskFull | Code::Io | Code::InUse | Code::Unreachable | Code::WornOut)
    }
}

/// What went wrong, where, and what to do about it.
///
/// ```
/// use millstream_core::{Code, Error};
/// let e = Error::new(Code::InUse, "./data is in use by another node").help("use another place: --data DIR");
/// assert_eq!(e.to_string(), "error[M0007]: ./data is in use by another node\n  = use another place: --data DIR");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    code: Code,
    message: String,
    help: Vec<String>,
    /// The advice is a general one, and gives way to any other.
    general: bool,
}

impl Error {
    /// An error that says what and why.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error { code, message: message.into(), help: Vec::new(), general: false }
    }

    /// Bytes that cannot be what they should be.
    pub fn corrupt(message: impl Into<String>) -> Error {
        Error::new(Code::Corrupt, message)
    }

    /// An operating-system error at a place, with general advice.
    pub fn io(place: impl fmt::Display, e: &std::io::Error) -> Error {
        use std::io::ErrorKind::*;
        let (code, help) = match e.kind() {
            StorageFull | QuotaExceeded => (
                Code::DiskFull,
                "make room; what was committed is kept, and a node that runs goes on by itself",
            ),
            PermissionDenied => (
                Code::Permission,
                "let the user that runs this read and write there, or name another place",
            ),
            ReadOnlyFilesystem => {
                (Code::Permission, "mount that file system writable, or name another place")
            }
            NotFound => (Code::Io, "check the path, and whether something has removed it"),
            NotADirectory | IsADirectory | AlreadyExists => {
                (Code::Io, "something else is in the way there: move it, or name another place")
            }
            OutOfMemory | WouldBlock => {
                (Code::Io, "the system has no more to give: look at its memory and limits (ulimit)")
            }
            _ => (Code::Io, "these are the system's own words: look there, and into its log"),
        };
        let help = vec![help.to_string()];
        Error { code, message: format!("{place}: {e}"), help, general: true }
    }

    /// Adds a line that says what to do.
    pub fn help(mut self, line: impl Into<String>) -> Error {
        if std::mem::take(&mut self.general) {
            self.help.clear();
        }
        self.help.push(line.into());
        self
    }

    /// Puts a place before the message: the directory in which all of it happened.
    pub fn at(mut self, place: impl fmt::Display) -> Error {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The first line, without code and advice.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The lines of advice.
    pub fn advice(&self) -> &[String] {
        &self.help
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code.id(), self.message)?;
        self.help.iter().try_for_each(|line| write!(f, "\n  = {line}"))
    }
}

impl std::error::Error for Error {}

impl From<arrow_schema::ArrowError> for Error {
    fn from(e: arrow_schema::ArrowError) -> Error {
        Error::corrupt(e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;

    #[test]
    fn what_the_system_refuses_says_what_to_do() {
        let full = Error::io("data/log", &ErrorKind::StorageFull.into());
        assert_eq!(
            full.to_string(),
            "error[M0004]: data/log: no storage space\n  = make room; what was committed is kept, and a node that runs goes on by itself"
        );
        let better =
            Error::io("in.csv", &ErrorKind::PermissionDenied.into()).help("chmod +r in.csv");
        assert_eq!(
            better.help("or another").at("run").to_string(),
            "error[M0005]: run: in.csv: permission denied\n  = chmod +r in.csv\n  = or another"
        );
    }
}
