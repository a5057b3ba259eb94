//! Whole objects beside the packs, for others to read by presigned URLs.

use std::fs::File;
use std::io::{self, Seek};
use std::sync::Arc;
use std::time::Duration;

use super::S3Packs;
use super::upload::upload;
use crate::bytes::Direct;

impl Direct for S3Packs {
    fn stored(&self, name: &str) -> io::Result<Option<u64>> {
        let (bucket, name) = (self.core.bucket.clone(), name.to_owned());
        self.core.wait(async move { Ok(bucket.head(&name).await?) })
    }

    fn store(
        &self,
        name: &str,
        len: u64,
        write: &mut dyn FnMut(&mut File) -> io::Result<()>,
    ) -> io::Result<()> {
        // Without a name: gone with this process.
        let mut file = tempfile::tempfile_in(&self.core.spool)?;
        write(&mut file)?;
        let written = file.stream_position()?;
        if written != len {
            let what = format!("{written} of {len} bytes of {name} were written");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let (bucket, name) = (self.core.bucket.clone(), name.to_owned());
        self.core.wait(async move { upload(&bucket, &name, Arc::new(file), len).await })
    }

    fn url(&self, name: &str, expires: Duration) -> io::Result<String> {
        self.presigned_get(name, expires)
    }
}
