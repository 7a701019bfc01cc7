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
#define ROWS 6
#define BLOCK_ROWS 192    /* tokens, and ... */
#define BLOCK_INPUTS 1024 /* ... inputs of them that stay in cache while all panels pass */

typedef float Vector __attribute__((vector_size(LANES * 4), aligned(4)));

EXPORT int64_t panel_columns(void) { return COLUMNS; }

/* out (rows x COLUMNS) = start + the product of `tokens` (inputs x ROWS) transposed and a panel (inputs x COLUMNS). `rows` is
 * a constant wherever this is inlined, so that the sums live in registers. */
static inline __attribute__((always_inline)) void panel_tile(const int rows, int64_t inputs, const float *tokens,
                                                             const float *panel, const float *start, int64_t start_row,
                                                             float *out, int64_t out_row) {
    Vector sum[ROWS][2];
    for (int i = 0; i < rows; i++) {
        sum[i][0] = *(const Vector *)(start + i * start_row);
        sum[i][1] = *(const Vector *)(start + i * start_row + LANES);
    }
    for (int64_t k = 0; k < inputs; k++, tokens += ROWS, panel += COLUMNS) {
        Vector left = *(const Vector *)panel, right = *(const Vector *)(panel + LANES);
        for (int i = 0; i < rows; i++) {
            sum[i][0] += tokens[i] * left;
            sum[i][1] += tokens[i] * right;
        }
    }
    for (int i = 0; i < rows; i++) {
        *(Vector *)(out + i * out_row) = sum[i][0];
        *(Vector *)(out + i * out_row + LANES) = sum[i][1];
    }
}

static void multiply_tile(int64_t rows, int64_t inputs, const float *tokens, const float *panel, const float *start,
                          int64_t start_row, float *out, int64_t out_row) {
#define CASE(n) case n: panel_tile(n, inputs, tokens, panel, start, start_row, out, out_row); break;
    switch (rows) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) }
#undef CASE
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
 * by element, where asked.
 *
 * A part of the step is one panel of one group for one block of tokens. Tokens lie in tiles of ROWS, input by input: those of a
 * few rows are brought into that form by a step of its own, into `tiles`; larger blocks by each thread, in its room.
 */
typedef struct {
    const Linear *layer;
    int64_t rows;
    const float *in;
    float *out;
    int applies_gelu;
    const float *times;
    int64_t times_row;
    float *tiles, *rooms;
    int64_t room, block; /* floats of a thread's room, and tokens of a block */
} Product;

/* Tokens [0, rows) of `in`, inputs [0, depth), to (tiles, depth, ROWS), `tile` floats apart, the last filled up with zeros. */
static void form_tiles(int64_t rows, int64_t depth, const float *in, int64_t in_row, float *out, int64_t tile) {
    for (int64_t i = 0; i < rows; i += ROWS, out += tile) {
        const float *from = in + i * in_row;
        if (rows - i >= ROWS) {
            for (int64_t k = 0; k < depth; k++)
                for (int r = 0; r < ROWS; r++) out[k * ROWS + r] = from[r * in_row + k];
        } else {
            for (int64_t k = 0; k < depth; k++)
                for (int r = 0; r < ROWS; r++) out[k * ROWS + r] = r < rows - i ? from[r * in_row + k] : 0.0f;
        }
    }
}

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

/* Panels [first, last) of a group for tokens [row, row + rows), of which inputs [k, k + depth) lie in `tiles`. */
static void multiply_panels(const Product *step, int64_t group, int64_t first, int64_t last, int64_t row, int64_t rows, int64_t k,
                            int64_t depth, const float *tiles, int64_t tile) {
    const Linear *layer = step->layer;
    int64_t out_row = outputs_of(layer);
    const float *weights = layer->panels + group * panels_of(layer) * layer->inputs * COLUMNS;
    for (int64_t p = first; p < last; p++) {
        const float *panel = weights + (p * layer->inputs + k) * COLUMNS;
        int64_t columns = min64(COLUMNS, layer->columns - p * COLUMNS), column = group * layer->columns + p * COLUMNS;
        float bias[COLUMNS] = {0};
        memcpy(bias, layer->bias + column, sizeof(float) * (size_t)columns);
        for (int64_t i = 0; i < rows; i += ROWS) {
            int64_t height = min64(ROWS, rows - i);
            const float *tokens = tiles + i / ROWS * tile;
            float *at = step->out + (row + i) * out_row + column;
            if (columns == COLUMNS) {
                multiply_tile(height, depth, tokens, panel, k ? at : bias, k ? out_row : 0, at, out_row);
            } else {
                float room[ROWS * COLUMNS] = {0};
                for (int64_t r = 0; r < height; r++)
                    memcpy(room + r * COLUMNS, k ? at + r * out_row : bias, sizeof(float) * (size_t)columns);
                multiply_tile(height, depth, tokens, panel, room, COLUMNS, room, COLUMNS);
                for (int64_t r = 0; r < height; r++)
                    memcpy(at + r * out_row, room + r * COLUMNS, sizeof(float) * (size_t)columns);
            }
            if (k + depth == layer->inputs) finish_tile(step, row + i, column, height, columns);
        }
    }
}

/* Tiles [first, last) of all groups. */
static void form_tiles_step(void *call, int thread, int64_t first, int64_t last) {
    (void)thread;
    const Product *step = call;
    int64_t inputs = step->layer->inputs, in_row = step->layer->groups * inputs, tile = inputs * ROWS;
    int64_t row = first * ROWS, rows = min64(step->rows, last * ROWS) - row, all = (step->rows + ROWS - 1) / ROWS;
    for (int64_t group = 0; group < step->layer->groups; group++)
        form_tiles(rows, inputs, step->in + row * in_row + group * inputs, in_row, step->tiles + (group * all + first) * tile, tile);
}

/* Parts [first, last): block by block, group by group, panel by panel. */
static void multiply_step(void *call, int thread, int64_t first, int64_t last) {
    const Product *step = call;
    const Linear *layer = step->layer;
    int64_t panels = panels_of(layer), inputs = layer->inputs, in_row = layer->groups * inputs;
    int64_t all = (step->rows + ROWS - 1) / ROWS;
    while (first < last) {
        int64_t group = first / panels % layer->groups, row = first / panels / layer->groups * step->block;
        int64_t rows = min64(step->block, step->rows - row), panel = first % panels, stop = min64(panels, panel + last - first);
        for (int64_t k = 0; k < inputs; k += BLOCK_INPUTS) {
            int64_t depth = min64(BLOCK_INPUTS, inputs - k);
            if (step->tiles) {
                const float *tiles = step->tiles + group * all * inputs * ROWS + k * ROWS;
                multiply_panels(step, group, panel, stop, row, rows, k, depth, tiles, inputs * ROWS);
            } else {
                float *tiles = step->rooms + thread * step->room;
                form_tiles(rows, depth, step->in + row * in_row + group * inputs + k, in_row, tiles, depth * ROWS);
                multiply_panels(step, group, panel, stop, row, rows, k, depth, tiles, depth * ROWS);
            }
        }
        first += stop - panel;
    }
}

/* Floats that a thread needs for `multiply`, and that all need together. */
static int64_t product_room(const Linear *layer, int64_t rows) {
    return layer->whole || rows <= BLOCK_ROWS ? 0 : BLOCK_ROWS * min64(BLOCK_INPUTS, layer->inputs);
}
static int64_t product_tiles(const Linear *layer, int64_t rows) {
    return layer->whole || rows > BLOCK_ROWS ? 0 : (rows + ROWS - 1) / ROWS * ROWS * layer->groups * layer->inputs;
}

static void multiply(Team *team, Product step) {
    const Linear *layer = step.layer;
    int64_t blocks = (step.rows + BLOCK_ROWS - 1) / BLOCK_ROWS, tiles = (step.rows + ROWS - 1) / ROWS;
    if (!blocks) return;
    step.block = (tiles + blocks - 1) / blocks * ROWS;
    blocks = (step.rows + step.block - 1) / step.block;
    if (blocks > 1) {
        step.tiles = NULL;
    } else {
        share(team, tiles, 1 + (1 << 13) / (ROWS * layer->groups * layer->inputs), form_tiles_step, &step);
    }
    int64_t work = min64(step.rows, step.block) * layer->inputs * COLUMNS; /* multiplications of a part */
    /* A thread that has to form its own tiles takes enough panels for them to be worth it. */
    int64_t least = max64(1 + (1 << 17) / work, blocks > 1 ? 8 : 1);
    share(team, blocks * layer->groups * panels_of(layer), least, multiply_step, &step);
}
