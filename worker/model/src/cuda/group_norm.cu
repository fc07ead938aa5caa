// Group norm of images [B, T, CHANNELS] in GROUPS groups, and with RELU a rectifier after it.
//
// A block has `share` tokens of one image, and of these SPAN vectors of channels; its threads have a
// vector each, LANES tokens apart. What blocks find is combined per image in a fixed order. One
// kernel is compiled at a time, the one whose name is defined.

#define THREADS 256
#define OF_GROUP (CHANNELS / GROUPS)
#define VECTORS (CHANNELS / VECTOR)
#define SPAN (VECTORS < THREADS ? VECTORS : THREADS)
#define LANES (THREADS / SPAN)
#define WIDE (SPAN * VECTOR)

struct Words {
    u64 images;
    u64 tokens;
    // Tokens of a block, and blocks of an image.
    u64 share;
    u64 shares;
    // The bits of a float.
    u64 epsilon;
};

// Where a thread works. `channel` is the first of its vector.
struct Place {
    u64 image, first, last;
    int lane, channel;
    bool busy;
};

__device__ __forceinline__ Place place(const Words& words) {
    Place p;
    p.image = blockIdx.y;
    p.first = blockIdx.x * words.share;
    p.last = p.first + words.share < words.tokens ? p.first + words.share : words.tokens;
    p.lane = threadIdx.x / SPAN;
    p.channel = (blockIdx.z * SPAN + threadIdx.x % SPAN) * VECTOR;
    p.busy = p.lane < LANES && p.channel < CHANNELS;
    return p;
}

// Where an image's token begins.
__device__ __forceinline__ u64 at(const Words& words, u64 image, u64 token) {
    return (image * words.tokens + token) * CHANNELS;
}

// What a thread reads of a token.
struct Pixel {
    float x[VECTOR], grad[VECTOR];
};

// Reads and uses a thread's tokens in order, BATCH at a time: all of a batch are asked for before the
// first is waited for.
template <int BATCH, class Read, class Use>
__device__ __forceinline__ void each_token(const Place& p, Read read, Use use) {
    u64 token = p.first + p.lane;
    for (; token + (BATCH - 1) * LANES < p.last; token += BATCH * LANES) {
        Pixel pixels[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; i++) read(token + i * LANES, pixels[i]);
#pragma unroll
        for (int i = 0; i < BATCH; i++) use(token + i * LANES, pixels[i]);
    }
    for (; token < p.last; token += LANES) {
        Pixel pixel;
        read(token, pixel);
        use(token, pixel);
    }
}

// Mean, and 1 / deviation, of the group of each channel of a vector.
__device__ __forceinline__ void read_moments(const float* __restrict__ moments, const Place& p,
                                             float (&mean)[VECTOR], float (&scale)[VECTOR]) {
#pragma unroll
    for (int i = 0; i < VECTOR; i++) {
        const float* m = moments + (p.image * GROUPS + (p.channel + i) / OF_GROUP) * 2;
        mean[i] = m[0];
        scale[i] = m[1];
    }
}

// Of every channel of a block, the sum of what its lanes have, the first lane first; to the thread
// whose number is the channel's in the block, and to `then`.
template <class Then>
__device__ __forceinline__ void combine(const float (&a)[VECTOR], const float (&b)[VECTOR],
                                        const Place& p, Then then) {
    __shared__ __align__(16) float stage[2][LANES * WIDE];
    if (p.lane < LANES) {
        store(&stage[0][p.lane * WIDE + threadIdx.x % SPAN * VECTOR], a);
        store(&stage[1][p.lane * WIDE + threadIdx.x % SPAN * VECTOR], b);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < WIDE; i += THREADS) {
        const int channel = blockIdx.z * WIDE + i;
        if (channel >= CHANNELS) break;
        float first = 0.0f, second = 0.0f;
        for (int lane = 0; lane < LANES; lane++) {
            first += stage[0][lane * WIDE + i];
            second += stage[1][lane * WIDE + i];
        }
        then(channel, first, second);
    }
}

// Where a block leaves two numbers per channel: [images, shares, 2, CHANNELS].
__device__ __forceinline__ u64 left_at(const Words& words, u64 image, u64 share) {
    return (image * words.shares + share) * 2 * CHANNELS;
}

#ifdef GROUP_NORM_MEASURE

// Mean, and sum of squared distances from it, of a block's tokens. Both are found relative to the
// first token, so that they do not drown in a mean that is large beside the deviation.
extern "C" __global__ void __launch_bounds__(THREADS)
    group_norm_measure(const bf16* __restrict__ x, float* __restrict__ found, Words words) {
    const Place p = place(words);
    float sum[VECTOR], squares[VECTOR];
    fill(sum, 0.0f);
    fill(squares, 0.0f);
    if (p.busy) {
        float origin[VECTOR];
        load(x + at(words, p.image, p.first) + p.channel, origin);
        auto read = [&](u64 token, Pixel& pixel) {
            load(x + at(words, p.image, token) + p.channel, pixel.x);
        };
        each_token<4>(p, read, [&](u64, Pixel& pixel) {
#pragma unroll
            for (int i = 0; i < VECTOR; i++) {
                const float distance = pixel.x[i] - origin[i];
                sum[i] += distance;
                squares[i] = fmaf(distance, distance, squares[i]);
            }
        });
    }
    combine(sum, squares, p, [&](int channel, float sum, float squares) {
        float origin[1];
        load(x + at(words, p.image, p.first) + channel, origin);
        const float mean = sum / (float)(p.last - p.first);
        float* to = found + left_at(words, p.image, blockIdx.x) + channel;
        to[0] = origin[0] + mean;
        to[CHANNELS] = fmaxf(squares - sum * mean, 0.0f);
    });
}

#endif
#ifdef GROUP_NORM_MOMENTS

// Mean and 1 / deviation of every group, [images, GROUPS, 2], a warp per group (Chan et al. 1979).
extern "C" __global__ void __launch_bounds__(THREADS)
    group_norm_moments(const float* __restrict__ found, float* __restrict__ moments, Words words) {
    const u64 group = (u64)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (group >= words.images * GROUPS) return;
    const u64 image = group / GROUPS;
    const int channel = (int)(group % GROUPS) * OF_GROUP;
    const u32 count = (u32)words.shares * OF_GROUP;
    const float all = (float)words.tokens * OF_GROUP;
    auto read = [&](u32 i, float& tokens) {
        const u64 share = i / OF_GROUP, first = share * words.share;
        const u64 left = words.tokens - first;
        tokens = (float)(left < words.share ? left : words.share);
        return found + left_at(words, image, share) + channel + i % OF_GROUP;
    };
    float tokens, mean = 0.0f, squares = 0.0f;
    for (u32 i = threadIdx.x % 32; i < count; i += 32) {
        const float* from = read(i, tokens);
        mean += tokens * from[0];
    }
    mean = lanes_sum(mean, 32) / all;
    for (u32 i = threadIdx.x % 32; i < count; i += 32) {
        const float* from = read(i, tokens);
        const float distance = from[0] - mean;
        squares += from[CHANNELS] + tokens * distance * distance;
    }
    squares = lanes_sum(squares, 32);
    if (threadIdx.x % 32 != 0) return;
    moments[group * 2] = mean;
    moments[group * 2 + 1] = 1.0f / sqrtf(squares / all + __uint_as_float((u32)words.epsilon));
}

#endif
#ifdef GROUP_NORM_APPLY

// y = (x - mean) / deviation * gamma + beta.
extern "C" __global__ void __launch_bounds__(THREADS)
    group_norm_apply(const bf16* __restrict__ x, const float* __restrict__ gamma,
                     const float* __restrict__ beta, const float* __restrict__ moments,
                     bf16* __restrict__ y, Words words) {
    const Place p = place(words);
    if (!p.busy) return;
    float mean[VECTOR], scale[VECTOR], factor[VECTOR], shift[VECTOR];
    read_moments(moments, p, mean, scale);
    load(gamma + p.channel, factor);
    load(beta + p.channel, shift);
    auto read = [&](u64 token, Pixel& pixel) {
        load(x + at(words, p.image, token) + p.channel, pixel.x);
    };
    each_token<4>(p, read, [&](u64 token, Pixel& pixel) {
#pragma unroll
        for (int i = 0; i < VECTOR; i++) {
            const float v = fmaf((pixel.x[i] - mean[i]) * scale[i], factor[i], shift[i]);
#if RELU
            // What is not a number stays so.
            pixel.x[i] = v < 0.0f ? 0.0f : v;
#else
            pixel.x[i] = v;
#endif
        }
        store(y + at(words, p.image, token) + p.channel, pixel.x);
    });
}

#endif
