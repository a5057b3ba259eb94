//! Sealing a pack: its file becomes an object.
//!
//! A small pack is one request. A large one goes in parts, two at a time, so that a line that breaks
//! costs a part and memory stays at two parts. Parts that came to nothing are aborted, since servers
//! keep (and charge for) them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::bucket::{Bucket, attempts};
use super::error::{Failure, S3Error};
use super::statistics::{add, count};

/// The largest body of one request. Four to a pack of the usual 128 MiB.
pub const PART: u64 = 32 << 20;
/// Parts of one pack under way at once: one is sent while the other one is waited for.
const PARTS_AT_ONCE: usize = 2;

/// Stores the first `len` bytes of the file as an object, and makes sure of its length.
pub async fn upload(bucket: &Bucket, name: &str, file: Arc<File>, len: u64) -> io::Result<()> {
    if len <= PART {
        bucket.put(name, read(file, 0, len).await?, true).await?;
    } else {
        in_parts(bucket, name, file, len).await?;
    }
    match bucket.head(name).await? {
        Some(stored) if stored == len => Ok(()),
        stored => {
            let what = match stored {
                Some(stored) => format!("it has {stored} of {len} bytes there"),
                None => "it was written and is not there".to_owned(),
            };
            Err(S3Error::new("store", name.to_owned(), 1, Failure::again(what)).into())
        }
    }
}

async fn in_parts(bucket: &Bucket, name: &str, file: Arc<File>, len: u64) -> io::Result<()> {
    let key = bucket.location.key(name);
    let begun = attempts!(bucket, bucket.patience.write(0), "begin an upload of", name, async {
        let request =
            bucket.s3.create_multipart_upload().bucket(bucket.location.bucket()).key(&key);
        let begun = request.send().await.map_err(|error| Failure::of(&error))?;
        let id = begun.upload_id().map(str::to_owned);
        id.ok_or_else(|| Failure::again("the answer does not name the upload"))
    });
    let sent = async {
        let parts = 0..len.div_ceil(PART);
        let parts: Vec<CompletedPart> = stream::iter(parts)
            .map(|part| send(bucket, name, &begun, file.clone(), part, len))
            .buffered(PARTS_AT_ONCE)
            .try_collect()
            .await?;
        complete(bucket, name, &begun, parts).await?;
        io::Result::Ok(())
    };
    let sent = sent.await;
    if sent.is_err()
        && let Err(error) = bucket.abort(&key, &begun).await
    {
        tracing::debug!(%error, "an upload in parts is left for tidying");
    }
    sent
}

async fn send(
    bucket: &Bucket,
    name: &str,
    upload: &str,
    file: Arc<File>,
    part: u64,
    len: u64,
) -> io::Result<CompletedPart> {
    let start = part * PART;
    let body = read(file, start, PART.min(len - start)).await?;
    let number = i32::try_from(part + 1).map_err(io::Error::other)?;
    let bytes = body.len() as u64;
    let key = bucket.location.key(name);
    let tag = attempts!(bucket, bucket.patience.write(bytes), "write a part of", name, async {
        count(&bucket.counters.part_puts);
        add(&bucket.counters.bytes_out, bytes);
        let request = bucket
            .s3
            .upload_part()
            .bucket(bucket.location.bucket())
            .key(&key)
            .upload_id(upload)
            .part_number(number)
            .body(ByteStream::from(body.clone()));
        let stored = request.send().await.map_err(|error| Failure::of(&error))?;
        let tag = stored.e_tag().map(str::to_owned);
        tag.ok_or_else(|| Failure::again("the answer has no tag for the part"))
    });
    Ok(CompletedPart::builder().part_number(number).e_tag(tag).build())
}

async fn complete(
    bucket: &Bucket,
    name: &str,
    upload: &str,
    parts: Vec<CompletedPart>,
) -> Result<(), S3Error> {
    let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    let key = bucket.location.key(name);
    attempts!(bucket, bucket.patience.write(PART), "finish an upload of", name, async {
        let request = bucket
            .s3
            .complete_multipart_upload()
            .bucket(bucket.location.bucket())
            .key(&key)
            .upload_id(upload)
            .multipart_upload(parts.clone());
        match request.send().await.map_err(|error| Failure::of(&error)) {
            // Completed before, by an attempt whose answer got lost; its length is asked for next.
            Err(failure) if failure.code.as_deref() == Some("NoSuchUpload") => Ok(()),
            done => done.map(drop),
        }
    });
    Ok(())
}

/// Bytes of the file, read on a thread that may wait.
async fn read(file: Arc<File>, start: u64, len: u64) -> io::Result<Bytes> {
    let read = move || {
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, start)?;
        io::Result::Ok(Bytes::from(bytes))
    };
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
}
