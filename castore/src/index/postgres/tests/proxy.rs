//! Stands between the index and a server, and cuts connections at the worst moment.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Passes bytes on, both ways.
pub(super) struct Proxy {
    address: String,
    armed: Arc<AtomicBool>,
}

/// The `HOST:PORT` of a URL.
fn address(url: &str) -> &str {
    let rest = url.split_once('@').expect("a user").1;
    rest.split_once('/').expect("a database").0
}

impl Proxy {
    /// Before the server that `url` names.
    pub(super) fn before(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (server, armed) = (address(url).to_owned(), Arc::new(AtomicBool::new(false)));
        let proxy =
            Self { address: listener.local_addr().unwrap().to_string(), armed: armed.clone() };
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(&server).unwrap());
                let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let armed = armed.clone();
                thread::spawn(move || pass(client, server, Some(&armed)));
                thread::spawn(move || pass(back.0, back.1, None));
            }
        });
        proxy
    }

    pub(super) fn url(&self, url: &str) -> String {
        url.replace(address(url), &self.address)
    }

    /// Lets the next commit through to the server, and not its answer back.
    pub(super) fn cut_at_commit(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_armed(&self) -> bool {
        self.armed.load(Ordering::SeqCst)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, armed: Option<&AtomicBool>) {
    let mut buffer = [0; 65536];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let commits = buffer[..count].windows(7).any(|word| word == b"COMMIT\0");
        let cut = commits && armed.is_some_and(|armed| armed.swap(false, Ordering::SeqCst));
        if cut {
            // Before the server can answer, nobody is there to be answered.
            let _ = from.shutdown(Shutdown::Both);
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
        if cut {
            thread::sleep(Duration::from_millis(200));
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
