//! Ports for servers that are killed and come back.

use std::net::TcpListener;

use crate::random::Random;

/// Below those that the kernel gives to outgoing connections, so that nobody takes the port of a
/// server while it is down.
const FIRST: u64 = 12_000;
const COUNT: u64 = 8_000;

/// One that nobody listens on.
pub fn free() -> u16 {
    // Tests run side by side: each process looks elsewhere first.
    let mut random = Random::from_clock();
    for _ in 0..100 {
        let port = (FIRST + random.below(COUNT)) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("a hundred ports from {FIRST} on are taken");
}
