// dot[0] = sum of a[i] b[i]: blocks sum fixed shares, and `fold` what they found.

struct Words {
    u64 n;
    u64 share;
};

extern "C" __global__ void __launch_bounds__(256)
    shares(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ partial,
           Words words) {
    __shared__ float stage[256];
    const u64 start = blockIdx.x * words.share;
    const u64 end = start + words.share < words.n ? start + words.share : words.n;
    float sum = 0.0f;
    for (u64 i = start + threadIdx.x; i < end; i += 256) sum += a[i] * b[i];
    stage[threadIdx.x] = sum;
    for (int half = 128; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) stage[threadIdx.x] += stage[threadIdx.x + half];
    }
    if (threadIdx.x == 0) partial[blockIdx.x] = stage[0];
}
