//! Brokers that are killed, stopped, paused and started again, and how they end with their test.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write, stdin},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

use millstream_brokers::{Brokers, DEADLINE, or_skip};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};

/// One cluster at a time: a small machine has no room for two.
static ONE: Mutex<()> = Mutex::new(());

/// Asks for the versions that a broker knows.
fn ask(broker: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(broker).unwrap();
    // Api 18, version 0, correlation id 9, no name.
    stream.write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 9, 255, 255]).unwrap();
    stream
}

#[test]
fn a_broker_is_killed_started_again_stopped_and_paused() {
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let brokers = or_skip!(Brokers::start());
    let topic = brokers.topic("killed", 3, &[]);
    let mut config = ClientConfig::new();
    let producer: BaseProducer =
        config.set("bootstrap.servers", brokers.bootstrap()).set("acks", "all").create().unwrap();
    let mut expected = 0;
    let mut send_to_all_partitions = || {
        for partition in 0..3 {
            let record = BaseRecord::<(), str>::to(&topic).partition(partition).payload("x");
            producer.send(record).map_err(|(e, _)| e).unwrap();
        }
        producer.flush(DEADLINE).unwrap();
        expected += 3;
        assert_eq!(brokers.committed(&topic).len(), expected);
    };
    send_to_all_partitions();
    brokers.kill(1);
    assert_eq!(
        TcpStream::connect(brokers.address(1)).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    send_to_all_partitions();
    brokers.start_again(1);
    brokers.stop(2);
    // Two of three have to write it: 1 is one of them again.
    send_to_all_partitions();
    brokers.start_again(2);

    brokers.pause(3);
    let mut asked = ask(brokers.address(3));
    asked.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut answer = [0; 8];
    assert_eq!(asked.read_exact(&mut answer).unwrap_err().kind(), ErrorKind::WouldBlock);
    brokers.resume(3);
    asked.set_read_timeout(Some(DEADLINE)).unwrap();
    asked.read_exact(&mut answer).unwrap();
    assert_eq!(answer[4..], [0, 0, 0, 9]);

    let directory = brokers.directory().to_path_buf();
    assert!(directory.join("3/data").exists());
    drop(brokers);
    assert!(!directory.exists(), "{}", directory.display());
}

/// Not a test: what the next one kills.
#[test]
#[ignore = "runs until it is killed"]
fn child() {
    let brokers = Brokers::start().unwrap();
    brokers.pause(2);
    let addresses: Vec<_> = (1..=3).map(|n| brokers.address(n).to_string()).collect();
    println!("\nup {} {}", brokers.directory().display(), addresses.join(" "));
    stdin().read_line(&mut String::new()).unwrap();
    println!("{:?}", brokers.directory());
}

#[test]
fn nothing_of_a_test_that_is_killed_stays_behind() {
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let absent = Command::new("java").arg("-version").output().is_err();
    if absent {
        // Says why, or fails.
        drop(or_skip!(Brokers::start()));
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let up = lines.filter_map(|line| Some(line.strip_prefix("up ")?.to_string())).next().unwrap();
    let (directory, addresses) = up.split_once(' ').unwrap();
    let addresses: Vec<SocketAddr> = addresses.split(' ').map(|a| a.parse().unwrap()).collect();
    let mut connections: Vec<_> =
        addresses.iter().map(|a| TcpStream::connect(a).unwrap()).collect();
    assert!(Path::new(directory).join("2/data").exists());

    child.kill().unwrap();
    child.wait().unwrap();
    // Who holds standard error is the child, and the process that removes the directory at last.
    let mut stderr = child.stderr.take().unwrap();
    let (ended, end) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut said = String::new();
        stderr.read_to_string(&mut said).unwrap();
        ended.send(said).unwrap();
    });
    end.recv_timeout(DEADLINE).expect("the last process has ended");
    for connection in &mut connections {
        connection.set_read_timeout(Some(DEADLINE)).unwrap();
        let end = connection.read(&mut [0]);
        assert!(
            matches!(&end, Ok(0))
                || end.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionReset),
            "{end:?}"
        );
    }
    for address in addresses {
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
    assert!(!Path::new(directory).exists(), "{directory}");
}
