// Cross-entropy of a row of scores each, [rows, COLUMNS], and its gradient; a block per row. A row of
// weight 0 is not read. One kernel is compiled at a time, the one whose name is defined.

#define THREADS 256
#define WARPS (THREADS / 32)
#define LOWEST -3.402823466e38f

struct Words {
    // The bits of a float.
    u64 smoothing;
};

#ifdef LOSS_FORWARD

// What is known of some scores: their maximum, the sum of exp(score - maximum), and their sum.
struct Known {
    float highest, sum, scores;
};

__device__ __forceinline__ Known both(const Known& a, const Known& b) {
    Known c;
    c.highest = fmaxf(a.highest, b.highest);
    c.sum = a.sum * exponential(a.highest - c.highest) + b.sum * exponential(b.highest - c.highest);
    c.scores = a.scores + b.scores;
    return c;
}

// -weight ((1 - smoothing) log p[target] + smoothing mean of log p), and log sum exp of the scores.
extern "C" __global__ void __launch_bounds__(THREADS)
    loss_forward(const INPUT* __restrict__ scores, const ID* __restrict__ targets,
                 const float* __restrict__ weights, float* __restrict__ loss,
                 float* __restrict__ total, Words words) {
    __shared__ Known of_warp[WARPS];
    const u64 row = blockIdx.x;
    const INPUT* x = scores + row * COLUMNS;
    const float weight = weights[row];
    if (weight == 0.0f) {
        if (threadIdx.x == 0) {
            loss[row] = 0.0f;
            total[row] = 0.0f;
        }
        return;
    }
    Known known = {LOWEST, 0.0f, 0.0f};
#pragma unroll 2
    for (u32 column = threadIdx.x * VECTOR; column < COLUMNS; column += THREADS * VECTOR) {
        float v[VECTOR];
        load(x + column, v);
        float highest = known.highest;
#pragma unroll
        for (int i = 0; i < VECTOR; i++) highest = fmaxf(highest, v[i]);
        float sum = known.sum * exponential(known.highest - highest);
#pragma unroll
        for (int i = 0; i < VECTOR; i++) {
            sum += exponential(v[i] - highest);
            known.scores += v[i];
        }
        known.highest = highest;
        known.sum = sum;
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
        Known other;
        other.highest = __shfl_down_sync(0xffffffffu, known.highest, offset);
        other.sum = __shfl_down_sync(0xffffffffu, known.sum, offset);
        other.scores = __shfl_down_sync(0xffffffffu, known.scores, offset);
        known = both(known, other);
    }
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = known;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int i = 1; i < WARPS; i++) known = both(known, of_warp[i]);
    const float all = known.highest + logf(known.sum);
    const u64 target = (u64)targets[row];
    float chosen[1] = {__int_as_float(0x7fffffff)};
    if (target < COLUMNS) load(x + target, chosen);
    const float smoothing = __uint_as_float((u32)words.smoothing);
    const float mean = known.scores / COLUMNS - all;
    loss[row] = -weight * ((1.0f - smoothing) * (chosen[0] - all) + smoothing * mean);
    total[row] = all;
}

#endif
#ifdef LOSS_BACKWARD

// The row's gradient * weight * (p - (1 - smoothing) [is the target] - smoothing / COLUMNS).
extern "C" __global__ void __launch_bounds__(THREADS)
    loss_backward(const INPUT* __restrict__ scores, const ID* __restrict__ targets,
                  const float* __restrict__ weights, const float* __restrict__ total,
                  const float* __restrict__ grad, INPUT* __restrict__ dscores, Words words) {
    const u64 row = blockIdx.x;
    const INPUT* x = scores + row * COLUMNS;
    INPUT* dx = dscores + row * COLUMNS;
    const float weight = weights[row], factor = grad[row] * weight, all = total[row];
    const float smoothing = __uint_as_float((u32)words.smoothing), even = smoothing / COLUMNS;
    const u64 target = (u64)targets[row];
#pragma unroll 2
    for (u32 column = threadIdx.x * VECTOR; column < COLUMNS; column += THREADS * VECTOR) {
        float v[VECTOR];
        if (weight == 0.0f) {
            fill(v, 0.0f);
        } else {
            load(x + column, v);
#pragma unroll
            for (int i = 0; i < VECTOR; i++) {
                const float chosen = column + i == target ? 1.0f - smoothing : 0.0f;
                v[i] = factor * (exponential(v[i] - all) - chosen - even);
            }
        }
        store(dx + column, v);
    }
}

#endif
