/* Products of states with the weights of a linear layer, fp32, for inference: the weights are prepacked, bias and GELU are
 * added while a result is in cache. Included by kernels.c.
 *
 * A prepacked weight (groups, panels, I, COLUMNS) is cut into panels of COLUMNS outputs, the last one filled up with zeros; a panel
 * holds for every input its COLUMNS weights side by side. ROWS tokens times one panel are summed up in registers. What a
 * token's result is does not depend on the tokens beside it, to the last bit: every sum runs over the inputs in order.
 */

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define COLUMNS (2 * LANES)
#define BLOCK (192 * 1024) /* floats of tokens that stay in cache while all panels pass ... */
#define BLOCK_ROWS 192     /* ... and tokens at most */
#define AHEAD 16           /* inputs for which weights are fetched before their turn */

/* The vectors of a panel are read once and kept: left alone, the compiler reads them from memory for every token. */
#if defined(__AVX512F__)
#define ROWS 12
#define KEEP(x) __asm__("" : "+v"(x))
#elif defined(__AVX__)
#define ROWS 6
#define KEEP(x) __asm__("" : "+x"(x))
#else
#define ROWS 6
#define KEEP(x)
#endif

/* `tile` with its first argument, 1 ... ROWS, as a constant. */
#define CASE(n, tile, ...) case n: tile(n, __VA_ARGS__); break;
#define SIX_CASES(n, ...) CASE(n + 1, __VA_ARGS__) CASE(n + 2, __VA_ARGS__) CASE(n + 3, __VA_ARGS__) \
    CASE(n + 4, __VA_ARGS__) CASE(n + 5, __VA_ARGS__) CASE(n + 6, __VA_ARGS__)
#if ROWS == 12
#define BY_ROWS(rows, ...) switch (rows) { SIX_CASES(0, __VA_ARGS__) SIX_CASES(6, __VA_ARGS__) }
#else
#define BY_ROWS(rows, ...) switch (rows) { SIX_CASES(0, __VA_ARGS__) }
#endif

typedef float Vector __attribute__((vector_size(LANES * 4), aligned(4)));

EXPORT int64_t panel_columns(void) { return COLUMNS; }

/* out (rows x COLUMNS) = bias + the product of `tokens` (rows x inputs) and a panel (inputs x COLUMNS). `rows` is a constant
 * wherever this is inlined, so that the sums live in registers. */
static inline __attribute__((always_inline)) void panel_tile(const int rows, int64_t inputs, const float *tokens, int64_t token_row,
                                                             const float *panel, const float *bias, float *out, int64_t out_row) {
    Vector sum[ROWS][2];
    for (int i = 0; i < rows; i++) {
        sum[i][0] = *(const Vector *)bias;
        sum[i][1] = *(const Vector *)(bias + LANES);
    }
    for (int64_t k = 0; k < inputs; k++, tokens++, panel += COLUMNS) {
        Vector left = *(const Vector *)panel, right = *(const Vector *)(panel + LANES);
        KEEP(left);
        KEEP(right);
        __builtin_prefetch(panel + AHEAD * COLUMNS);
        __builtin_prefetch(panel + AHEAD * COLUMNS + LANES);
        for (int i = 0; i < rows; i++) {
            float token = tokens[i * token_row];
            sum[i][0] += token * left;
            sum[i][1] += token * right;
        }
    }
    for (int i = 0; i < rows; i++) {
        *(Vector *)(out + i * out_row) = sum[i][0];
        *(Vector *)(out + i * out_row + LANES) = sum[i][1];
    }
}

static void multiply_tile(int64_t rows, int64_t inputs, const float *tokens, int64_t token_row, const float *panel, const float *bias,
                          float *out, int64_t out_row) {
    BY_ROWS(rows, panel_tile, inputs, tokens, token_row, panel, bias, out, out_row)
}

/* A linear layer: `bias` (groups * columns,); and either fp32 weights, or whole numbers with their scale and sums, see int8.c. */
typedef struct {
    int64_t groups, inputs, columns; /* the latter two of one group */
    const float *panels, *bias;
    const int8_t *whole;
    const float *scale, *weight_sum; /* (groups * columns,) */
} Linear;

static int64_t panels_of(const Linear *layer) { return (layer->columns + COLUMNS - 1) / COLUMNS; }
static int64_t outputs_of(const Linear *layer) { return layer->groups * layer->columns; }

/* A layer applied to tokens: in (rows, groups * I) to out (rows, groups * columns), then by GELU, or times (rows, ...) element
 * by element, where asked. A part of the step is one panel of one group for one block of tokens. */
typedef struct {
    const Linear *layer;
    int64_t rows;
    const float *in;
    float *out;
    int applies_gelu;
    const float *times;
    int64_t times_row;
    float *room;   /* for the tokens in 8-bit numbers, see int8.c */
    int64_t block; /* tokens of a block */
} Product;

static void finish_tile(const Product *step, int64_t row, int64_t column, int64_t height, int64_t columns) {
    int64_t out_row = outputs_of(step->layer);
    for (int64_t r = row; r < row + height; r++) {
        float *y = step->out + r * out_row + column;
        if (step->applies_gelu) {
#pragma omp simd
            for (int64_t j = 0; j < columns; j++) y[j] = gelu(y[j]);
        }
        if (step->times) {
            const float *factor = step->times + r * step->times_row + column;
#pragma omp simd
            for (int64_t j = 0; j < columns; j++) y[j] *= factor[j];
        }
    }
}

/* One panel of a group for tokens [row, stop). */
static void multiply_panel(const Product *step, int64_t group, int64_t panel, int64_t row, int64_t stop) {
    const Linear *layer = step->layer;
    int64_t inputs = layer->inputs, in_row = layer->groups * inputs, out_row = outputs_of(layer);
    int64_t columns = min64(COLUMNS, layer->columns - panel * COLUMNS), column = group * layer->columns + panel * COLUMNS;
    const float *weights = layer->panels + (group * panels_of(layer) + panel) * inputs * COLUMNS;
    float bias[COLUMNS] = {0}, room[ROWS * COLUMNS];
    memcpy(bias, layer->bias + column, sizeof(float) * (size_t)columns);
    for (; row < stop; row += ROWS) {
        int64_t height = min64(ROWS, stop - row);
        const float *tokens = step->in + row * in_row + group * inputs;
        float *out = step->out + row * out_row + column;
        if (columns == COLUMNS) {
            multiply_tile(height, inputs, tokens, in_row, weights, bias, out, out_row);
        } else {
            multiply_tile(height, inputs, tokens, in_row, weights, bias, room, COLUMNS);
            for (int64_t r = 0; r < height; r++)
                memcpy(out + r * out_row, room + r * COLUMNS, sizeof(float) * (size_t)columns);
        }
        finish_tile(step, row, column, height, columns);
    }
}

/* Parts [first, last): block by block, group by group, panel by panel. */
static void multiply_step(void *call, int thread, int64_t first, int64_t last) {
    (void)thread;
    const Product *step = call;
    int64_t panels = panels_of(step->layer), groups = step->layer->groups;
    for (; first < last; first++) {
        int64_t row = first / panels / groups * step->block;
        multiply_panel(step, first / panels % groups, first % panels, row, min64(step->rows, row + step->block));
    }
}

/* The number of blocks; they are of about equal size. */
static int64_t cut_into_blocks(Product *step) {
    int64_t most = min64(BLOCK_ROWS, max64(ROWS, BLOCK / step->layer->inputs));
    int64_t tiles = (step->rows + ROWS - 1) / ROWS, blocks = (step->rows + most - 1) / most;
    step->block = (tiles + blocks - 1) / blocks * ROWS;
    return (step->rows + step->block - 1) / step->block;
}

static void multiply(Team *team, Product step) {
    if (!step.rows) return;
    int64_t blocks = cut_into_blocks(&step);
    int64_t work = min64(step.rows, step.block) * step.layer->inputs * COLUMNS; /* multiplications of a part */
    share(team, blocks * step.layer->groups * panels_of(step.layer), 1 + (1 << 17) / work, multiply_step, &step);
}
