//! The windows that a worker holds, of its lanes and of those that it would take over: whoever asks for one
//! has it, so that a new loader goes on from what the last one read.
//!
//! What is held never exceeds the room there is. Rows that find none are left out of their window and read
//! when their step comes; which rows come when never depends on it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{StreamExt, TryStreamExt, stream};
use ringmaster_proto::{Lane, Step};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::error::DatasetError;
use crate::plan::{Plan, PlanSpec, Segment, WindowId};
use crate::reader::Reader;
use crate::room::{Room, Share};
use crate::rows::EncodedRow;

/// Parts of one window that are read at once.
const PARTS_IN_FLIGHT: usize = 4;

/// A part of a window that is read in one go is not expected to have more bytes.
const PART_BYTES: u64 = 64 << 20;

/// Steps that a loader may be ahead of the training, with one that is done again: as long a window is held
/// that is over.
pub(crate) const STEPS_BEHIND: u64 = 8;

/// Steps of the lanes that would be taken over for which there are rows.
const STEPS_STANDBY: u64 = 2;

/// Room there is at least: small corpora need no plan.
const ROOM_BYTES_MIN: u64 = 64 << 20;

/// Of a row besides what is stored of it.
const ROW_BYTES: u64 = size_of::<EncodedRow>() as u64;

/// Encoded rows that a worker holds at most, bytes, for its own lanes and for those that it would take over.
/// `row_bytes` are the corpus' per row, on average.
pub fn rows_bytes(spec: &PlanSpec, row_bytes: u64, own: u64, standby: u64) -> (u64, u64) {
    let window = spec.window_rows();
    let batch = u64::from(spec.lane_batch);
    // The first and the last window of some steps are there whole.
    let spanning = |steps: u64| steps * batch + window.min(steps * batch);
    // The window in use, the next, and half of one because rows differ; and those that are over.
    let own_rows = 2 * window + window.div_ceil(2) + spanning(STEPS_BEHIND);
    let standby_rows = window + window.div_ceil(4) + spanning(STEPS_BEHIND + STEPS_STANDBY);
    let bytes = |lanes: u64, rows: u64| match lanes {
        0 => 0,
        _ => (lanes * rows)
            .saturating_mul(row_bytes + ROW_BYTES)
            .max(ROOM_BYTES_MIN),
    };
    (bytes(own, own_rows), bytes(standby, standby_rows))
}

/// Whose a window is, and so which room it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// A lane of this worker.
    Own,
    /// A lane that it would take over.
    Standby,
}

/// All windows of one worker.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) plan: Arc<Plan>,
    pub(crate) reader: Arc<Reader>,
    /// What is stored of a row, on average.
    row_bytes: u64,
    own: Arc<Room>,
    standby: Arc<Room>,
    windows: Mutex<BTreeMap<(Lane, WindowId), Arc<Window>>>,
}

impl Held {
    /// Nothing, and no room for anything before [`Held::serve`].
    pub(crate) fn new(plan: &Arc<Plan>, reader: &Arc<Reader>, row_bytes: u64) -> Self {
        Self {
            plan: Arc::clone(plan),
            reader: Arc::clone(reader),
            row_bytes,
            own: Arc::default(),
            standby: Arc::default(),
            windows: Mutex::default(),
        }
    }

    /// From now on for these lanes: windows of others go, and there is as much room as was planned.
    pub(crate) fn serve(&self, own: &Range<u32>, standby: &[u32]) {
        let lanes = |count: usize| count as u64;
        let (own_count, standby_count) = (lanes(own.len()), lanes(standby.len()));
        let (for_own, for_standby) =
            rows_bytes(self.plan.spec(), self.row_bytes, own_count, standby_count);
        let served = |lane: Lane| own.contains(&lane.0) || standby.contains(&lane.0);
        self.windows().retain(|(lane, _), _| served(*lane));
        self.set_room(for_own, for_standby);
    }

    /// Lets go of everything.
    pub(crate) fn clear(&self) {
        self.windows().clear();
    }

    fn set_room(&self, own: u64, standby: u64) {
        self.own.set_limit(own);
        self.standby.set_limit(standby);
    }

    /// Starts reading a window unless it is there or on its way.
    pub(crate) fn want(&self, lane: Lane, window: WindowId, whose: Whose, runtime: &Handle) {
        self.get(lane, window, whose, runtime);
    }

    /// The rows of a window; waits for those that there is room for.
    pub(crate) async fn rows(
        &self,
        lane: Lane,
        window: WindowId,
        runtime: &Handle,
    ) -> Result<Arc<Rows>, DatasetError> {
        let found = self.get(lane, window, Whose::Own, runtime);
        let rows = found.rows().await;
        if rows.is_err() {
            self.windows().remove(&(lane, window));
        }
        rows
    }

    /// Lets go of the windows of `lane` that are not needed at `step`, however far the training is behind.
    pub(crate) fn keep(&self, lane: Lane, step: Step, until: WindowId) {
        let oldest = Step(step.0.saturating_sub(STEPS_BEHIND));
        let kept = self.plan.window_of(oldest, lane)..=until;
        let mut windows = self.windows();
        windows.retain(|(of, window), _| *of != lane || kept.contains(window));
    }

    /// Reads ahead for lanes that may have to be taken over at `step` or soon after; the run ends with `last`.
    pub(crate) fn stand_by(&self, lanes: &[u32], (step, last): (Step, Step), runtime: &Handle) {
        let ahead = last.min(Step(step.0 + STEPS_STANDBY));
        for lane in lanes.iter().copied().map(Lane) {
            let until = self.plan.window_of(ahead, lane);
            let mut window = self.plan.window_of(step, lane);
            self.keep(lane, step, until);
            while window <= until {
                self.want(lane, window, Whose::Standby, runtime);
                window = self.plan.next_window(lane, window);
            }
        }
    }

    fn get(&self, lane: Lane, window: WindowId, whose: Whose, runtime: &Handle) -> Arc<Window> {
        let mut windows = self.windows();
        let found = windows.entry((lane, window)).or_insert_with(|| {
            let segments = self.plan.segments(lane, window);
            let room = match whose {
                Whose::Own => &self.own,
                Whose::Standby => &self.standby,
            };
            Arc::new(Window::read(&self.reader, segments, (room, whose), runtime))
        });
        Arc::clone(found)
    }

    fn windows(&self) -> MutexGuard<'_, BTreeMap<(Lane, WindowId), Arc<Window>>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rows of a window in the order of [`Plan::segments`]; `None`: there was no room.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) rows: Vec<Option<EncodedRow>>,
    /// The room that they take.
    shares: Vec<Share>,
}

/// One window, read or on its way.
#[derive(Debug)]
struct Window {
    /// Somebody waits for it: it takes what room there is and leaves out the rest.
    wanted: CancellationToken,
    state: tokio::sync::Mutex<State>,
}

#[derive(Debug)]
enum State {
    Reading(AbortOnDropHandle<Result<Rows, DatasetError>>),
    Read(Arc<Rows>),
    Failed,
}

impl Window {
    fn read(
        reader: &Arc<Reader>,
        segments: Vec<Segment>,
        (room, whose): (&Arc<Room>, Whose),
        runtime: &Handle,
    ) -> Self {
        let wanted = CancellationToken::new();
        let (reader, room, waited_for) = (Arc::clone(reader), Arc::clone(room), wanted.clone());
        let at_once = match whose {
            Whose::Own => PARTS_IN_FLIGHT,
            // Own windows come first.
            Whose::Standby => 1,
        };
        let read = async move {
            let parts = parts(segments, |row_group| reader.row_bytes(row_group));
            let (reader, room, wanted) = (&reader, &room, &waited_for);
            let mut read = stream::iter(parts)
                .map(|(part, bytes)| read_part(reader, part, bytes, room, wanted))
                .buffered(at_once);
            let mut all = Rows::default();
            while let Some((rows, share)) = read.try_next().await? {
                all.rows.extend(rows);
                all.shares.extend(share);
            }
            Ok(all)
        };
        let task = AbortOnDropHandle::new(runtime.spawn(read));
        Self {
            wanted,
            state: tokio::sync::Mutex::new(State::Reading(task)),
        }
    }

    async fn rows(&self) -> Result<Arc<Rows>, DatasetError> {
        self.wanted.cancel();
        let mut state = self.state.lock().await;
        if let State::Reading(task) = &mut *state {
            let read = task.await;
            *state = State::Failed;
            let rows = read.map_err(|_| DatasetError::LoaderDied)??;
            *state = State::Read(Arc::new(rows));
        }
        match &*state {
            State::Read(rows) => Ok(Arc::clone(rows)),
            State::Reading(_) | State::Failed => Err(DatasetError::LoaderDied),
        }
    }
}

/// Cuts segments into parts of at most [`PART_BYTES`], as far as rows allow, each with the bytes expected
/// of it. `row_bytes` tells the mean of a row group.
fn parts(segments: Vec<Segment>, row_bytes: impl Fn(u32) -> u64) -> Vec<(Segment, u64)> {
    let mut parts = Vec::new();
    for Segment { row_group, rows } in segments {
        let each = row_bytes(row_group) + ROW_BYTES;
        let most = u32::try_from((PART_BYTES / each).max(1)).unwrap_or(u32::MAX);
        let mut start = rows.start;
        while start < rows.end {
            let end = rows.end.min(start.saturating_add(most));
            let bytes = u64::from(end - start) * each;
            let rows = start..end;
            parts.push((Segment { row_group, rows }, bytes));
            start = end;
        }
    }
    parts
}

/// Reads a part once there is room for what is expected of it, and keeps as many of its rows as there is
/// room for.
async fn read_part(
    reader: &Reader,
    Segment { row_group, rows }: Segment,
    expected: u64,
    room: &Arc<Room>,
    wanted: &CancellationToken,
) -> Result<(Vec<Option<EncodedRow>>, Option<Share>), DatasetError> {
    let share = tokio::select! {
        biased;
        share = room.take(expected) => Some(share),
        () = wanted.cancelled() => None,
    };
    let Some(mut share) = share else {
        return Ok((vec![None; rows.len()], None));
    };
    let mut left = share.bytes();
    let mut keep = |row: EncodedRow| {
        let bytes = row.bytes();
        if bytes > left {
            if !share.grow(bytes - left) {
                return None;
            }
            left = bytes;
        }
        left -= bytes;
        Some(row)
    };
    let read = reader.read(row_group, rows, true).await?;
    let mut read: Vec<Option<EncodedRow>> = read.into_iter().map(&mut keep).collect();
    if read.iter().any(Option::is_none) {
        // Rows that were read together share memory, which those that are kept would keep whole.
        read.iter_mut().flatten().for_each(EncodedRow::unshare);
    }
    share.shrink_to(share.bytes() - left);
    Ok((read, Some(share)))
}

#[cfg(test)]
mod tests;
