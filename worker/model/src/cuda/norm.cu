// Layer norm (CENTERED 1) and RMS norm (CENTERED 0) of rows of INPUT, to rows of OUTPUT.
//
// One kernel is compiled at a time, the one whose name is defined.

struct Words {
    u64 rows;
    // The bits of a float.
    u64 epsilon;
    // Rows of one block of the backward pass.
    u64 share;
};

// Turns x into (x - mean) / deviation and returns 1 / deviation.
__device__ __forceinline__ float normalise(Row& x, float epsilon) {
#if CENTERED
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < PIECES; i++)
#pragma unroll
        for (int j = 0; j < VECTOR; j++) sum += x[i][j];
    const float mean = team_sum(sum) * (1.0f / COLUMNS);
#pragma unroll
    for (int i = 0; i < PIECES; i++)
        if (column_of(i) < COLUMNS)
#pragma unroll
            for (int j = 0; j < VECTOR; j++) x[i][j] -= mean;
#endif
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < PIECES; i++)
#pragma unroll
        for (int j = 0; j < VECTOR; j++) squares += x[i][j] * x[i][j];
    const float scale = rsqrtf(team_sum(squares) * (1.0f / COLUMNS) + epsilon);
#pragma unroll
    for (int i = 0; i < PIECES; i++)
#pragma unroll
        for (int j = 0; j < VECTOR; j++) x[i][j] *= scale;
    return scale;
}

#ifdef NORM_FORWARD

// y = normalised x * gamma (+ beta).
extern "C" __global__ void __launch_bounds__(THREADS)
    norm_forward(const INPUT* __restrict__ x, const float* __restrict__ gamma,
                 const float* __restrict__ beta, OUTPUT* __restrict__ y, Words words) {
    const u64 row = (u64)blockIdx.x * SLOTS + slot();
    const bool there = row < words.rows;
    Row v;
    read_row(x + row * COLUMNS, there, v);
    normalise(v, __uint_as_float((u32)words.epsilon));
#pragma unroll
    for (int i = 0; i < PIECES; i++) {
        const int column = column_of(i);
        if (column >= COLUMNS) continue;
        float factor[VECTOR], shift[VECTOR];
        load(gamma + column, factor);
#if CENTERED
        load(beta + column, shift);
#else
        fill(shift, 0.0f);
#endif
#pragma unroll
        for (int j = 0; j < VECTOR; j++) v[i][j] = fmaf(v[i][j], factor[j], shift[j]);
    }
    if (there) write_row(y + row * COLUMNS, v);
}

#endif
#ifdef NORM_BACKWARD

// Adds what the slots of a block found for every column, the first slot first.
__device__ __forceinline__ void combine(const Row& found, float* __restrict__ sums) {
    __shared__ __align__(16) float stage[SLOTS * COLUMNS];
    write_row(stage + slot() * COLUMNS, found);
    __syncthreads();
    for (int column = threadIdx.x; column < COLUMNS; column += THREADS) {
        float sum = 0.0f;
        for (int i = 0; i < SLOTS; i++) sum += stage[i * COLUMNS + column];
        sums[column] = sum;
    }
    __syncthreads();
}

// dx, and per block the sums over its rows that `fold` makes the gradients of gamma and beta of:
// [blocks, 2 or 1, COLUMNS].
extern "C" __global__ void __launch_bounds__(THREADS)
    norm_backward(const INPUT* __restrict__ x, const float* __restrict__ gamma,
                  const OUTPUT* __restrict__ grad, INPUT* __restrict__ dx,
                  float* __restrict__ partial, Words words) {
    const u64 first = blockIdx.x * words.share;
    const u64 last = first + words.share < words.rows ? first + words.share : words.rows;
    Row of_gamma, of_beta;
#pragma unroll
    for (int i = 0; i < PIECES; i++) {
        fill(of_gamma[i], 0.0f);
        fill(of_beta[i], 0.0f);
    }
    for (u64 begin = first; begin < last; begin += SLOTS) {
        const u64 row = begin + slot();
        const bool there = row < last;
        Row v, g;
        // A slot without a row takes the last one, with gradients of zero.
        read_row(x + (there ? row : last - 1) * COLUMNS, true, v);
        read_row(grad + row * COLUMNS, there, g);
        const float scale = normalise(v, __uint_as_float((u32)words.epsilon));
        float sum = 0.0f, product = 0.0f;
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const int column = column_of(i);
            if (column >= COLUMNS) continue;
            float factor[VECTOR];
            load(gamma + column, factor);
#pragma unroll
            for (int j = 0; j < VECTOR; j++) {
                of_gamma[i][j] += g[i][j] * v[i][j];
                of_beta[i][j] += g[i][j];
                g[i][j] *= factor[j];
                sum += g[i][j];
                product += g[i][j] * v[i][j];
            }
        }
        product = team_sum(product) * (1.0f / COLUMNS);
#if CENTERED
        sum = team_sum(sum) * (1.0f / COLUMNS);
#else
        sum = 0.0f;
#endif
#pragma unroll
        for (int i = 0; i < PIECES; i++)
#pragma unroll
            for (int j = 0; j < VECTOR; j++)
                g[i][j] = scale * (g[i][j] - sum - v[i][j] * product);
        if (there) write_row(dx + row * COLUMNS, g);
    }
    float* sums = partial + (u64)blockIdx.x * (1 + CENTERED) * COLUMNS;
    combine(of_gamma, sums);
#if CENTERED
    combine(of_beta, sums + COLUMNS);
#endif
}

#endif
