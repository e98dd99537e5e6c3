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
            | Code::Stopped => Kind::User,
            Code::Bug => Kind::Bug,
            _ => Kind::External,
        }
    }

    /// Whether trying the same again can succeed.
    pub fn retry(self) -> bool {
        matches!(self, Code::DiskFull | Code::Io | Code::InUse | Code::Unreachable)
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
}

impl Error {
    /// An error that says what and why.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error { code, message: message.into(), help: Vec::new() }
    }

    /// Bytes that cannot be what they should be.
    pub fn corrupt(message: impl Into<String>) -> Error {
        Error::new(Code::Corrupt, message)
    }

    /// An operating-system error at a place.
    pub fn io(place: impl fmt::Display, e: &std::io::Error) -> Error {
        let code = match e.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Code::DiskFull,
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                Code::Permission
            }
            _ => Code::Io,
        };
        Error::new(code, format!("{place}: {e}"))
    }

    /// Adds a line that says what to do.
    pub fn help(mut self, line: impl Into<String>) -> Error {
        self.help.push(line.into());
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
