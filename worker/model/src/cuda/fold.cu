// The last step of every sum over rows that blocks have shared out: no atomics, one fixed order.

#define ACROSS 32
#define PARTS 16

struct Words {
    u64 rows;
    u64 sets;
    u64 columns;
};

// [rows, sets, columns] -> the sums over rows: set 0 to `first`, set 1 to `second`.
extern "C" __global__ void __launch_bounds__(ACROSS* PARTS)
    fold(const float* __restrict__ partial, float* __restrict__ first, float* __restrict__ second,
         Words words) {
    __shared__ float stage[PARTS][ACROSS + 1];
    const int across = threadIdx.x % ACROSS, part = threadIdx.x / ACROSS;
    const u64 column = (u64)blockIdx.x * ACROSS + across, set = blockIdx.y;
    float sum = 0.0f;
    if (column < words.columns) {
        const float* p = partial + set * words.columns + column;
        const u64 stride = words.sets * words.columns;
        u64 row = part;
        // All of a batch are asked for before the first is waited for.
        for (; row + 3 * PARTS < words.rows; row += 4 * PARTS) {
            const float a = p[row * stride], b = p[(row + PARTS) * stride];
            const float c = p[(row + 2 * PARTS) * stride], d = p[(row + 3 * PARTS) * stride];
            sum += (a + b) + (c + d);
        }
        for (; row < words.rows; row += PARTS) sum += p[row * stride];
    }
    stage[part][across] = sum;
    __syncthreads();
    if (part == 0 && column < words.columns) {
        sum = 0.0f;
        for (int i = 0; i < PARTS; i++) sum += stage[i][across];
        (set == 0 ? first : second)[column] = sum;
    }
}
