/* All layers of the encoder without gradients, in one call: on a short text, calling kernels one by one from Python costs more
 * than what they do, and on a busy machine every parallel region more than both. Letters and shapes as in layers/. Included by
 * kernels.c.
 */

typedef struct {
    int64_t heads, head_size, kernel_size;
    Linear joined; /* query, key, value and the convolution's value, side by side */
    const float *filter; /* (K, C) */
    Linear pointwise, kernels, output, ffn_up, ffn_down;
    Norm norm, final_norm;
} Layer;

EXPORT int64_t layer_size(void) { return sizeof(Layer); }
EXPORT int64_t linear_size(void) { return sizeof(Linear); }

/* A batch on its way through the layers: N tokens, of which `num_rows` leave the last layer. */
typedef struct {
    const Layer *layers;
    int64_t num_layers, tokens, num_sequences, length;
    const int32_t *cu_seqlens;
    const float *states;
    const int64_t *rows;
    int64_t num_rows;
    float *kernel_logits, *hidden, *out; /* the first two for every layer, or NULL */
    float *rooms, *whole, *buffers;
    int64_t room;
} Encoding;

/* A step over rows of tokens. */
typedef struct {
    const Encoding *call;
    const Layer *layer;
    const float *in, *residual;
    Norm norm;
    int64_t width;
    float *out;
    SpanConv spans;
} Rows;

static Walk walk_of(const Encoding *call, int64_t kernel_size, int64_t first, int64_t last) {
    return walk(first, last, kernel_size, call->cu_seqlens, call->num_sequences, call->length);
}

static void depthwise_step(void *step, int thread, int64_t first, int64_t last) {
    (void)thread;
    Rows *at = step;
    depthwise_along(at->in, at->layer->filter, at->width, walk_of(at->call, at->layer->kernel_size, first, last), at->out);
}

static void span_conv_step(void *step, int thread, int64_t first, int64_t last) {
    (void)thread;
    Rows *at = step;
    span_conv_along(&at->spans, walk_of(at->call, at->layer->kernel_size, first, last));
}

static void norm_step(void *step, int thread, int64_t first, int64_t last) {
    (void)thread;
    Rows *at = step;
    for (int64_t row = first; row < last; row++) {
        float *y = at->out + row * at->width, mean, inverse_std;
        add_norm_row(at->width, at->in + row * at->width, at->residual + row * at->width, at->norm, 0, 1.0f, 0, y, y, &mean,
                     &inverse_std);
    }
}

/* So many rows of a step that it is worth a second thread. */
static int64_t rows_worth(int64_t work) { return 1 + (1 << 14) / max64(1, work); }

static void apply(Team *team, const Encoding *call, const Linear *layer, int64_t rows, const float *in, int applies_gelu,
                  const float *times, int64_t times_row, float *out) {
    (layer->whole ? multiply8 : multiply)(
        team, (Product){.layer = layer, .rows = rows, .in = in, .out = out, .applies_gelu = applies_gelu, .times = times,
                        .times_row = times_row, .room = call->whole});
}

static void add_and_norm(Team *team, int64_t rows, int64_t width, const float *in, const float *residual, Norm norm, float *out) {
    Rows step = {.in = in, .residual = residual, .norm = norm, .width = width, .out = out};
    share(team, rows, rows_worth(8 * width), norm_step, &step);
}

/* Floats of `buffers` for one layer. */
static int64_t layer_buffers(const Layer *layer, int64_t tokens, int64_t rows) {
    int64_t inner = layer->heads * layer->head_size, width = layer->joined.inputs;
    return tokens * (7 * inner + width) + rows * (2 * inner + 3 * width + outputs_of(&layer->ffn_up));
}

/* States (N, C) to out (rows, C) and kernel_logits (N, H, K). */
static void run_layer(Team *team, const Encoding *call, const Layer *layer, const float *states, const int64_t *chosen,
                      float *kernel_logits, float *out) {
    int64_t tokens = call->tokens, inner = layer->heads * layer->head_size, width = layer->joined.inputs;
    int64_t joined_row = 4 * inner, rows = chosen ? call->num_rows : tokens;
    float *joined = call->buffers, *keys = joined + tokens * joined_row, *context = keys + tokens * inner;
    float *spans = context + tokens * 2 * inner, *projected = spans + tokens * width, *wide = projected + rows * width;
    float *kept_context = wide + rows * outputs_of(&layer->ffn_up), *kept_states = kept_context + rows * 2 * inner;

    apply(team, call, &layer->joined, tokens, states, 0, NULL, 0, joined);
    const float *query = joined, *key = joined + inner, *value = joined + 2 * inner, *conv_value = joined + 3 * inner;

    Rows convolve = {.call = call, .layer = layer, .in = states, .width = width, .out = spans};
    share(team, tokens, rows_worth(width * layer->kernel_size), depthwise_step, &convolve);
    apply(team, call, &layer->pointwise, tokens, spans, 0, query, joined_row, keys);
    apply(team, call, &layer->kernels, tokens, keys, 0, NULL, 0, kernel_logits);

    AttentionForward attention = {
        attention_of(layer->heads, layer->head_size, call->length, call->cu_seqlens, 0.0, 0), query, key, value, joined_row,
        joined_row, joined_row, call->num_sequences, context, 2 * inner, NULL, call->rooms, call->room};
    attend(team, &attention);
    convolve.spans = (SpanConv){layer->heads, layer->head_size, layer->kernel_size, conv_value, kernel_logits, joined_row,
                                context + inner, 2 * inner};
    share(team, tokens, rows_worth(inner * layer->kernel_size), span_conv_step, &convolve);

    if (chosen) {
        for (int64_t i = 0; i < rows; i++) {
            memcpy(kept_context + i * 2 * inner, context + chosen[i] * 2 * inner, sizeof(float) * (size_t)(2 * inner));
            memcpy(kept_states + i * width, states + chosen[i] * width, sizeof(float) * (size_t)width);
        }
        context = kept_context;
        states = kept_states;
    }
    apply(team, call, &layer->output, rows, context, 0, NULL, 0, projected);
    add_and_norm(team, rows, width, projected, states, layer->norm, out);
    apply(team, call, &layer->ffn_up, rows, out, 1, NULL, 0, wide);
    apply(team, call, &layer->ffn_down, rows, wide, 0, NULL, 0, projected);
    add_and_norm(team, rows, width, projected, out, layer->final_norm, out);
}

static void lead_encoder(Team *team, void *argument) {
    const Encoding *call = argument;
    const Layer *layer = call->layers;
    int64_t size = call->tokens * layer->joined.inputs, logits = call->tokens * layer->heads * layer->kernel_size;
    const float *states = call->states;
    /* Behind the buffers of a layer: two places for states, and one for logits that nobody wants. */
    float *places = call->buffers + layer_buffers(layer, call->tokens, max64(call->tokens, call->num_rows));
    for (int64_t i = 0; i < call->num_layers; i++) {
        int is_last = i == call->num_layers - 1;
        float *out = is_last ? call->out : call->hidden ? call->hidden + i * size : places + i % 2 * size;
        float *kernels = call->kernel_logits ? call->kernel_logits + i * logits : places + 2 * size;
        run_layer(team, call, layer + i, states, is_last ? call->rows : NULL, kernels, out);
        states = out;
    }
}

/* Floats of room for tokens in 8-bit numbers, in any of a layer's products. */
static int64_t whole_room_of(const Layer *layer, int64_t rows) {
    const Linear *all[] = {&layer->joined, &layer->pointwise, &layer->kernels, &layer->output, &layer->ffn_up, &layer->ffn_down};
    int64_t room = 0;
    for (int i = 0; i < 6; i++) room = max64(room, whole_room(all[i], rows));
    return room;
}

/* Floats of scratch that `encoder_forward` needs. */
EXPORT int64_t encoder_scratch(int threads, const Layer *layer, int64_t tokens, int64_t length, int64_t num_rows) {
    int64_t rows = max64(tokens, num_rows), rooms = threads * attention_room(length, layer->head_size);
    return rooms + whole_room_of(layer, rows) + layer_buffers(layer, tokens, rows) + tokens * (2 * layer->joined.inputs + layer->heads * layer->kernel_size);
}

/* States (N, C) to out (num_rows, C). `rows`: numbers of the tokens that are wanted, or NULL for all. `kernel_logits` (layers, N,
 * H, K) and `hidden` (layers - 1, N, C), the states between layers: NULL where nobody wants them. */
EXPORT int encoder_forward(int threads, const Layer *layers, int64_t num_layers, int64_t tokens, const int32_t *cu_seqlens,
                            int64_t num_sequences, int64_t length, const float *states, const int64_t *rows, int64_t num_rows,
                            float *scratch, float *kernel_logits, float *hidden, float *out) {
    if (!covers(cu_seqlens, num_sequences, length, tokens)) return 0;
    int64_t room = attention_room(length, layers->head_size);
    float *whole = scratch + threads * room;
    Encoding call = {layers, num_layers, tokens, num_sequences, length, cu_seqlens, states, rows, num_rows,
                     kernel_logits, hidden, out, scratch, whole, whole + whole_room_of(layers, max64(tokens, num_rows)), room};
    with_team(threads, lead_encoder, &call);
    return 1;
}
