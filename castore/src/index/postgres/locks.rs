//! Locks by name: each is held by a session of its own, and ends with it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};

use super::connect::{Connector, Session};
use super::error::{Failure, Trouble};
use super::names::{Names, hash};
use crate::index::Held;

/// Sessions that are kept for the next lock: locks are taken for every commit, and a connection
/// costs more than the commit does.
const IDLE: usize = 4;

/// How long giving a lock back may take; ending the session does it otherwise.
const UNLOCK: Duration = Duration::from_secs(5);

/// They wait for as long as it takes: only a dead server or a lost connection ends that.
const SETTINGS: &str = "SET statement_timeout = 0; SET lock_timeout = 0";
const TRY: &str = "SELECT pg_try_advisory_lock($1, $2)";

type Idle = Arc<Mutex<Vec<Session>>>;

/// Takes locks.
pub(super) struct Locks {
    connector: Arc<Connector>,
    class: i32,
    idle: Idle,
}

impl Locks {
    pub(super) fn new(connector: Arc<Connector>, names: &Names) -> Self {
        Self { connector, class: names.locks, idle: Idle::default() }
    }

    /// Waits for a lock.
    pub(super) async fn lock(&self, name: &str) -> Result<HeldLock, Failure> {
        let session = self.session().await?;
        let lock = format!("SELECT pg_advisory_lock({}, {})", self.class, hash(name));
        self.connector.attended(None, session.client.batch_execute(&lock)).await?;
        Ok(self.held(session))
    }

    /// Takes a lock if it is free.
    pub(super) async fn try_lock(&self, name: &str) -> Result<Option<HeldLock>, Failure> {
        let session = self.session().await?;
        let key = hash(name);
        let parameters = [
            (&self.class as &(dyn ToSql + Sync), Type::INT4),
            (&key as &(dyn ToSql + Sync), Type::INT4),
        ];
        let taken = session.client.query_typed(TRY, &parameters);
        let rows = self.connector.attended(None, taken).await?;
        let row = rows.first().ok_or(Trouble::Nonsense("a row is missing"))?;
        if row.try_get(0).map_err(Trouble::Said)? {
            return Ok(Some(self.held(session)));
        }
        put_back(&self.idle, session);
        Ok(None)
    }

    async fn session(&self) -> Result<Session, Failure> {
        while let Some(session) = take(&self.idle) {
            if session.is_open() {
                return Ok(session);
            }
        }
        let session = self.connector.session(None).await?;
        self.connector.attended(None, session.client.batch_execute(SETTINGS)).await?;
        Ok(session)
    }

    fn held(&self, session: Session) -> HeldLock {
        let (idle, runtime) = (self.idle.clone(), Handle::current());
        HeldLock { session: Some(session), idle, runtime }
    }
}

fn take(idle: &Idle) -> Option<Session> {
    idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

fn put_back(idle: &Idle, session: Session) {
    let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
    if idle.len() < IDLE {
        idle.push(session);
    }
}

/// A lock that is held.
pub(super) struct HeldLock {
    /// There until this is dropped.
    session: Option<Session>,
    idle: Idle,
    runtime: Handle,
}

impl Held for HeldLock {
    fn is_held(&self) -> bool {
        self.session.as_ref().is_some_and(Session::is_open)
    }
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        let (Some(session), idle) = (self.session.take(), self.idle.clone()) else { return };
        if !session.is_open() {
            return;
        }
        // Not waited for, as this may be any thread. Without a runtime the session ends here.
        self.runtime.spawn(async move {
            let unlock = session.client.batch_execute("SELECT pg_advisory_unlock_all()");
            if let Ok(Ok(())) = timeout(UNLOCK, unlock).await {
                put_back(&idle, session);
            }
        });
    }
}
