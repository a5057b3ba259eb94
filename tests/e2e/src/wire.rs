//! A long line between a client and a server: everything arrives later than it was sent, as much
//! of it as is sent, and all of it is seen.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Pieces under way in one direction of a connection: 128 MiB, more than any line holds.
const PIECES: usize = 2048;
const PIECE: usize = 64 * 1024;

/// A request as it went by.
#[derive(Debug, Clone)]
pub struct Seen {
    /// `POST /path`
    pub line: String,
    /// Its body, if bodies are kept.
    pub body: Vec<u8>,
}

/// The line. It goes on until the test's process ends.
#[derive(Debug)]
pub struct Wire {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    to: SocketAddr,
    delay: Duration,
    keep: bool,
    up: AtomicU64,
    down: AtomicU64,
    seen: Mutex<Vec<Seen>>,
}

impl Wire {
    /// A line to the server at `origin` (`http://127.0.0.1:PORT`), without delay.
    pub fn to(origin: &str) -> Self {
        Self::start(origin, Duration::ZERO, false)
    }

    /// The same, on which everything takes `delay` in either direction.
    pub fn slow(origin: &str, delay: Duration) -> Self {
        Self::start(origin, delay, false)
    }

    /// A line without delay that keeps the bodies of requests.
    pub fn tapped(origin: &str) -> Self {
        Self::start(origin, Duration::ZERO, true)
    }

    fn start(origin: &str, delay: Duration, keep: bool) -> Self {
        let to = origin.trim_start_matches("http://").parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let (up, down, seen) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::default());
        let state = Arc::new(State { to, delay, keep, up, down, seen });
        let shared = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || connect(&state, &client));
            }
        });
        Self { port, state }
    }

    /// `http://127.0.0.1:PORT`
    pub fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Bytes that clients have sent.
    pub fn up(&self) -> u64 {
        self.state.up.load(Ordering::Relaxed)
    }

    /// Bytes that servers have sent.
    pub fn down(&self) -> u64 {
        self.state.down.load(Ordering::Relaxed)
    }

    /// The requests since it was last asked, those whose last byte has gone by.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.state.seen.lock().expect("no panic"))
    }
}

fn connect(state: &Arc<State>, client: &TcpStream) {
    // A connection takes a round trip before anything can be sent on it.
    std::thread::sleep(2 * state.delay);
    let Ok(server) = TcpStream::connect(state.to) else {
        drop(client.shutdown(Shutdown::Both));
        return;
    };
    for stream in [client, &server] {
        stream.set_nodelay(true).expect("an option of TCP");
    }
    let mut requests = Requests { state: state.clone(), head: Vec::new(), open: None };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            carry(state.delay, client, &server, &mut |piece| {
                state.up.fetch_add(piece.len() as u64, Ordering::Relaxed);
                requests.hear(piece);
            });
        });
        scope.spawn(|| {
            carry(state.delay, &server, client, &mut |piece| {
                state.down.fetch_add(piece.len() as u64, Ordering::Relaxed);
            });
        });
    });
}

/// Brings what comes from one side to the other, later.
fn carry(
    delay: Duration,
    mut from: &TcpStream,
    mut to: &TcpStream,
    see: &mut (dyn FnMut(&[u8]) + Send),
) {
    let (sender, pieces) = sync_channel::<(Instant, Vec<u8>)>(PIECES);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            deliver(&mut to, &pieces);
            // The writer is told as soon as nobody listens any more.
            drop(from.shutdown(Shutdown::Read));
            drop(to.shutdown(Shutdown::Write));
        });
        let mut buffer = vec![0; PIECE];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            see(&buffer[..length]);
            if sender.send((Instant::now() + delay, buffer[..length].to_vec())).is_err() {
                break;
            }
        }
        drop(sender);
    });
}

fn deliver(to: &mut &TcpStream, pieces: &Receiver<(Instant, Vec<u8>)>) {
    for (due, piece) in pieces {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&piece).is_err() {
            return;
        }
    }
}

/// Finds the requests (HTTP/1.1, bodies with their length) of a connection.
struct Requests {
    state: Arc<State>,
    head: Vec<u8>,
    open: Option<(Seen, usize)>,
}

impl Requests {
    fn hear(&mut self, mut piece: &[u8]) {
        loop {
            if let Some((mut seen, left)) = self.open.take() {
                let now = left.min(piece.len());
                if self.state.keep {
                    seen.body.extend_from_slice(&piece[..now]);
                }
                piece = &piece[now..];
                if left > now {
                    self.open = Some((seen, left - now));
                    return;
                }
                self.state.seen.lock().expect("no panic").push(seen);
            }
            let Some((first, rest)) = piece.split_first() else { return };
            self.head.push(*first);
            piece = rest;
            if self.head.ends_with(b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&std::mem::take(&mut self.head)).into_owned();
                let header = |name: &str| {
                    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
                    lines.find_map(|(found, value)| {
                        found.eq_ignore_ascii_case(name).then_some(value)
                    })
                };
                assert!(header("transfer-encoding").is_none(), "a body without length: {head}");
                let length = header("content-length").unwrap_or("0").parse().expect("a length");
                let line = head.split(" HTTP/1.1").next().expect("its first line").to_owned();
                self.open = Some((Seen { line, body: Vec::new() }, length));
            }
        }
    }
}
