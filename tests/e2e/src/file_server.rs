//! A directory behind HTTP: a binary cache that nobody wrote a server for.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use data_encoding::BASE64;

/// Serves the files of a directory to whoever has the password.
#[derive(Debug)]
pub struct FileServer {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    dir: PathBuf,
    authorization: String,
    asked: Mutex<Vec<String>>,
    cut: Mutex<Option<String>>,
}

impl FileServer {
    /// Starts. The password is that of Basic authentication, for the user `any`.
    pub fn start(dir: &Path, password: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let state = Arc::new(State {
            dir: dir.to_owned(),
            authorization: format!("Basic {}", BASE64.encode(format!("any:{password}").as_bytes())),
            asked: Mutex::default(),
            cut: Mutex::default(),
        });
        let shared = state.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || serve(&socket, &state));
            }
        });
        Self { port, state }
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The paths that were asked for since the last call.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.asked.lock().expect("no panic"))
    }

    /// Cuts the next answer with this path in the middle.
    pub fn cut_once(&self, path: &str) {
        *self.state.cut.lock().expect("no panic") = Some(path.to_owned());
    }
}

/// One request, and the connection is closed.
fn serve(mut socket: &TcpStream, state: &State) {
    let mut lines = BufReader::new(socket).lines().map_while(Result::ok);
    let Some(request) = lines.next() else { return };
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    state.asked.lock().expect("no panic").push(path.clone());
    let let_in = head.iter().any(|line| {
        let (name, value) = line.split_once(": ").unwrap_or_default();
        name.eq_ignore_ascii_case("authorization") && value == state.authorization
    });
    let file = std::fs::read(state.dir.join(path.trim_start_matches('/')));
    let (status, body) = match file {
        _ if !let_in => ("401 Unauthorized", Vec::new()),
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let cut = state.cut.lock().expect("no panic").take_if(|cut| *cut == path).is_some();
    let sent = if cut { &body[..body.len() / 2] } else { &body[..] };
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    // The client may have gone.
    drop(socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(sent)));
}
