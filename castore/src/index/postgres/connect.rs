//! Connections: how they are made, and what holds for all of them.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Connect;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{AsyncMessage, Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::{Failure, Trouble};

/// For a connection to be made and set up, whatever that takes: name lookup, TLS, a password.
pub(super) const CONNECT: Duration = Duration::from_secs(4);

/// For one of the addresses that a host has, so that there is time for a second.
const CONNECT_ADDRESS: Duration = Duration::from_secs(2);

/// What holds for every session.
///
/// Whoever holds a lock finds out that the connection is dead (14 s, see [`Connector::new`]) before
/// the server does (30 s) and gives the lock to somebody else. A client that stops in the middle of a
/// transaction holds the others up for half a minute. All queries are by key, and a plan made
/// while the table was small should not remain a scan of it. The search path is
/// narrowed to one schema, since the tables of another further down the path would be found
/// without the locks that go with them.
const SETTINGS: &str = "
    SET statement_timeout = '60s';
    SET lock_timeout = '60s';
    SET idle_in_transaction_session_timeout = '30s';
    SET idle_session_timeout = 0;
    SET tcp_keepalives_idle = 10;
    SET tcp_keepalives_interval = 5;
    SET tcp_keepalives_count = 4;
    SET tcp_user_timeout = '30s';
    SET enable_seqscan = off;
    SET jit = off;
    SELECT pg_catalog.set_config('search_path', quote_ident(current_schema()), false);
";

/// Makes connections to one server.
pub(super) struct Connector {
    config: Config,
    tls: MakeRustlsConnect,
    /// The server's addresses, for messages.
    at: String,
}

impl Connector {
    pub(super) fn new(url: &str) -> Result<Self, Trouble> {
        let mut config: Config = plain_modes(url).parse().map_err(Trouble::Url)?;
        if config.get_ssl_mode() != SslMode::Require {
            config.ssl_mode(SslMode::Disable);
        }
        if config.get_application_name().is_none() {
            config.application_name("granary");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_ADDRESS);
        }
        config.keepalives_idle(Duration::from_secs(5));
        config.keepalives_interval(Duration::from_secs(3)).keepalives_retries(3);
        config.tcp_user_timeout(Duration::from_secs(14));
        let tls = tls(config.get_ssl_mode())?;
        let at = addresses(&config);
        Ok(Self { config, tls, at })
    }

    /// A connection outside the pool. Texts that are notified on channels it listens to go to
    /// `heard`, and the connection waits while that is full.
    pub(super) async fn session(
        &self,
        heard: Option<mpsc::Sender<String>>,
    ) -> Result<Session, Failure> {
        match timeout(CONNECT, self.connect_unbounded(heard)).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(error)) => Err(self.failure(error)),
            Err(_) => Err(self.silent()),
        }
    }

    /// What an error in making a connection means.
    pub(super) fn failure(&self, error: tokio_postgres::Error) -> Failure {
        Failure::of_connecting(&self.at, error)
    }

    /// What it means that a connection took too long to make.
    pub(super) fn silent(&self) -> Failure {
        Failure::Lost(Trouble::Silent { at: self.at.clone(), within: CONNECT })
    }

    async fn connect_unbounded(
        &self,
        heard: Option<mpsc::Sender<String>>,
    ) -> Result<Session, tokio_postgres::Error> {
        let (client, mut connection) = self.config.connect(self.tls.clone()).await?;
        let driver = tokio::spawn(async move {
            loop {
                let message = match poll_fn(|context| connection.poll_message(context)).await {
                    Some(Ok(message)) => message,
                    Some(Err(error)) => break tracing::debug!("a connection has ended: {error}"),
                    None => break,
                };
                if let (AsyncMessage::Notification(note), Some(heard)) = (message, &heard)
                    && heard.send(note.payload().to_owned()).await.is_err()
                {
                    break;
                }
            }
        });
        let session = Session { client, driver: Driver(Some(driver)) };
        session.client.batch_execute(SETTINGS).await?;
        Ok(session)
    }
}

/// A connection outside the pool; closed at once when this is dropped, whatever it waits for.
pub(super) struct Session {
    pub(super) client: Client,
    driver: Driver,
}

impl Session {
    /// Whether the connection is there, as far as is known.
    pub(super) fn is_open(&self) -> bool {
        !self.client.is_closed()
    }
}

/// The task that reads and writes for a connection; ended when this is dropped.
struct Driver(Option<JoinHandle<()>>);

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
        }
    }
}

/// How the pool makes its connections.
pub(super) struct ForPool(pub(super) Arc<Connector>);

impl Connect for ForPool {
    fn connect(
        &self,
        _: &Config,
    ) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), tokio_postgres::Error>> {
        async {
            let Session { client, mut driver } = self.0.connect_unbounded(None).await?;
            // The pool ends it itself.
            let driver = driver.0.take().unwrap_or_else(|| tokio::spawn(async {}));
            Ok((client, driver))
        }
        .boxed()
    }
}

/// The URL with libpq's names for modes that check the certificate, which is what `require` does
/// here.
fn plain_modes(url: &str) -> String {
    let Some((server, options)) = url.split_once('?') else { return url.to_owned() };
    let plain = |option: &str| match option {
        "sslmode=verify-full" | "sslmode=verify-ca" => "sslmode=require".to_owned(),
        other => other.to_owned(),
    };
    let options: Vec<String> = options.split('&').map(plain).collect();
    format!("{server}?{}", options.join("&"))
}

/// TLS on ring, by the certificates of the system (or of `SSL_CERT_FILE`).
fn tls(mode: SslMode) -> Result<MakeRustlsConnect, Trouble> {
    let mut roots = RootCertStore::empty();
    if mode == SslMode::Require {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
            return Err(Trouble::Tls(format!("there are none; {}", errors.join("; "))));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| Trouble::Tls(error.to_string()))?;
    Ok(MakeRustlsConnect::new(config.with_root_certificates(roots).with_no_client_auth()))
}

fn addresses(config: &Config) -> String {
    let ports = config.get_ports();
    let host = |(at, host): (usize, &Host)| match host {
        Host::Tcp(name) => {
            let port = ports.get(at).or(ports.first()).copied().unwrap_or(5432);
            format!("{name}:{port}")
        }
        Host::Unix(path) => path.display().to_string(),
    };
    let hosts: Vec<String> = config.get_hosts().iter().enumerate().map(host).collect();
    hosts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_that_checks_certificates_asks_for_tls() {
        for mode in ["require", "verify-ca", "verify-full"] {
            let url = format!("postgres://u:p@h/d?application_name=x&sslmode={mode}");
            let connector = Connector::new(&url).unwrap();
            assert_eq!(connector.config.get_ssl_mode(), SslMode::Require);
            assert_eq!(connector.config.get_application_name(), Some("x"));
        }
        let connector = Connector::new("postgres://h,i:5/d?sslmode=prefer").unwrap();
        assert_eq!(connector.config.get_ssl_mode(), SslMode::Disable);
        assert_eq!(connector.at, "h:5432, i:5");
    }

    #[test]
    fn no_error_about_a_url_tells_its_password() {
        for url in ["postgres://u:secret@h:x/d", "postgres://u:secret@h/d?no=1", "u:secret@h"] {
            let Err(trouble) = Connector::new(url) else { panic!("{url} is taken") };
            assert!(!format!("{trouble} {trouble:?}").contains("secret"), "{trouble:?}");
        }
    }
}
