// Rows of a table [table_rows, COLUMNS] at ids, and the gradient of that: the gradients of equal ids
// are added in the order of their places. One kernel is compiled at a time, the one whose name is
// defined.

struct Words {
    u64 count;
    u64 table_rows;
};

#ifdef EMBEDDING_FORWARD

#define THREADS 256
#define VECTORS (COLUMNS / VECTOR)

// An id that the table lacks gives what is not a number, so that it cannot pass unseen.
extern "C" __global__ void __launch_bounds__(THREADS)
    embedding_forward(const float* __restrict__ table, const ID* __restrict__ ids,
                      float* __restrict__ rows, Words words) {
    const u64 at = (u64)blockIdx.x * THREADS + threadIdx.x;
    const u64 place = at / VECTORS;
    const u32 column = (u32)(at % VECTORS) * VECTOR;
    if (place >= words.count) return;
    const u64 id = (u64)ids[place];
    float v[VECTOR];
    fill(v, __int_as_float(0x7fffffff));
    if (id < words.table_rows) load(table + id * COLUMNS + column, v);
    store(rows + place * COLUMNS + column, v);
}

#endif
#ifdef EMBEDDING_SORT

#define THREADS 1024
#define WARPS (THREADS / 32)
#define ROWS 128
// Ids that a thread asks for at once.
#define AHEAD 4

// Goes through a warp's ids, in order, for those of the ROWS rows from `first` on. `next` has a
// number per row, which grows by one for each id of that row; with FILL it is where in `order` the
// place of the id goes. Returns how many ids of this lane are less than `first`.
template <bool FILL>
__device__ __forceinline__ u32 visit(const ID* __restrict__ ids, u32 begin, u32 end, u64 first,
                                     u32 (*next)[WARPS + 1], u32* __restrict__ order) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 less = 0;
    for (u32 batch = begin; batch < end; batch += 32 * AHEAD) {
        u64 id[AHEAD];
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            const u32 place = batch + 32 * k + lane;
            id[k] = place < end ? (u64)ids[place] : ~0ull;
        }
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            less += id[k] < first;
            const u32 row = id[k] >= first && id[k] - first < ROWS ? (u32)(id[k] - first) : ROWS;
            u32 left = __ballot_sync(0xffffffffu, row < ROWS);
            while (left) {
                const u32 chosen = __shfl_sync(0xffffffffu, row, __ffs(left) - 1);
                const u32 same = __ballot_sync(0xffffffffu, row == chosen);
                const u32 from = next[chosen][warp];
                if (FILL && row == chosen)
                    order[from + __popc(same & ((1u << lane) - 1))] = batch + 32 * k + lane;
                __syncwarp();
                if (lane == 0) next[chosen][warp] = from + __popc(same);
                __syncwarp();
                left &= ~same;
            }
        }
    }
    return less;
}

// Sorts places by id, those of equal ids in order; a block those of ROWS rows of the table. The
// places of row r are order[starts[r]], ..., order[starts[r + 1] - 1]. An id that the table lacks
// has no place.
extern "C" __global__ void __launch_bounds__(THREADS)
    embedding_sort(const ID* __restrict__ ids, u32* __restrict__ order, u32* __restrict__ starts,
                   Words words) {
    __shared__ u32 next[ROWS][WARPS + 1];
    __shared__ u32 of_row[ROWS];
    __shared__ u32 less[WARPS];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u64 first = (u64)blockIdx.x * ROWS;
    const u32 count = (u32)words.count, part = ((count + WARPS - 1) / WARPS + 31) / 32 * 32;
    const u32 begin = warp * part < count ? warp * part : count;
    const u32 end = begin + part < count ? begin + part : count;
    for (u32 i = threadIdx.x; i < ROWS * WARPS; i += THREADS) next[i / WARPS][i % WARPS] = 0;
    __syncthreads();
    u32 before = visit<false>(ids, begin, end, first, next, order);
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        before += __shfl_xor_sync(0xffffffffu, before, offset);
    if (lane == 0) less[warp] = before;
    __syncthreads();
    if (threadIdx.x < ROWS) {
        u32 sum = 0;
        for (int i = 0; i < WARPS; i++) sum += next[threadIdx.x][i];
        of_row[threadIdx.x] = sum;
    }
    __syncthreads();
    if (threadIdx.x < ROWS) {
        u32 start = 0;
        for (int i = 0; i < WARPS; i++) start += less[i];
        for (int i = 0; i < threadIdx.x; i++) start += of_row[i];
        const u64 row = first + threadIdx.x;
        if (row < words.table_rows) starts[row] = start;
        if (row + 1 == words.table_rows) starts[row + 1] = start + of_row[threadIdx.x];
        for (int i = 0; i < WARPS; i++) {
            const u32 more = next[threadIdx.x][i];
            next[threadIdx.x][i] = start;
            start += more;
        }
    }
    __syncthreads();
    visit<true>(ids, begin, end, first, next, order);
}

#endif
#ifdef EMBEDDING_SUM

#define THREADS 256
#define WARPS (THREADS / 32)
#define WIDE (32 * VECTOR)
// A row with more places than this is summed by the whole block: padding has thousands.
#define FEW 32
#define BATCH 4

// The sum of the gradients at order[begin], order[begin + step], ...
__device__ __forceinline__ void add(const GRAD* __restrict__ grad, const u32* __restrict__ order,
                                    u32 begin, u32 end, u32 step, float (&sum)[VECTOR]) {
    fill(sum, 0.0f);
    u32 i = begin;
    // All of a batch are asked for before the first is waited for.
    for (; i + (BATCH - 1) * step < end; i += BATCH * step) {
        float v[BATCH][VECTOR];
#pragma unroll
        for (int k = 0; k < BATCH; k++) load(grad + (u64)order[i + k * step] * COLUMNS, v[k]);
#pragma unroll
        for (int k = 0; k < BATCH; k++)
#pragma unroll
            for (int j = 0; j < VECTOR; j++) sum[j] += v[k][j];
    }
    for (; i < end; i += step) {
        float v[VECTOR];
        load(grad + (u64)order[i] * COLUMNS, v);
#pragma unroll
        for (int j = 0; j < VECTOR; j++) sum[j] += v[j];
    }
}

// The gradient of ROWS rows of the table, WIDE columns of them.
extern "C" __global__ void __launch_bounds__(THREADS)
    embedding_sum(const GRAD* __restrict__ grad, const u32* __restrict__ order,
                  const u32* __restrict__ starts, float* __restrict__ dtable, Words words) {
    __shared__ __align__(16) float stage[WARPS][WIDE];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 column = blockIdx.y * WIDE + lane * VECTOR;
    const bool there = column < COLUMNS;
    for (u32 i = 0; i < ROWS; i++) {
        const u64 row = (u64)blockIdx.x * ROWS + i;
        if (row >= words.table_rows) break;
        const u32 begin = starts[row], end = starts[row + 1];
        const bool few = end - begin <= FEW;
        if (few && i % WARPS != warp) continue;
        float sum[VECTOR];
        if (there)
            add(grad + column, order, few ? begin : begin + warp, end, few ? 1 : WARPS, sum);
        if (!few) {
            if (there) store(&stage[warp][lane * VECTOR], sum);
            __syncthreads();
            fill(sum, 0.0f);
            if (warp == 0)
                for (int j = 0; j < WARPS; j++)
#pragma unroll
                    for (int k = 0; k < VECTOR; k++) sum[k] += stage[j][lane * VECTOR + k];
            __syncthreads();
        }
        if (there && (few || warp == 0)) store(dtable + row * COLUMNS + column, sum);
    }
}

#endif
