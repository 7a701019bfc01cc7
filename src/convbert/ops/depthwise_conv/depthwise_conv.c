/* Depthwise convolution; the filter comes as (K, C). */

/* out[c] = sum over k in [first, last) of filter[k][c] * rows[k][c] */
static inline void filter_rows(const float *filter, const float *rows, int64_t channels, int64_t first, int64_t last,
                               float *out) {
    int64_t c = 0;
    for (; c + TILE <= channels; c += TILE) {
        float sum[TILE] = {0};
        for (int64_t k = first; k < last; k++) {
            const float *f = filter + k * channels + c, *row = rows + k * channels + c;
            for (int i = 0; i < TILE; i++) sum[i] += f[i] * row[i];
        }
        memcpy(out + c, sum, sizeof sum);
    }
    for (; c < channels; c++) {
        float sum = 0.0f;
        for (int64_t k = first; k < last; k++) sum += filter[k * channels + c] * rows[k * channels + c];
        out[c] = sum;
    }
}

static void depthwise_along(const float *hidden, const float *filter, int64_t channels, Walk at, float *out) {
    while (next_token(&at))
        filter_rows(filter, hidden + (at.token - at.kernel_size / 2) * channels, channels, at.first, at.last, out + at.token * channels);
}

/* hidden, out (N, C). */
EXPORT int depthwise_conv_forward(int threads, int64_t tokens, int64_t channels, int64_t kernel_size, const int32_t *cu_seqlens,
                                   int64_t num_sequences, int64_t length, const float *hidden, const float *filter,
                                   float *out) {
    if (!covers(cu_seqlens, num_sequences, length, tokens)) return 0;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < threads; part++)
        depthwise_along(hidden, filter, channels,
                        walk(tokens * part / threads, tokens * (part + 1) / threads, kernel_size, cu_seqlens, num_sequences, length), out);
    return 1;
}

/* The gradient of `hidden` is the same convolution with the filter reversed. This is the filter's: `partial` (threads, K, C),
 * zeroed, receives each thread's share. */
EXPORT int depthwise_conv_filter_gradient(int threads, int64_t tokens, int64_t channels, int64_t kernel_size,
                                           const int32_t *cu_seqlens, int64_t num_sequences, int64_t length,
                                           const float *grad, const float *hidden, float *partial) {
    if (!covers(cu_seqlens, num_sequences, length, tokens)) return 0;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < threads; part++) {
        float *sums = partial + (int64_t)part * kernel_size * channels;
        for (Walk at = walk(tokens * part / threads, tokens * (part + 1) / threads, kernel_size, cu_seqlens, num_sequences, length); next_token(&at);) {
            int64_t t = at.token;
            const float *g = grad + t * channels;
            for (int64_t k = at.first; k < at.last; k++) {
                const float *x = hidden + (t + k - kernel_size / 2) * channels;
                float *sum = sums + k * channels;
#pragma omp simd
                for (int64_t c = 0; c < channels; c++) sum[c] += g[c] * x[c];
            }
        }
    }
    return 1;
}
