//! One connection: requests are taken in, wait, and are passed on; so are the answers.
//!
//! *Why taking in and passing on are apart:* a delay is that of the way, not of each frame in
//! turn, and it is known that a request has come while it waits.

use std::{
    collections::VecDeque,
    io,
    pin::pin,
    sync::{Arc, Mutex},
    time::Instant,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    select,
    sync::{mpsc, watch},
};

use super::{Api, Fate, Hold, Link, Way, due};
use crate::wire::{FRAME_BYTES_MAX, Header};

/// Frames that wait per direction.
const FRAMES: usize = 16;

struct Connection {
    link: Arc<Link>,
    /// How often the link had been cut when this began.
    cuts: u64,
    /// Whether this one alone was cut.
    broken: watch::Sender<bool>,
    /// Correlation ids of requests that the broker has, in order.
    passed: Mutex<VecDeque<(i32, Api, Fate)>>,
}

struct Request {
    frame: Vec<u8>,
    due: Option<Instant>,
    correlation: i32,
    api: Api,
    fate: Fate,
}

struct Answer {
    frame: Vec<u8>,
    due: Option<Instant>,
}

/// Serves a connection to its end.
pub(super) async fn serve(link: Arc<Link>, cuts: u64, client: TcpStream, broker: TcpStream) {
    // Fails only if the other side has gone, which is noticed next.
    let _ = (client.set_nodelay(true), broker.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_broker, to_broker) = broker.into_split();
    // Bounded by `FRAMES`; these are Tokio's channels.
    let (requests, requests_next) = mpsc::channel(FRAMES);
    let (answers, answers_next) = mpsc::channel(FRAMES);
    let connection =
        Connection { link, cuts, broken: watch::Sender::new(false), passed: Mutex::default() };
    tokio::join!(
        connection.take_requests(from_client, requests),
        connection.pass_requests(requests_next, to_broker),
        connection.take_answers(from_broker, answers),
        connection.pass_answers(answers_next, to_client),
    );
}

impl Connection {
    async fn take_requests(&self, mut from: OwnedReadHalf, to: mpsc::Sender<Request>) {
        let mut cut = pin!(self.cut());
        loop {
            let frame = select! {
                // First, so that nothing comes through after a cut.
                biased;
                () = &mut cut => return,
                frame = read_frame(&mut from) => frame,
            };
            let Ok(frame) = frame else { return };
            // What does not speak Kafka's protocol is no client.
            let Some(header) = Header::of(&frame[4..]) else { return };
            let api = Api(header.api);
            let request = Request {
                frame,
                due: due(self.link.way.borrow().delay_to),
                correlation: header.correlation,
                api,
                fate: self.link.request(api),
            };
            // Also if it is cut meanwhile: what has come is for the next step to drop, or to hold.
            if to.send(request).await.is_err() {
                return;
            }
        }
    }

    async fn pass_requests(&self, mut from: mpsc::Receiver<Request>, mut to: OwnedWriteHalf) {
        let mut cut = pin!(self.cut());
        let mut is_cut = false;
        while let Some(mut request) = from.recv().await {
            if let Fate::Hold(gate) = &request.fate {
                // Also after a cut: it is on its way.
                let mut state = gate.state.subscribe();
                let released = state.wait_for(|hold| *hold != Hold::Holding).await;
                if !released.is_ok_and(|hold| *hold == Hold::Released) {
                    self.broken.send_replace(true);
                    continue;
                }
            } else {
                if !is_cut {
                    select! {
                        biased;
                        () = &mut cut => is_cut = true,
                        () = self.clear(request.due, |way| way.hole_to) => {}
                    }
                }
                if is_cut {
                    continue;
                }
            }
            if let Fate::Unheard(topic) = &request.fate {
                rename(&mut request.frame, topic.as_bytes(), &nameless(topic));
            }
            let passed = (request.correlation, request.api, request.fate);
            self.passed.lock().expect("no panic below").push_back(passed);
            if to.write_all(&request.frame).await.is_err() {
                break;
            }
        }
        // The end that follows closes this direction alone: answers still come.
    }

    async fn take_answers(&self, mut from: OwnedReadHalf, to: mpsc::Sender<Answer>) {
        while let Ok(mut frame) = read_frame(&mut from).await {
            let Some(correlation) = frame[4..].first_chunk() else { break };
            match self.answer(i32::from_be_bytes(*correlation)) {
                Fate::Silence => continue,
                Fate::Break => {
                    self.broken.send_replace(true);
                    continue;
                }
                Fate::Unheard(topic) => rename(&mut frame, &nameless(&topic), topic.as_bytes()),
                Fate::Pass | Fate::Hold(_) => {}
            }
            let due = due(self.link.way.borrow().delay_back);
            // Without a client the answers are counted all the same.
            let _ = to.send(Answer { frame, due }).await;
        }
    }

    async fn pass_answers(&self, mut from: mpsc::Receiver<Answer>, mut to: OwnedWriteHalf) {
        let mut cut = pin!(self.cut());
        loop {
            let answer = select! {
                biased;
                () = &mut cut => return,
                answer = from.recv() => answer,
            };
            let due = answer.as_ref().and_then(|answer| answer.due);
            select! {
                biased;
                () = &mut cut => return,
                () = self.clear(due, |way| way.hole_back) => {}
            }
            let Some(answer) = answer else {
                // The broker has closed it, and so do we.
                self.broken.send_replace(true);
                return;
            };
            if to.write_all(&answer.frame).await.is_err() {
                return;
            }
        }
    }

    /// Counts the answer; what was to become of it.
    fn answer(&self, correlation: i32) -> Fate {
        let mut passed = self.passed.lock().expect("no panic below");
        // Those before it wanted no answer.
        let before = passed.iter().position(|(c, ..)| *c == correlation);
        let request = before.and_then(|before| passed.drain(..=before).next_back());
        drop(passed);
        let Some((_, api, fate)) = request else { return Fate::Pass };
        self.link.answer(api, &fate);
        fate
    }

    /// Until this connection is cut.
    async fn cut(&self) {
        let mut way = self.link.way.subscribe();
        let mut broken = self.broken.subscribe();
        // Both senders live as long as the link and the connection.
        select! {
            _ = way.wait_for(|way| way.cuts != self.cuts) => {}
            _ = broken.wait_for(|broken| *broken) => {}
        }
    }

    /// Until something is due and the way has no hole.
    async fn clear(&self, due: Option<Instant>, hole: impl Fn(&Way) -> bool) {
        if let Some(due) = due {
            tokio::time::sleep_until(due.into()).await;
        }
        let mut way = self.link.way.subscribe();
        // The sender lives as long as the link.
        let _ = way.wait_for(|way| !hole(way)).await;
    }
}

/// A topic's name that no topic has.
fn nameless(topic: &str) -> Vec<u8> {
    vec![b'_'; topic.len()]
}

/// Gives the first text of a frame that is `from` another name, which is as long. In front of a
/// text is its length, or one more in newer versions of a request.
fn rename(frame: &mut [u8], from: &[u8], to: &[u8]) {
    let begins = |at: &usize| {
        let length = usize::from(frame[at - 1]);
        frame[*at..].starts_with(from) && (length == from.len() || length == from.len() + 1)
    };
    if let Some(at) = (1..frame.len()).find(begins) {
        frame[at..at + to.len()].copy_from_slice(to);
    }
}

/// A frame with its length.
async fn read_frame(from: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length).await?;
    let bytes = u32::from_be_bytes(length) as usize;
    if bytes > FRAME_BYTES_MAX {
        return Err(io::Error::other(format!("a frame of {bytes} bytes")));
    }
    let mut frame = vec![0; 4 + bytes];
    frame[..4].copy_from_slice(&length);
    from.read_exact(&mut frame[4..]).await?;
    Ok(frame)
}
