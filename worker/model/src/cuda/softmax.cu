// Softmax of rows of INPUT, to rows of OUTPUT. One kernel is compiled at a time, the one whose name
// is defined.

struct Words {
    u64 rows;
};

#ifdef SOFTMAX_FORWARD

// p = exp(x - max) / sum of these.
extern "C" __global__ void __launch_bounds__(THREADS)
    softmax_forward(const INPUT* __restrict__ x, OUTPUT* __restrict__ p, Words words) {
    const u64 row = (u64)blockIdx.x * SLOTS + slot();
    const bool there = row < words.rows;
    Row v;
    read_row(x + row * COLUMNS, there, v);
    float highest = -__int_as_float(0x7f800000);
#pragma unroll
    for (int i = 0; i < PIECES; i++)
        if (column_of(i) < COLUMNS)
#pragma unroll
            for (int j = 0; j < VECTOR; j++) highest = fmaxf(highest, v[i][j]);
    highest = team_max(highest);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < PIECES; i++)
        if (column_of(i) < COLUMNS)
#pragma unroll
            for (int j = 0; j < VECTOR; j++) {
                v[i][j] = exponential(v[i][j] - highest);
                sum += v[i][j];
            }
    const float scale = __fdividef(1.0f, team_sum(sum));
#pragma unroll
    for (int i = 0; i < PIECES; i++)
#pragma unroll
        for (int j = 0; j < VECTOR; j++) v[i][j] *= scale;
    if (there) write_row(p + row * COLUMNS, v);
}

#endif
#ifdef SOFTMAX_BACKWARD

// dx = p (g - sum of g p); p is OUTPUT, g is GRAD, dx is INPUT.
extern "C" __global__ void __launch_bounds__(THREADS)
    softmax_backward(const OUTPUT* __restrict__ p, const GRAD* __restrict__ grad,
                     INPUT* __restrict__ dx, Words words) {
    const u64 row = (u64)blockIdx.x * SLOTS + slot();
    const bool there = row < words.rows;
    Row v, g;
    read_row(p + row * COLUMNS, there, v);
    read_row(grad + row * COLUMNS, there, g);
    float product = 0.0f;
#pragma unroll
    for (int i = 0; i < PIECES; i++)
#pragma unroll
        for (int j = 0; j < VECTOR; j++) product += v[i][j] * g[i][j];
    product = team_sum(product);
#pragma unroll
    for (int i = 0; i < PIECES; i++)
#pragma unroll
        for (int j = 0; j < VECTOR; j++) v[i][j] *= g[i][j] - product;
    if (there) write_row(dx + row * COLUMNS, v);
}

#endif
