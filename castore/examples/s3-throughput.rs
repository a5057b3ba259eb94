//! How fast packs are read from an object store that is 20 ms away, by one thread that says what it
//! will read next: `cargo run --release -p castore --example s3-throughput`.
//!
//! The server and the delay are in this process. Fails below 100 MB/s.

use std::io::IoSliceMut;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use castore::bytes::{PackBackend, S3Packs, Wait};
use castore::pack::PackId;
use granary_test_services::{FaultProxy, KEY, S3Server, SECRET};

const LATENCY: Duration = Duration::from_millis(20);
const PACKS: usize = 2;
const PACK: usize = 128 << 20;
/// What one batch of records takes.
const READ: usize = 1 << 20;
/// How far ahead of the reader its hints go.
const AHEAD: u64 = 48 << 20;
const LEAST: f64 = 100.0;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<ExitCode> {
    let server = S3Server::start();
    let proxy = FaultProxy::start(server.address());
    let location = server.bucket_at("packs", &proxy.endpoint());
    let dir = tempfile::tempdir()?;
    let open = |name: &str| {
        S3Packs::open_with_key(location.parse()?, &dir.path().join(name), 1 << 30, KEY, SECRET)
            .map_err(Box::<dyn std::error::Error>::from)
    };
    let ids = write(&open("writer")?)?;

    let backend = open("reader")?;
    proxy.set_latency(LATENCY);
    let begun = Instant::now();
    let bytes = read(&backend, &ids)?;
    let rate = bytes as f64 / 1e6 / begun.elapsed().as_secs_f64();
    let asked = backend.statistics();
    show(&format!("{rate:.0} MB/s, {} GETs of {} bytes", asked.range_gets, asked.bytes_in));
    Ok(if rate >= LEAST { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write(backend: &S3Packs) -> Outcome<Vec<PackId>> {
    let mut ids = Vec::new();
    for number in 0..PACKS {
        let id = PackId::random()?;
        let pack = backend.create(id)?;
        pack.write_at(0, &vec![number as u8; PACK])?;
        pack.seal()?;
        ids.push(id);
    }
    Ok(ids)
}

fn read(backend: &S3Packs, ids: &[PackId]) -> Outcome<u64> {
    let mut buffer = vec![0; READ];
    let packs = ids.iter().map(|id| backend.open(*id, true)).collect::<Result<Vec<_>, _>>()?;
    let mut bytes = 0;
    for (number, pack) in packs.iter().enumerate() {
        for offset in (0..PACK as u64).step_by(READ) {
            let ahead = offset + AHEAD;
            pack.will_read(offset..ahead.min(PACK as u64));
            if let Some(next) = packs.get(number + 1)
                && ahead > PACK as u64
            {
                next.will_read(0..ahead - PACK as u64);
            }
            pack.read_vectored_at(offset, &mut [IoSliceMut::new(&mut buffer)], Wait::Yes)?;
            if buffer.iter().any(|byte| usize::from(*byte) != number) {
                return Err("other bytes than were written".into());
            }
            bytes += READ as u64;
        }
    }
    Ok(bytes)
}

#[allow(clippy::print_stdout, reason = "an example's only output")]
fn show(line: &str) {
    println!("{line}");
}
