//! Which of the visible devices this command computes on, and which one each worker it starts.

use ringmaster_worker::DeviceChoice;

/// What `--device` means on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Devices {
    /// CUDA devices by number, given out in turn; empty: the CPU.
    cuda: Vec<usize>,
}

impl Devices {
    /// Looks at what is visible, without trying any of it.
    pub(crate) fn find(asked: DeviceChoice) -> Self {
        Self::of(asked, DeviceChoice::visible_cuda().unwrap_or(0))
    }

    /// The same for what is about to compute: warns where a build for GPUs will use the CPU although
    /// nobody asked for the CPU.
    pub(crate) fn to_compute_on(asked: DeviceChoice) -> Self {
        let found = Self::find(asked);
        let for_gpus = DeviceChoice::visible_cuda().is_some();
        if for_gpus && asked == DeviceChoice::Auto && found.cuda.is_empty() {
            tracing::warn!("no CUDA device is visible: computing on the CPU");
        }
        found
    }

    fn of(asked: DeviceChoice, visible: usize) -> Self {
        let cuda = match asked {
            DeviceChoice::Auto => (0..visible).collect(),
            DeviceChoice::Cpu => Vec::new(),
            // Whether it is there is for the process to say that computes on it.
            DeviceChoice::Cuda(number) => vec![number],
        };
        Self { cuda }
    }

    /// CUDA devices to compute on; 0: the CPU.
    pub(crate) fn gpus(&self) -> u32 {
        u32::try_from(self.cuda.len()).unwrap_or(u32::MAX)
    }

    /// The device of a command that computes in one process.
    pub(crate) fn first(&self) -> DeviceChoice {
        self.of_worker(0)
    }

    /// The device of the worker in `slot`, the same at every start of it. Where there are more
    /// workers than GPUs, some share one.
    pub(crate) fn of_worker(&self, slot: usize) -> DeviceChoice {
        match self.cuda.as_slice() {
            [] => DeviceChoice::Cpu,
            gpus => DeviceChoice::Cuda(gpus[slot % gpus.len()]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_four_workers(asked: DeviceChoice, visible: usize) -> Vec<String> {
        let devices = Devices::of(asked, visible);
        let device = |slot| devices.of_worker(slot).to_string();
        (0..4).map(device).collect()
    }

    #[test]
    fn workers_take_the_gpus_in_turn() {
        let auto = |visible| of_four_workers(DeviceChoice::Auto, visible);
        assert_eq!(auto(8), ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]);
        assert_eq!(auto(3), ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]);
        assert_eq!(auto(1), ["cuda:0"; 4]);
        assert_eq!(auto(0), ["cpu"; 4]);
    }

    #[test]
    fn what_was_asked_for_by_name_is_what_all_workers_get() {
        assert_eq!(of_four_workers(DeviceChoice::Cpu, 8), ["cpu"; 4]);
        assert_eq!(of_four_workers(DeviceChoice::Cuda(5), 8), ["cuda:5"; 4]);
        assert_eq!(Devices::of(DeviceChoice::Cuda(5), 8).gpus(), 1);
        assert_eq!(Devices::of(DeviceChoice::Cpu, 8).gpus(), 0);
    }
}
