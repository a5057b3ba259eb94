//! Starts programs from a thread that never ends.
//!
//! The kernel sends the death signal of a child when the *thread* that started it ends, and a test's
//! thread ends before the test program does.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};

type Order = (Command, SyncSender<io::Result<Child>>);

/// Starts `command` as a child whose parent thread lives as long as the process.
pub(crate) fn spawn(command: Command) -> io::Result<Child> {
    static KEEPER: OnceLock<Mutex<SyncSender<Order>>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (orders, taken) = sync_channel::<Order>(0);
        std::thread::spawn(move || {
            for (mut command, answer) in taken {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, answered) = sync_channel(1);
    let gone = || io::Error::other("the thread that starts programs is gone");
    let order = keeper.lock().unwrap_or_else(PoisonError::into_inner).send((command, answer));
    order.map_err(|_| gone())?;
    answered.recv().map_err(|_| gone())?
}
