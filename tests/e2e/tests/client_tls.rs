//! The client behind TLS, as nginx speaks it before a server.
#![allow(clippy::expect_used, reason = "a helper that fails should fail its test")]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use granary_e2e::places;
use tempfile::TempDir;

/// nginx with a certificate by a CA that nobody knows.
struct Nginx {
    child: Child,
    dir: TempDir,
    port: u16,
}

impl Nginx {
    fn start() -> Self {
        let dir = places::scratch();
        certify(dir.path());
        let port = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = port.local_addr().expect("its address").port();
        let whoami = r#"{"subject":"alice","caches":{},"now":1,"version":"0.1.0"}"#;
        let config = format!(
            "daemon off; master_process off; pid pid; error_log stderr;\n\
             events {{}}\n\
             http {{\n\
               log_format protocol '$server_protocol $status'; access_log access protocol;\n\
               client_body_temp_path t; proxy_temp_path t; fastcgi_temp_path t;\n\
               uwsgi_temp_path t; scgi_temp_path t;\n\
               server {{\n\
                 listen 127.0.0.1:{port} ssl http2;\n\
                 ssl_certificate server.pem; ssl_certificate_key server.key;\n\
                 location = /_granary/v1/whoami {{ return 200 '{whoami}'; }}\n\
               }}\n\
             }}\n"
        );
        fs::write(dir.path().join("nginx.conf"), config).expect("written");
        let prefix = dir.path().to_str().expect("UTF-8");
        let child = Command::new("/usr/sbin/nginx")
            .args(["-p", prefix, "-c", "nginx.conf", "-e", "stderr"])
            .spawn()
            .expect("nginx runs: see tests/setup");
        let nginx = Self { child, dir, port };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "nginx listens");
            std::thread::sleep(Duration::from_millis(20));
        }
        nginx
    }

    fn ca(&self) -> String {
        self.dir.path().join("ca.pem").to_str().expect("UTF-8").to_owned()
    }

    fn whoami(&self, variables: &[(&str, &str)]) -> Output {
        Command::new(places::granary())
            .args(["whoami", "--json", "--server", &format!("https://127.0.0.1:{}", self.port)])
            .env_clear()
            .env("HOME", self.dir.path())
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .output()
            .expect("granary runs")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Makes a CA and a certificate for 127.0.0.1 by it.
fn certify(dir: &Path) {
    let openssl = |arguments: &str| {
        let common = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
        let output = Command::new("openssl")
            .args(common.split(' '))
            .args(arguments.split(' '))
            .current_dir(dir)
            .output()
            .expect("openssl runs: see tests/setup");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    openssl("-subj /CN=ca -keyout ca.key -out ca.pem");
    openssl(
        "-subj /CN=server -keyout server.key -out server.pem -CA ca.pem -CAkey ca.key \
         -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=CA:FALSE",
    );
}

#[test]
fn a_ca_of_ones_own_is_trusted_once_it_is_named_and_http_2_is_spoken() {
    let nginx = Nginx::start();
    let output = nginx.whoami(&[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("no secure connection") && said.contains("NIX_SSL_CERT_FILE"), "{said}");

    for variable in ["NIX_SSL_CERT_FILE", "SSL_CERT_FILE"] {
        let output = nginx.whoami(&[(variable, &nginx.ca())]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{variable}: {said}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("alice"));
    }
    let log = fs::read_to_string(nginx.dir.path().join("access")).expect("its log");
    assert_eq!(log, "HTTP/2.0 200\nHTTP/2.0 200\n");

    let output = nginx.whoami(&[("NIX_SSL_CERT_FILE", "/nowhere/ca.pem")]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("/nowhere/ca.pem"), "{said}");
}
