// to[b] = sum over s of from[b, s], in order of s; two values a thread, len even.

typedef unsigned int u32;
typedef unsigned long long u64;
struct Info { u64 batches, splits, len; };

#if OUT_F32
typedef float2 pair_t;
__device__ float2 narrow(float2 x) { return x; }
#else
typedef u32 pair_t;
__device__ u32 narrow(float2 x) {
  u32 r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(x.y), "f"(x.x));
  return r;
}
#endif

extern "C" __global__ void sum(const float2* from, pair_t* to, const __grid_constant__ Info w) {
  u64 half = w.len / 2;
  u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= w.batches * half) return;
  u64 batch = i / half, at = i - batch * half;
  const float2* piece = from + batch * w.splits * half + at;
  float2 total = piece[0];
  for (u64 s = 1; s < w.splits; s++) {
    float2 x = piece[s * half];
    total.x += x.x;
    total.y += x.y;
  }
  to[i] = narrow(total);
}
