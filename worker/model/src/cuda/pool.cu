// Maxima of 3x3 windows, every 2 places, padded by 1, of images [B, HEIGHT, WIDTH, CHANNELS]. One
// kernel is compiled at a time, the one whose name is defined.

#define THREADS 256
#define RESULT_HEIGHT ((HEIGHT + 1) / 2)
#define RESULT_WIDTH ((WIDTH + 1) / 2)
#define VECTORS (CHANNELS / VECTOR)

// Of the window of a place of the result, the maximum of every channel of a vector, and where it
// was: the first in the order of reading, 3 * row + column. What is not a number is a maximum.
__device__ __forceinline__ void highest(const bf16* __restrict__ image, int down, int across,
                                        int channel, float (&best)[VECTOR], int (&where)[VECTOR]) {
    bool begun = false;
#pragma unroll
    for (int i = 0; i < 9; i++) {
        const int y = 2 * down - 1 + i / 3, x = 2 * across - 1 + i % 3;
        if (y < 0 || y >= HEIGHT || x < 0 || x >= WIDTH) continue;
        float v[VECTOR];
        load(image + ((u64)y * WIDTH + x) * CHANNELS + channel, v);
#pragma unroll
        for (int j = 0; j < VECTOR; j++)
            if (!begun || v[j] > best[j] || v[j] != v[j]) {
                best[j] = v[j];
                where[j] = i;
            }
        begun = true;
    }
}

#ifdef POOL_FORWARD

extern "C" __global__ void __launch_bounds__(THREADS)
    pool_forward(const bf16* __restrict__ x, bf16* __restrict__ y) {
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= RESULT_HEIGHT * RESULT_WIDTH * VECTORS) return;
    const int channel = at % VECTORS * VECTOR;
    const int down = at / VECTORS / RESULT_WIDTH, across = at / VECTORS % RESULT_WIDTH;
    float best[VECTOR];
    int where[VECTOR];
    highest(x + (u64)blockIdx.y * HEIGHT * WIDTH * CHANNELS, down, across, channel, best, where);
    store(y + ((u64)blockIdx.y * RESULT_HEIGHT * RESULT_WIDTH * VECTORS + at) * VECTOR, best);
}

#endif
#ifdef POOL_BACKWARD

// A thread has the element in the middle of window (down, across) and those to its right, below it
// and below that, and asks the four windows that they are in, upper left first.
extern "C" __global__ void __launch_bounds__(THREADS)
    pool_backward(const bf16* __restrict__ x, const bf16* __restrict__ grad,
                  bf16* __restrict__ dx) {
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= RESULT_HEIGHT * RESULT_WIDTH * VECTORS) return;
    const int channel = at % VECTORS * VECTOR;
    const int down = at / VECTORS / RESULT_WIDTH, across = at / VECTORS % RESULT_WIDTH;
    const u64 begin = (u64)blockIdx.y * HEIGHT * WIDTH * CHANNELS;
    const bf16* grads = grad + (u64)blockIdx.y * RESULT_HEIGHT * RESULT_WIDTH * CHANNELS;
    float sum[4][VECTOR];
#pragma unroll
    for (int i = 0; i < 4; i++) fill(sum[i], 0.0f);
#pragma unroll
    for (int window = 0; window < 4; window++) {
        const int row = down + window / 2, column = across + window % 2;
        if (row >= RESULT_HEIGHT || column >= RESULT_WIDTH) continue;
        float best[VECTOR], g[VECTOR];
        int where[VECTOR];
        highest(x + begin, row, column, channel, best, where);
        load(grads + ((u64)row * RESULT_WIDTH + column) * CHANNELS + channel, g);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            // Where element (2 down + i / 2, 2 across + i % 2) stands in this window.
            const int y = 1 + i / 2 - 2 * (window / 2), z = 1 + i % 2 - 2 * (window % 2);
            if (y < 0 || z < 0) continue;
#pragma unroll
            for (int j = 0; j < VECTOR; j++)
                if (where[j] == 3 * y + z) sum[i][j] += g[j];
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int y = 2 * down + i / 2, z = 2 * across + i % 2;
        if (y < HEIGHT && z < WIDTH)
            store(dx + begin + ((u64)y * WIDTH + z) * CHANNELS + channel, sum[i]);
    }
}

#endif
