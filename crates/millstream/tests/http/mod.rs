//! A client that speaks just enough HTTP, so that the server is judged from outside.

#![allow(dead_code, reason = "not every test asks everything")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

/// No test waits longer than this for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something is so.
///
/// # Panics
/// If it is not so for too long: a test that hangs for ever says nothing.
pub fn until(what: &str, so: impl FnMut() -> bool) {
    assert!(in_time(so), "still waiting after {PATIENCE:?}: {what}");
}

/// The same, and whether it was so in time.
pub fn in_time(mut so: impl FnMut() -> bool) -> bool {
    // Clock: only so that what hangs fails.
    let begun = std::time::Instant::now();
    while !so() {
        if begun.elapsed() > PATIENCE {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub fn has(&self, header: &str) -> bool {
        self.head.to_ascii_lowercase().contains(header)
    }
}

/// Asks once, on a connection of its own.
pub fn ask(
    node: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(node)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.set_write_timeout(Some(Duration::from_secs(20)))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        head += &format!("Host: {node}\r\n");
    }
    if !headers.iter().any(|(name, _)| *name == "Content-Length") {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    stream.write_all(body)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let cut = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(cut)?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(cut)?;
    Ok(Answer { status, head: head.into(), body: body.into() })
}

/// Posts lines.
pub fn post(node: SocketAddr, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    ask(node, "POST", path, headers, body.as_bytes()).unwrap()
}

/// Gets something.
pub fn get(node: SocketAddr, path: &str) -> Answer {
    ask(node, "GET", path, &[], b"").unwrap()
}
