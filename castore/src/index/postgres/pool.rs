//! The connections that statements go through.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{
    Client, Manager, ManagerConfig, Object, Pool, PoolError, QueueMode, RecyclingMethod, Runtime,
    TimeoutType, Timeouts,
};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Config, Row};

use super::attend::STUCK;
use super::connect::{CONNECT, Connector, ForPool};
use super::error::{Failure, Trouble};

/// PostgreSQL grants a hundred connections unless told otherwise, and a few replicas share them;
/// more than this at a time do not make a server with a few cores any faster.
pub(super) const COUNT: usize = 16;

/// How long a statement waits for one of them. They are in use for milliseconds.
const WAIT: Duration = Duration::from_secs(5);

/// Up to [`COUNT`] connections.
pub(super) struct Connections {
    pool: Pool,
    connector: Arc<Connector>,
}

/// One of them, for a while.
pub(super) struct Connection {
    client: Client,
    connector: Arc<Connector>,
}

impl Connections {
    pub(super) fn new(connector: Arc<Connector>) -> Result<Self, Trouble> {
        let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_connect(Config::new(), ForPool(connector.clone()), config);
        let timeouts = Timeouts { wait: Some(WAIT), create: Some(CONNECT), recycle: Some(CONNECT) };
        let builder = Pool::builder(manager).max_size(COUNT).timeouts(timeouts);
        // The one that was used last: others may have been closed by something in between.
        let builder = builder.queue_mode(QueueMode::Lifo).runtime(Runtime::Tokio1);
        let pool = builder.build().map_err(|error| Trouble::Pool(error.to_string()))?;
        Ok(Self { pool, connector })
    }

    /// Does `work` on a connection, which is closed when that fails: nobody else should get one that
    /// is broken, busy, or in the middle of a transaction.
    pub(super) async fn with<T>(
        &self,
        work: impl AsyncFnOnce(&Connection) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let client = self.pool.get().await.map_err(|error| self.failure(error))?;
        let connection = Connection { client, connector: self.connector.clone() };
        let outcome = work(&connection).await;
        if !matches!(outcome, Ok(_) | Err(Failure::Conflict)) {
            drop(Object::take(connection.client));
        }
        outcome
    }

    fn failure(&self, error: PoolError) -> Failure {
        match error {
            PoolError::Backend(error) => self.connector.failure(error),
            PoolError::Timeout(TimeoutType::Wait) => {
                Failure::Late(Trouble::Busy { count: COUNT, what: "connections", within: WAIT })
            }
            PoolError::Timeout(_) => self.connector.silent(),
            other => Failure::Refused(Trouble::Pool(other.to_string())),
        }
    }
}

impl Connection {
    /// The rows of a statement.
    pub(super) async fn query(
        &self,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Failure> {
        let work = async {
            let prepared = self.client.prepare_cached(statement).await?;
            self.client.query(&prepared, parameters).await
        };
        self.connector.attended(Some(STUCK), work).await
    }

    /// Runs statements that have neither parameters nor rows.
    pub(super) async fn run(&self, statements: &str) -> Result<(), Failure> {
        self.connector.attended(Some(STUCK), self.client.batch_execute(statements)).await
    }
}
