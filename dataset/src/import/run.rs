//! `corpus import`: somebody's data set as Parquet shards of ours.

use std::ops::ControlFlow;

use bytes::Bytes;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::shards::ShardWriter;
use super::{BadRow, Exclusion, Row, Source, Tolerance, read};
use crate::error::DatasetError;
use crate::prepare::Progress;
use crate::store::{Store, StoreError};

/// Rows between two reports of progress.
const REPORT_EVERY: u64 = 256;

/// How an import is done.
#[derive(Clone, Copy, Debug)]
pub struct ImportOptions {
    /// Rows of a shard; absent: as many as make a few hundred megabytes.
    pub rows_per_shard: Option<u64>,
    /// The import fails when more than this fraction of the rows cannot be used.
    pub max_bad_fraction: f64,
}

/// What an import came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Rows written.
    pub rows: u64,
    /// Shards written.
    pub shards: u64,
    /// Their size.
    pub bytes: u64,
    /// Rows left out because their pictures are on a list.
    pub excluded: u64,
    /// Rows left out because they cannot be used.
    pub bad: u64,
    /// Lines of the lists that no row has matched.
    pub unmatched: Vec<String>,
}

/// Writes the rows of `source` below `out`, but for those whose pictures `exclusion` names. Holds
/// one shard in memory, or two while one is being written. Refuses a place where there is Parquet
/// already; after an error none of this import's is left.
pub async fn import(
    source: Source,
    exclusion: Exclusion,
    out: &Store,
    options: ImportOptions,
    progress: impl Progress + 'static,
) -> Result<Imported, DatasetError> {
    let entries = out.list("").await?;
    if let Some(entry) = entries.iter().find(|entry| entry.key.ends_with(".parquet")) {
        return Err(DatasetError::Foreign {
            place: out.url(),
            reason: format!("holds {} already", entry.key),
            next: "choose an empty folder, or remove what is there".into(),
        });
    }
    let (sender, receiver) = channel(1);
    let reading = tokio::task::spawn_blocking(move || {
        Reading::new(exclusion, options, sender, progress).run(&source)
    });
    let mut written = Written::default();
    let put = written.put_all(out, receiver).await;
    // The reading ends once nobody takes its shards.
    let read = reading.await.map_err(|_| DatasetError::LoaderDied)?;
    match put.map_err(DatasetError::from).and(read) {
        Ok(imported) => Ok(Imported {
            shards: written.keys.len() as u64,
            bytes: written.bytes,
            ..imported
        }),
        Err(error) => {
            for key in written.keys {
                // The first error is the one to report.
                let _left = out.delete(&key).await;
            }
            Err(error)
        }
    }
}

/// The shards that are in the store.
#[derive(Default)]
struct Written {
    keys: Vec<String>,
    bytes: u64,
}

impl Written {
    async fn put_all(
        &mut self,
        out: &Store,
        mut shards: Receiver<Bytes>,
    ) -> Result<(), StoreError> {
        while let Some(shard) = shards.recv().await {
            self.bytes += shard.len() as u64;
            let key = format!("rows-{:05}.parquet", self.keys.len());
            self.keys.push(key.clone());
            out.put(&key, shard).await?;
        }
        Ok(())
    }
}

/// Reads, leaves out, and hands on whole shards.
struct Reading<P> {
    exclusion: Exclusion,
    tolerance: Tolerance,
    writer: ShardWriter,
    shards: Sender<Bytes>,
    progress: P,
    imported: Imported,
}

/// Why reading ended early; `None`: nobody takes the shards any more.
type Ended = Option<DatasetError>;

impl<P: Progress> Reading<P> {
    fn new(
        exclusion: Exclusion,
        options: ImportOptions,
        shards: Sender<Bytes>,
        progress: P,
    ) -> Self {
        Self {
            exclusion,
            tolerance: Tolerance::new(options.max_bad_fraction),
            writer: ShardWriter::new(options.rows_per_shard),
            shards,
            progress,
            imported: Imported::default(),
        }
    }

    fn run(mut self, source: &Source) -> Result<Imported, DatasetError> {
        let mut ended = Ok(());
        read(source, &mut |row| match self.take(row) {
            Ok(()) => ControlFlow::Continue(()),
            Err(early) => {
                ended = Err(early);
                ControlFlow::Break(())
            }
        })?;
        let ended = ended.and_then(|()| {
            self.tolerance.end().map_err(Some)?;
            let last = self.writer.end_shard();
            self.hand_on(last)
        });
        match ended {
            Err(Some(error)) => Err(error),
            // Whoever took the shards reports why it stopped.
            Ok(()) | Err(None) => Ok(Imported {
                bad: self.tolerance.bad(),
                unmatched: self.exclusion.unmatched().collect(),
                ..self.imported
            }),
        }
    }

    fn take(&mut self, row: Result<Row, BadRow>) -> Result<(), Ended> {
        let row = match row {
            Ok(row) => row,
            Err(bad) => return self.tolerance.refuse(&bad).map_err(Some),
        };
        self.tolerance.accept();
        if self.exclusion.excludes(&row) {
            self.imported.excluded += 1;
            return Ok(());
        }
        self.imported.rows += 1;
        if self.imported.rows.is_multiple_of(REPORT_EVERY) {
            self.progress.stage("rows imported", self.imported.rows, 0);
        }
        let shard = self.writer.push(row);
        self.hand_on(shard)
    }

    fn hand_on(&self, shard: Result<Option<Bytes>, String>) -> Result<(), Ended> {
        let shard = shard.map_err(|reason| {
            Some(DatasetError::Foreign {
                place: "the shard being written".into(),
                reason,
                next: "please report it".into(),
            })
        })?;
        match shard {
            Some(shard) => self.shards.blocking_send(shard).map_err(|_| None),
            None => Ok(()),
        }
    }
}
