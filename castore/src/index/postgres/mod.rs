//! The shared engine: PostgreSQL, one table of keys and values.
//!
//! Any number of processes use one database at the same time. Statements wait for the server as long
//! as it is alive, and no longer: whoever waits looks every few seconds whether it still takes
//! connections, so a dead one is an error within about ten seconds. What was interrupted before it
//! was committed is tried again, so a server that restarts is not noticed at all.
//!
//! The database's schema is the first of the session's `search_path`, so
//! `?options=-c%20search_path%3Dname` keeps several stores in one database. Needs PostgreSQL 14 and
//! connections of its own: session locks and `LISTEN` do not go through a pooler that hands out
//! connections by transaction.

mod apply;
mod attend;
mod connect;
mod error;
mod locks;
mod member;
mod migrate;
mod names;
mod pool;
mod read;
mod retry;
mod threads;

use std::sync::Arc;

use self::apply::Writers;
use self::connect::Connector;
use self::error::Trouble;
use self::locks::Locks;
use self::member::Member;
use self::names::Names;
use self::pool::Connections;
use self::retry::retried;
use self::threads::Threads;
use super::{Batch, Held, Index, IndexError, News, Pairs, Shared};

/// The longest message that [`Shared::say`] takes, in bytes. PostgreSQL takes 8000.
const MAX_MESSAGE: usize = 4000;

/// An index in a PostgreSQL database, shared with whoever else has opened it.
pub struct PostgresIndex {
    connections: Connections,
    writers: Writers,
    locks: Locks,
    member: Member,
    names: Names,
    /// Last, since what is above lives on it.
    threads: Threads,
}

impl PostgresIndex {
    /// Opens the index that `url` (`postgres://USER:PASSWORD@HOST:PORT/DATABASE`) names, makes its
    /// tables where they are missing, and becomes a member.
    ///
    /// `sslmode=require` and `sslmode=verify-full` both encrypt and check the server's certificate
    /// against the system's; otherwise nothing is encrypted.
    pub fn open(url: &str) -> Result<Self, IndexError> {
        let connector = Arc::new(Connector::new(url).map_err(Trouble::refused)?);
        let threads = Threads::start().map_err(Trouble::refused)?;
        let connections = Connections::new(connector.clone()).map_err(Trouble::refused)?;
        let (names, member) = threads.wait(retried(async || {
            let names = migrate::prepare(&connector).await?;
            let member = Member::join(&connector, &names).await?;
            Ok((names, member))
        }))?;
        let locks = Locks::new(connector, &names);
        Ok(Self { connections, writers: Writers::new(&names), locks, member, names, threads })
    }
}

impl Index for PostgresIndex {
    fn get_many(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, IndexError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        self.threads.wait(retried(async || {
            self.connections.with(async |connection| read::get_many(connection, keys).await).await
        }))
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Pairs, IndexError> {
        let range = read::Range::new(prefix, after);
        self.threads.wait(retried(async || {
            self.connections.with(async |connection| range.read(connection, limit).await).await
        }))
    }

    fn apply(&self, batch: &Batch) -> Result<(), IndexError> {
        self.threads.wait(self.writers.apply(&self.connections, batch))
    }

    fn flush(&self) -> Result<(), IndexError> {
        Ok(())
    }

    fn shared(&self) -> Option<&dyn Shared> {
        Some(self)
    }
}

impl Shared for PostgresIndex {
    fn member(&self) -> u64 {
        self.member.number().into()
    }

    fn lock(&self, name: &str) -> Result<Box<dyn Held>, IndexError> {
        let held = self.threads.wait(retried(async || self.locks.lock(name).await))?;
        Ok(Box::new(held))
    }

    fn try_lock(&self, name: &str) -> Result<Option<Box<dyn Held>>, IndexError> {
        let held = self.threads.wait(retried(async || self.locks.try_lock(name).await))?;
        Ok(held.map(|held| Box::new(held) as Box<dyn Held>))
    }

    fn others(&self) -> Result<Vec<u64>, IndexError> {
        self.threads.wait(retried(async || {
            self.connections
                .with(async |connection| self.member.others(connection, &self.names).await)
                .await
        }))
    }

    /// A message whose connection is lost while it is sent is sent again, so it may come twice.
    fn say(&self, text: &str) -> Result<(), IndexError> {
        if text.len() > MAX_MESSAGE {
            return Err(Trouble::TooLong { len: text.len(), most: MAX_MESSAGE }.refused());
        }
        self.threads.wait(retried(async || {
            self.connections
                .with(async |connection| self.member.say(connection, &self.names, text).await)
                .await
        }))
    }

    fn listen(&self, listener: Box<dyn FnMut(News) + Send>) {
        self.member.listen(listener);
    }
}

#[cfg(test)]
mod tests;
