//! Memory of a device, as an address and a length, and which pairs an operation may take.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

/// `len` elements of type `T` in the memory of a device. It owns nothing and can be copied.
#[derive(Debug, PartialEq, Eq)]
pub struct DeviceSlice<T> {
    address: u64,
    len: usize,
    element: PhantomData<fn() -> T>,
}

impl<T> Clone for DeviceSlice<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for DeviceSlice<T> {}

impl<T> DeviceSlice<T> {
    /// Elements that lie at `address`, a `CUdeviceptr`.
    ///
    /// # Safety
    /// The caller promises, for this slice and its copies, from each operation they are given to
    /// until `Nccl::wait` has returned `Ok`, or, after an error, until the call that reported it
    /// has returned, or until the `Nccl` is dropped:
    ///
    /// - `address` is the address of `len` initialised elements of type `T`, allocated on the
    ///   device of the communicator and in its primary context;
    /// - they stay allocated, and neither a kernel nor the host reads what an operation writes nor
    ///   writes what it reads. In particular the caller synchronised its own streams before the
    ///   operation: NCCL runs on a stream of its own and does not wait for others.
    ///
    /// After [`RingError::Wedged`](crate::RingError::Wedged) the promise has no end: the device did
    /// not stop.
    pub unsafe fn new(address: u64, len: usize) -> Self {
        Self {
            address,
            len,
            element: PhantomData,
        }
    }

    /// The address of the first element.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The addresses it covers, if there are such addresses.
    fn bytes(&self) -> Result<Range<u64>, String> {
        let size = size_of::<T>() as u64;
        if !self.address.is_multiple_of(size) {
            let reason = format!("address {:#x} is not aligned to {size}", self.address);
            return Err(reason);
        }
        let length = (self.len as u64).checked_mul(size);
        let end = length.and_then(|length| self.address.checked_add(length));
        let end = end.ok_or_else(|| format!("{} elements do not fit in memory", self.len))?;
        Ok(self.address..end)
    }

    /// Whether the slice is one that an operation can take.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.bytes().map(drop)
    }
}

/// Whether `whole` and the `part` of `rank` suit a reduce-scatter or an all-gather: W parts make
/// the whole, and `part` either is that rank's place in it or lies elsewhere.
pub(crate) fn check_parts<T>(
    whole: &DeviceSlice<T>,
    part: &DeviceSlice<T>,
    (rank, world): (usize, usize),
) -> Result<(), String> {
    if part.len.checked_mul(world) != Some(whole.len) {
        let (whole, part) = (whole.len, part.len);
        return Err(format!("{world} parts of {part} elements are not {whole}"));
    }
    let (bytes, part) = (whole.bytes()?, part.bytes()?);
    let apart = part.end <= bytes.start || bytes.end <= part.start;
    let in_place =
        part.start == bytes.start + (bytes.end - bytes.start) / world as u64 * rank as u64;
    if apart || in_place {
        return Ok(());
    }
    Err(format!(
        "a part at {:#x} overlaps the whole at {:#x} but is not rank {rank}'s place in it",
        part.start, bytes.start
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(address: u64, len: usize) -> DeviceSlice<i64> {
        // SAFETY: nothing here gives it to a device.
        unsafe { DeviceSlice::new(address, len) }
    }

    #[test]
    fn a_part_lies_in_its_own_place_or_elsewhere() {
        let whole = slice(800, 6);
        let at = |address| check_parts(&whole, &slice(address, 2), (1, 3));
        for good in [816, 848, 8000, 784, 0] {
            assert_eq!(at(good), Ok(()), "{good}");
        }
        for bad in [800, 808, 824, 832, 840, 792] {
            let refused = at(bad).err();
            assert!(
                refused.is_some_and(|reason| reason.contains("overlaps")),
                "{bad}"
            );
        }
    }

    #[test]
    fn as_many_parts_as_ranks_make_the_whole() {
        let check = |whole, part, world| {
            let far = slice(80_000, part);
            check_parts(&slice(0, whole), &far, (0, world))
        };
        assert_eq!(check(6, 2, 3), Ok(()));
        assert_eq!(check(0, 0, 3), Ok(()));
        for (whole, part, world) in [(7, 2, 3), (6, 2, 2), (0, usize::MAX / 2 + 1, 2)] {
            let refused = check(whole, part, world).err();
            assert!(refused.is_some_and(|reason| reason.contains("are not")));
        }
    }

    #[test]
    fn memory_that_cannot_be_is_refused() {
        assert_eq!(slice(8, 3).check(), Ok(()));
        assert!(slice(12, 3).check().is_err(), "not aligned");
        assert!(
            slice(8, usize::MAX / 4).check().is_err(),
            "more bytes than there are"
        );
        assert!(
            slice(u64::MAX - 7, 3).check().is_err(),
            "beyond the last address"
        );
    }
}
