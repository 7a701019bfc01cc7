/* A whole layer of the encoder without gradients, in one call: on a short text, calling the kernels one by one from Python
 * costs more than what they do. Letters and shapes as in layers/. Included by kernels.c.
 */

typedef struct {
    int64_t heads, head_size, taps;
    Linear joined; /* query, key, value and the convolution's value, side by side */
    const float *filter; /* (K, C) */
    Linear pointwise, kernels, output, widening, narrowing;
    const float *norm_weight, *norm_bias, *final_norm_weight, *final_norm_bias;
    double norm_eps, final_norm_eps;
} Block;

/* So many of the threads as are worth waking for this number of multiplications. */
static int awake(int threads, int64_t work) { return (int)max64(1, min64(threads, work >> 18)); }

static void few_or_all(int threads, const Linear *layer, int64_t rows, const float *in, int applies_gelu, float *out) {
    linear(awake(threads, rows * layer->groups * layer->inputs * layer->columns), layer, rows, in, applies_gelu, out);
}

/* Floats of scratch that `block_forward` needs for so many tokens, of which `rows` leave it. */
EXPORT int64_t block_scratch(const Block *block, int64_t tokens, int64_t rows) {
    int64_t inner = block->heads * block->head_size, width = block->joined.inputs;
    int64_t mixing = tokens * (7 * inner + width) + rows * (2 * inner + width);
    int64_t feeding = rows * (block->widening.groups * block->widening.columns + width);
    return max64(mixing, feeding);
}

/* states (N, C) to out (rows, C) and kernel_logits (N, H, K). `rows`: numbers of the tokens that are wanted, or NULL for all.
 * Returns 0, or 1 where memory ran out. */
EXPORT int block_forward(int threads, const Block *block, int64_t tokens, const int32_t *cu_seqlens, int64_t num_sequences,
                         int64_t length, const float *states, const int64_t *rows, int64_t num_rows, float *scratch,
                         float *kernel_logits, float *out) {
    int64_t heads = block->heads, inner = heads * block->head_size, width = block->joined.inputs, taps = block->taps;
    float *joined = scratch, *keys = joined + tokens * 4 * inner, *context = keys + tokens * inner;
    float *spans = context + tokens * 2 * inner, *chosen = spans + tokens * width;
    int few = awake(threads, tokens * width * taps);

    few_or_all(threads, &block->joined, tokens, states, 0, joined);
    depthwise_conv_forward(few, tokens, width, taps, cu_seqlens, num_sequences, length, states, block->filter, spans);
    few_or_all(threads, &block->pointwise, tokens, spans, 0, keys);
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t c = 0; c < inner; c++) keys[t * inner + c] *= joined[t * 4 * inner + c];
    few_or_all(threads, &block->kernels, tokens, keys, 0, kernel_logits);
    const float *query = joined, *key = joined + inner, *value = joined + 2 * inner, *conv_value = joined + 3 * inner;
    if (attention_forward(awake(threads, tokens * length * inner), heads, block->head_size, cu_seqlens, num_sequences, length,
                          query, 4 * inner, key, 4 * inner, value, 4 * inner, 0.0, 0, context, 2 * inner, NULL))
        return 1;
    span_dynamic_conv_forward(few, tokens, heads, block->head_size, taps, cu_seqlens, num_sequences, length, conv_value,
                              4 * inner, kernel_logits, context + inner, 2 * inner);

    if (rows) {
        float *chosen_states = chosen + num_rows * 2 * inner;
        for (int64_t i = 0; i < num_rows; i++) {
            memcpy(chosen + i * 2 * inner, context + rows[i] * 2 * inner, sizeof(float) * (size_t)(2 * inner));
            memcpy(chosen_states + i * width, states + rows[i] * width, sizeof(float) * (size_t)width);
        }
        context = chosen;
        states = chosen_states;
    }
    int few_rows = awake(threads, num_rows * width * 8);
    few_or_all(threads, &block->output, num_rows, context, 0, out);
    add_norm_forward(few_rows, num_rows, width, out, states, block->norm_weight, block->norm_bias, block->norm_eps, 0.0, 0, out,
                     NULL, NULL, NULL);
    float *wide = scratch, *narrow = scratch + num_rows * block->widening.groups * block->widening.columns;
    few_or_all(threads, &block->widening, num_rows, out, 1, wide);
    few_or_all(threads, &block->narrowing, num_rows, wide, 0, narrow);
    add_norm_forward(few_rows, num_rows, width, narrow, out, block->final_norm_weight, block->final_norm_bias,
                     block->final_norm_eps, 0.0, 0, out, NULL, NULL, NULL);
    return 0;
}
