// What the other texts begin with: bf16, vectors of elements, and sums whose order is fixed.
//
// Nothing is included, so that a kernel compiles in a fraction of a second and needs no headers.

typedef unsigned int u32;
typedef unsigned long long u64;

struct bf16 {
    unsigned short bits;
};

__device__ __forceinline__ float low_half(u32 pair) { return __uint_as_float(pair << 16); }

__device__ __forceinline__ float high_half(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

// Both rounded to the nearest bf16, ties to even; the first in the low half.
__device__ __forceinline__ u32 narrow(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// One, four or eight elements that begin at p: an address that is a multiple of their common size,
// of 16 bytes where that is less.

__device__ __forceinline__ void load(const float* p, float (&v)[1]) { v[0] = p[0]; }

__device__ __forceinline__ void load(const float* p, float (&v)[4]) {
    const float4 q = *reinterpret_cast<const float4*>(p);
    v[0] = q.x;
    v[1] = q.y;
    v[2] = q.z;
    v[3] = q.w;
}

__device__ __forceinline__ void load(const float* p, float (&v)[8]) {
    const float4 q = *reinterpret_cast<const float4*>(p);
    const float4 r = *reinterpret_cast<const float4*>(p + 4);
    v[0] = q.x;
    v[1] = q.y;
    v[2] = q.z;
    v[3] = q.w;
    v[4] = r.x;
    v[5] = r.y;
    v[6] = r.z;
    v[7] = r.w;
}

__device__ __forceinline__ void load(const bf16* p, float (&v)[1]) { v[0] = low_half(p[0].bits); }

__device__ __forceinline__ void load(const bf16* p, float (&v)[4]) {
    const uint2 q = *reinterpret_cast<const uint2*>(p);
    v[0] = low_half(q.x);
    v[1] = high_half(q.x);
    v[2] = low_half(q.y);
    v[3] = high_half(q.y);
}

__device__ __forceinline__ void load(const bf16* p, float (&v)[8]) {
    const uint4 q = *reinterpret_cast<const uint4*>(p);
    v[0] = low_half(q.x);
    v[1] = high_half(q.x);
    v[2] = low_half(q.y);
    v[3] = high_half(q.y);
    v[4] = low_half(q.z);
    v[5] = high_half(q.z);
    v[6] = low_half(q.w);
    v[7] = high_half(q.w);
}

__device__ __forceinline__ void store(float* p, const float (&v)[1]) { p[0] = v[0]; }

__device__ __forceinline__ void store(float* p, const float (&v)[4]) {
    *reinterpret_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
}

__device__ __forceinline__ void store(float* p, const float (&v)[8]) {
    *reinterpret_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
    *reinterpret_cast<float4*>(p + 4) = make_float4(v[4], v[5], v[6], v[7]);
}

__device__ __forceinline__ void store(bf16* p, const float (&v)[1]) {
    p[0].bits = (unsigned short)narrow(v[0], 0.0f);
}

__device__ __forceinline__ void store(bf16* p, const float (&v)[4]) {
    *reinterpret_cast<uint2*>(p) = make_uint2(narrow(v[0], v[1]), narrow(v[2], v[3]));
}

__device__ __forceinline__ void store(bf16* p, const float (&v)[8]) {
    *reinterpret_cast<uint4*>(p) = make_uint4(narrow(v[0], v[1]), narrow(v[2], v[3]),
                                              narrow(v[4], v[5]), narrow(v[6], v[7]));
}

// exp(x) to a few units in the last place, and 0 where that is less than 2^-126.
__device__ __forceinline__ float exponential(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.4426950408889634f));
    return y;
}

template <int N> __device__ __forceinline__ void fill(float (&v)[N], float value) {
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = value;
}

// Over `lanes` neighbouring threads of a warp, a power of two; all of them get the result.

__device__ __forceinline__ float lanes_sum(float v, int lanes) {
#pragma unroll
    for (int offset = lanes / 2; offset > 0; offset /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, offset);
    return v;
}

__device__ __forceinline__ float lanes_max(float v, int lanes) {
#pragma unroll
    for (int offset = lanes / 2; offset > 0; offset /= 2)
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, offset));
    return v;
}
