//! nginx in front of replicas, with the configuration of the deployment example.

use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{places, ports};

const START: Duration = Duration::from_secs(20);

/// A proxy that asks its servers in turn. Killed when dropped.
#[derive(Debug)]
pub struct Nginx {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl Nginx {
    /// Before the servers on these ports.
    pub fn before(servers: &[u16]) -> Self {
        let (dir, port) = (places::scratch(), ports::free());
        let config = configuration(port, servers);
        fs::write(dir.path().join("nginx.conf"), config).expect("written");
        let prefix = dir.path().to_str().expect("UTF-8");
        let child = Command::new("/usr/sbin/nginx")
            .args(["-p", prefix, "-c", "nginx.conf", "-e", "stderr"])
            .spawn()
            .expect("nginx runs: see tests/setup");
        let nginx = Self { child, port, dir };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < START, "nginx does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        nginx
    }

    /// `http://127.0.0.1:PORT`
    pub fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The requests so far, each as `METHOD PATH STATUS SERVERS`.
    pub fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(self.dir.path().join("access")).expect("its log");
        log.lines().map(str::to_owned).collect()
    }
}

/// deploy/nginx.conf with other addresses, and as a single process, which is easily killed.
fn configuration(port: u16, servers: &[u16]) -> String {
    const FOLDERS: [&str; 5] = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let path = places::workspace().join("deploy/nginx.conf");
    let example = fs::read_to_string(&path);
    let example = example.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (mut config, mut servers) = (String::new(), servers.iter());
    let folders: String = FOLDERS.iter().map(|name| format!("{name}_temp_path t;")).collect();
    let mut changed = 0;
    for line in example.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let new = match &words[..] {
            ["worker_processes", ..] => "daemon off; master_process off;".to_owned(),
            ["pid", _] => "pid pid;".to_owned(),
            ["access_log", ..] => format!(
                "log_format who '$request_method $uri $status $upstream_addr';
                 access_log access who; {folders}"
            ),
            ["listen", ..] => format!("listen 127.0.0.1:{port};"),
            ["server", address, options @ ..] if address.contains(':') => match servers.next() {
                Some(server) => format!("server 127.0.0.1:{server} {}", options.join(" ")),
                None => String::new(),
            },
            _ => {
                config.extend([line, "\n"]);
                continue;
            }
        };
        changed += 1;
        config.extend([&new, "\n"]);
    }
    assert!(servers.next().is_none(), "{} names fewer servers", path.display());
    assert!(changed >= 6, "{} looks different now", path.display());
    config
}

impl Drop for Nginx {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
