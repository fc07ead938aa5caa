// gelu(x) = x Phi(x) and max(x, 0) of bf16 values, computed in f32.

typedef unsigned long long u64;
struct Count { u64 n; };

__device__ float wide(unsigned short bits) { return __uint_as_float((unsigned)bits << 16); }

// To the nearest bf16, ties to even; NaN stays NaN.
__device__ unsigned short narrow(float x) {
    unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (unsigned short)((bits >> 16) | 0x40u);
    return (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

__device__ float phi(float x) { return 0.5f * (1.0f + erff(x * 0.70710678118654752f)); }

__device__ float gelu(float x) { return x * phi(x); }

__device__ float slope(float x) {
    return phi(x) + x * 0.39894228040143268f * expf(-0.5f * x * x);
}

// Eight values a thread; n is a multiple of 8.
extern "C" __global__ void gelu_forward(const uint4* x, uint4* y, const __grid_constant__ Count w) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= w.n / 8) return;
    uint4 in = x[i];
    uint4 out;
    const unsigned short* from = (const unsigned short*)&in;
    unsigned short* to = (unsigned short*)&out;
#pragma unroll
    for (int k = 0; k < 8; k++) to[k] = narrow(gelu(wide(from[k])));
    y[i] = out;
}

extern "C" __global__ void gelu_backward(const uint4* x, const uint4* dy, uint4* dx,
                                         const __grid_constant__ Count w) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= w.n / 8) return;
    uint4 in = x[i], grad = dy[i];
    uint4 out;
    const unsigned short* at = (const unsigned short*)&in;
    const unsigned short* from = (const unsigned short*)&grad;
    unsigned short* to = (unsigned short*)&out;
#pragma unroll
    for (int k = 0; k < 8; k++) to[k] = narrow(wide(from[k]) * slope(wide(at[k])));
    dx[i] = out;
}

extern "C" __global__ void relu_forward(const uint4* x, uint4* y, const __grid_constant__ Count w) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= w.n / 8) return;
    uint4 in = x[i];
    unsigned short* v = (unsigned short*)&in;
#pragma unroll
    for (int k = 0; k < 8; k++)
        if (!(wide(v[k]) > 0.0f)) v[k] = 0;
    y[i] = in;
}

extern "C" __global__ void relu_backward(const uint4* x, const uint4* dy, uint4* dx,
                                         const __grid_constant__ Count w) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= w.n / 8) return;
    uint4 in = x[i], grad = dy[i];
    const unsigned short* at = (const unsigned short*)&in;
    unsigned short* v = (unsigned short*)&grad;
#pragma unroll
    for (int k = 0; k < 8; k++)
        if (!(wide(at[k]) > 0.0f)) v[k] = 0;
    dx[i] = grad;
}
