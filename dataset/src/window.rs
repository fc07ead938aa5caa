//! The windows of one lane, as its steps go through them.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use ringmaster_proto::{Lane, Step};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::error::DatasetError;
use crate::held::{Held, Rows, Whose};
use crate::plan::{RowRef, WindowId};
use crate::rows::EncodedRow;

/// Rows without room in their window that are read at once.
const LATE_IN_FLIGHT: usize = 8;

/// One lane's way through its windows.
pub(crate) struct LaneWindows {
    held: Arc<Held>,
    lane: Lane,
    /// The first step that is not wanted: what only later steps use is not fetched.
    to: Step,
    cancel: CancellationToken,
    runtime: Handle,
    current: Option<(WindowId, Arc<Rows>)>,
}

impl LaneWindows {
    /// Starts fetching what `lane` needs first.
    pub(crate) fn start(
        held: &Arc<Held>,
        lane: Lane,
        (from, to): (Step, Step),
        (cancel, runtime): (CancellationToken, Handle),
    ) -> Self {
        if from < to {
            let first = held.plan.window_of(from, lane);
            held.want(lane, first, Whose::Own, &runtime);
        }
        Self {
            held: Arc::clone(held),
            lane,
            to,
            cancel,
            runtime,
            current: None,
        }
    }

    /// Which lane.
    pub(crate) fn lane(&self) -> Lane {
        self.lane
    }

    /// Copies of the rows of a step, as [`crate::Plan::rows`] lists them: a window may be gone before they
    /// are decoded. Waits for them. Call from a thread outside the runtime.
    pub(crate) fn step(
        &mut self,
        step: Step,
    ) -> Result<Vec<Option<(RowRef, EncodedRow)>>, DatasetError> {
        let mut rows = Vec::new();
        for slot in self.held.plan.slots(step, self.lane) {
            let Some(slot) = slot else {
                rows.push(None);
                continue;
            };
            self.reach(slot.window, step)?;
            let window = self.current.as_ref();
            let row = window.and_then(|(_, window)| window.rows.get(slot.index));
            rows.push(Some((slot.row, row.cloned().flatten())));
        }
        let missing = |row: &(RowRef, Option<EncodedRow>)| row.1.is_none().then_some(row.0);
        let late = self.late(rows.iter().flatten().filter_map(missing).collect())?;
        let mut late = late.into_iter();
        let whole = rows.into_iter().map(|row| {
            let with_row = |(row, stored): (RowRef, Option<EncodedRow>)| {
                let stored = stored.or_else(|| late.next());
                Ok((row, stored.ok_or(DatasetError::LoaderDied)?))
            };
            row.map(with_row).transpose()
        });
        whole.collect()
    }

    /// Waits for `window` unless it is in use, and starts fetching the one after.
    fn reach(&mut self, window: WindowId, step: Step) -> Result<(), DatasetError> {
        if self.current.as_ref().is_none_or(|(id, _)| *id != window) {
            self.current = None;
            let rows = self.held.rows(self.lane, window, &self.runtime);
            let rows = self.runtime.block_on(self.cancel.run_until_cancelled(rows));
            self.current = Some((window, rows.ok_or(DatasetError::LoaderDied)??));
            let after = self.held.plan.next_window(self.lane, window);
            if self.held.plan.first_step(after) < self.to {
                self.held.want(self.lane, after, Whose::Own, &self.runtime);
            }
        }
        let after = self.held.plan.next_window(self.lane, window);
        self.held.keep(self.lane, step, after);
        Ok(())
    }

    /// Rows that their window had no room for.
    fn late(&self, rows: Vec<RowRef>) -> Result<Vec<EncodedRow>, DatasetError> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let reader = &self.held.reader;
        let read = stream::iter(rows)
            .map(|row| reader.read(row.row_group, row.row..row.row + 1, true))
            .buffered(LATE_IN_FLIGHT)
            .try_concat();
        let read = self.runtime.block_on(self.cancel.run_until_cancelled(read));
        read.ok_or(DatasetError::LoaderDied)?
    }
}
