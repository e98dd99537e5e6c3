use super::*;

fn samples() -> Vec<(Record<'static>, &'static str)> {
    let of = |body| Record { node: "n1", incarnation: 300, body };
    let tasks = vec![
        (TaskKey(1), None),
        (TaskKey(2), Some(Entry::Owner { claim: 7, open: false, taken: true })),
        (TaskKey(3), Some(Entry::Owner { claim: 200, open: true, taken: false })),
        (TaskKey(4), Some(Entry::Standby { lag: 10, declines: true })),
        (TaskKey(5), Some(Entry::Granted { claim: 1, to: NodeKey(0x0102) })),
        (TaskKey(u64::MAX), Some(Entry::Declined)),
    ];
    let whole = Some(Whole { from: TaskKey(0), to: TaskKey(u64::MAX), address: "h:1" });
    vec![
        (
            of(Body::Beat(Beat { seq: 5, state: State::Active, whole: None, tasks: vec![] })),
            "0101026e31ac0205020000",
        ),
        (
            of(Body::Beat(Beat { seq: 6, state: State::Joining, whole, tasks })),
            "0101026e31ac020601010000000000000000ffffffffffffffff03683a310600010000000000000011020000000000000007020300000000000000c801130400000000000000\
             0a0405000000000000000102010000000000000\
             5ffffffffffffffff",
        ),
        (
            of(Body::Dead { node: NodeKey(9), incarnation: 8, last_seen: 70_000 }),
            "0102026e31ac02090000000000000008f0a204",
        ),
        (of(Body::Leave), "0103026e31ac02"),
        (
            of(Body::Took(Took {
                task: TaskKey(1),
                from: NodeKey(2),
                detected_ms: 640,
                fenced_ms: 30,
                output_ms: 9,
            })),
            "0104026e31ac020100000000000000020000000000000080051e09",
        ),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn records_have_the_bytes_of_version_1() {
    for (record, golden) in samples() {
        let bytes = record.encode();
        assert_eq!(hex(&bytes), golden, "{record:?}");
        assert_eq!(Record::decode(&bytes).unwrap(), record);
    }
}

#[test]
fn cut_and_flipped_bytes_never_panic() {
    for (record, _) in samples() {
        let bytes = record.encode();
        for cut in 0..bytes.len() {
            assert!(Record::decode(&bytes[..cut]).is_err(), "{cut} of {record:?}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                // What can be read must be what it says.
                if let Ok(read) = Record::decode(&flipped) {
                    assert_eq!(Record::decode(&read.encode()).unwrap(), read);
                }
            }
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(Record::decode(&longer).unwrap_err().message().contains("too many"));
    }
}

#[test]
fn what_is_too_much_or_too_new_is_refused() {
    let mut bytes = samples()[0].0.encode();
    bytes[0] = 2;
    let newer = Record::decode(&bytes).unwrap_err().to_string();
    assert!(newer.contains("version 2") && newer.contains("same version"), "{newer}");

    let name = "n".repeat(NAME_BYTES_MAX + 1);
    let long = Record { node: &name, incarnation: 1, body: Body::Leave }.encode();
    assert!(Record::decode(&long).unwrap_err().message().contains("129 bytes"));

    let tasks = (0..=ENTRIES_MAX as u64).map(|t| (TaskKey(t), None)).collect();
    let beat = Beat { seq: 1, state: State::Active, whole: None, tasks };
    let many = Record { node: "n", incarnation: 1, body: Body::Beat(beat) }.encode();
    assert!(Record::decode(&many).unwrap_err().message().contains("2049 tasks"));
}

#[test]
fn a_lag_is_told_by_its_bits() {
    assert_eq!([0, 1, 2, 3, 4, 1023, 1024, u64::MAX].map(lag_bits), [0, 1, 2, 2, 3, 10, 11, 64]);
}
