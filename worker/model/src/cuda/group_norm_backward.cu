// The backward pass of group_norm.cu, which goes before this text.

// x -> x normalised, and the gradient -> that before the rectifier.
__device__ __forceinline__ void prepare(const float (&mean)[VECTOR], const float (&scale)[VECTOR],
                                        const float (&factor)[VECTOR],
                                        const float (&shift)[VECTOR], Pixel& pixel) {
#pragma unroll
    for (int i = 0; i < VECTOR; i++) {
        pixel.x[i] = (pixel.x[i] - mean[i]) * scale[i];
#if RELU
        const bool passes = fmaf(pixel.x[i], factor[i], shift[i]) > 0.0f;
        pixel.grad[i] = passes ? pixel.grad[i] : 0.0f;
#endif
    }
}

#ifdef GROUP_NORM_SUMS

// Sums of a block's gradients times normalised x, and of its gradients.
extern "C" __global__ void __launch_bounds__(THREADS)
    group_norm_sums(const bf16* __restrict__ x, const float* __restrict__ gamma,
                    const float* __restrict__ beta, const float* __restrict__ moments,
                    const bf16* __restrict__ grad, float* __restrict__ found, Words words) {
    const Place p = place(words);
    float products[VECTOR], sum[VECTOR];
    fill(products, 0.0f);
    fill(sum, 0.0f);
    if (p.busy) {
        float mean[VECTOR], scale[VECTOR], factor[VECTOR], shift[VECTOR];
        read_moments(moments, p, mean, scale);
        load(gamma + p.channel, factor);
        load(beta + p.channel, shift);
        auto read = [&](u64 token, Pixel& pixel) {
            load(x + at(words, p.image, token) + p.channel, pixel.x);
            load(grad + at(words, p.image, token) + p.channel, pixel.grad);
        };
        each_token<2>(p, read, [&](u64, Pixel& pixel) {
            prepare(mean, scale, factor, shift, pixel);
#pragma unroll
            for (int i = 0; i < VECTOR; i++) {
                products[i] = fmaf(pixel.grad[i], pixel.x[i], products[i]);
                sum[i] += pixel.grad[i];
            }
        });
    }
    combine(products, sum, p, [&](int channel, float products, float sum) {
        float* to = found + left_at(words, p.image, blockIdx.x) + channel;
        to[0] = products;
        to[CHANNELS] = sum;
    });
}

#endif
#ifdef GROUP_NORM_MEANS

// An image per block: the two sums of every channel, [images, 2, CHANNELS], and of every group the
// means of both over its elements with gamma as weights, [images, GROUPS, 2].
extern "C" __global__ void __launch_bounds__(THREADS)
    group_norm_means(const float* __restrict__ found, const float* __restrict__ gamma,
                     float* __restrict__ sums, float* __restrict__ means, Words words) {
    __shared__ float weighted[2][CHANNELS];
    const u64 image = blockIdx.x;
    for (int i = threadIdx.x; i < 2 * CHANNELS; i += THREADS) {
        float sum = 0.0f;
        const float* from = found + left_at(words, image, 0) + i;
#pragma unroll 4
        for (u64 share = 0; share < words.shares; share++) sum += from[share * 2 * CHANNELS];
        sums[image * 2 * CHANNELS + i] = sum;
        weighted[i / CHANNELS][i % CHANNELS] = gamma[i % CHANNELS] * sum;
    }
    __syncthreads();
    const float all = (float)words.tokens * OF_GROUP;
    for (int i = threadIdx.x; i < 2 * GROUPS; i += THREADS) {
        float sum = 0.0f;
        for (int j = 0; j < OF_GROUP; j++) sum += weighted[i % 2][i / 2 * OF_GROUP + j];
        means[image * 2 * GROUPS + i] = sum / all;
    }
}

#endif
#ifdef GROUP_NORM_BACKWARD

// dx = (gamma g - mean of gamma g - normalised x * mean of gamma g normalised x) / deviation.
extern "C" __global__ void __launch_bounds__(THREADS)
    group_norm_backward(const bf16* __restrict__ x, const float* __restrict__ gamma,
                        const float* __restrict__ beta, const float* __restrict__ moments,
                        const float* __restrict__ means, const bf16* __restrict__ grad,
                        bf16* __restrict__ dx, Words words) {
    const Place p = place(words);
    if (!p.busy) return;
    float mean[VECTOR], scale[VECTOR], factor[VECTOR], shift[VECTOR];
    float of_products[VECTOR], of_grads[VECTOR];
    read_moments(moments, p, mean, scale);
    read_moments(means, p, of_products, of_grads);
    load(gamma + p.channel, factor);
    load(beta + p.channel, shift);
    auto read = [&](u64 token, Pixel& pixel) {
        load(x + at(words, p.image, token) + p.channel, pixel.x);
        load(grad + at(words, p.image, token) + p.channel, pixel.grad);
    };
    each_token<2>(p, read, [&](u64 token, Pixel& pixel) {
        prepare(mean, scale, factor, shift, pixel);
#pragma unroll
        for (int i = 0; i < VECTOR; i++)
            pixel.grad[i] = scale[i] * (factor[i] * pixel.grad[i] - of_grads[i]
                                        - pixel.x[i] * of_products[i]);
        store(dx + at(words, p.image, token) + p.channel, pixel.grad);
    });
}

#endif
