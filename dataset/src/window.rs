//! The windows of one lane: the one in use, and the next one on its way.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use ringmaster_proto::{Lane, Step};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::error::DatasetError;
use crate::plan::{Plan, WindowId};
use crate::reader::Reader;
use crate::rows::EncodedRow;

/// Row groups of one window that are read at once.
const SEGMENTS_IN_FLIGHT: usize = 4;

type Rows = Vec<EncodedRow>;

/// Holds at most two windows of encoded rows.
pub(crate) struct LaneWindows {
    plan: Arc<Plan>,
    reader: Arc<Reader>,
    lane: Lane,
    /// The first step that is not wanted: what only later steps use is not fetched.
    to: Step,
    cancel: CancellationToken,
    runtime: Handle,
    current: Option<(WindowId, Rows)>,
    next: Option<(WindowId, AbortOnDropHandle<Result<Rows, DatasetError>>)>,
}

impl LaneWindows {
    /// Starts fetching what `lane` needs first.
    pub(crate) fn start(
        (plan, reader): (Arc<Plan>, Arc<Reader>),
        lane: Lane,
        (from, to): (Step, Step),
        (cancel, runtime): (CancellationToken, Handle),
    ) -> Self {
        let (current, next) = (None, None);
        let mut windows = Self {
            plan,
            reader,
            lane,
            to,
            cancel,
            runtime,
            current,
            next,
        };
        let first = windows.plan.slots(from, lane).into_iter().flatten().next();
        if let Some(slot) = first {
            windows.fetch(slot.window);
        }
        windows
    }

    /// Which lane.
    pub(crate) fn lane(&self) -> Lane {
        self.lane
    }

    /// The rows of `window`, in the order of [`Plan::segments`]. Waits for them, and starts
    /// fetching the window after. Call from a thread outside the runtime.
    pub(crate) fn rows(&mut self, window: WindowId) -> Result<&[EncodedRow], DatasetError> {
        if self.current.as_ref().is_none_or(|(id, _)| *id != window) {
            // The old window goes first: two are the most a lane holds.
            self.current = None;
            if self.next.as_ref().is_none_or(|(id, _)| *id != window) {
                self.fetch(window);
            }
            let (_, fetch) = self.next.take().ok_or(DatasetError::LoaderDied)?;
            let fetched = self
                .runtime
                .block_on(self.cancel.run_until_cancelled(fetch));
            let rows = fetched
                .and_then(Result::ok)
                .ok_or(DatasetError::LoaderDied)??;
            self.current = Some((window, rows));
            let after = self.plan.next_window(self.lane, window);
            if self.plan.first_step(after) < self.to {
                self.fetch(after);
            }
        }
        Ok(self.current.as_ref().map_or(&[], |(_, rows)| rows))
    }

    fn fetch(&mut self, window: WindowId) {
        let segments = self.plan.segments(self.lane, window);
        let reader = Arc::clone(&self.reader);
        let fetch = async move {
            stream::iter(segments)
                .map(|segment| reader.read(segment.row_group, segment.rows, true))
                .buffered(SEGMENTS_IN_FLIGHT)
                .try_concat()
                .await
        };
        self.next = Some((window, AbortOnDropHandle::new(self.runtime.spawn(fetch))));
    }
}
