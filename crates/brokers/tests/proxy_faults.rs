//! What the proxy does to frames, with brokers made of a few lines: each answers a request with
//! its correlation id and remembers it.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use millstream_brokers::{Api, DEADLINE, Links, Proxy};

const A: Api = Api(1001);
const B: Api = Api(1002);

/// Two nodes, two brokers, and the requests that each broker has got.
struct Stage {
    proxy: Proxy,
    got: [Got; 2],
}

type Got = Arc<Mutex<Vec<i32>>>;

struct Client(TcpStream);

impl Stage {
    fn new() -> Stage {
        let got = [Got::default(), Got::default()];
        let targets = vec![got.iter().map(broker).collect(); 2];
        Stage { proxy: Proxy::start(targets).unwrap(), got }
    }

    fn got(&self, broker: usize) -> Vec<i32> {
        self.got[broker - 1].lock().unwrap().clone()
    }
}

/// Where it listens; it ends with the test process.
fn broker(got: &Got) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let got = got.clone();
    let serve = move |mut client: TcpStream| {
        let mut request = [0; 12];
        while client.read_exact(&mut request).is_ok() {
            let correlation = request[8..].try_into().unwrap();
            got.lock().unwrap().push(i32::from_be_bytes(correlation));
            if client.write_all(&[[0, 0, 0, 4], correlation].concat()).is_err() {
                return;
            }
        }
    };
    thread::spawn(move || {
        for client in listener.incoming() {
            let serve = serve.clone();
            thread::spawn(move || serve(client.unwrap()));
        }
    });
    address
}

impl Client {
    fn new(links: &Links) -> Client {
        let stream = TcpStream::connect(links.bootstrap()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client(stream)
    }

    fn ask(&mut self, api: Api, correlation: i32) {
        let parts = [&[0, 0, 0, 8], &api.0.to_be_bytes()[..], &[0, 0], &correlation.to_be_bytes()];
        self.0.write_all(&parts.concat()).unwrap();
    }

    /// `None` if the connection has ended.
    fn answer(&mut self) -> Option<i32> {
        let mut answer = [0; 8];
        match self.0.read_exact(&mut answer) {
            Ok(()) => Some(i32::from_be_bytes(answer[4..].try_into().unwrap())),
            Err(e) if e.kind() == ErrorKind::WouldBlock => panic!("no answer and no end"),
            Err(_) => None,
        }
    }

    fn has_no_answer(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let peeked = self.0.peek(&mut [0]);
        self.0.set_nonblocking(false).unwrap();
        peeked.is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
    }
}

#[test]
fn requests_and_answers_pass_and_are_counted() {
    let stage = Stage::new();
    let node = stage.proxy.links(1);
    let mut client = Client::new(&node.to(1));
    client.ask(A, 7);
    client.ask(B, 8);
    assert_eq!([client.answer(), client.answer()], [Some(7), Some(8)]);
    assert_eq!((node.requests(A), node.answers(A)), (1, 1));
    assert_eq!((node.to(2).requests(A), stage.proxy.links(2).requests(A)), (0, 0));
    assert_eq!(stage.proxy.links_to(1).requests(B), 1);
    assert_eq!((stage.got(1), stage.got(2)), (vec![7, 8], vec![]));
}

#[test]
fn a_delay_is_that_of_the_way_not_of_each_frame() {
    const WAY: Duration = Duration::from_millis(150);
    let stage = Stage::new();
    let link = stage.proxy.links(1).to(1);
    link.delay(WAY, WAY);
    let mut client = Client::new(&link);
    let begun = Instant::now();
    for n in 0..10 {
        client.ask(A, n);
    }
    for n in 0..10 {
        assert_eq!(client.answer(), Some(n));
        assert!(begun.elapsed() >= 2 * WAY, "answer {n} after {:?}", begun.elapsed());
    }
    // One after the other they would take ten times as long.
    assert!(begun.elapsed() < 8 * WAY, "{:?}", begun.elapsed());
}

#[test]
fn a_cut_closes_and_refuses_until_it_is_healed() {
    let stage = Stage::new();
    let link = stage.proxy.links(1).to(1);
    let mut client = Client::new(&link);
    client.ask(A, 1);
    assert_eq!(client.answer(), Some(1));
    link.cut();
    assert_eq!(client.answer(), None);
    assert_eq!(Client::new(&link).answer(), None);
    // The same node's other link, and the other node's.
    for other in [stage.proxy.links(1).to(2), stage.proxy.links(2).to(1)] {
        let mut client = Client::new(&other);
        client.ask(A, 2);
        assert_eq!(client.answer(), Some(2));
    }
    link.heal();
    let mut client = Client::new(&link);
    client.ask(A, 3);
    assert_eq!(client.answer(), Some(3));
}

#[test]
fn a_black_hole_swallows_one_way() {
    let stage = Stage::new();
    let link = stage.proxy.links(1).to(1);
    link.black_hole_to();
    let mut client = Client::new(&link);
    client.ask(A, 1);
    link.wait_requests(A, 1, DEADLINE);
    assert_eq!(stage.got(1), []);
    link.heal();
    assert_eq!(client.answer(), Some(1));

    link.black_hole_back();
    client.ask(A, 2);
    link.wait_answers(A, 2, DEADLINE);
    assert_eq!(stage.got(1), [1, 2]);
    // The proxy does one thing after the other: what overtakes the answer shows that it is kept.
    let mut other = Client::new(&stage.proxy.links(2).to(1));
    other.ask(A, 3);
    assert_eq!(other.answer(), Some(3));
    assert!(client.has_no_answer());
    link.heal();
    assert_eq!(client.answer(), Some(2));
}

#[test]
fn a_held_request_arrives_late_though_its_client_has_gone() {
    let stage = Stage::new();
    let node = stage.proxy.links(1);
    let held = node.hold(A, 2);
    let mut closes = Client::new(&node.to(1));
    closes.ask(B, 1);
    assert_eq!(closes.answer(), Some(1));
    closes.ask(A, 2);
    held.wait(1, DEADLINE);
    drop(closes);
    let mut is_cut = Client::new(&node.to(1));
    is_cut.ask(A, 3);
    is_cut.ask(B, 4); // behind it, and lost by the cut
    node.wait_requests(B, 2, DEADLINE);
    node.cut();
    assert_eq!(is_cut.answer(), None);
    node.heal();
    let mut next = Client::new(&node.to(1));
    next.ask(A, 5); // the third one is not held
    assert_eq!(next.answer(), Some(5));
    assert_eq!(stage.got(1), [1, 5]);
    held.wait(2, DEADLINE);
    held.release(DEADLINE);
    let mut got = stage.got(1);
    got.sort();
    assert_eq!(got, [1, 2, 3, 5]);
    next.ask(A, 6);
    assert_eq!(next.answer(), Some(6));
}

#[test]
fn held_requests_that_are_dropped_are_lost_with_their_connection() {
    let stage = Stage::new();
    let link = stage.proxy.links(1).to(1);
    let held = link.hold(A, u32::MAX);
    let mut client = Client::new(&link);
    client.ask(A, 1);
    held.wait(1, DEADLINE);
    drop(held);
    assert_eq!(client.answer(), None);
    let mut client = Client::new(&link);
    client.ask(A, 2);
    assert_eq!(client.answer(), Some(2));
    assert_eq!(stage.got(1), [2]);
}

#[test]
fn a_lost_answer_leaves_or_ends_the_connection_but_the_broker_has_the_request() {
    let stage = Stage::new();
    let link = stage.proxy.links(1).to(1);
    let mut client = Client::new(&link);
    link.lose_answers(A, 1);
    for n in [1, 2] {
        client.ask(A, n);
    }
    assert_eq!(client.answer(), Some(2));
    link.break_answers(A, 1);
    client.ask(A, 3);
    assert_eq!(client.answer(), None);
    assert_eq!(stage.got(1), [1, 2, 3]);
    assert_eq!(link.answers(A), 3);
}

#[test]
#[should_panic(expected = "1 requests of Api(1001) not within 1ms; seen in all: ")]
fn a_wait_that_is_over_says_what_was_seen() {
    Stage::new().proxy.links(1).wait_requests(A, 1, Duration::from_millis(1));
}
