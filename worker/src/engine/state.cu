// What happens to gradients and to the training state between a backward pass and the next forward
// pass. The arithmetic is that of the CPU, operation for operation and without fused multiply-add,
// so that both give equal bits for equal gradients: ring/src/fixed.rs and worker/src/optimizer.rs.

typedef unsigned long long u64;
typedef long long i64;

#define SCALE 1099511627776.0 // 2^40
#define BLOCK 65536           // values per partial sum of the norm

__device__ u64 first() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ u64 stride() { return (u64)gridDim.x * blockDim.x; }

__device__ void report(u64* bad, u64 count) {
    if (count) atomicAdd(bad, count); // an integer: no order changes the sum
}

struct Exact { u64 n, offset; double limit; };

__device__ i64 fixed(float g, double limit, u64* count) {
    double scaled = (double)g * SCALE;
    bool good = fabs(scaled) <= limit;
    *count += !good;
    return __double2ll_rn(good ? scaled : 0.0);
}

// q[offset + i] += round_ties_even(g[i] * 2^40); what is not finite or too large counts as bad. Both
// begin at multiples of 16 bytes.
extern "C" __global__ void add_exact(const float* g, i64* q, u64* bad,
                                     const __grid_constant__ Exact w) {
    u64 count = 0, fours = w.n / 4;
    longlong2* to = (longlong2*)(q + w.offset);
    for (u64 i = first(); i < fours; i += stride()) {
        float4 x = ((const float4*)g)[i];
        longlong2 a = to[2 * i], b = to[2 * i + 1];
        a.x += fixed(x.x, w.limit, &count);
        a.y += fixed(x.y, w.limit, &count);
        b.x += fixed(x.z, w.limit, &count);
        b.y += fixed(x.w, w.limit, &count);
        to[2 * i] = a;
        to[2 * i + 1] = b;
    }
    for (u64 i = 4 * fours + first(); i < w.n; i += stride())
        q[w.offset + i] += fixed(g[i], w.limit, &count);
    report(bad, count);
}

struct Plain { u64 n, offset; };

// sum[offset + i] += g[i]; what is not finite counts as bad.
extern "C" __global__ void add_f32(const float* g, float* sum, u64* bad,
                                   const __grid_constant__ Plain w) {
    u64 count = 0;
    for (u64 i = first(); i < w.n; i += stride()) {
        count += !isfinite(g[i]);
        sum[w.offset + i] = __fadd_rn(sum[w.offset + i], g[i]);
    }
    report(bad, count);
}

struct Range { u64 n, start; double divisor; };

// out[start + i] = q[start + i] * 2^-40 / divisor.
extern "C" __global__ void average_exact(const i64* q, float* out, const __grid_constant__ Range w) {
    for (u64 i = first(); i < w.n; i += stride())
        out[w.start + i] = (float)(__ll2double_rn(q[w.start + i]) / SCALE / w.divisor);
}

// out[start + i] /= divisor.
extern "C" __global__ void average_f32(float* out, const __grid_constant__ Range w) {
    for (u64 i = first(); i < w.n; i += stride())
        out[w.start + i] = (float)((double)out[w.start + i] / w.divisor);
}

struct Count { u64 n; };

// squares[b] = sum of x^2 over block b of 64 Ki values, in f64 and in an order of its own that never
// changes: thread t adds every 256th value, then pairs of threads are added in a tree.
extern "C" __global__ void squares(const float* x, double* squares, const __grid_constant__ Count w) {
    __shared__ double sums[256];
    u64 start = (u64)blockIdx.x * BLOCK;
    u64 end = start + BLOCK < w.n ? start + BLOCK : w.n;
    double sum = 0.0;
    for (u64 i = start + threadIdx.x; i < end; i += 256) sum += (double)x[i] * (double)x[i];
    sums[threadIdx.x] = sum;
    for (unsigned half = 128; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) squares[blockIdx.x] = sums[0];
}

struct Update {
    u64 n;
    float decay, scale, beta1, rest1, beta2, rest2, step_size, root_correction, eps, zero;
};

#define ALIGNMENT 64 // a parameter begins at a multiple of so many elements

// One AdamW update; `decays` has a 1 for every ALIGNMENT elements that decay.
extern "C" __global__ void adamw(float* p, float* m, float* v, const float* g,
                                 const unsigned char* decays, const __grid_constant__ Update w) {
    for (u64 i = first(); i < w.n; i += stride()) {
        float decay = decays[i / ALIGNMENT] ? w.decay : 1.0f;
        float grad = __fmul_rn(g[i], w.scale);
        float first = __fadd_rn(__fmul_rn(w.beta1, m[i]), __fmul_rn(w.rest1, grad));
        float second = __fadd_rn(__fmul_rn(w.beta2, v[i]),
                                 __fmul_rn(w.rest2, __fmul_rn(grad, grad)));
        float root = __fadd_rn(__fdiv_rn(__fsqrt_rn(second), w.root_correction), w.eps);
        float move = __fdiv_rn(__fmul_rn(w.step_size, first), root);
        m[i] = first;
        v[i] = second;
        p[i] = __fsub_rn(__fmul_rn(p[i], decay), move);
    }
}

struct Mean { u64 n; float old_share, new_share; };

// e = old_share e + new_share p.
extern "C" __global__ void average_parameters(float* e, const float* p,
                                              const __grid_constant__ Mean w) {
    for (u64 i = first(); i < w.n; i += stride())
        e[i] = __fadd_rn(__fmul_rn(w.old_share, e[i]), __fmul_rn(w.new_share, p[i]));
}

// x = 0, in words of 16 bytes.
extern "C" __global__ void clear(uint4* x, const __grid_constant__ Count w) {
    for (u64 i = first(); i < w.n; i += stride()) x[i] = make_uint4(0, 0, 0, 0);
}
