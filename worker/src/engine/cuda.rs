//! Everything in the memory of a CUDA device: no gradient and no parameter passes through the host on
//! the way from one step to the next.
//!
//! The model's parameters are views of one flat buffer, so an update in place is the next forward
//! pass's parameters. The kernels are `state.cu`.

use std::time::Instant;

use burn::backend::{CubeDevice, DispatchDevice};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Gradients, Shape, Tensor, TensorData};
use burn_cubecl::tensor::CubeTensor;
use ringmaster_model::Model;
use ringmaster_model::cuda::source::{Source, buffer};
use ringmaster_model::cuda::view::{resolve, view};
use ringmaster_model::flat::Layout;
use ringmaster_proto::spec::{Reduction, TrainSpec};
use ringmaster_proto::v1::Activity;
use ringmaster_ring::nccl::Nccl;
use ringmaster_ring::{Ring, RingError, Tag, fixed};

use super::buckets::buckets;
use super::exchange::{OUTCOME, average};
use super::work::{Seconds, Work};
use super::{Collective, devices};
use crate::feeder::MicroBatch;
use crate::optimizer::{Adam, State};
use crate::statistics::Statistics;
use crate::{WorkerError, batch};

const TEXT: &str = include_str!("state.cu");

/// Threads of a block; `state.cu` counts on it.
const THREADS: u32 = 256;

/// Values per partial sum of the norm, as on the CPU.
const BLOCK: usize = 64 * 1024;

/// Every parameter begins at a multiple of so many elements: kernels read 16 bytes at a time.
const ALIGNMENT: usize = 64;

/// One rank's buffers on its device.
pub(crate) struct Cuda {
    device: Device,
    /// Its CUDA number.
    ordinal: usize,
    reduction: Reduction,
    bucket: usize,
    lanes: u32,
    /// First element of every parameter in the flat buffers.
    offsets: Vec<usize>,
    /// Elements of the flat buffers.
    total: usize,
    /// Parameters, first and second moments, and where there is one the moving average, flat.
    vectors: Vec<Tensor<1>>,
    /// Sums over the owned lanes: i64 in `exact`, else the same memory as `reduced`.
    sums: CubeTensor,
    /// The reduced average.
    reduced: CubeTensor,
    /// One u64: how many gradients were bad.
    bad: CubeTensor,
    /// One byte for every `ALIGNMENT` elements: whether they decay.
    decays: CubeTensor,
    /// Partial sums of the squared norm, f64.
    squares: CubeTensor,
    losses: Vec<Tensor<1>>,
    /// NCCL has failed this process once, and nobody knows that it would not do so again.
    nccl_failed: bool,
}

impl Cuda {
    pub(super) fn new(layout: &Layout, train: &TrainSpec, lanes: u32, device: &Device) -> Self {
        let device = device.clone().without_autodiff();
        let mut total = 0;
        let place = |slot: &ringmaster_model::flat::Slot| {
            let offset = total;
            total += slot.len.next_multiple_of(ALIGNMENT);
            offset
        };
        let offsets = layout.slots.iter().map(place).collect();
        // NCCL pads the buffers to equal chunks, of at most as many ranks as there are lanes.
        let room = (total + lanes as usize).next_multiple_of(ALIGNMENT);
        let zeros = |len| Tensor::<1>::zeros([len], &device);
        let averages = usize::from(train.ema > 0.0);
        let vectors: Vec<_> = (0..3 + averages).map(|_| zeros(total)).collect();
        let reduced = resolve(zeros(room));
        let of = |len: usize, dtype: DType| {
            let handle = reduced.client.empty(len * dtype.size());
            let (client, device) = (reduced.client.clone(), reduced.device.clone());
            CubeTensor::new_contiguous(client, device, Shape::from([len]), handle, dtype)
        };
        let decays = layout.slots.iter().flat_map(|slot| {
            std::iter::repeat_n(u8::from(slot.decay), slot.len.div_ceil(ALIGNMENT))
        });
        let mut decays_tensor = of(total / ALIGNMENT, DType::U8);
        decays_tensor.handle = reduced
            .client
            .create_from_slice(&decays.collect::<Vec<u8>>());
        let sums = match train.reduction {
            Reduction::Exact => of(room, DType::I64),
            Reduction::F32 | Reduction::Bf16 => reduced.clone(),
        };
        Self {
            reduction: train.reduction,
            bucket: (train.bucket_mib as usize) << 18,
            lanes,
            offsets,
            total,
            vectors,
            bad: of(ALIGNMENT, DType::U64),
            squares: of(total.div_ceil(BLOCK), DType::F64),
            decays: decays_tensor,
            sums,
            reduced,
            losses: Vec::new(),
            nccl_failed: false,
            ordinal: ordinal(&device),
            device,
        }
    }

    pub(super) fn adopt(&mut self, model: Model, layout: &Layout, state: &State) -> Model {
        self.vectors = state
            .vectors()
            .into_iter()
            .map(|(_, values)| self.upload(layout, values))
            .collect();
        model.map(&mut Views {
            flat: &self.vectors[0],
            offsets: &mut self.offsets.iter(),
        })
    }

    pub(super) fn pull(&self, layout: &Layout, state: &mut State) -> Result<(), WorkerError> {
        for (flat, values) in self.vectors.iter().zip(state.vectors_mut()) {
            let flat = floats(&read(&resolve(flat.clone()))?);
            values.resize(layout.total, 0.0);
            for (slot, offset) in layout.slots.iter().zip(&self.offsets) {
                let from = &flat[*offset..offset + slot.len];
                values[slot.offset..slot.offset + slot.len].copy_from_slice(from);
            }
        }
        Ok(())
    }

    /// Everything in turn: the device computes, then the ranks talk.
    pub(super) fn gradient(
        &mut self,
        work: &Work<'_>,
        mut own: Statistics,
        collective: &mut Collective,
        ring: &mut Ring,
    ) -> Result<(Statistics, Seconds), WorkerError> {
        let started = Instant::now();
        self.clear();
        for (_, lane) in work.lanes {
            self.accumulate(work, lane);
        }
        let (losses, bad) = self.sums()?;
        work.outcome(&mut own, &losses, bad);
        let computed = Instant::now();
        work.doing.begin(Activity::Reduce, work.step);

        let mut counts = own.counts();
        let known = counts.len();
        counts.extend(own.outcome());
        ring.all_reduce_i64(Tag::new(work.step, OUTCOME), &mut counts)?;
        let mut all = Statistics::default();
        all.set_counts(&counts[..known]);
        all.set_outcome(&counts[known..]);
        let tokens = all.all_tokens() as f64;
        if all.bad_values == 0 && tokens > 0.0 {
            self.all_reduce(collective, ring, work.step, tokens)?;
        }
        let reduce = computed.elapsed().as_secs_f64();
        let seconds = Seconds {
            compute: (computed - started).as_secs_f64(),
            reduce,
            exposed: reduce,
        };
        Ok((all, seconds))
    }

    fn clear(&mut self) {
        self.losses.clear();
        for tensor in [&self.sums, &self.bad] {
            let words = tensor.meta.shape().num_elements() * tensor.dtype.size() / 16;
            launch("clear", words, &[tensor], vec![words as u64]);
        }
    }

    fn accumulate(&mut self, work: &Work<'_>, lane: &MicroBatch) {
        let (batch, ops) = work.pass(lane);
        let mut add = |gradients: &mut Gradients| {
            work.model.visit(&mut Add {
                engine: self,
                gradients,
                parameter: 0,
            });
        };
        let smoothing = work.spec.train.label_smoothing;
        let loss = (work.model).forward_backward(batch, smoothing, ops, &mut add);
        self.losses.push(loss.inner());
    }

    /// Queues the addition of one parameter's gradient to the sums.
    fn add(&self, gradient: CubeTensor, offset: usize) {
        let n = gradient.meta.shape().num_elements();
        let place = [n as u64, offset as u64];
        let buffers = [&gradient, &self.sums, &self.bad];
        match self.reduction {
            Reduction::Exact => {
                let limit = fixed::limit(self.lanes).to_bits();
                launch("add_exact", n, &buffers, [&place[..], &[limit]].concat());
            }
            Reduction::F32 | Reduction::Bf16 => launch("add_f32", n, &buffers, place.to_vec()),
        }
    }

    /// The losses, in order, and how many gradients were bad, once all of them are computed.
    fn sums(&mut self) -> Result<(Vec<f32>, u64), WorkerError> {
        let losses = std::mem::take(&mut self.losses);
        let losses = losses.into_iter().map(batch::scalar);
        let losses = losses.collect::<Result<Vec<f32>, _>>()?;
        let bad = read(&self.bad)?;
        let bad = bad.as_chunks::<8>().0.first().copied().unwrap_or_default();
        Ok((losses, u64::from_le_bytes(bad)))
    }

    pub(super) fn join(&self, ring: &mut Ring) -> Result<Collective, WorkerError> {
        let ordinal = (!self.nccl_failed).then_some(self.ordinal);
        let nccl = devices::join(ring, ordinal)?;
        Ok(Collective { nccl })
    }

    fn all_reduce(
        &mut self,
        collective: &mut Collective,
        ring: &mut Ring,
        step: u64,
        tokens: f64,
    ) -> Result<(), WorkerError> {
        match &mut collective.nccl {
            Some(nccl) => {
                let reduced = self.all_reduce_on_devices(nccl, ring, tokens);
                self.nccl_failed |=
                    matches!(reduced, Err(WorkerError::Ring(RingError::Nccl { .. })));
                reduced
            }
            None if ring.world() > 1 => self.all_reduce_on_host(ring, step, tokens),
            None => {
                self.average(0, self.total, tokens);
                Ok(())
            }
        }
    }

    fn all_reduce_on_devices(
        &mut self,
        nccl: &mut Nccl,
        ring: &Ring,
        tokens: f64,
    ) -> Result<(), WorkerError> {
        let (place, total) = ((ring.rank(), ring.world()), self.total);
        match self.reduction {
            Reduction::Exact => {
                let buffers = [&self.sums, &self.reduced];
                let average = |start, len| self.average(start, len, tokens);
                devices::all_reduce_exact(nccl, place, total, buffers, &self.device, average)
            }
            // NCCL would round partial sums to bf16; between devices the bytes saved are not worth it.
            Reduction::F32 | Reduction::Bf16 => {
                devices::all_reduce_f32(nccl, total, &self.reduced, &self.device)?;
                self.average(0, total, tokens);
                Ok(())
            }
        }
    }

    /// Without a collective between devices: through host memory and the ring.
    fn all_reduce_on_host(
        &mut self,
        ring: &mut Ring,
        step: u64,
        tokens: f64,
    ) -> Result<(), WorkerError> {
        let sums = read(&self.sums)?;
        let (mut exact, mut reduced): (Vec<i64>, Vec<f32>) = match self.reduction {
            Reduction::Exact => {
                let words = sums.as_chunks::<8>().0.iter();
                let exact = words.map(|word| i64::from_le_bytes(*word));
                (exact.take(self.total).collect(), vec![0.0; self.total])
            }
            Reduction::F32 | Reduction::Bf16 => {
                let mut reduced = floats(&sums);
                reduced.truncate(self.total);
                (Vec::new(), reduced)
            }
        };
        for (number, bucket) in buckets(self.total, self.bucket).enumerate() {
            let exact = match self.reduction {
                Reduction::Exact => &mut exact[bucket.clone()],
                Reduction::F32 | Reduction::Bf16 => &mut [],
            };
            let sums = (exact, &mut reduced[bucket]);
            let tag = Tag::new(step, number as u32);
            average(ring, tag, self.reduction, sums, tokens)?;
        }
        let room = self.reduced.meta.shape().num_elements();
        reduced.resize(room, 0.0);
        let data = TensorData::new(reduced, [room]);
        self.reduced = resolve(Tensor::<1>::from_data(data, &self.device));
        if self.reduction != Reduction::Exact {
            self.sums = self.reduced.clone();
        }
        Ok(())
    }

    /// `reduced = sums / tokens` of `n` elements from `start`.
    fn average(&self, start: usize, n: usize, tokens: f64) {
        let words = vec![n as u64, start as u64, tokens.to_bits()];
        match self.reduction {
            Reduction::Exact => launch("average_exact", n, &[&self.sums, &self.reduced], words),
            Reduction::F32 | Reduction::Bf16 => launch("average_f32", n, &[&self.reduced], words),
        }
    }

    pub(super) fn norm(&mut self) -> Result<f64, WorkerError> {
        let blocks = self.total.div_ceil(BLOCK);
        let kernel = Source::plain("squares", TEXT, THREADS);
        let resources = vec![buffer(&self.reduced), buffer(&self.squares)];
        let words = vec![self.total as u64];
        kernel.launch(&self.reduced, [blocks as u32, 1, 1], resources, words);
        let squares = read(&self.squares)?;
        let squares = squares.as_chunks::<8>().0.iter();
        Ok(squares
            .map(|word| f64::from_le_bytes(*word))
            .sum::<f64>()
            .sqrt())
    }

    pub(super) fn update(
        &mut self,
        model: Model,
        _: &Layout,
        state: &mut State,
        (scale, lr): (f32, f64),
        train: &TrainSpec,
    ) -> Model {
        state.updates += 1;
        let adam = Adam::of(state.updates, lr, train);
        let vectors: Vec<CubeTensor> = self.vectors.iter().cloned().map(resolve).collect();
        let numbers = [
            [adam.decay, scale],
            [adam.beta1, 1.0 - adam.beta1],
            [adam.beta2, 1.0 - adam.beta2],
            [adam.step_size, adam.root_correction],
            [adam.eps, 0.0],
        ];
        let words = std::iter::once(self.total as u64).chain(numbers.map(pair));
        let (p, m, v) = (&vectors[0], &vectors[1], &vectors[2]);
        let buffers = [p, m, v, &self.reduced, &self.decays];
        launch("adamw", self.total, &buffers, words.collect());
        if let Some(average) = vectors.get(3) {
            let shares = pair([train.ema as f32, (1.0 - train.ema) as f32]);
            let words = vec![self.total as u64, shares];
            launch(
                "average_parameters",
                self.total,
                &[average, &vectors[0]],
                words,
            );
        }
        model
    }

    /// The vector with every parameter at its aligned place.
    fn upload(&self, layout: &Layout, values: &[f32]) -> Tensor<1> {
        let mut flat = vec![0.0; self.total];
        for (slot, offset) in layout.slots.iter().zip(&self.offsets) {
            let from = &values[slot.offset..slot.offset + slot.len];
            flat[*offset..offset + slot.len].copy_from_slice(from);
        }
        Tensor::from_data(TensorData::new(flat, [self.total]), &self.device)
    }
}

/// The CUDA number of a device; there is one, or nobody would ask.
fn ordinal(device: &Device) -> usize {
    match device.as_dispatch() {
        DispatchDevice::Cube(CubeDevice::Cuda(cuda)) => cuda.index,
        _ => 0,
    }
}

/// Queues a kernel of `state.cu` over `n` elements.
fn launch(entry: &'static str, n: usize, buffers: &[&CubeTensor], words: Vec<u64>) {
    /// More blocks than any device runs at once; a thread then takes several elements.
    const MOST: usize = 132 * 16;
    let blocks = n.div_ceil(THREADS as usize).clamp(1, MOST) as u32;
    let resources = buffers.iter().map(|tensor| buffer(tensor)).collect();
    let kernel = Source::plain(entry, TEXT, THREADS);
    kernel.launch(buffers[0], [blocks, 1, 1], resources, words);
}

/// Two numbers in one word, the first in the lower half.
fn pair([low, high]: [f32; 2]) -> u64 {
    u64::from(low.to_bits()) | u64::from(high.to_bits()) << 32
}

/// The bytes of a buffer, once everything queued for it is done.
fn read(tensor: &CubeTensor) -> Result<Vec<u8>, WorkerError> {
    let bytes = tensor.client.read_one(tensor.handle.clone());
    let bytes = bytes.map_err(|error| WorkerError::Internal(format!("device: {error:?}")))?;
    Ok(bytes.to_vec())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let words = bytes.as_chunks::<4>().0.iter();
    words.map(|word| f32::from_le_bytes(*word)).collect()
}

/// Gives every parameter its part of a flat buffer.
struct Views<'a> {
    flat: &'a Tensor<1>,
    offsets: &'a mut std::slice::Iter<'a, usize>,
}

impl ModuleMapper for Views<'_> {
    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape: [usize; D] = parameter.lazy_shape().dims();
        let (id, _, mapper) = parameter.consume();
        let offset = self.offsets.next().copied().unwrap_or_default();
        let value = view(self.flat, offset, shape);
        Param::from_mapped_value(id, Tensor::from_inner(value).require_grad(), mapper)
    }
}

/// Adds every gradient that is there to the sums.
struct Add<'a> {
    engine: &'a Cuda,
    gradients: &'a mut Gradients,
    parameter: usize,
}

impl ModuleVisitor for Add<'_> {
    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        let offset = self.engine.offsets[self.parameter];
        self.parameter += 1;
        if let Some(gradient) = parameter.val().grad_remove(self.gradients) {
            self.engine.add(resolve(gradient), offset);
        }
    }
}
