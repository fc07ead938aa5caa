// bf16 matrix product for Hopper (sm_90a): TMA, an mbarrier pipeline and wgmma, warp-specialised and
// persistent.
//
//   C[b] = op(A[b]) op(B[b])      row-major in memory, bf16 factors, f32 sums
//
// Macros:
//   LAYOUT     0: A [M,K], B [K,N];  1: A [M,K], B stored [N,K];  2: A stored [K,M], B [K,N]
//   BN         columns of a tile, 64 or 128; a tile has 128 rows and is 64 deep
//   STAGES     depth of the pipeline, at least 2
//   OUT_F32    C is f32, else bf16
//   EPI_PAIRS  stores two columns at a time (N even), else 16 bytes (N a multiple of 8)
//
// One warpgroup loads; two multiply, on different tiles in turn: one stores its tile while the other
// multiplies. A product has heads and batches, each with a stride of its own, so that heads may lie within
// rows. A sum over K may be cut into `splits` pieces, which are stored apart; adding them, in their order,
// is for another kernel.
//
// Tensor maps (bf16, rank 4, columns, rows, heads, batches; zeros outside):
//   K-major operand  (A in 0 and 1: [M,K]; B in 1: [N,K]):  box {64, 128 or BN, 1, 1}, swizzle 128 B
//   MN-major operand (A in 2: [K,M]; B in 0 and 2: [K,N]):  box {64, 64, 1, 1},        swizzle 128 B
// Any grid: blocks loop over tiles. Memory is static, above the usual 48 KB: sm_90a allows it.
// Rows of operands begin at multiples of 16 bytes.

typedef unsigned int u32;
typedef unsigned long long u64;

#define BM 128
#define BK 64
#define GROUP_M 16                         // tiles of rows per strip of the tile order
#define A_MN (LAYOUT == 2)                 // A is M-major (stored [K,M])
#define B_MN (LAYOUT != 1)                 // B is N-major (stored [K,N])
#define A_BYTES (BM * BK * 2)
#define B_BYTES (BN * BK * 2)
#define STAGE_BYTES (A_BYTES + B_BYTES)
#define THREADS 384                        // two multiplying warpgroups and a loading one
#define BAR_BYTES (16 * STAGES + 16)       // full[STAGES], empty[STAGES], order[2]
#define SMEM_USED (STAGES * STAGE_BYTES + BAR_BYTES)

static_assert(STAGES >= 2, "the release of a stage is one iteration late");
static_assert(BN == 64 || BN == 128, "the accumulators of a tile are BN floats a thread");

#if OUT_F32
typedef float out_t;
#else
typedef unsigned short out_t;              // bf16 bits
#endif

struct __align__(64) TensorMap { u64 opaque[16]; };   // CUtensorMap: 128 bytes, 64-byte aligned
// `to_*` are elements of C from one row, head, batch or piece to the next; C is multiplied by alpha.
struct Info { u64 m, n, k, heads, batches, splits, to_row, to_head, to_batch, to_split; float alpha; };


// ---------------------------------------------------------------- mbarrier

__device__ __forceinline__ void mbar_init(u32 bar, u32 count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(bar), "r"(count) : "memory");
}
__device__ __forceinline__ void mbar_arrive(u32 bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(bar) : "memory");
}
__device__ __forceinline__ void mbar_arrive_expect_tx(u32 bar, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(bar), "r"(bytes) : "memory");
}
__device__ __forceinline__ u32 mbar_try_wait(u32 bar, u32 parity) {
  u32 ok;
  asm volatile("{\n.reg .pred p;\n"
    "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
    "selp.u32 %0, 1, 0, p;\n}\n" : "=r"(ok) : "r"(bar), "r"(parity) : "memory");
  return ok;
}
// Waits until the phase of the given parity has completed. A fresh barrier is in phase 0: waiting for parity 1
// (the phase "before" it) returns at once.
__device__ __forceinline__ void mbar_wait(u32 bar, u32 parity) {
  while (!mbar_try_wait(bar, parity)) { }
}

// One lane of the (converged) warp; ptxas knows that the result is one lane and issues the TMA copies without a loop.
__device__ __forceinline__ u32 elect_one() {
  u32 ok;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}\n" : "=r"(ok));
  return ok;
}

// ---------------------------------------------------------------- TMA

// Coordinates: column, row, head, batch.
__device__ __forceinline__ void tma_load(u32 dst, const TensorMap* map, u32 bar, int c0, int c1, int c2, int c3) {
  asm volatile(
    "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];"
    :: "r"(dst), "l"(map), "r"(bar), "r"(c0), "r"(c1), "r"(c2), "r"(c3) : "memory");
}

// ---------------------------------------------------------------- wgmma

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(N) : "memory");
}

// Shared-memory matrix descriptor (PTX ISA, "Matrix Descriptor Format" of wgmma):
//   bits 0-13 start address >> 4, 16-29 LBO >> 4, 32-45 SBO >> 4, 49-51 base offset (0: atoms are aligned),
//   62-63 swizzle: 1 = 128B, 2 = 64B, 3 = 32B.
//
// K-major (rows of the tile along M/N, K contiguous), swizzle span W = BK*2 bytes. CUTLASS, in 16-byte units:
//   Swizzle o ((8,n),2) : ((W/16,SBO),1): row r of an 8-row group at r*W bytes, groups of 8 rows SBO apart, the two
//   16-byte halves of one k16 step side by side. TMA writes a box {BK, rows} as rows of W bytes, one after another,
//   so SBO = 8*W; LBO is not used (1). Step of 16 in k: 32 bytes further inside the row, i.e. desc + 2: the hardware
//   applies the swizzle XOR (address bits 4.. with bits 7..) to the final address, so plain addition is right
//   as long as the atom is aligned to its size.
//
// MN-major (M/N contiguous), 128B swizzle. CUTLASS, in 16-byte units:
//   Swizzle<3,4,3> o ((8,n),(8,k)) : ((1,LBO),(8,SBO)): 8 units = 64 elements along M/N contiguous, the next 64
//   elements along M/N LBO away; 8 rows along k at 128 bytes, the next 8 k rows SBO away. TMA writes a box
//   {64, BK} as BK rows of 128 bytes, so SBO = 8*128 = 1024; boxes of one operand lie one after another, so
//   LBO = BK*128. Step of 16 in k: 16 rows = 2048 bytes = desc + 128. (DeepGEMM's make_smem_desc for MN-major has the
//   same two numbers: SBO = 8 * atom bytes, LBO = BLOCK_K * atom bytes. For an m64 A operand there is one
//   64-wide block only and LBO is not looked at.)
//
// Both kinds: the tile's 64-row (64-wide) block number i starts i*64*BK*2 bytes into the operand.
#define KMAJ_SBO (8 * BK * 2)
#define KMAJ_HI ((1ull << 16) | ((u64)(KMAJ_SBO >> 4) << 32) | (1ull << 62))
#define MNMAJ_HI (((u64)((BK * 128) >> 4) << 16) | ((u64)(1024 >> 4) << 32) | (1ull << 62))
#define A_HI (A_MN ? MNMAJ_HI : KMAJ_HI)
#define B_HI (B_MN ? MNMAJ_HI : KMAJ_HI)
#define A_KSTEP (A_MN ? 2048 >> 4 : 32 >> 4)
#define B_KSTEP (B_MN ? 2048 >> 4 : 32 >> 4)

// d (+)= A(64 x 16) * B(16 x BN); scale_d 0: d is overwritten.
// trans bits: 0 = K-major, 1 = MN-major.
__device__ __forceinline__ void wgmma(float (&d)[BN / 2], u64 desc_a, u64 desc_b, u32 scale_d) {
#if BN == 64
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
    "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
    "%32, %33, p, 1, 1, %35, %36;\n}\n"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
      "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
      "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
      "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
    : "l"(desc_a), "l"(desc_b), "r"(scale_d), "n"(A_MN), "n"(B_MN));
#else
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
    "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
    "%64, %65, p, 1, 1, %67, %68;\n}\n"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
      "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
      "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
      "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
      "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
      "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
      "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
      "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
    : "l"(desc_a), "l"(desc_b), "r"(scale_d), "n"(A_MN), "n"(B_MN));
#endif
}

// Keeps the compiler from moving reads of the accumulators over the wait (they are asm outputs of the wgmma).
__device__ __forceinline__ void pin(float (&d)[BN / 2]) {
#pragma unroll
  for (int i = 0; i < BN / 2; ++i) asm volatile("" : "+f"(d[i]) :: "memory");
}

// ---------------------------------------------------------------- tile order

struct Tile { u32 m0, n0, head, batch, split, k_begin, k_end; };    // k in units of BK

// Order: batch, then k split, then column strips of GROUP_M m tiles (m runs fastest inside a strip): the CTAs that run
// at one time work on a compact rectangle of C and share its A rows and B columns in L2.
__device__ __forceinline__ Tile tile_of(u32 t, u32 m_tiles, u32 n_tiles, u32 k_tiles, const Info& info) {
  Tile r;
  u32 per = m_tiles * n_tiles;
  u32 outer = t / per;
  u32 in = t - outer * per;
  u32 splits = (u32)info.splits, heads = (u32)info.heads;
  r.split = outer % splits;
  outer /= splits;
  r.head = outer % heads;
  r.batch = outer / heads;
  r.k_begin = (u32)((u64)k_tiles * r.split / splits);
  r.k_end = (u32)((u64)k_tiles * (r.split + 1) / splits);
  u32 strip = in / (GROUP_M * n_tiles);
  u32 first = strip * GROUP_M;
  u32 rows = m_tiles - first < GROUP_M ? m_tiles - first : GROUP_M;
  u32 rest = in - first * n_tiles;
  u32 col = rest / rows;
  r.m0 = (first + (rest - col * rows)) * BM;
  r.n0 = col * BN;
  return r;
}

// ---------------------------------------------------------------- epilogue

__device__ __forceinline__ u32 pack_bf16(float lo, float hi) {
  u32 r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));   // first source -> upper half
  return r;
}

__device__ __forceinline__ void put4(float* p, float a, float b, float c, float d) {
  *(float4*)p = make_float4(a, b, c, d);
}

__device__ __forceinline__ void put2(float* p, float a, float b) {
  *(float2*)p = make_float2(a, b);
}

// The m64nN fragment: thread (warp w, lane l) of the warpgroup holds, in d[4*j + 2*h + e], row 16*w + l/4 + 8*h and
// column 8*j + 2*(l%4) + e. `row` is that row for h = 0, `n0` the tile's first column, `out` the batch's C.
// Called by whole warps (shuffles).
__device__ __forceinline__ void epilogue(float (&d)[BN / 2], out_t* out, u32 row, u32 n0, u32 m, u32 n, const Info& info) {
  const u32 q = threadIdx.x & 3;
#pragma unroll
  for (int i = 0; i < BN / 2; ++i) d[i] *= info.alpha;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const u32 r = row + 8 * h;
    const bool in_m = r < m;
    out_t* line = out + r * info.to_row;
#if EPI_PAIRS
#pragma unroll
    for (int j = 0; j < BN / 8; ++j) {
      const u32 col = n0 + 8 * j + 2 * q;
      if (in_m && col < n) {
#if OUT_F32
        put2(line + col, d[4 * j + 2 * h], d[4 * j + 2 * h + 1]);
#else
        *(u32*)(line + col) = pack_bf16(d[4 * j + 2 * h], d[4 * j + 2 * h + 1]);
#endif
      }
    }
#elif OUT_F32
    // Two 8-column blocks at a time. Even lanes of the quad end with 4 columns of the first block, odd lanes with
    // 4 columns of the second: lane q: block q%2, columns 4*(q/2) .. +3. 16-byte stores, 32-byte sectors full.
    const bool odd = q & 1;
#pragma unroll
    for (int j = 0; j < BN / 8; j += 2) {
      float x0 = d[4 * j + 2 * h], x1 = d[4 * j + 2 * h + 1];
      float y0 = d[4 * j + 4 + 2 * h], y1 = d[4 * j + 4 + 2 * h + 1];
      float s0 = __shfl_xor_sync(0xffffffffu, odd ? x0 : y0, 1);
      float s1 = __shfl_xor_sync(0xffffffffu, odd ? x1 : y1, 1);
      const u32 col = n0 + 8 * j + (odd ? 8 : 0) + 2 * (q & 2);
      if (in_m && col < n) put4(line + col, odd ? s0 : x0, odd ? s1 : x1, odd ? y0 : s0, odd ? y1 : s1);
    }
#else
    // Four 8-column blocks at a time: a 4x4 transposition inside the quad, so that lane q ends with the 8 columns of
    // block q (16 bytes). A quad writes 64 contiguous bytes of one row.
#pragma unroll
    for (int j = 0; j < BN / 8; j += 4) {
      u32 v0 = pack_bf16(d[4 * j + 2 * h], d[4 * j + 2 * h + 1]);
      u32 v1 = pack_bf16(d[4 * j + 4 + 2 * h], d[4 * j + 4 + 2 * h + 1]);
      u32 v2 = pack_bf16(d[4 * j + 8 + 2 * h], d[4 * j + 8 + 2 * h + 1]);
      u32 v3 = pack_bf16(d[4 * j + 12 + 2 * h], d[4 * j + 12 + 2 * h + 1]);
      const bool odd = q & 1, high = q & 2;
      u32 s = __shfl_xor_sync(0xffffffffu, odd ? v0 : v1, 1);
      if (odd) v0 = s; else v1 = s;
      s = __shfl_xor_sync(0xffffffffu, odd ? v2 : v3, 1);
      if (odd) v2 = s; else v3 = s;
      s = __shfl_xor_sync(0xffffffffu, high ? v0 : v2, 2);
      if (high) v0 = s; else v2 = s;
      s = __shfl_xor_sync(0xffffffffu, high ? v1 : v3, 2);
      if (high) v1 = s; else v3 = s;
      const u32 col = n0 + 8 * j + 8 * q;
      if (in_m && col < n) *(uint4*)(line + col) = make_uint4(v0, v1, v2, v3);
    }
#endif
  }
}

// ---------------------------------------------------------------- kernel

extern "C" __global__ void __launch_bounds__(THREADS, 1) gemm(
    const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b, out_t* out,
    const __grid_constant__ Info info) {
  __shared__ __align__(1024) unsigned char smem_raw[SMEM_USED];
  const u32 smem = (u32)__cvta_generic_to_shared(smem_raw);
  const u32 full = smem + STAGES * STAGE_BYTES;
  const u32 empty = full + 8 * STAGES;
  const u32 order = empty + 8 * STAGES;

  const u32 warp = __shfl_sync(0xffffffffu, threadIdx.x >> 5, 0);   // warp-uniform for the compiler too
  const u32 lane = threadIdx.x & 31;

  const u32 m = (u32)info.m, n = (u32)info.n;
  const u32 m_tiles = (m + BM - 1) / BM, n_tiles = (n + BN - 1) / BN;
  const u32 k_tiles = ((u32)info.k + BK - 1) / BK;
  const u32 tiles = m_tiles * n_tiles * (u32)(info.heads * info.batches * info.splits);

  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; ++s) {
      mbar_init(full + 8 * s, 1);               // the producer's arrive.expect_tx
      mbar_init(empty + 8 * s, 4);   // one arrival per warp that reads the stage
    }
    mbar_init(order, 4);                        // order[w]: warpgroup w may multiply; the other one's four warps arrive
    mbar_init(order + 8, 4);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");   // the inits, to the copy engine's proxy
  }
  __syncthreads();

  if (warp >= 8) {
    // ------------------------------------------------ producer
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (warp == 8 && elect_one()) {
      asm volatile("prefetch.tensormap [%0];" :: "l"(&map_a) : "memory");
      asm volatile("prefetch.tensormap [%0];" :: "l"(&map_b) : "memory");
      u32 stage = 0, phase = 0;
      for (u32 t = blockIdx.x; t < tiles; t += gridDim.x) {
        const Tile tile = tile_of(t, m_tiles, n_tiles, k_tiles, info);
        for (u32 kt = tile.k_begin; kt < tile.k_end; ++kt) {
          mbar_wait(empty + 8 * stage, phase ^ 1);
          const u32 bar = full + 8 * stage;
          const u32 a = smem + stage * STAGE_BYTES;
          const u32 b = a + A_BYTES;
          const int k0 = (int)(kt * BK);
          mbar_arrive_expect_tx(bar, STAGE_BYTES);   // boxes that stick out of the tensor count in full too
          if (A_MN) {
#pragma unroll
            for (int i = 0; i < BM / 64; ++i)
              tma_load(a + i * (BK * 128), &map_a, bar, (int)tile.m0 + 64 * i, k0, (int)tile.head, (int)tile.batch);
          } else {
            tma_load(a, &map_a, bar, k0, (int)tile.m0, (int)tile.head, (int)tile.batch);
          }
          if (B_MN) {
#pragma unroll
            for (int i = 0; i < BN / 64; ++i)
              tma_load(b + i * (BK * 128), &map_b, bar, (int)tile.n0 + 64 * i, k0, (int)tile.head, (int)tile.batch);
          } else {
            tma_load(b, &map_b, bar, k0, (int)tile.n0, (int)tile.head, (int)tile.batch);
          }
          if (++stage == STAGES) { stage = 0; phase ^= 1; }
        }
      }
    }
  } else {
    // ------------------------------------------------ consumers
    // 384 threads * 168 registers at launch (ptxas must report 168); 128 * 40 + 256 * 232 = 384 * 168
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    // The warpgroups multiply strictly in turn. This is not only for speed: a parity tells apart two neighbouring phases
    // alone, so a warpgroup must not wait on a full barrier that is two phases behind; after the other one has seen
    // all its stages none is.
    const u32 self = warp >> 2;
    u32 turn = self;                             // 0: the next tile is this warpgroup's
    u32 order_phase = self ^ 1;                  // warpgroup 0 passes the fresh barrier, warpgroup 1 waits for it
    // descriptors of stage 0; the address field takes plain additions (shared addresses are < 2^18)
    const u64 desc_a0 = A_HI | (u64)(smem >> 4);
    const u64 desc_b0 = B_HI | (u64)((smem + A_BYTES) >> 4);
    const u32 row0 = (warp & 3) * 16 + (lane >> 2);
    u32 stage = 0, phase = 0;
    for (u32 t = blockIdx.x; t < tiles; t += gridDim.x) {
      const Tile tile = tile_of(t, m_tiles, n_tiles, k_tiles, info);
      if (turn) {                                // the other warpgroup's tile: step over its stages
        stage += tile.k_end - tile.k_begin;
        phase ^= (stage / STAGES) & 1;
        stage %= STAGES;
        turn = 0;
        continue;
      }
      turn = 1;
      mbar_wait(order + 8 * self, order_phase);
      order_phase ^= 1;
      // Zeros although the first wgmma overwrites (scale_d 0): left undefined, ptxas 12.8 serialises the wgmmas (C7515).
      float acc[2][BN / 2];
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < BN / 2; ++j) acc[i][j] = 0.f;
      u32 held = 0;                              // the stage whose wgmmas may still be running
      for (u32 kt = tile.k_begin; kt < tile.k_end; ++kt) {
        mbar_wait(full + 8 * stage, phase);
        const u64 da = desc_a0 + (u64)(stage * (STAGE_BYTES >> 4));
        const u64 db = desc_b0 + (u64)(stage * (STAGE_BYTES >> 4));
#pragma unroll
        for (int i = 0; i < 2; ++i) pin(acc[i]);
        wgmma_fence();
#pragma unroll
        for (int kk = 0; kk < BK / 16; ++kk)
#pragma unroll
          for (int i = 0; i < 2; ++i)
            wgmma(acc[i], da + kk * A_KSTEP + i * ((64 * BK * 2) >> 4), db + kk * B_KSTEP,
                  kk > 0 || kt > tile.k_begin);
        wgmma_commit();
        wgmma_wait<1>();                         // everything but the group just committed is done
        if (kt > tile.k_begin && lane == 0) mbar_arrive(empty + 8 * held);
        held = stage;
        if (++stage == STAGES) { stage = 0; phase ^= 1; }
      }
      if (lane == 0) mbar_arrive(order + 8 * (self ^ 1));   // its wgmmas may queue up behind this tile's last ones
      wgmma_wait<0>();
#pragma unroll
      for (int i = 0; i < 2; ++i) pin(acc[i]);
      if (lane == 0) mbar_arrive(empty + 8 * held);
      out_t* c = out + tile.batch * info.to_batch + tile.head * info.to_head + tile.split * info.to_split;
#pragma unroll
      for (int i = 0; i < 2; ++i) epilogue(acc[i], c, tile.m0 + row0 + 64 * i, tile.n0, m, n, info);
    }
  }
}
