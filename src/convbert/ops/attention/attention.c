/* Softmax attention for fp32 on CPUs, each sequence and head for itself: nothing of size T * T is kept, and dropout is the
 * hash of common.h.
 *
 * A task takes QUERIES rows of one head of one sequence: scores against all keys of the sequence lie in a small buffer,
 * softmax runs along its rows, and the product with the values follows while the buffer is in cache.
 */

#define QUERIES 32

static inline int64_t padded(int64_t columns) { return (columns + COLUMNS - 1) / COLUMNS * COLUMNS; }

/* A matrix that is read element by element: entry (i, k) is at[i * row + k * column]. */
typedef struct {
    const float *at;
    int64_t row, column;
} Strided;

/* rows x COLUMNS of c (+)= a b. `rows` is a constant wherever this is inlined, so that the sums live in registers. */
static inline __attribute__((always_inline)) void product_tile(const int rows, int64_t inner, Strided a, const float *b,
                                                               int64_t ldb, float *c, int64_t ldc, int adds) {
    Vector sum[ROWS][2] = {{{0}}};
    for (int64_t k = 0; k < inner; k++) {
        Vector left = *(const Vector *)(b + k * ldb), right = *(const Vector *)(b + k * ldb + LANES);
        KEEP(left);
        KEEP(right);
        for (int i = 0; i < rows; i++) {
            float factor = a.at[i * a.row + k * a.column];
            sum[i][0] += factor * left;
            sum[i][1] += factor * right;
        }
    }
    for (int i = 0; i < rows; i++) {
        Vector *out = (Vector *)(c + i * ldc), *next = (Vector *)(c + i * ldc + LANES);
        *out = adds ? *out + sum[i][0] : sum[i][0];
        *next = adds ? *next + sum[i][1] : sum[i][1];
    }
}

/* The same for LANES columns, of which the first `done` are left as they are. */
static inline __attribute__((always_inline)) void narrow_tile(const int rows, int64_t inner, Strided a, const float *b,
                                                              int64_t ldb, float *c, int64_t ldc, int adds, int64_t done) {
    Vector sum[ROWS] = {{0}};
    for (int64_t k = 0; k < inner; k++) {
        Vector row = *(const Vector *)(b + k * ldb);
        for (int i = 0; i < rows; i++) sum[i] += a.at[i * a.row + k * a.column] * row;
    }
    for (int i = 0; i < rows; i++) {
        float *out = c + i * ldc, found[LANES];
        memcpy(found, &sum[i], sizeof found);
        for (int64_t j = done; j < LANES; j++) out[j] = adds ? out[j] + found[j] : found[j];
    }
}

/* c (rows x columns) = a (rows x inner) b (inner x columns), or += where `adds`. b and c are row-major. */
static void product(int64_t rows, int64_t columns, int64_t inner, Strided a, const float *b, int64_t ldb, float *c,
                    int64_t ldc, int adds) {
    for (int64_t i = 0; i < rows; i += ROWS) {
        int64_t height = min64(ROWS, rows - i);
        Strided a_tile = {a.at + i * a.row, a.row, a.column};
        float *c_tile = c + i * ldc;
        int64_t j = 0;
        for (; j + COLUMNS <= columns; j += COLUMNS)
            BY_ROWS(height, product_tile, inner, a_tile, b + j, ldb, c_tile + j, ldc, adds)
        while (j < columns && columns >= LANES) {
            /* The last vector of a row ends with it, and may overlap with what is done. */
            int64_t start = min64(j, columns - LANES);
            BY_ROWS(height, narrow_tile, inner, a_tile, b + start, ldb, c_tile + start, ldc, adds, j - start)
            j = start + LANES;
        }
        for (; j < columns; j++) {
            for (int64_t r = 0; r < height; r++) {
                float sum = 0.0f;
                for (int64_t k = 0; k < inner; k++) sum += a_tile.at[r * a.row + k * a.column] * b[k * ldb + j];
                c_tile[r * ldc + j] = adds ? c_tile[r * ldc + j] + sum : sum;
            }
        }
    }
}

/* out (width x padded(tokens)) = the transpose of tokens x width, zero in the padding. */
static void transpose(const float *in, int64_t row, int64_t tokens, int64_t width, float *out) {
    int64_t columns = padded(tokens);
    for (int64_t t0 = 0; t0 < columns; t0 += COLUMNS) {
        for (int64_t d = 0; d < width; d++) {
            for (int64_t t = t0; t < t0 + COLUMNS; t++) out[d * columns + t] = t < tokens ? in[t * row + d] : 0.0f;
        }
    }
}

/* What all tasks of a call share. query, key, value, and out in the forward pass: (N, H, D) with rows so many floats apart. */
typedef struct {
    int64_t heads, width, length;
    const int32_t *cu_seqlens;
    float scale;
    uint32_t threshold;
    float keep_scale;
    int64_t seed;
} Attention;

static Attention attention_of(int64_t heads, int64_t width, int64_t length, const int32_t *cu_seqlens, double p, int64_t seed) {
    return (Attention){heads, width, length, cu_seqlens, (float)(1.0 / sqrt((double)width)), threshold_of(p),
                       (float)(1.0 / (1.0 - p)), seed};
}

static void bounds_of(const Attention *call, int64_t sequence, int64_t *start, int64_t *tokens) {
    *start = call->cu_seqlens ? call->cu_seqlens[sequence] : sequence * call->length;
    *tokens = call->cu_seqlens ? call->cu_seqlens[sequence + 1] - *start : call->length;
}

/* scores (rows x tokens) of queries against transposed keys, scaled. */
static void scores_of(const Attention *call, int64_t rows, int64_t tokens, const float *query, int64_t query_row,
                      const float *keys, float *scores) {
    int64_t columns = padded(tokens);
    product(rows, columns, call->width, (Strided){query, query_row, 1}, keys, columns, scores, columns, 0);
    for (int64_t i = 0; i < rows * columns; i++) scores[i] *= call->scale;
}

static void drop_row(const Attention *call, int64_t token, int64_t head, int64_t tokens, float *row) {
    if (!call->threshold) return;
    uint64_t key = row_key(call->seed, token * call->heads + head);
#pragma omp simd
    for (int64_t j = 0; j < tokens; j++) row[j] *= keep(key, (uint32_t)j, call->threshold, call->keep_scale);
}

/* `log_sums` (N, H), or NULL: log of the sum of exponentials of each row of scores, for the backward pass. A thread's room holds the
 * keys of one head of one sequence, transposed, and a block of scores. */
typedef struct {
    Attention call;
    const float *query, *key, *value;
    int64_t query_row, key_row, value_row, num_sequences;
    float *out;
    int64_t out_row;
    float *log_sums, *rooms;
    int64_t room;
} AttentionForward;

static int64_t attention_room(int64_t length, int64_t width) { return padded(length) * (width + QUERIES); }

static int64_t blocks_of(const AttentionForward *step) { return (step->call.length + QUERIES - 1) / QUERIES; }

static void attend_block(const AttentionForward *step, int64_t head, int64_t token, int64_t rows, int64_t start, int64_t tokens,
                         const float *keys, float *scores) {
    const Attention *call = &step->call;
    int64_t columns = padded(tokens), at = head * call->width;
    scores_of(call, rows, tokens, step->query + token * step->query_row + at, step->query_row, keys, scores);
    for (int64_t i = 0; i < rows; i++) {
        float *s = scores + i * columns, top = s[0], total = 0.0f;
#pragma omp simd reduction(max : top)
        for (int64_t j = 0; j < tokens; j++) top = s[j] > top ? s[j] : top;
#pragma omp simd reduction(+ : total)
        for (int64_t j = 0; j < tokens; j++) {
            s[j] = exp_negative(s[j] - top);
            total += s[j];
        }
        float inverse = 1.0f / total;
        for (int64_t j = 0; j < tokens; j++) s[j] *= inverse;
        if (step->log_sums) step->log_sums[(token + i) * call->heads + head] = top + logf(total);
        drop_row(call, token + i, head, tokens, s);
    }
    product(rows, call->width, tokens, (Strided){scores, columns, 1}, step->value + start * step->value_row + at, step->value_row,
            step->out + token * step->out_row + at, step->out_row, 0);
}

/* Parts [first, last): sequence by sequence, head by head, block by block. */
static void attend_step(void *call, int thread, int64_t first, int64_t last) {
    const AttentionForward *step = call;
    int64_t blocks = blocks_of(step), width = step->call.width, held = -1;
    float *keys = step->rooms + thread * step->room, *scores = keys + padded(step->call.length) * width;
    for (int64_t part = first; part < last; part++) {
        int64_t block = part % blocks, head = part / blocks % step->call.heads, start, tokens;
        bounds_of(&step->call, part / blocks / step->call.heads, &start, &tokens);
        int64_t rows = min64(QUERIES, tokens - block * QUERIES);
        if (rows <= 0) continue;
        if (held != part / blocks) transpose(step->key + start * step->key_row + head * width, step->key_row, tokens, width, keys);
        held = part / blocks;
        attend_block(step, head, start + block * QUERIES, rows, start, tokens, keys, scores);
    }
}

static void attend(Team *team, AttentionForward *step) {
    int64_t work = min64(step->call.length, QUERIES) * step->call.length * step->call.width * 2;
    share(team, step->num_sequences * step->call.heads * blocks_of(step), 1 + (1 << 17) / max64(1, work), attend_step, step);
}

static void lead_attention(Team *team, void *step) { attend(team, step); }

/* Floats of scratch that `attention_forward` needs. */
EXPORT int64_t attention_scratch(int threads, int64_t length, int64_t width) { return threads * attention_room(length, width); }

EXPORT int attention_forward(int threads, int64_t tokens, int64_t heads, int64_t width, const int32_t *cu_seqlens,
                             int64_t num_sequences, int64_t length, const float *query, int64_t query_row, const float *key, int64_t key_row,
                              const float *value, int64_t value_row, double p, int64_t seed, float *scratch, float *out,
                              int64_t out_row, float *log_sums) {
    if (!covers(cu_seqlens, num_sequences, length, tokens)) return 0;
    AttentionForward step = {attention_of(heads, width, length, cu_seqlens, p, seed), query, key, value, query_row, key_row,
                             value_row, num_sequences, out, out_row, log_sums, scratch, attention_room(length, width)};
    with_team(threads, lead_attention, &step);
    return 1;
}

/* Floats of scratch that `attention_backward` needs: a thread's keys and values of one head of one sequence, transposed, and two
 * blocks of scores. */
EXPORT int64_t attention_backward_scratch(int threads, int64_t length, int64_t width) {
    return threads * padded(length) * (2 * width + 2 * QUERIES);
}

/* What all tasks of the backward pass share: `grad_key` and `grad_value` are `shares` tensors of `size` floats, zeroed, to be added up. */
typedef struct {
    AttentionForward in;
    const float *grad;
    float *grad_query, *grad_key, *grad_value;
    int64_t shares, size;
} AttentionBackward;

/* One of `shares` equal runs of query blocks of one head of one sequence, in scratch of a thread's own. */
static void attend_backward(const AttentionBackward *step, int64_t sequence, int64_t head, int64_t part, float *keys) {
    const AttentionForward *in = &step->in;
    const Attention *call = &in->call;
    int64_t width = call->width, row = call->heads * width, start, tokens;
    bounds_of(call, sequence, &start, &tokens);
    int64_t blocks = (tokens + QUERIES - 1) / QUERIES, wide = padded(tokens), channel = head * width, at = start * row + channel;
    int64_t from = blocks * part / step->shares * QUERIES, to = min64(tokens, blocks * (part + 1) / step->shares * QUERIES);
    if (from >= to) return;
    float *values = keys + wide * width, *weights = values + wide * width, *slopes = weights + wide * QUERIES;
    const float *key = in->key + start * in->key_row + channel;
    transpose(key, in->key_row, tokens, width, keys);
    transpose(in->value + start * in->value_row + channel, in->value_row, tokens, width, values);
    float *grad_key = step->grad_key + part * step->size + at, *grad_value = step->grad_value + part * step->size + at;
    for (int64_t first = from; first < to; first += QUERIES) {
        int64_t rows = min64(QUERIES, to - first), here = at + first * row;
        const float *query = in->query + (start + first) * in->query_row + channel, *grad = step->grad + here;
        scores_of(call, rows, tokens, query, in->query_row, keys, weights);
        product(rows, wide, width, (Strided){grad, row, 1}, values, wide, slopes, wide, 0);
        for (int64_t i = 0; i < rows; i++) {
            float *w = weights + i * wide, *s = slopes + i * wide, total = 0.0f, along = 0.0f;
            int64_t token = start + first + i;
            float log_sum = in->log_sums[token * call->heads + head];
            drop_row(call, token, head, tokens, s);
#pragma omp simd reduction(+ : total, along)
            for (int64_t j = 0; j < tokens; j++) {
                w[j] = exp_negative(min_float(w[j] - log_sum, 0.0f));
                total += w[j];
                along += w[j] * s[j];
            }
            float inverse = 1.0f / total;
            along *= inverse;
#pragma omp simd
            for (int64_t j = 0; j < tokens; j++) {
                w[j] *= inverse;
                s[j] = w[j] * (s[j] - along) * call->scale;
            }
            drop_row(call, token, head, tokens, w);
        }
        product(tokens, width, rows, (Strided){weights, 1, wide}, grad, row, grad_value, row, 1);
        product(tokens, width, rows, (Strided){slopes, 1, wide}, query, in->query_row, grad_key, row, 1);
        product(rows, width, tokens, (Strided){slopes, wide, 1}, key, in->key_row, step->grad_query + here, row, 0);
    }
}

/* Everything (N, H, D) contiguous but query, key and value. With P the softmax and M the dropout mask: grad_value = (P M)^T grad,
 * grad_P = M (grad value^T), grad_scores = P (grad_P - rowsum(P grad_P)). Rows of P are scaled to sum to 1: `log_sums` are rounded to
 * an ulp of the scores, and what is missing would add up. `shares` > 1 lets several threads work on one head of a long text. */
EXPORT int attention_backward(int threads, int64_t tokens, int64_t heads, int64_t width, const int32_t *cu_seqlens,
                              int64_t num_sequences, int64_t length, const float *query, int64_t query_row, const float *key,
                              int64_t key_row, const float *value, int64_t value_row, double p, int64_t seed, float *log_sums,
                              const float *grad, int64_t shares, float *scratch, float *grad_query, float *grad_key,
                              float *grad_value) {
    if (!covers(cu_seqlens, num_sequences, length, tokens)) return 0;
    AttentionBackward step = {{attention_of(heads, width, length, cu_seqlens, p, seed), query, key, value, query_row, key_row,
                               value_row, num_sequences, NULL, 0, log_sums, NULL, 0},
                              grad, grad_query, grad_key, grad_value, shares, tokens * heads * width};
    int64_t room = attention_backward_scratch(1, length, width);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t task = 0; task < num_sequences * heads * shares; task++)
        attend_backward(&step, task / shares / heads, task / shares % heads, task % shares, scratch + omp_get_thread_num() * room);
    return 1;
}
