//! Membership and messages.
//!
//! A member holds, on one connection, a lock that is its number and `LISTEN`s there. The lock is what
//! others see of it, and ends with the connection; a task here makes both anew when they are lost.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_postgres::types::{ToSql, Type};

use super::connect::{Connector, Session};
use super::error::{Failure, Trouble};
use super::names::Names;
use super::pool::Connection;
use super::retry::Pauses;
use crate::index::News;

/// Messages that wait for a listener, or for this task. When it is full the connection is not read
/// and the server keeps what comes.
const WAITING: usize = 256;

/// How often a connection that says nothing is tried, and for how long.
const HEARTBEAT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(10);

/// The longest pause between tries to come back.
const PAUSE: Duration = Duration::from_secs(2);

/// Numbers to try at first. With a thousand members, one in four million is taken.
const TRIES: usize = 8;

const TAKE: &str = "SELECT pg_try_advisory_lock($1, $2)";

/// Ends the session that has the lock: it is ours, of a connection that we know to be lost and the
/// server does not.
const TAKE_BACK: &str = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' \
     AND classid = $1::oid AND objid = $2::oid AND objsubid = 2 AND granted \
     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

const OTHERS: &str = "SELECT DISTINCT objid FROM pg_locks WHERE locktype = 'advisory' \
     AND classid = $1::oid AND objsubid = 2 AND granted AND objid <> $2::oid \
     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

const SAY: &str = "SELECT pg_notify($1, $2)";

type Listeners = Arc<Mutex<Vec<mpsc::Sender<News>>>>;

/// This process among the members.
pub(super) struct Member {
    number: u32,
    listeners: Listeners,
}

impl Member {
    /// Becomes a member, and sees to remaining one.
    pub(super) async fn join(connector: &Arc<Connector>, names: &Names) -> Result<Self, Failure> {
        for _ in 0..TRIES {
            let number = getrandom::u32().map_err(|_| Trouble::Nonsense("no random numbers"))?;
            let place = Place { connector: connector.clone(), names: names.clone(), number };
            let Some(presence) = place.enter().await? else { continue };
            let listeners = Listeners::default();
            tokio::spawn(place.stay(presence, listeners.clone()));
            return Ok(Self { number, listeners });
        }
        Err(Failure::Again(Trouble::Nonsense("every number is taken")))
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) async fn others(
        &self,
        connection: &Connection,
        names: &Names,
    ) -> Result<Vec<u64>, Failure> {
        let rows = connection.query(OTHERS, &[&unsigned(names.members), &self.number]).await?;
        let number = |row: &tokio_postgres::Row| row.try_get(0).map(|number: u32| number.into());
        Ok(rows.iter().map(number).collect::<Result<_, _>>().map_err(Trouble::Said)?)
    }

    pub(super) async fn say(
        &self,
        connection: &Connection,
        names: &Names,
        text: &str,
    ) -> Result<(), Failure> {
        let message = format!("{}:{text}", self.number);
        connection.query(SAY, &[&names.channel, &message]).await.map(drop)
    }

    pub(super) fn listen(&self, mut listener: Box<dyn FnMut(News) + Send>) {
        let (sender, mut news) = mpsc::channel(WAITING);
        let listening =
            std::thread::Builder::new().name("granary-news".to_owned()).spawn(move || {
                while let Some(news) = news.blocking_recv() {
                    listener(news);
                }
            });
        match listening {
            Ok(_) => self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(sender),
            Err(error) => tracing::error!("no thread to listen to other members: {error}"),
        }
    }
}

/// A member's place in the database.
struct Place {
    connector: Arc<Connector>,
    names: Names,
    number: u32,
}

/// A connection that holds the place and hears messages.
struct Presence {
    session: Session,
    heard: mpsc::Receiver<String>,
}

impl Place {
    /// Takes the place, unless somebody has it.
    async fn enter(&self) -> Result<Option<Presence>, Failure> {
        let (hear, heard) = mpsc::channel(WAITING);
        let session = self.connector.session(Some(hear)).await?;
        let number = signed(self.number);
        let key = [(&self.names.members as &(dyn ToSql + Sync), Type::INT4), (&number, Type::INT4)];
        let taken = session.client.query_typed(TAKE, &key);
        let rows = self.connector.attended(None, taken).await?;
        let row = rows.first().ok_or(Trouble::Nonsense("a row is missing"))?;
        if !row.try_get(0).map_err(Trouble::Said)? {
            return Ok(None);
        }
        let listen = format!("LISTEN {}", self.names.channel);
        self.connector.attended(None, session.client.batch_execute(&listen)).await?;
        Ok(Some(Presence { session, heard }))
    }

    /// Takes the place from the session that had it before.
    async fn take_back(&self) -> Result<(), Failure> {
        let session = self.connector.session(None).await?;
        let class = unsigned(self.names.members);
        let key = [(&class as &(dyn ToSql + Sync), Type::OID), (&self.number, Type::OID)];
        let ended = session.client.query_typed(TAKE_BACK, &key);
        self.connector.attended(None, ended).await.map(drop)
    }

    async fn stay(self, mut presence: Presence, listeners: Listeners) {
        loop {
            self.hear(presence, &listeners).await;
            tracing::warn!("the connection to the other members is lost; making it anew");
            presence = self.come_back().await;
            tracing::info!("the connection to the other members is there again");
            tell(&listeners, News::Missed).await;
        }
    }

    /// Passes on what is heard, until the connection is lost.
    async fn hear(&self, mut presence: Presence, listeners: &Listeners) {
        loop {
            match timeout(HEARTBEAT, presence.heard.recv()).await {
                Ok(Some(message)) => {
                    if let Some(news) = self.news(&message) {
                        tell(listeners, news).await;
                    }
                }
                Ok(None) => return,
                Err(_) => {
                    let beat = presence.session.client.batch_execute("SELECT 1");
                    match timeout(ANSWER, beat).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) | Err(_) => return,
                    }
                }
            }
        }
    }

    async fn come_back(&self) -> Presence {
        let mut pauses = Pauses::new(PAUSE);
        loop {
            let failure = match self.enter().await {
                Ok(Some(presence)) => return presence,
                Ok(None) => self.take_back().await.err(),
                Err(failure) => Some(failure),
            };
            if let Some(failure) = failure {
                tracing::debug!(?failure, "no connection to the other members yet");
            }
            sleep(pauses.next()).await;
        }
    }

    /// What a message says, unless it is our own or nobody's.
    fn news(&self, message: &str) -> Option<News> {
        let (from, text) = message.split_once(':')?;
        let from: u32 = from.parse().ok().filter(|from| *from != self.number)?;
        Some(News::Said { from: from.into(), text: text.to_owned() })
    }
}

/// Tells all who listen, and waits for those who are slow.
async fn tell(listeners: &Listeners, news: News) {
    let all = listeners.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for listener in all {
        // One that has ended misses nothing.
        let _ = listener.send(news.clone()).await;
    }
}

/// PostgreSQL takes lock numbers as signed and lists them as unsigned.
fn signed(number: u32) -> i32 {
    i32::from_ne_bytes(number.to_ne_bytes())
}

fn unsigned(number: i32) -> u32 {
    u32::from_ne_bytes(number.to_ne_bytes())
}
