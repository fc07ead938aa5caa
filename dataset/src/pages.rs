//! Where the pages of a column chunk lie, for chunks too long to be read whole: from the index that
//! the writer stored, else from the pages' own headers, as far as somebody needs.

use std::any::Any;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use parquet::column::page::PageReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::page_index::PageIndexProvider;
use parquet::file::metadata::{ColumnChunkMetaData, OffsetIndexBuilder};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::page_index::offset_index::OffsetIndexMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;

use crate::fetch::{Fetcher, Object};
use crate::store::StoreError;

/// Read at a time while pages are short; one request then shows many headers.
const PIECE_BYTES: u64 = 4 << 20;

/// Read for the header of a page whose neighbour was long: the rest of the page is jumped over.
const HEADER_BYTES: u64 = 64 << 10;

/// Pages of this many bytes are long.
const LONG_BYTES: u64 = 512 << 10;

/// Why there are no page locations.
#[derive(Debug)]
pub(crate) enum ScanError {
    Store(StoreError),
    Parquet(ParquetError),
}

/// The pages of one flat column chunk that have been found so far.
pub(crate) struct Scan {
    pages: SerializedPageReader<Window>,
    window: Arc<Window>,
    chunk: Range<u64>,
    /// (offset, first row) of each data page found, ascending.
    found: Vec<(u64, u64)>,
    rows: u64,
    /// Where the last page ends, once that is known.
    end: Option<u64>,
}

impl Scan {
    /// Nothing is found yet. `rows` is the row group's.
    pub(crate) fn new(chunk: &ColumnChunkMetaData, rows: usize) -> Result<Self, ParquetError> {
        let (start, bytes) = chunk.byte_range();
        let window = Arc::new(Window::default());
        Ok(Self {
            pages: SerializedPageReader::new(Arc::clone(&window), chunk, rows, None)?,
            window,
            chunk: start..start + bytes,
            found: Vec::new(),
            rows: 0,
            end: None,
        })
    }

    /// Goes on until the page after row `row` is found, or the end. Where the pages are up to there;
    /// what has to be read for that is `fresh` from the store if asked.
    pub(crate) async fn up_to(
        &mut self,
        row: u64,
        fetcher: &Fetcher,
        object: &Object,
        fresh: bool,
    ) -> Result<OffsetIndexMetaData, ScanError> {
        while self.end.is_none() && self.found.last().is_none_or(|(_, first)| *first <= row) {
            self.step(fetcher, object, fresh).await?;
        }
        Ok(self.index())
    }

    /// Finds one more page, or the end.
    async fn step(
        &mut self,
        fetcher: &Fetcher,
        object: &Object,
        fresh: bool,
    ) -> Result<(), ScanError> {
        let page = match self.pages.peek_next_page() {
            Ok(page) => page,
            Err(error) => {
                // A header that ends beyond what is here; one that is here whole is damaged.
                let Some(range) = self.missing() else {
                    return Err(ScanError::Parquet(error));
                };
                let parts = std::slice::from_ref(&range);
                let parts = fetcher.fetch(object, parts, fresh).await;
                let bytes = parts.map_err(ScanError::Store)?.pop().unwrap_or_default();
                self.window.show(range.start, bytes);
                return Ok(());
            }
        };
        let Some(page) = page else {
            self.end = Some(self.chunk.end);
            return Ok(());
        };
        if !page.is_dict {
            let rows = page.num_rows.or(page.num_levels).unwrap_or(0) as u64;
            self.found.push((self.window.asked(), self.rows));
            self.rows += rows;
        }
        self.pages.skip_next_page().map_err(ScanError::Parquet)
    }

    /// What to read next for the header at the place that was asked for; `None` if that is here.
    fn missing(&self) -> Option<Range<u64>> {
        let start = self.window.asked();
        let mut lengths = self.found.windows(2).map(|pair| pair[1].0 - pair[0].0);
        let long = lengths.next_back().is_some_and(|bytes| bytes >= LONG_BYTES);
        let here = self.window.bytes_from(start);
        let bytes = match here {
            0 if long => HEADER_BYTES,
            _ if here < PIECE_BYTES => PIECE_BYTES,
            _ => return None,
        };
        let end = self.chunk.end.min(start + bytes);
        (end > start + here).then_some(start..end)
    }

    fn index(&self) -> OffsetIndexMetaData {
        let mut builder = OffsetIndexBuilder::new();
        let ends = self.found.iter().skip(1).map(|(offset, _)| *offset);
        let rows = self.found.iter().skip(1).map(|(_, first)| *first);
        let last_end = self.end.unwrap_or(self.chunk.end);
        let ends = ends.chain([last_end]).zip(rows.chain([self.rows]));
        for ((offset, first), (end, next)) in self.found.iter().zip(ends) {
            // The last one may stand for all that has not been looked at; nobody reads it then.
            let bytes = i32::try_from(end - offset).unwrap_or(i32::MAX);
            builder.append_row_count((next - first) as i64);
            builder.append_offset_and_size(*offset as i64, bytes);
        }
        builder.build()
    }
}

/// The part of a chunk that is in memory, as the page reader sees it.
#[derive(Default)]
struct Window {
    state: Mutex<(u64, Bytes, u64)>,
}

impl Window {
    fn show(&self, start: u64, bytes: Bytes) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.0, state.1) = (start, bytes);
    }

    /// The place that the page reader asked for last.
    fn asked(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).2
    }

    fn bytes_from(&self, start: u64) -> u64 {
        self.from(start).len() as u64
    }

    fn from(&self, start: u64) -> Bytes {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = start.checked_sub(state.0).map(|skip| skip as usize);
        match skip.filter(|skip| *skip <= state.1.len()) {
            Some(skip) => state.1.slice(skip..),
            None => Bytes::new(),
        }
    }
}

impl Length for Window {
    fn len(&self) -> u64 {
        u64::MAX
    }
}

impl ChunkReader for Window {
    type T = Box<dyn Read + Send>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let bytes = self.from(start);
        self.state.lock().unwrap_or_else(PoisonError::into_inner).2 = start;
        Ok(Box::new(Cursor::new(bytes)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let bytes = self.from(start);
        if bytes.len() < length {
            return Err(ParquetError::General("not read yet".to_owned()));
        }
        Ok(bytes.slice(..length))
    }
}

/// The index of a file, and that of one column chunk which the file has none for.
#[derive(Debug)]
pub(crate) struct WithScan {
    pub(crate) file: Option<Arc<dyn PageIndexProvider>>,
    pub(crate) row_group: usize,
    pub(crate) column: usize,
    pub(crate) index: OffsetIndexMetaData,
}

impl PageIndexProvider for WithScan {
    fn has_offset_indexes(&self) -> bool {
        true
    }

    fn has_column_indexes(&self) -> bool {
        false
    }

    fn column_index(&self, _: usize, _: usize) -> Option<&ColumnIndexMetaData> {
        None
    }

    fn offset_index(&self, row_group: usize, column: usize) -> Option<&OffsetIndexMetaData> {
        if (row_group, column) == (self.row_group, self.column) {
            return Some(&self.index);
        }
        self.file.as_ref()?.offset_index(row_group, column)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::array::{ArrayRef, BinaryArray, RecordBatch};
    use parquet::arrow::ArrowWriter;
    use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
    use parquet::file::properties::{WriterProperties, WriterVersion};
    use proptest::prelude::*;

    use super::*;
    use crate::store::Store;

    /// A shard of one column, with the index that its writer made.
    fn shard(lengths: &[usize], page_rows: usize, v2: bool, dictionary: bool) -> Vec<u8> {
        let values = lengths.iter().map(|length| vec![*length as u8; *length]);
        let column: ArrayRef = Arc::new(BinaryArray::from_iter_values(values));
        let batch = RecordBatch::try_from_iter([("image", column)]).unwrap();
        let version = match v2 {
            true => WriterVersion::PARQUET_2_0,
            false => WriterVersion::PARQUET_1_0,
        };
        let properties = WriterProperties::builder()
            .set_writer_version(version)
            .set_dictionary_enabled(dictionary)
            .set_write_batch_size(page_rows)
            .set_data_page_row_count_limit(page_rows)
            .build();
        let mut out = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut out, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        out
    }

    fn metadata(shard: &[u8]) -> ParquetMetaData {
        ParquetMetaDataReader::new()
            .with_page_index_policy(PageIndexPolicy::Required)
            .parse_and_finish(&Bytes::copy_from_slice(shard))
            .unwrap()
    }

    async fn object(shard: Vec<u8>) -> Object {
        let store = Store::over(Arc::new(object_store::memory::InMemory::new()));
        store.put("shard", shard.into()).await.unwrap();
        let entry = store.head("shard").await.unwrap();
        Object { store, entry }
    }

    /// Scans for `rows`, one after the other, and compares each time with the writer's own index: the
    /// same pages up to the row, and one more so that the last of them ends where it ends.
    async fn compare(shard: Vec<u8>, rows: &[u64]) {
        let metadata = metadata(&shard);
        let group = metadata.row_group(0);
        let indexes = metadata.page_index_for_row_group(0);
        let oracle = indexes.page_locations(0).unwrap();
        let (object, fetcher) = (object(shard).await, Fetcher::new(None));
        let mut scan = Scan::new(group.column(0), group.num_rows() as usize).unwrap();
        for row in rows {
            let found = scan.up_to(*row, &fetcher, &object, false).await.unwrap();
            let found = found.page_locations();
            let (last, known) = found.split_last().unwrap();
            assert_eq!(known, &oracle[..known.len()]);
            let same = &oracle[known.len()];
            assert_eq!(
                (last.offset, last.first_row_index),
                (same.offset, same.first_row_index)
            );
            let beyond = last.first_row_index as u64 > *row;
            assert!(beyond || found == oracle, "{row}: {found:?} of {oracle:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        #[test]
        fn the_pages_found_are_those_of_the_writers_index(
            lengths in prop::collection::vec(prop_oneof![0..40_usize, 0..200_000_usize], 1..60),
            page_rows in 1..7_usize,
            v2: bool,
            dictionary: bool,
            rows in prop::collection::vec(0..70_u64, 1..4),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let shard = shard(&lengths, page_rows, v2, dictionary);
            runtime.unwrap().block_on(compare(shard, &rows));
        }
    }

    #[tokio::test]
    async fn long_pages_are_jumped_over() {
        let shard = shard(&[3 << 20; 6], 1, false, false);
        compare(shard, &[0, 3, 5, 9]).await;
    }

    #[tokio::test]
    async fn damaged_headers_are_errors() {
        let whole = shard(&[1000; 40], 4, false, false);
        let metadata = metadata(&whole);
        let group = metadata.row_group(0);
        let (start, bytes) = group.column(0).byte_range();
        for filler in [0x00, 0x15, 0x7f, 0xff] {
            let mut damaged = whole.clone();
            damaged[start as usize..(start + bytes) as usize].fill(filler);
            let mut scan = Scan::new(group.column(0), group.num_rows() as usize).unwrap();
            let (object, fetcher) = (object(damaged).await, Fetcher::new(None));
            let found = scan.up_to(39, &fetcher, &object, false).await;
            assert!(
                matches!(found, Err(ScanError::Parquet(_))),
                "{filler}: {found:?}"
            );
        }
    }
}
