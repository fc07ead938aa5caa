// The windows of a square convolution over images [B, HEIGHT, WIDTH, CHANNELS]: a row of COLUMNS per
// place of the output, (row, column, channel) of the window and then zeros up to a multiple of 8.
// Padded by KERNEL / 2, every STRIDE places. One kernel is compiled at a time, the one whose name
// is defined.

#define THREADS 256
#define PAD (KERNEL / 2)
#define RESULT_HEIGHT ((HEIGHT + STRIDE - 1) / STRIDE)
#define RESULT_WIDTH ((WIDTH + STRIDE - 1) / STRIDE)
#define PLACES (RESULT_HEIGHT * RESULT_WIDTH)
#define ROW (WIDTH * CHANNELS)

#ifdef WINDOW_FORWARD

#define VECTORS (COLUMNS / 8)
// Vectors that a thread writes.
#define EACH 4

// Eight columns of one row. Vectors lie inside one pixel (VECTOR 8), or their elements are found one
// by one: those of one window row follow each other in the image.
__device__ __forceinline__ uint4 gather(const bf16* __restrict__ image, u32 place, u32 vector) {
    const int top = (int)(place / RESULT_WIDTH) * STRIDE - PAD;
    const int left = ((int)(place % RESULT_WIDTH) * STRIDE - PAD) * CHANNELS;
#if VECTOR == 8
    const int row = vector * 8 / (KERNEL * CHANNELS), rest = vector * 8 % (KERNEL * CHANNELS);
    const int y = top + row, x = left + rest;
    uint4 found = make_uint4(0, 0, 0, 0);
    if (y >= 0 && y < HEIGHT && x >= 0 && x < ROW)
        found = *reinterpret_cast<const uint4*>(image + (u64)y * ROW + x);
    return found;
#else
    u32 bits[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int column = vector * 8 + i;
        const int row = column / (KERNEL * CHANNELS), rest = column % (KERNEL * CHANNELS);
        const int y = top + row, x = left + rest;
        const bool there = row < KERNEL && y >= 0 && y < HEIGHT && x >= 0 && x < ROW;
        bits[i] = there ? image[(u64)y * ROW + x].bits : 0;
    }
    return make_uint4(bits[0] | bits[1] << 16, bits[2] | bits[3] << 16, bits[4] | bits[5] << 16,
                      bits[6] | bits[7] << 16);
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS)
    window_forward(const bf16* __restrict__ x, bf16* __restrict__ columns) {
    const bf16* image = x + (u64)blockIdx.y * HEIGHT * ROW;
    uint4* to = reinterpret_cast<uint4*>(columns) + (u64)blockIdx.y * PLACES * VECTORS;
    uint4 found[EACH];
#pragma unroll
    for (u32 i = 0; i < EACH; i++) {
        const u32 at = (blockIdx.x * EACH + i) * THREADS + threadIdx.x;
        found[i] = gather(image, at / VECTORS, at % VECTORS);
    }
#pragma unroll
    for (u32 i = 0; i < EACH; i++) {
        const u32 at = (blockIdx.x * EACH + i) * THREADS + threadIdx.x;
        if (at < PLACES * VECTORS) to[at] = found[i];
    }
}

#endif
#ifdef WINDOW_BACKWARD

// Every element of dx sums what it gave to the windows that it was in, in the order of its place in
// them.
extern "C" __global__ void __launch_bounds__(THREADS)
    window_backward(const bf16* __restrict__ grad, bf16* __restrict__ dx) {
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= HEIGHT * ROW / VECTOR) return;
    const int y = at / (ROW / VECTOR), x = at % (ROW / VECTOR) / (CHANNELS / VECTOR);
    const int channel = at % (CHANNELS / VECTOR) * VECTOR;
    const bf16* image = grad + (u64)blockIdx.y * PLACES * COLUMNS;
    float sum[VECTOR];
    fill(sum, 0.0f);
#pragma unroll
    for (int row = 0; row < KERNEL; row++) {
        const int down = y + PAD - row;
        if (down < 0 || down % STRIDE != 0 || down / STRIDE >= RESULT_HEIGHT) continue;
#pragma unroll
        for (int column = 0; column < KERNEL; column++) {
            const int across = x + PAD - column;
            if (across < 0 || across % STRIDE != 0 || across / STRIDE >= RESULT_WIDTH) continue;
            const u64 place = down / STRIDE * RESULT_WIDTH + across / STRIDE;
            float v[VECTOR];
            load(image + place * COLUMNS + (row * KERNEL + column) * CHANNELS + channel, v);
#pragma unroll
            for (int i = 0; i < VECTOR; i++) sum[i] += v[i];
        }
    }
    store(dx + (u64)blockIdx.y * HEIGHT * ROW + (u64)at * VECTOR, sum);
}

#endif
