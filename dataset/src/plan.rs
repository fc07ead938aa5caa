//! The order of the rows: a pure function of (seed, epoch, row counts), so that a position in the
//! data is one number, the step.
//!
//! An epoch permutes the row groups, lays them end to end as *positions*, and cuts the positions
//! into lanes of contiguous ranges that differ by at most one row; a lane may start inside a row
//! group. Within a lane, windows of `shuffle_rows / lanes` positions are permuted. A step takes
//! `lane_batch` rows from every lane; the last step of an epoch is filled up with padding. Neither
//! the world size nor training has any say in it.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use ringmaster_proto::{ErrorKind, Lane, RunSpec, Step};

use crate::permutation::Permutation;

const ROW_GROUPS: u64 = 1;
const WINDOW: u64 = 2;

/// How many epoch orders are remembered: a loader is at most one epoch ahead of itself.
const ORDERS_KEPT: usize = 2;

/// Why there is no order.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Nothing to order.
    #[error("the corpus has no rows to train on; add rows, or lower data.validation")]
    Empty,
    /// A step would take nothing.
    #[error("data.lanes and data.lane_batch are 0; both must be at least 1")]
    NoBatch,
}

impl PlanError {
    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Empty => ErrorKind::Data,
            Self::NoBatch => ErrorKind::Invalid,
        }
    }
}

/// What the order depends on besides the corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanSpec {
    /// Seed of the run.
    pub seed: u64,
    /// L: parallel streams of rows.
    pub lanes: u32,
    /// Rows a step takes from every lane.
    pub lane_batch: u32,
    /// Rows shuffled together, over all lanes.
    pub shuffle_rows: u64,
}

impl PlanSpec {
    /// Rows of a lane that are shuffled together.
    pub fn window_rows(&self) -> u64 {
        (self.shuffle_rows / u64::from(self.lanes)).max(1)
    }
}

impl From<&RunSpec> for PlanSpec {
    fn from(spec: &RunSpec) -> Self {
        Self {
            seed: spec.run.seed,
            lanes: spec.data.lanes,
            lane_batch: spec.data.lane_batch,
            shuffle_rows: spec.data.shuffle_rows,
        }
    }
}

/// One row in one pass: what a position of the plan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowRef {
    /// Which pass over the corpus, 0-based.
    pub epoch: u64,
    /// Which use of the row within the epoch, 0-based; a source may be used more than once.
    pub pass: u32,
    /// Row group, numbered through the manifest.
    pub row_group: u32,
    /// Row within the row group.
    pub row: u32,
    /// Row within the corpus, numbered in manifest order.
    pub row_id: u64,
}

impl RowRef {
    /// The row's term in the ledger: a hash of (epoch, pass, row number).
    pub fn hash(&self) -> u64 {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.pass.to_le_bytes());
        bytes[12..].copy_from_slice(&self.row_id.to_le_bytes());
        let mut word = [0; 8];
        word.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..8]);
        u64::from_le_bytes(word)
    }
}

/// A row of a step, and where in its lane's windows its bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The row.
    pub row: RowRef,
    /// The window that holds it.
    pub window: WindowId,
    /// Index into the window's rows as [`Plan::segments`] lists them.
    pub index: usize,
}

/// One window of one lane; ordered as a lane meets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WindowId {
    /// The epoch.
    pub epoch: u64,
    /// Window within the lane and epoch, 0-based.
    pub number: u64,
}

/// Consecutive rows of one row group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Row group, numbered through the manifest.
    pub row_group: u32,
    /// Rows within it.
    pub rows: Range<u32>,
}

/// The order of every epoch of a run.
#[derive(Debug)]
pub struct Plan {
    spec: PlanSpec,
    /// Number of the first row of each row group, and the total at the end: `groups + 1` entries.
    first_row: Vec<u64>,
    window_rows: u64,
    /// The newest epoch orders. A memo, not state: each is a function of the epoch alone.
    orders: Mutex<Vec<Arc<EpochOrder>>>,
}

/// The row groups of one epoch, laid end to end.
#[derive(Debug)]
struct EpochOrder {
    epoch: u64,
    /// Row groups in the order they are laid.
    groups: Vec<u32>,
    /// First position of each of `groups`, and the total at the end.
    first_position: Vec<u64>,
}

impl Plan {
    /// The plan of a corpus whose row groups have `rows` rows, in manifest order.
    pub fn new(rows: impl IntoIterator<Item = u32>, spec: PlanSpec) -> Result<Self, PlanError> {
        if spec.lanes == 0 || spec.lane_batch == 0 {
            return Err(PlanError::NoBatch);
        }
        let mut first_row = vec![0];
        let mut total = 0;
        for count in rows {
            total += u64::from(count);
            first_row.push(total);
        }
        if total == 0 {
            return Err(PlanError::Empty);
        }
        Ok(Self {
            spec,
            first_row,
            window_rows: spec.window_rows(),
            orders: Mutex::new(Vec::new()),
        })
    }

    /// What the plan was made from.
    pub fn spec(&self) -> &PlanSpec {
        &self.spec
    }

    /// Rows of an epoch.
    pub fn rows_per_epoch(&self) -> u64 {
        self.first_row.last().copied().unwrap_or(0)
    }

    /// Steps of an epoch: as many as the longest lane needs.
    pub fn steps_per_epoch(&self) -> u64 {
        let longest = self.rows_per_epoch().div_ceil(u64::from(self.spec.lanes));
        longest.div_ceil(u64::from(self.spec.lane_batch))
    }

    /// Steps of the run: `run.steps`, or `run.epochs` whole epochs.
    pub fn total_steps(&self, spec: &RunSpec) -> u64 {
        let of_epochs = |epochs: u64| epochs.saturating_mul(self.steps_per_epoch());
        spec.run
            .steps
            .unwrap_or_else(|| of_epochs(spec.run.epochs.unwrap_or(0)))
    }

    /// The rows that `lane` contributes to the step after `step` updates: exactly `lane_batch`
    /// entries, `None` being zero-weight padding.
    pub fn rows(&self, step: Step, lane: Lane) -> Vec<Option<RowRef>> {
        let row = |slot: Slot| slot.row;
        self.slots(step, lane)
            .into_iter()
            .map(|slot| slot.map(row))
            .collect()
    }

    /// Every row of an epoch in manifest order.
    pub fn all_rows(&self, epoch: u64) -> impl Iterator<Item = RowRef> {
        let groups = (0_u32..).zip(self.first_row.windows(2));
        groups.flat_map(move |(row_group, ends)| {
            let first = ends[0];
            (first..ends[1]).map(move |row_id| RowRef {
                epoch,
                pass: 0,
                row_group,
                row: (row_id - first) as u32,
                row_id,
            })
        })
    }

    /// [`Plan::rows`] with the place of each row in the lane's windows.
    pub fn slots(&self, step: Step, lane: Lane) -> Vec<Option<Slot>> {
        let epoch = step.0 / self.steps_per_epoch();
        let batch = u64::from(self.spec.lane_batch);
        let first = step.0 % self.steps_per_epoch() * batch;
        let order = self.order(epoch);
        let mut window: Option<(u64, Permutation)> = None;
        (first..first + batch)
            .map(|offset| {
                if offset >= self.lane_rows(lane) {
                    return None;
                }
                let number = offset / self.window_rows;
                let permutation = match window {
                    Some((known, permutation)) if known == number => permutation,
                    _ => self.permutation(epoch, lane, number),
                };
                window = Some((number, permutation));
                let start = number * self.window_rows;
                let index = permutation.apply(offset - start);
                let position = self.lane_range(lane).start + start + index;
                Some(Slot {
                    row: self.row_at(&order, position),
                    window: WindowId { epoch, number },
                    index: index as usize,
                })
            })
            .collect()
    }

    /// The rows of one window in the order they are stored, which is how they are fetched.
    pub fn segments(&self, lane: Lane, window: WindowId) -> Vec<Segment> {
        let order = self.order(window.epoch);
        let lane = self.lane_range(lane);
        let start = (lane.start + window.number * self.window_rows).min(lane.end);
        let end = (start + self.window_rows).min(lane.end);
        let mut segments = Vec::new();
        let mut position = start;
        while position < end {
            let at = order.index_of(position);
            let base = order.first_position[at];
            let until = order.first_position[at + 1].min(end);
            segments.push(Segment {
                row_group: order.groups[at],
                rows: (position - base) as u32..(until - base) as u32,
            });
            position = until;
        }
        segments
    }

    /// The window after `window`: in the same epoch while the lane has rows, else the first of the
    /// next.
    pub fn next_window(&self, lane: Lane, window: WindowId) -> WindowId {
        let windows = self.lane_rows(lane).div_ceil(self.window_rows);
        let WindowId { epoch, number } = window;
        if number + 1 < windows {
            return WindowId {
                epoch,
                number: number + 1,
            };
        }
        WindowId {
            epoch: epoch + 1,
            number: 0,
        }
    }

    /// The window of the first row that `lane` contributes to the step after `step` updates, or of the last
    /// that it had.
    pub fn window_of(&self, step: Step, lane: Lane) -> WindowId {
        let first = step.0 % self.steps_per_epoch() * u64::from(self.spec.lane_batch);
        let last = self.lane_rows(lane).saturating_sub(1);
        WindowId {
            epoch: step.0 / self.steps_per_epoch(),
            number: first.min(last) / self.window_rows,
        }
    }

    /// The first step that uses rows of `window`, in any lane.
    pub fn first_step(&self, window: WindowId) -> Step {
        let within = window.number * self.window_rows / u64::from(self.spec.lane_batch);
        Step(window.epoch * self.steps_per_epoch() + within)
    }

    fn permutation(&self, epoch: u64, lane: Lane, number: u64) -> Permutation {
        let start = number * self.window_rows;
        let rows = (self.lane_rows(lane) - start).min(self.window_rows);
        Permutation::new(
            &[self.spec.seed, WINDOW, epoch, u64::from(lane.0), number],
            rows,
        )
    }

    /// Positions of a lane; ranges of all lanes cover the epoch and differ by at most one.
    fn lane_range(&self, lane: Lane) -> Range<u64> {
        let rows = u128::from(self.rows_per_epoch());
        let cut = |l: u32| (u128::from(l) * rows / u128::from(self.spec.lanes)) as u64;
        let lane = lane.0.min(self.spec.lanes - 1);
        cut(lane)..cut(lane + 1)
    }

    fn lane_rows(&self, lane: Lane) -> u64 {
        let range = self.lane_range(lane);
        range.end - range.start
    }

    fn row_at(&self, order: &EpochOrder, position: u64) -> RowRef {
        let at = order.index_of(position);
        let row_group = order.groups[at];
        let row = position - order.first_position[at];
        RowRef {
            epoch: order.epoch,
            pass: 0,
            row_group,
            row: row as u32,
            row_id: self.first_row[row_group as usize] + row,
        }
    }

    fn order(&self, epoch: u64) -> Arc<EpochOrder> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(order) = orders.iter().find(|order| order.epoch == epoch) {
            return Arc::clone(order);
        }
        let order = Arc::new(EpochOrder::new(epoch, self.spec.seed, &self.first_row));
        orders.insert(0, Arc::clone(&order));
        orders.truncate(ORDERS_KEPT);
        order
    }
}

impl EpochOrder {
    fn new(epoch: u64, seed: u64, first_row: &[u64]) -> Self {
        let count = first_row.len() as u64 - 1;
        let permutation = Permutation::new(&[seed, ROW_GROUPS, epoch], count);
        let mut groups = Vec::with_capacity(first_row.len() - 1);
        let mut first_position = Vec::with_capacity(first_row.len());
        let mut position = 0;
        for group in permutation.all() {
            groups.push(group as u32);
            first_position.push(position);
            position += first_row[group as usize + 1] - first_row[group as usize];
        }
        first_position.push(position);
        Self {
            epoch,
            groups,
            first_position,
        }
    }

    /// Index into `groups` of the row group that holds `position`: the last one that starts at or
    /// before it, which skips empty groups.
    fn index_of(&self, position: u64) -> usize {
        self.first_position
            .partition_point(|first| *first <= position)
            - 1
    }
}
