// A row of COLUMNS elements in the registers of the TEAM threads that share it: a few neighbouring
// threads of a warp, or the whole block.
//
// Member m of a team has the vectors of VECTOR elements m, m + TEAM, m + 2 TEAM, ...

#define THREADS 128
#define SLOTS (THREADS / TEAM)
#define PIECES ((COLUMNS + TEAM * VECTOR - 1) / (TEAM * VECTOR))

typedef float Row[PIECES][VECTOR];

__device__ __forceinline__ int member() { return threadIdx.x % TEAM; }

__device__ __forceinline__ int slot() { return threadIdx.x / TEAM; }

// First column of a piece; past the end if it is not there.
__device__ __forceinline__ int column_of(int piece) { return (piece * TEAM + member()) * VECTOR; }

// A row, or zeros if it is not there.
template <class T> __device__ __forceinline__ void read_row(const T* row, bool there, Row& v) {
#pragma unroll
    for (int i = 0; i < PIECES; i++) {
        if (there && column_of(i) < COLUMNS)
            load(row + column_of(i), v[i]);
        else
            fill(v[i], 0.0f);
    }
}

template <class T> __device__ __forceinline__ void write_row(T* row, const Row& v) {
#pragma unroll
    for (int i = 0; i < PIECES; i++)
        if (column_of(i) < COLUMNS) store(row + column_of(i), v[i]);
}

__device__ __forceinline__ float team_sum(float v) {
#if TEAM <= 32
    return lanes_sum(v, TEAM);
#else
    __shared__ float of_warp[TEAM / 32];
    v = lanes_sum(v, 32);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
    __syncthreads();
    v = 0.0f;
    for (int i = 0; i < TEAM / 32; i++) v += of_warp[i];
    __syncthreads();
    return v;
#endif
}

__device__ __forceinline__ float team_max(float v) {
#if TEAM <= 32
    return lanes_max(v, TEAM);
#else
    __shared__ float of_warp[TEAM / 32];
    v = lanes_max(v, 32);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
    __syncthreads();
    v = of_warp[0];
    for (int i = 1; i < TEAM / 32; i++) v = fmaxf(v, of_warp[i]);
    __syncthreads();
    return v;
#endif
}
