//! Ports for one cluster, which no other cluster of this machine takes.
//!
//! *Invariant:* they lie below those that systems give to outgoing connections, so that a broker
//! which is started again finds its port free.

use std::net::{Ipv4Addr, TcpListener};

use crate::Error;

/// How many ports one cluster has: 1 as a claim, 9 of its own, one per broker and node, 3 over
/// TLS.
const BLOCK: u16 = 32;
/// Below the lowest that Linux gives to outgoing connections, 32,768.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// A block of ports; whoever listens on the first one has them all.
pub(crate) struct Ports {
    pub(crate) base: u16,
    _claim: TcpListener,
}

impl Ports {
    pub(crate) fn claim() -> Result<Ports, Error> {
        let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok();
        for base in RANGE.step_by(BLOCK.into()) {
            let Some(claim) = bind(base) else { continue };
            // Brokers of a test that was killed may take a moment longer than its claim.
            if (base + 1..base + BLOCK).all(|port| bind(port).is_some()) {
                return Ok(Ports { base, _claim: claim });
            }
        }
        Err(Error::Failed(format!("no {BLOCK} free ports in a row in {RANGE:?}")))
    }
}
