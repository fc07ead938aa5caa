//! Room for encoded rows, in bytes: taken before they are read, given back when they go.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// So many bytes, of which parts are taken.
#[derive(Debug, Default)]
pub(crate) struct Room {
    state: Mutex<State>,
    /// There may be more room than there was.
    more: Notify,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    limit: u64,
    taken: u64,
}

impl Room {
    /// As many bytes as `limit` from now on. What is taken beyond that stays taken until it is given back.
    pub(crate) fn set_limit(&self, limit: u64) {
        self.state().limit = limit;
        self.more.notify_waiters();
    }

    /// How much is taken.
    #[cfg(test)]
    pub(crate) fn taken(&self) -> u64 {
        self.state().taken
    }

    /// `bytes` of it, if they are free.
    pub(crate) fn try_take(self: &Arc<Self>, bytes: u64) -> Option<Share> {
        let mut state = self.state();
        let taken = state.taken.checked_add(bytes)?;
        if taken > state.limit {
            return None;
        }
        state.taken = taken;
        Some(Share {
            room: Arc::clone(self),
            bytes,
        })
    }

    /// Waits until they are free; for ever if there are never so many.
    pub(crate) async fn take(self: &Arc<Self>, bytes: u64) -> Share {
        loop {
            // Before the look, so that what is given back after it is heard of.
            let mut more = std::pin::pin!(self.more.notified());
            more.as_mut().enable();
            if let Some(share) = self.try_take(bytes) {
                return share;
            }
            more.await;
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that are taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    room: Arc<Room>,
    bytes: u64,
}

impl Share {
    /// How many.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes `bytes` more, if they are free.
    pub(crate) fn grow(&mut self, bytes: u64) -> bool {
        let more = self.room.try_take(bytes);
        more.map(|mut more| self.bytes += std::mem::take(&mut more.bytes))
            .is_some()
    }

    /// Gives back what is beyond `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        let back = self.bytes.saturating_sub(bytes);
        self.bytes -= back;
        self.give_back(back);
    }

    fn give_back(&self, bytes: u64) {
        if bytes > 0 {
            self.room.state().taken -= bytes;
            self.room.more.notify_waiters();
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;

    fn room(limit: u64) -> Arc<Room> {
        let room = Arc::new(Room::default());
        room.set_limit(limit);
        room
    }

    #[test]
    fn no_more_is_taken_than_there_is() {
        let room = room(10);
        let mut first = room.try_take(6).unwrap();
        assert!(room.try_take(5).is_none());
        let second = room.try_take(4).unwrap();
        assert!(room.try_take(1).is_none() && !first.grow(1));
        drop(second);
        assert!(first.grow(3) && first.bytes() == 9);
        first.shrink_to(2);
        assert!(room.try_take(9).is_none() && room.try_take(8).is_some());
        room.set_limit(1);
        assert!(room.try_take(0).is_none(), "more is taken than there is");
        drop(first);
        assert!(room.try_take(1).is_some() && room.try_take(u64::MAX).is_none());
        assert_eq!(room.taken(), 0);
    }

    #[tokio::test]
    async fn whoever_waits_for_room_has_it_once_it_is_given_back_or_made() {
        let room = room(10);
        let share = room.try_take(10).unwrap();
        let waiting = |bytes| {
            let room = Arc::clone(&room);
            tokio::spawn(async move { room.take(bytes).await.bytes() })
        };
        let (small, large) = (waiting(4), waiting(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!small.is_finished() && !large.is_finished());
        drop(share);
        assert_eq!(small.await.unwrap(), 4);
        assert!(!large.is_finished());
        room.set_limit(20);
        assert_eq!(large.await.unwrap(), 20);
    }
}
