//! `granary umount`

use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::Args;
use rustix::mount::{UnmountFlags, unmount};

use crate::failure::{Context, Failure};

/// Options of `granary umount`.
#[derive(Args)]
pub struct Umount {
    /// Where the mount is
    mountpoint: PathBuf,
    /// Take it away at once; programs that use it keep it until they end
    #[arg(long)]
    lazy: bool,
}

impl Umount {
    /// Unmounts, also what a killed mount has left behind.
    pub fn run(self) -> Result<(), Failure> {
        let flags = if self.lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
        let context = || {
            format!(
                "cannot unmount {}: end the programs that use it, or take it away with --lazy",
                self.mountpoint.display()
            )
        };
        match unmount(&self.mountpoint, flags | UnmountFlags::NOFOLLOW) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::PERM) => self.by_fusermount(),
            Err(rustix::io::Errno::INVAL) => {
                let place = self.mountpoint.display();
                Err(Failure::new(format!("nothing is mounted at {place}")))
            }
            Err(error) => Err(io::Error::from(error)).context(context),
        }
    }

    /// The way for users other than root.
    fn by_fusermount(&self) -> Result<(), Failure> {
        let mut command = Command::new("fusermount3");
        command.arg(if self.lazy { "-uz" } else { "-u" }).arg("--").arg(&self.mountpoint);
        let status = command.stdin(Stdio::null()).status();
        let status = status.context(|| "cannot run fusermount3: install fuse3".to_owned())?;
        if status.success() {
            return Ok(());
        }
        Err(Failure::new(format!("cannot unmount {}", self.mountpoint.display())))
    }
}
