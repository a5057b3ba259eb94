//! What goes wrong with a server, and what is to be done about it.

use std::error::Error;
use std::io;
use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::IndexError;

const ENGINE: &str = "postgres";

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(
        "the URL is not postgres://USER:PASSWORD@HOST:PORT/DATABASE: {}",
        told(.0)
    )]
    Url(#[source] tokio_postgres::Error),
    #[error("the system's certificates cannot be used for TLS: {0}")]
    Tls(String),
    #[error("threads cannot be started: {0}")]
    Threads(#[source] io::Error),
    #[error("the connections cannot be managed: {0}")]
    Pool(String),
    #[error("no connection to {at}: {}", told(.source))]
    Connect {
        at: String,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("no connection to {at} within {within:?}")]
    Silent { at: String, within: Duration },
    #[error("{}", told(.0))]
    Said(#[source] tokio_postgres::Error),
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error("all {count} places for {what} were in use for {within:?}")]
    Busy { count: usize, what: &'static str, within: Duration },
    #[error(
        "the connection was lost during a commit, and whether it took effect is not known: {0}"
    )]
    Unknown(#[source] Box<Trouble>),
    #[error("the server's answer makes no sense: {0}")]
    Nonsense(&'static str),
    #[error("the schema that search_path names is not in the database: create it")]
    NoSchema,
    #[error(
        "its tables are of version {found}, this program knows up to {known}: use a newer granary"
    )]
    Newer { found: i32, known: i32 },
    #[error("a message of {len} bytes is too long: at most {most} can be sent")]
    TooLong { len: usize, most: usize },
}

/// What to do about it.
#[derive(Debug)]
pub(super) enum Failure {
    /// A precondition does not hold.
    Conflict,
    /// The server is not there, or has gone away before anything was changed. Worth another try.
    Lost(Trouble),
    /// Somebody else was in the way; nothing was changed. Worth another try.
    Again(Trouble),
    /// The server took too long; nothing was changed. Another try would take as long.
    Late(Trouble),
    /// The connection was lost while a commit was under way.
    Unknown(Trouble),
    /// The server will not do it.
    Refused(Trouble),
}

impl Trouble {
    /// As an error that has nothing to do with reaching the server.
    pub(super) fn refused(self) -> IndexError {
        IndexError::Engine { engine: ENGINE, source: Box::new(self) }
    }
}

impl From<Trouble> for IndexError {
    fn from(trouble: Trouble) -> Self {
        trouble.refused()
    }
}

impl Failure {
    /// What the error of a statement means.
    pub(super) fn of_statement(error: tokio_postgres::Error) -> Self {
        let Some(code) = error.code() else {
            let broken = error.is_closed() || error.source().is_some_and(|s| s.is::<io::Error>());
            let kind = if broken { Self::Lost } else { Self::Refused };
            return kind(Trouble::Said(error));
        };
        let kind = match code {
            code if is_absence(code) => Self::Lost,
            &SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED => Self::Again,
            &SqlState::QUERY_CANCELED | &SqlState::LOCK_NOT_AVAILABLE => Self::Late,
            _ => Self::Refused,
        };
        kind(Trouble::Said(error))
    }

    /// What it means that there is no connection to the server `at` some address.
    pub(super) fn of_connecting(at: &str, source: tokio_postgres::Error) -> Self {
        let refused = source.code().is_some_and(|code| !is_absence(code));
        let trouble = Trouble::Connect { at: at.to_owned(), source };
        if refused { Self::Refused(trouble) } else { Self::Lost(trouble) }
    }

    /// What it means when it happened to a commit.
    pub(super) fn of_commit(self) -> Self {
        match self {
            Self::Lost(trouble) | Self::Late(trouble) => {
                Self::Unknown(Trouble::Unknown(Box::new(trouble)))
            }
            other => other,
        }
    }

    /// Whether nothing has happened and another try may well go better.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::Again(_))
    }
}

impl From<Failure> for IndexError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Conflict => Self::Conflict,
            Failure::Lost(trouble) | Failure::Late(trouble) | Failure::Unknown(trouble) => {
                Self::Unavailable { engine: ENGINE, source: Box::new(trouble) }
            }
            Failure::Again(trouble) | Failure::Refused(trouble) => trouble.refused(),
        }
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        Self::Refused(trouble)
    }
}

/// Whether the server says by this that it is not there for us: it stops, starts, is full, has lost
/// the connection, or was made a standby.
fn is_absence(code: &SqlState) -> bool {
    const ABSENCES: [SqlState; 6] = [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::TOO_MANY_CONNECTIONS,
        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        SqlState::READ_ONLY_SQL_TRANSACTION,
    ];
    // Class 08 are the connection's own errors; idle_session_timeout (57P05) has no name here.
    ABSENCES.contains(code) || code.code().starts_with("08") || code.code() == "57P05"
}

/// The server's words where there are some; tokio-postgres's own are "db error".
fn told(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        let detail = said.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
        return format!("{}{detail} [{}]", said.message(), said.code().code());
    }
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
