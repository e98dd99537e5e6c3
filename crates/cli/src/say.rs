//! How things are said: results on stdout, the rest on stderr, errors with their exit codes.

use std::{
    io::{ErrorKind, Write},
    path::Path,
    process::ExitCode,
};

use millstream_core::{Code, Error, Result};
use serde::Serialize;

use crate::args::Args;

/// Where results and remarks go.
pub struct Say {
    /// Whether results are JSON.
    pub json: bool,
    /// What a command begins with to start this program again.
    program: String,
    /// What it ends with to ask the same place again.
    place: String,
}

impl Say {
    pub fn new(args: &Args) -> Say {
        let program = std::env::args().next().filter(|path| path.contains('/'));
        let mut say = Say {
            json: args.json,
            program: quoted(program.as_deref().unwrap_or("millstream")),
            place: String::new(),
        };
        match (&args.node, &args.data) {
            (Some(node), _) => say.place = format!(" --node {}", quoted(node)),
            (None, Some(dir)) => say.at(dir),
            (None, None) => {}
        }
        say
    }

    /// From now on commands are about the node in this directory.
    pub fn at(&mut self, dir: &Path) {
        self.place = format!(" --data {}", quoted(&dir.to_string_lossy()));
    }

    /// A command as it can be typed here and now.
    pub fn typed(&self, words: &[&str]) -> String {
        let words: String = words.iter().map(|word| format!(" {}", quoted(word))).collect();
        format!("{}{words}{}", self.program, self.place)
    }

    /// A line of a result.
    pub fn line(&mut self, line: impl AsRef<str>) {
        write(&mut std::io::stdout().lock(), line.as_ref());
    }

    /// A result as JSON, or as lines for people.
    ///
    /// # Errors
    /// If the result cannot be JSON.
    pub fn result<T: Serialize>(&mut self, value: &T, people: impl FnOnce(&mut Say)) -> Result<()> {
        match self.json {
            true => {
                let json = serde_json::to_string(value);
                self.line(json.map_err(|e| Error::new(Code::Bug, e.to_string()))?);
            }
            false => people(self),
        }
        Ok(())
    }

    /// What is worth knowing beside the result: on stderr if that is for programs.
    pub fn remark(&mut self, line: impl AsRef<str>) {
        match self.json {
            true => write(&mut std::io::stderr().lock(), line.as_ref()),
            false => self.line(line),
        }
    }

    /// The next useful command.
    pub fn next(&mut self, commands: &[&[&str]]) {
        let mut head = "next:";
        for words in commands {
            self.remark(format!("{head:5} {}", self.typed(words)));
            head = "";
        }
    }

    /// An error, and the exit code that fits it.
    pub fn error(&mut self, error: &Error) -> ExitCode {
        let mut said = Error::new(error.code(), error.message());
        for line in error.advice() {
            said = said.help(self.advice(line));
        }
        write(&mut std::io::stderr().lock(), &said.to_string());
        ExitCode::from(exit_code(error.code()))
    }

    /// A line of advice. The command in it stands between backquotes, and is said as it can be
    /// typed: libraries know neither how this program is called nor what it was asked about.
    fn advice(&self, line: &str) -> String {
        let Some((before, rest)) = line.split_once("`millstream ") else { return line.into() };
        let (command, after) = rest.split_once('`').unwrap_or((rest, ""));
        let placed = command == "demo" || command.contains(" --");
        let place = if placed { "" } else { &self.place };
        format!("{before}{} {command}{place}{after}", self.program)
    }
}

fn write(to: &mut impl Write, line: &str) {
    match writeln!(to, "{line}").and_then(|()| to.flush()) {
        // Whoever read has read enough (`| head`).
        Err(e) if e.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        // There is nobody left to tell.
        _ => {}
    }
}

fn exit_code(code: Code) -> u8 {
    match code {
        Code::Failed | Code::Stopped => 1,
        Code::Plan
        | Code::Unknown
        | Code::Input
        | Code::Limit
        | Code::Conflict
        | Code::StateVersion => 3,
        _ => 4,
    }
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,@%+=".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_string(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// A number as people read it: `27,004`.
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// One thing or several: `1 row`, `2 rows`.
pub fn count(n: u64, one: &str, several: &str) -> String {
    format!("{} {}", number(n), if n == 1 { one } else { several })
}

/// Bytes as people read them.
pub fn bytes(n: u64) -> String {
    match n {
        0..1024 => format!("{n} B"),
        1024..1_048_576 => format!("{:.1} KiB", n as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", n as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", n as f64 / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(quoted("./data/N730MQ"), "./data/N730MQ");
        for word in ["", "a b", "it's", r#"["a",1]"#, "$late", "*", "~", "-5"] {
            let printed = format!("printf %s {}", quoted(word));
            let said = std::process::Command::new("sh").args(["-c", &printed]).output().unwrap();
            assert_eq!(said.stdout, word.as_bytes(), "{printed}");
        }
    }

    #[test]
    fn numbers_have_commas() {
        assert_eq!(
            ["0", "27,004", "1,000,000"].map(String::from),
            [number(0), number(27_004), number(1_000_000)]
        );
    }
}
