/* A trained byte model in C99: libc and libm, no file, no thread, no global.
 *
 * Reads what `jobs/export.py --format h2q` writes (README.md beside this file has the format) and predicts a byte at a
 * time. Weights stay where they are in the caller's memory; a Hamilton layer is applied as its Kronecker factors.
 *
 *     h2q_model *model = h2q_open(data, size, &error);    data: 4-aligned, kept by the caller until h2q_close
 *     h2q_step(model, 'T');                                0, or an H2Q_… error
 *     int byte = h2q_sample(model, 0.8f, &random);         temperature 0: the likeliest
 *
 *     cc -std=c99 -O3 -march=native -DH2Q_MAIN -o h2q runtime.c -lm      a command line program: h2q MODEL
 *
 * Shapes: T bytes of context, D width of a half (or of the stream), R rank, S blocks of a Kronecker product, F factor
 * size, V alphabet.
 */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------ what can be called */

enum {
    H2Q_OK = 0,
    H2Q_NOT_A_MODEL,    /* no file of this format */
    H2Q_OTHER_VERSION,  /* of another version of the format */
    H2Q_TRUNCATED,      /* the file ends too early, or holds more than it should */
    H2Q_ALTERED,        /* its sha256 is another */
    H2Q_IMPOSSIBLE,     /* a size in it cannot be */
    H2Q_NO_MEMORY,
    H2Q_NOT_A_STATE,    /* no state of this model */
    H2Q_NO_SYMBOL,      /* a byte that the alphabet does not have */
    H2Q_NOT_FINITE,     /* logits or a state that are no numbers */
    H2Q_MACHINE,        /* a machine that is not little-endian, or data that is not 4-aligned */
    H2Q_ERRORS
};

typedef struct h2q_model h2q_model;

h2q_model *h2q_open(const void *data, size_t size, int *error);
void h2q_close(h2q_model *model);
void h2q_reset(h2q_model *model);                     /* forget everything read */
int h2q_step(h2q_model *model, uint32_t symbol);      /* read one more byte */
int h2q_read(h2q_model *model, const uint8_t *bytes, size_t count); /* read many; a window takes its last T */
const float *h2q_logits(const h2q_model *model);      /* (V,) of the next one */
uint32_t h2q_vocab(const h2q_model *model);
uint32_t h2q_depth(const h2q_model *model);
int h2q_carries(const h2q_model *model);              /* whether it has a state that lives on */
uint32_t h2q_window(const h2q_model *model);          /* T: without a state, the bytes of a text that h2q_read takes */
const float *h2q_energy(const h2q_model *model);      /* (depth,) norm of each block's state, else of the stream */
int h2q_sample(h2q_model *model, float temperature, uint64_t *random); /* a symbol, or −error */
double h2q_bits(const h2q_model *model, uint32_t symbol); /* code length of the next byte, were it this one */
size_t h2q_state_size(const h2q_model *model);        /* bytes that h2q_state_save writes now */
void h2q_state_save(const h2q_model *model, void *out);
int h2q_state_restore(h2q_model *model, const void *data, size_t size);
const char *h2q_message(int error);

/* ------------------------------------------------------------------------------------------------------- the contents */

enum { VERSION = 2, STATE_VERSION = 1, MOST_TABLES = 64, MOST_ORDER = 64 };
#ifdef __AVX__
enum { VECTOR = 8 }; /* floats that one instruction takes */
#else
enum { VECTOR = 4 };
#endif
enum { ROWS = 4, LINE = 8 * VECTOR, PANEL = 2048 }; /* rows and columns of a tile, numbers of int8 widened at once */
enum { HALVES = 1, ATTENTION = 2, STATE = 4, PHASE_ROTATION = 8, FINAL_NORM = 16, TIED = 32, ALL_FLAGS = 63 };
enum { ROTATION_NONE, ROTATION_PHASE, ROTATION_QUATERNION };
enum { POSITIONS_NONE, POSITIONS_LEARNED, POSITIONS_RELATIVE };
enum { FP32, FP16, INT8 };

static const size_t MOST_MEMORY = (size_t)1 << 30;

/* Numbers in rows: fp32, or int8 with one scale a row (a layer: one for each output of each rank). */
typedef struct {
    const float *f32;
    const int8_t *i8;
    const float *scales;
    uint32_t rows, columns;
} matrix;

/* R matrices (inputs, outputs), which S blocks of the input share; an ordinary matrix is R = S = 1. */
typedef struct {
    matrix weight; /* (R inputs, outputs) */
    const float *bias;
    uint32_t ranks, blocks, inputs, outputs;
} layer;

typedef struct {
    const float *norm1, *norm2, *log_slopes;
    layer q, k, v, o, value, decay, gate, out, fc1, fc2;
} block;

typedef struct {
    uint32_t order, rows, width;
    int exact;
    matrix weight;
} table;

struct owned {
    struct owned *next;
    double aligned[1];
};

struct h2q_model {
    uint32_t vocab, dim, depth, heads, window, factor, mixer_rank, ffn_rank, hidden, flags, rotation, positions;
    uint32_t width, blocks, padded, table_count, history;
    uint32_t digest[2]; /* first bytes of the file's sha256: whose state a state is */
    table tables[MOST_TABLES];
    matrix embedding, position;
    const uint32_t *head_words; /* of an int8 head (D / 4, V), see multiply_words; else NULL */
    const float *head;          /* else (D, V): its inner loop runs over symbols */
    const float *head_scales, *head_bias, *bank, *final_norm;
    block *layers;
    struct owned *owned; /* what h2q_close frees */
    size_t allocated;
    /* what it knows */
    uint32_t at;         /* positions of the window, or of the chunk, that are taken */
    uint32_t *symbols;   /* (T,) those of the window */
    uint32_t *recent;    /* (history,) for the tables, newest last; a symbol plus one, 0 for nothing */
    float *state;        /* (depth, D) */
    float *keys;         /* (depth, D, T padded) */
    float *values;       /* (depth, T, D) */
    /* where it computes */
    float *hamilton, *stream, *final, *normed, *inner, *outer, *wide, *attended, *scores, *logits, *energy;
};

/* --------------------------------------------------------------------------------------------------------- arithmetic */

/* A tile of a product: out[m][n] += scales[n] Σ_i x[m][i] w[i][n] for constants M and N, so that a compiler keeps the
 * sums in registers. */
#define DEFINE_TILE(NAME, M, N)                                                                                        \
    static void NAME(const float *restrict x, size_t x_stride, const float *restrict w, size_t w_stride,               \
                     uint32_t count, const float *restrict scales, float *restrict out, size_t out_stride)             \
    {                                                                                                                  \
        float sum[M][N];                                                                                               \
        uint32_t i, m, n;                                                                                              \
        for (m = 0; m < (M); m++)                                                                                      \
            for (n = 0; n < (N); n++) sum[m][n] = 0.0f;                                                                \
        for (i = 0; i < count; i++, w += w_stride)                                                                     \
            for (m = 0; m < (M); m++) {                                                                                \
                const float factor = x[m * x_stride + i];                                                              \
                for (n = 0; n < (N); n++) sum[m][n] += factor * w[n];                                                  \
            }                                                                                                          \
        if (scales)                                                                                                    \
            for (m = 0; m < (M); m++)                                                                                  \
                for (n = 0; n < (N); n++) sum[m][n] *= scales[n];                                                      \
        for (m = 0; m < (M); m++)                                                                                      \
            for (n = 0; n < (N); n++) out[m * out_stride + n] += sum[m][n];                                            \
    }

DEFINE_TILE(tile_1_1, 1, 1)
DEFINE_TILE(tile_1_v, 1, VECTOR)
DEFINE_TILE(tile_1_2v, 1, 2 * VECTOR)
DEFINE_TILE(tile_1_3v, 1, 3 * VECTOR)
DEFINE_TILE(tile_1_8v, 1, 8 * VECTOR)
DEFINE_TILE(tile_4_v, ROWS, VECTOR)
DEFINE_TILE(tile_4_2v, ROWS, 2 * VECTOR)
DEFINE_TILE(tile_4_3v, ROWS, 3 * VECTOR)

typedef void tile(const float *restrict, size_t, const float *restrict, size_t, uint32_t, const float *restrict,
                  float *restrict, size_t);

/* out[m][n] += scales[n] Σ_i x[m][i] w[i][n]: x (rows, count), w (count, columns); without scales, of ones. */
static void multiply(const float *x, size_t x_stride, uint32_t rows, const float *w, size_t w_stride, uint32_t count,
                     uint32_t columns, const float *scales, float *out, size_t out_stride)
{
    static tile *const tiles[2][9] = {{tile_1_1, tile_1_v, tile_1_2v, tile_1_3v, 0, 0, 0, 0, tile_1_8v},
                                      {0, tile_4_v, tile_4_2v, tile_4_3v}};
    uint32_t m, n, high, wide;
    for (n = 0; n < columns; n += wide) {
        const uint32_t left = (columns - n) / VECTOR;
        const uint32_t vectors = rows == 1 && left >= 8 ? 8 : left == 4 ? 2 : left > 3 ? 3 : left;
        wide = vectors ? vectors * VECTOR : 1;
        for (m = 0; m < rows; m += high) {
            high = vectors && rows - m >= ROWS ? ROWS : 1;
            tiles[high > 1][vectors](x + m * x_stride, x_stride, w + n, w_stride, count, scales ? scales + n : NULL,
                                     out + m * out_stride + n, out_stride);
        }
    }
}

static void widen(const int8_t *restrict numbers, uint32_t count, float *restrict out)
{
    uint32_t i;
    for (i = 0; i < count; i++) out[i] = (float)numbers[i];
}

/* The same with w of int8. */
static void multiply_int8(const float *x, size_t x_stride, uint32_t rows, const int8_t *w, uint32_t count,
                          uint32_t columns, const float *scales, float *out, size_t out_stride)
{
    float panel[PANEL];
    uint32_t i, n, high, wide, k;
    for (n = 0; n < columns; n += wide) {
        wide = columns - n < PANEL ? columns - n : PANEL;
        for (i = 0; i < count; i += high) {
            high = count - i < PANEL / wide ? count - i : PANEL / wide;
            if (wide == columns)
                widen(w + (size_t)i * columns, high * wide, panel);
            else
                for (k = 0; k < high; k++) widen(w + (size_t)(i + k) * columns + n, wide, panel + k * wide);
            multiply(x + i, x_stride, rows, panel, wide, high, wide, scales + n, out + n, out_stride);
        }
    }
}

/* The same for one row with w of int8, four of a column below one another in a word, the first in its lowest byte. */
static void multiply_words(const float *restrict x, const uint32_t *restrict words, uint32_t count, uint32_t columns,
                           const float *restrict scales, float *restrict out)
{
    const uint32_t lines = columns / LINE * LINE;
    uint32_t i, k, n;
#define NUMBER(word, place) ((float)((int32_t)((word) << (24 - 8 * (place))) >> 24))
    for (n = 0; n < lines; n += LINE) {
        const uint32_t *restrict from = words + n;
        float sum[LINE];
        for (k = 0; k < LINE; k++) sum[k] = 0.0f;
        for (i = 0; i < count; i += 4, from += columns) /* x is zero behind its end */
            for (k = 0; k < LINE; k++)
                sum[k] += x[i] * NUMBER(from[k], 0) + x[i + 1] * NUMBER(from[k], 1) + x[i + 2] * NUMBER(from[k], 2) +
                          x[i + 3] * NUMBER(from[k], 3);
        for (k = 0; k < LINE; k++) out[n + k] += scales[n + k] * sum[k];
    }
    for (; n < columns; n++) {
        float sum = 0.0f;
        for (i = 0; i < count; i++) sum += x[i] * NUMBER(words[i / 4 * columns + n], i % 4);
        out[n] += scales[n] * sum;
    }
#undef NUMBER
}

/* to += a row of a table. */
static void add_row(const matrix *table, uint32_t row, float *to)
{
    const size_t first = (size_t)row * table->columns;
    uint32_t i;
    if (table->i8)
        for (i = 0; i < table->columns; i++) to[i] += table->scales[row] * (float)table->i8[first + i];
    else
        for (i = 0; i < table->columns; i++) to[i] += table->f32[first + i];
}

static float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

static float sum_of(const float *x, uint32_t count)
{
    float parts[VECTOR] = {0}, sum = 0.0f;
    uint32_t i = 0, k;
    for (; i + VECTOR <= count; i += VECTOR)
        for (k = 0; k < VECTOR; k++) parts[k] += x[i + k];
    for (; i < count; i++) sum += x[i];
    for (k = 0; k < VECTOR; k++) sum += parts[k];
    return sum;
}

static void layer_norm(const float *restrict x, uint32_t count, const float *restrict weight_and_bias,
                       float *restrict out)
{
    const float mean = sum_of(x, count) / (float)count;
    float scale;
    uint32_t i;
    for (i = 0; i < count; i++) out[i] = (x[i] - mean) * (x[i] - mean);
    scale = 1.0f / sqrtf(sum_of(out, count) / (float)count + 1e-5f);
    for (i = 0; i < count; i++) out[i] = (x[i] - mean) * scale * weight_and_bias[i] + weight_and_bias[count + i];
}

static float norm_of(const float *x, uint32_t count)
{
    double sum = 0.0;
    uint32_t i;
    for (i = 0; i < count; i++) sum += (double)x[i] * x[i];
    return (float)sqrt(sum);
}

/* ------------------------------------------------------------------------------------------------------------- layers */

/* What layers of one rank read of x: H_r x for every rank, (R, S, F), in `room`; for ordinary matrices x itself. */
static const float *mixed_of(const h2q_model *model, uint32_t ranks, const float *x, float *room)
{
    const uint32_t blocks = model->blocks, factor = model->factor;
    if (!model->hamilton) return x;
    memset(room, 0, (size_t)ranks * model->width * sizeof(float));
    multiply(model->hamilton, blocks, ranks * blocks, x, factor, blocks, factor, NULL, room, factor);
    return room;
}

/* y += x w: x (rows, inputs), of w the matrix `number` of so many inputs. */
static void multiply_matrix(const float *x, uint32_t rows, const matrix *w, uint32_t number, uint32_t inputs, float *y)
{
    const size_t first = (size_t)number * inputs * w->columns;
    const float *scales = w->scales ? w->scales + (size_t)number * w->columns : NULL;
    if (w->i8)
        multiply_int8(x, inputs, rows, w->i8 + first, inputs, w->columns, scales, y, w->columns);
    else
        multiply(x, inputs, rows, w->f32 + first, w->columns, inputs, w->columns, NULL, y, w->columns);
}

/* y += W x + bias, from what `mixed_of` gives. */
static void apply(const layer *one, const float *mixed, float *y)
{
    uint32_t rank, i;
    for (i = 0; i < one->blocks * one->outputs; i++) y[i] += one->bias[i];
    for (rank = 0; rank < one->ranks; rank++, mixed += (size_t)one->blocks * one->inputs)
        multiply_matrix(mixed, one->blocks, &one->weight, rank, one->inputs, y);
}

/* y / sqrt(|y|² + 1e-6) · Re(y), of consecutive channels. */
static void rotate_phase(float *y, uint32_t width)
{
    for (; width; width -= 4, y += 4) {
        const float scale = y[0] / sqrtf(y[0] * y[0] + y[1] * y[1] + y[2] * y[2] + y[3] * y[3] + 1e-6f);
        y[0] *= scale, y[1] *= scale, y[2] *= scale, y[3] *= scale;
    }
}

/* One head: its query (d,) against the keys (d, T padded) and values (T, D) of the window so far; adds to y (d,). */
static void attend_head(h2q_model *model, uint32_t head, const float *query, const float *keys, const float *values,
                        const float *log_slopes, float *y)
{
    const uint32_t size = model->width / model->heads, count = model->at + 1;
    const uint32_t columns = (model->at / VECTOR + 1) * VECTOR; /* whole vectors; what is beyond is not looked at */
    const float scale = 1.0f / sqrtf((float)size), slope = log_slopes ? expf(log_slopes[head]) : 0.0f;
    float *scores = model->scores, best = -INFINITY, sum = 0.0f;
    uint32_t i;
    memset(scores, 0, columns * sizeof(float));
    multiply(query, size, 1, keys, model->padded, size, columns, NULL, scores, columns);
    for (i = 0; i < count; i++) {
        scores[i] = scores[i] * scale - slope * (float)(model->at - i);
        if (scores[i] > best) best = scores[i];
    }
    for (i = 0; i < count; i++) sum += scores[i] = expf(scores[i] - best);
    for (i = 0; i < count; i++) scores[i] /= sum;
    multiply(scores, count, 1, values, model->width, count, size, NULL, y, size);
}

static void attend(h2q_model *model, uint32_t number, const float *mixed, float *stream)
{
    const block *b = &model->layers[number];
    const uint32_t width = model->width, size = width / model->heads;
    float *keys = model->keys + (size_t)number * width * model->padded;
    float *values = model->values + (size_t)number * model->window * width;
    float *query = model->wide, *key = query + width, *value = values + (size_t)model->at * width;
    float *y = model->attended;
    uint32_t i;
    memset(query, 0, 2 * width * sizeof(float));
    memset(value, 0, width * sizeof(float));
    memset(y, 0, width * sizeof(float));
    apply(&b->q, mixed, query);
    apply(&b->k, mixed, key);
    apply(&b->v, mixed, value);
    for (i = 0; i < width; i++) keys[(size_t)i * model->padded + model->at] = key[i];
    for (i = 0; i < model->heads; i++)
        attend_head(model, i, query + i * size, keys + (size_t)i * size * model->padded, values + i * size,
                    b->log_slopes, y + i * size);
    if (model->flags & PHASE_ROTATION) rotate_phase(y, width);
    apply(&b->o, mixed_of(model, model->mixer_rank, y, model->outer), stream);
}

/* s ← a u s + (1 − a) v, with the quaternions u of the rotation; components lie side by side, (4, D / 4). */
static void turn(const h2q_model *model, const float *v, const float *c, float *s)
{
    const uint32_t m = model->width / 4;
    uint32_t i;
    for (i = 0; i < m; i++) {
        const float a = sigmoid(c[i]), s0 = s[i], s1 = s[m + i], s2 = s[2 * m + i], s3 = s[3 * m + i];
        float u0, u1, u2 = 0.0f, u3 = 0.0f;
        if (model->rotation == ROTATION_PHASE) {
            u0 = cosf(c[m + i] / 2), u1 = sinf(c[m + i] / 2);
        } else {
            const float x = c[m + i], y = c[2 * m + i], z = c[3 * m + i];
            const float angle = sqrtf(x * x + y * y + z * z + 1e-12f), along = sinf(angle / 2) / angle;
            u0 = cosf(angle / 2), u1 = along * x, u2 = along * y, u3 = along * z;
        }
        s[i] = v[i] + a * (u0 * s0 - u1 * s1 - u2 * s2 - u3 * s3 - v[i]);
        s[m + i] = v[m + i] + a * (u0 * s1 + u1 * s0 + u2 * s3 - u3 * s2 - v[m + i]);
        s[2 * m + i] = v[2 * m + i] + a * (u0 * s2 - u1 * s3 + u2 * s0 + u3 * s1 - v[2 * m + i]);
        s[3 * m + i] = v[3 * m + i] + a * (u0 * s3 + u1 * s2 - u2 * s1 + u3 * s0 - v[3 * m + i]);
    }
}

static void remember(h2q_model *model, uint32_t number, const float *mixed, float *stream)
{
    const block *b = &model->layers[number];
    const uint32_t width = model->width;
    float *v = model->wide, *c = v + width, *z = c + width, *s = model->state + (size_t)number * width;
    uint32_t i;
    memset(v, 0, 3 * width * sizeof(float));
    apply(&b->value, mixed, v);
    apply(&b->decay, mixed, c);
    apply(&b->gate, mixed, z);
    if (model->rotation == ROTATION_NONE)
        for (i = 0; i < width; i++) s[i] = v[i] + sigmoid(c[i]) * (s[i] - v[i]);
    else
        turn(model, v, c, s);
    for (i = 0; i < width; i++) z[i] *= s[i] * sigmoid(z[i]);
    apply(&b->out, mixed_of(model, model->mixer_rank, z, model->outer), stream);
}

static void feed(h2q_model *model, const block *b, const float *x, float *stream)
{
    const uint32_t hidden = model->hidden * model->width;
    float *u = model->wide;
    uint32_t i;
    layer_norm(x, model->width, b->norm2, model->normed);
    memset(u, 0, hidden * sizeof(float));
    apply(&b->fc1, mixed_of(model, model->ffn_rank, model->normed, model->inner), u);
    for (i = 0; i < hidden; i++) u[i] *= 0.5f * (1.0f + erff(u[i] * 0.70710678f));
    apply(&b->fc2, mixed_of(model, model->ffn_rank, u, model->outer), stream);
}

/* ----------------------------------------------------------------------------------------------------------- one byte */

/* The row of the last `order` symbols, in int64 arithmetic that wraps. */
static uint32_t row_of(const h2q_model *model, const table *one)
{
    const uint32_t *newest = model->recent + model->history - 1;
    uint64_t key = *newest;
    int64_t hashed;
    uint32_t back;
    for (back = 1; back < one->order; back++) key = key * 257u + newest[-(ptrdiff_t)back];
    if (one->exact) return (uint32_t)(key % one->rows);
    key *= 2654435761u;
    hashed = (key >> 63 ? -(int64_t)(~key) - 1 : (int64_t)key) % 4294967291;
    return (uint32_t)((hashed < 0 ? hashed + 4294967291 : hashed) % one->rows);
}

static void embed(h2q_model *model, uint32_t symbol)
{
    const uint32_t halves = model->dim / model->width;
    uint32_t i, half, first = 0;
    memset(model->stream, 0, model->dim * sizeof(float));
    add_row(&model->embedding, symbol, model->stream);
    if (model->positions == POSITIONS_LEARNED) add_row(&model->position, model->at, model->stream);
    if (!model->history) return;
    memmove(model->recent, model->recent + 1, (model->history - 1) * sizeof(uint32_t));
    model->recent[model->history - 1] = symbol + 1;
    for (i = 0; i < model->table_count; i++) {
        const table *one = &model->tables[i];
        const uint32_t row = row_of(model, one);
        for (half = 0; half < halves; half++) add_row(&one->weight, row, model->stream + half * model->width + first);
        first += one->width;
    }
}

static void predict(h2q_model *model)
{
    const float *hidden = model->stream;
    if (model->flags & FINAL_NORM) {
        layer_norm(model->stream, model->dim, model->final_norm, model->final);
        hidden = model->final;
    }
    memcpy(model->logits, model->head_bias, model->vocab * sizeof(float));
    if (model->head_words)
        multiply_words(hidden, model->head_words, model->dim, model->vocab, model->head_scales, model->logits);
    else
        multiply(hidden, 0, 1, model->head, model->vocab, model->dim, model->vocab, NULL, model->logits, 0);
}

static void forward(h2q_model *model, uint32_t symbol, int wanted)
{
    const uint32_t width = model->width, attends = model->flags & ATTENTION, carries = model->flags & STATE;
    float *first = model->stream, *second = model->stream + (model->dim - width), *other;
    uint32_t i;
    embed(model, symbol);
    for (i = 0; i < model->depth; i++) {
        const float *mixed;
        layer_norm(second, width, model->layers[i].norm1, model->normed);
        mixed = mixed_of(model, model->mixer_rank, model->normed, model->inner);
        if (attends) attend(model, i, mixed, first);
        if (carries) remember(model, i, mixed, first);
        if (model->hidden)
            feed(model, &model->layers[i], first, second);
        else /* halves take turns */
            other = first, first = second, second = other;
        model->energy[i] =
            carries ? norm_of(model->state + (size_t)i * width, width) : norm_of(model->stream, model->dim);
    }
    if (attends) {
        model->symbols[model->at++] = symbol;
        if (carries && model->at == model->window) model->at = 0; /* attention starts over, the state lives on */
    }
    if (wanted) predict(model);
}

/* A full window forgets its older half, and reads the rest again. */
static void slide(h2q_model *model)
{
    const uint32_t half = model->window / 2, kept = model->window - (half ? half : 1);
    uint32_t i;
    memmove(model->symbols, model->symbols + model->window - kept, kept * sizeof(uint32_t));
    model->at = 0;
    if (model->history) memset(model->recent, 0, model->history * sizeof(uint32_t));
    for (i = 0; i < kept; i++) forward(model, model->symbols[i], 0);
}

int h2q_step(h2q_model *model, uint32_t symbol)
{
    if (symbol >= model->vocab) return H2Q_NO_SYMBOL;
    if ((model->flags & ATTENTION) && model->at == model->window) slide(model);
    forward(model, symbol, 1);
    return H2Q_OK;
}

int h2q_read(h2q_model *model, const uint8_t *bytes, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++)
        if (bytes[i] >= model->vocab) return H2Q_NO_SYMBOL;
    i = 0;
    if (!(model->flags & STATE) && count >= model->window) {
        h2q_reset(model);
        i = count - model->window;
    }
    for (; i < count; i++) h2q_step(model, bytes[i]);
    return H2Q_OK;
}

void h2q_reset(h2q_model *model)
{
    model->at = 0;
    if (model->history) memset(model->recent, 0, model->history * sizeof(uint32_t));
    if (model->state) memset(model->state, 0, (size_t)model->depth * model->width * sizeof(float));
    memset(model->logits, 0, model->vocab * sizeof(float));
    memset(model->energy, 0, model->depth * sizeof(float));
}

const float *h2q_logits(const h2q_model *model) { return model->logits; }
uint32_t h2q_vocab(const h2q_model *model) { return model->vocab; }
uint32_t h2q_depth(const h2q_model *model) { return model->depth; }
int h2q_carries(const h2q_model *model) { return (model->flags & STATE) != 0; }
uint32_t h2q_window(const h2q_model *model) { return model->window; }
const float *h2q_energy(const h2q_model *model) { return model->energy; }

double h2q_bits(const h2q_model *model, uint32_t symbol)
{
    double best = -INFINITY, sum = 0.0;
    uint32_t i;
    if (symbol >= model->vocab) return INFINITY;
    for (i = 0; i < model->vocab; i++)
        if (model->logits[i] > best) best = model->logits[i];
    for (i = 0; i < model->vocab; i++) sum += exp(model->logits[i] - best);
    return (log(sum) + best - model->logits[symbol]) / 0.69314718055994531;
}

/* A number of [0, 1): splitmix64. */
static double drawn(uint64_t *random)
{
    uint64_t z = *random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)((z ^ (z >> 31)) >> 11) / 9007199254740992.0;
}

int h2q_sample(h2q_model *model, float temperature, uint64_t *random)
{
    const float *logits = model->logits;
    double sum = 0.0, left;
    uint32_t i, best = 0;
    for (i = 0; i < model->vocab; i++) {
        if (!isfinite(logits[i])) return -H2Q_NOT_FINITE;
        if (logits[i] > logits[best]) best = i;
    }
    if (!(temperature > 0.0f)) return (int)best;
    for (i = 0; i < model->vocab; i++) sum += exp((logits[i] - logits[best]) / temperature);
    left = drawn(random) * sum;
    for (i = 0; i < model->vocab; i++) {
        left -= exp((logits[i] - logits[best]) / temperature);
        if (left < 0.0) return (int)i;
    }
    return (int)best;
}

/* ------------------------------------------------------------------------------------------------------------ a state */

enum { STATE_HEADER = 5 }; /* magic, version, two words of the model's sha256, positions taken */

static const uint32_t STATE_MAGIC = 0x53513248u; /* H2QS */

/* Words behind the header: of a window its symbols; else what the tables saw, the state, keys and values, logits. */
static size_t state_words(const h2q_model *model, uint32_t at)
{
    if (!(model->flags & STATE)) return at;
    return model->history + (size_t)model->depth * model->width * (1 + 2 * (size_t)at) + model->vocab;
}

size_t h2q_state_size(const h2q_model *model) { return 4 * (STATE_HEADER + state_words(model, model->at)); }

void h2q_state_save(const h2q_model *model, void *out)
{
    const uint32_t header[STATE_HEADER] = {STATE_MAGIC, STATE_VERSION, model->digest[0], model->digest[1], model->at};
    const uint32_t width = model->width;
    char *to = out;
    uint32_t number, t, i;
    memcpy(to, header, sizeof header), to += sizeof header;
    if (!(model->flags & STATE)) {
        memcpy(to, model->symbols, model->at * 4);
        return;
    }
    if (model->history) memcpy(to, model->recent, model->history * 4), to += model->history * 4;
    memcpy(to, model->state, (size_t)model->depth * width * 4), to += (size_t)model->depth * width * 4;
    for (number = 0; number < model->depth; number++)
        for (t = 0; t < model->at; t++) {
            for (i = 0; i < width; i++, to += 4)
                memcpy(to, model->keys + ((size_t)number * width + i) * model->padded + t, 4);
            memcpy(to, model->values + ((size_t)number * model->window + t) * width, width * 4), to += width * 4;
        }
    memcpy(to, model->logits, model->vocab * 4);
}

static int all_finite(const char *from, size_t count)
{
    for (; count; count--, from += 4) {
        float number;
        memcpy(&number, from, 4);
        if (!isfinite(number)) return 0;
    }
    return 1;
}

/* Behind the header, of a window: read its symbols again. */
static int restore_window(h2q_model *model, const char *from, uint32_t at)
{
    uint32_t t, symbol;
    for (t = 0; t < at; t++) {
        memcpy(&symbol, from + 4 * (size_t)t, 4);
        if (symbol >= model->vocab) return H2Q_NOT_A_STATE;
    }
    h2q_reset(model);
    for (t = 0; t < at; t++) {
        memcpy(&symbol, from + 4 * (size_t)t, 4);
        forward(model, symbol, t + 1 == at);
    }
    return H2Q_OK;
}

int h2q_state_restore(h2q_model *model, const void *data, size_t size)
{
    const char *from = data;
    uint32_t header[STATE_HEADER], number, t, i, symbol;
    const uint32_t width = model->width;
    const int carries = model->flags & STATE;
    if (size < sizeof header) return H2Q_NOT_A_STATE;
    memcpy(header, from, sizeof header), from += sizeof header;
    if (header[0] != STATE_MAGIC) return H2Q_NOT_A_STATE;
    if (header[1] != STATE_VERSION) return H2Q_OTHER_VERSION;
    if (header[2] != model->digest[0] || header[3] != model->digest[1]) return H2Q_NOT_A_STATE;
    if (header[4] > (model->flags & ATTENTION ? model->window - (carries ? 1 : 0) : 0)) return H2Q_NOT_A_STATE;
    if (size != 4 * (STATE_HEADER + state_words(model, header[4]))) return H2Q_NOT_A_STATE;
    if (!carries) return restore_window(model, from, header[4]);
    for (i = 0; i < model->history; i++) {
        memcpy(&symbol, from + 4 * (size_t)i, 4);
        if (symbol > model->vocab) return H2Q_NOT_A_STATE;
    }
    if (!all_finite(from + 4 * (size_t)model->history, state_words(model, header[4]) - model->history))
        return H2Q_NOT_FINITE;
    h2q_reset(model);
    model->at = header[4];
    if (model->history) memcpy(model->recent, from, model->history * 4), from += model->history * 4;
    memcpy(model->state, from, (size_t)model->depth * width * 4), from += (size_t)model->depth * width * 4;
    for (number = 0; number < model->depth; number++) {
        for (t = 0; t < model->at; t++) {
            for (i = 0; i < width; i++, from += 4)
                memcpy(model->keys + ((size_t)number * width + i) * model->padded + t, from, 4);
            memcpy(model->values + ((size_t)number * model->window + t) * width, from, width * 4), from += width * 4;
        }
        model->energy[number] = norm_of(model->state + (size_t)number * width, width);
    }
    memcpy(model->logits, from, model->vocab * 4);
    return H2Q_OK;
}

/* ------------------------------------------------------------------------------------------------------- opening a file */

/* One block of 64 bytes of SHA-256 (FIPS 180-4). */
static void sha256_block(const uint8_t *block, uint32_t h[8])
{
    static const uint32_t K[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
    uint32_t w[64], v[8], i;
#define TURN(x, n) ((x) >> (n) | (x) << (32 - (n)))
    for (i = 0; i < 16; i++, block += 4)
        w[i] = (uint32_t)block[0] << 24 | (uint32_t)block[1] << 16 | (uint32_t)block[2] << 8 | block[3];
    for (; i < 64; i++)
        w[i] = w[i - 16] + (TURN(w[i - 15], 7) ^ TURN(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
               (TURN(w[i - 2], 17) ^ TURN(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(v, h, sizeof v);
    for (i = 0; i < 64; i++) {
        const uint32_t one = v[7] + (TURN(v[4], 6) ^ TURN(v[4], 11) ^ TURN(v[4], 25)) +
                             ((v[4] & v[5]) ^ (~v[4] & v[6])) + K[i] + w[i];
        const uint32_t two = (TURN(v[0], 2) ^ TURN(v[0], 13) ^ TURN(v[0], 22)) +
                             ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        v[7] = v[6], v[6] = v[5], v[5] = v[4], v[4] = v[3] + one;
        v[3] = v[2], v[2] = v[1], v[1] = v[0], v[0] = one + two;
    }
#undef TURN
    for (i = 0; i < 8; i++) h[i] += v[i];
}

static void sha256(const uint8_t *data, size_t size, uint8_t digest[32])
{
    uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    const size_t rest = size % 64, last = rest < 56 ? 64 : 128;
    uint8_t end[128] = {0}; /* what is left, a bit, and the number of bits */
    size_t at;
    uint32_t i;
    for (at = 0; at + 64 <= size; at += 64) sha256_block(data + at, h);
    memcpy(end, data + at, rest);
    end[rest] = 0x80;
    for (i = 0; i < 8; i++) end[last - 1 - i] = (uint8_t)((uint64_t)size * 8 >> 8 * i);
    for (at = 0; at < last; at += 64) sha256_block(end + at, h);
    for (i = 0; i < 32; i++) digest[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
}

/* The file from here to its end; the first error stays, and nothing is read behind it. */
typedef struct {
    h2q_model *model;
    const char *at, *end;
    int error;
} reader;

/* Memory of the model's own, zero; NULL and an error where there is none, or too much is asked for. */
static void *get(reader *from, uint64_t count, size_t size)
{
    h2q_model *model = from->model;
    struct owned *found;
    if (from->error) return NULL;
    if (count > (MOST_MEMORY - model->allocated) / size) {
        from->error = H2Q_NO_MEMORY;
        return NULL;
    }
    found = calloc(1, offsetof(struct owned, aligned) + (size_t)count * size + sizeof(double));
    if (!found) {
        from->error = H2Q_NO_MEMORY;
        return NULL;
    }
    model->allocated += (size_t)count * size;
    found->next = model->owned, model->owned = found;
    return found->aligned;
}

static float *get_floats(reader *from, uint64_t count) { return get(from, count, sizeof(float)); }

/* The next `count` elements of `size` bytes, and padding to four. */
static const void *take(reader *from, uint64_t count, size_t size)
{
    const char *found = from->at;
    if (from->error) return NULL;
    if (count > (uint64_t)(from->end - from->at) / size) {
        from->error = H2Q_TRUNCATED;
        return NULL;
    }
    count = (count * size + 3) / 4 * 4;
    if (count > (uint64_t)(from->end - from->at)) {
        from->error = H2Q_TRUNCATED;
        return NULL;
    }
    from->at += count;
    return found;
}

static uint32_t take_word(reader *from)
{
    const uint32_t *found = take(from, 1, 4);
    return found ? *found : 0;
}

static void refuse_unless(reader *from, int fine)
{
    if (!fine && !from->error) from->error = H2Q_IMPOSSIBLE;
}

static float from_half(uint16_t half)
{
    const uint32_t exponent = half >> 10 & 31, fraction = half & 1023;
    float value = exponent == 31 ? (fraction ? NAN : INFINITY)
                  : exponent ? ldexpf((float)(fraction | 1024), (int)exponent - 25) : ldexpf((float)fraction, -24);
    return half >> 15 ? -value : value;
}

/* So many numbers in fp16, as fp32. */
static const float *take_halves(reader *from, uint64_t count)
{
    const uint16_t *halves = take(from, count, 2);
    float *wide = halves ? get_floats(from, count) : NULL;
    uint64_t i;
    if (wide)
        for (i = 0; i < count; i++) wide[i] = from_half(halves[i]);
    return wide;
}

/* A tensor of this shape, in any encoding; int8 has so many scales. */
static void take_matrix(reader *from, matrix *into, uint32_t rows, uint32_t columns, uint32_t scales)
{
    const uint32_t encoding = take_word(from), found_rows = take_word(from), found_columns = take_word(from);
    const uint64_t count = (uint64_t)rows * columns;
    refuse_unless(from, found_rows == rows && found_columns == columns && encoding <= INT8);
    into->rows = rows, into->columns = columns;
    if (encoding == FP32) {
        into->f32 = take(from, count, 4);
    } else if (encoding == INT8) {
        into->scales = take_halves(from, scales);
        into->i8 = take(from, count, 1);
    } else {
        into->f32 = take_halves(from, count);
    }
}

/* The head of a table (V, D): the same numbers with rows for columns. */
static void turn_head(reader *from, const matrix *table)
{
    h2q_model *model = from->model;
    const uint32_t vocab = table->rows, width = table->columns;
    uint32_t *words = table->i8 ? get(from, ((uint64_t)width + 3) / 4 * vocab, sizeof(uint32_t)) : NULL;
    float *wide = table->i8 ? NULL : get_floats(from, (uint64_t)width * vocab);
    uint32_t i, j;
    if (from->error) return;
    for (i = 0; i < vocab; i++)
        for (j = 0; j < width; j++) {
            const size_t at = (size_t)i * width + j;
            if (words)
                words[(size_t)(j / 4) * vocab + i] |= (uint32_t)(uint8_t)table->i8[at] << j % 4 * 8;
            else
                wide[(size_t)j * vocab + i] = table->f32[at];
        }
    model->head_words = words, model->head = wide, model->head_scales = table->scales;
}

/* So many numbers, fp32 (or fp16). */
static const float *take_vector(reader *from, uint32_t rows, uint32_t columns)
{
    matrix found = {0};
    take_matrix(from, &found, rows, columns, 0);
    refuse_unless(from, found.i8 == NULL);
    return found.f32;
}

/* W (inputs, outputs) of a Hamilton layer, built: where ranks are many that takes less time than its factors. */
static void build(reader *from, layer *one)
{
    h2q_model *model = from->model;
    const uint32_t width = model->width, factor = model->factor, blocks = model->blocks;
    float *built = get_floats(from, (uint64_t)width * width);
    uint32_t r, s, t, f, g;
    if (!built) return;
    for (r = 0; r < one->ranks; r++)
        for (t = 0; t < blocks; t++)
            for (s = 0; s < blocks; s++) {
                const float h = model->bank[((size_t)r * blocks + s) * blocks + t];
                for (g = 0; g < factor; g++) {
                    const size_t row = (size_t)r * factor + g;
                    float *to = built + ((size_t)t * factor + g) * width + (size_t)s * factor;
                    for (f = 0; f < factor; f++)
                        to[f] += h * (one->weight.i8 ? one->weight.scales[r * factor + f] *
                                                           (float)one->weight.i8[row * factor + f]
                                                     : one->weight.f32[row * factor + f]);
                }
            }
    one->weight = (matrix){built, NULL, NULL, width, width};
    one->ranks = one->blocks = 1, one->inputs = one->outputs = width;
}

static void take_layer(reader *from, layer *into, uint32_t ranks, uint32_t inputs, uint32_t outputs)
{
    const h2q_model *model = from->model;
    const int plain = model->factor == 0;
    into->ranks = plain ? 1 : ranks, into->blocks = plain ? 1 : model->blocks;
    into->inputs = plain ? inputs : model->factor, into->outputs = plain ? outputs : model->factor;
    take_matrix(from, &into->weight, into->ranks * into->inputs, into->outputs, into->ranks * into->outputs);
    into->bias = take_vector(from, 1, outputs);
    if (!plain && !model->hamilton && !from->error) build(from, into);
}

/* Hamilton matrices (R, S, S) of the bank's quaternions (R, 4, S / 4, S / 4). */
static void take_bank(reader *from)
{
    static const uint8_t part[4][4] = {{0, 1, 2, 3}, {1, 0, 3, 2}, {2, 3, 0, 1}, {3, 2, 1, 0}};
    static const int8_t sign[4][4] = {{1, -1, -1, -1}, {1, 1, -1, 1}, {1, 1, 1, -1}, {1, -1, 1, 1}};
    h2q_model *model = from->model;
    const uint32_t size = model->blocks / 4, blocks = model->blocks;
    const uint32_t ranks = model->mixer_rank > model->ffn_rank ? model->mixer_rank : model->ffn_rank;
    const float *components = take_vector(from, ranks * 4, size * size);
    float *matrices = get_floats(from, (uint64_t)ranks * blocks * blocks);
    uint32_t r, s, t;
    if (!components || !matrices) return;
    for (r = 0; r < ranks; r++)
        for (s = 0; s < blocks; s++)
            for (t = 0; t < blocks; t++)
                matrices[((size_t)r * blocks + s) * blocks + t] =
                    (float)sign[s / size][t / size] *
                    components[(((size_t)r * 4 + part[s / size][t / size]) * size + s % size) * size + t % size];
    model->bank = matrices;
    /* Factors cost R (S + F) multiply-adds a channel, a built weight D. */
    if ((uint64_t)ranks * (blocks + model->factor) <= 2 * (uint64_t)model->width) model->hamilton = matrices;
}

static void take_sizes(reader *from)
{
    h2q_model *m = from->model;
    m->vocab = take_word(from), m->dim = take_word(from), m->depth = take_word(from), m->heads = take_word(from);
    m->window = take_word(from), m->factor = take_word(from), m->mixer_rank = take_word(from);
    m->ffn_rank = take_word(from), m->hidden = take_word(from), m->flags = take_word(from);
    m->rotation = take_word(from), m->positions = take_word(from), m->table_count = take_word(from);
    refuse_unless(from, m->vocab >= 1 && m->vocab <= 65536 && m->dim >= 1 && m->dim <= 65536);
    refuse_unless(from, m->depth >= 1 && m->depth <= 4096 && m->window >= 1 && m->window <= 1u << 20);
    refuse_unless(from, m->factor <= 65536 && m->mixer_rank <= 4096 && m->ffn_rank <= 4096 && m->hidden <= 64);
    refuse_unless(from, m->flags <= ALL_FLAGS && m->rotation <= ROTATION_QUATERNION);
    refuse_unless(from, m->positions <= POSITIONS_RELATIVE && m->table_count <= MOST_TABLES);
    refuse_unless(from, (m->flags & (ATTENTION | STATE)) && (!(m->flags & HALVES) || m->dim % 2 == 0) && m->heads >= 1);
    if (from->error) return;
    m->width = m->flags & HALVES ? m->dim / 2 : m->dim;
    refuse_unless(from, m->width % m->heads == 0);
    refuse_unless(from, !(m->flags & PHASE_ROTATION) || m->width / m->heads % 4 == 0);
    refuse_unless(from, !m->rotation || (m->flags & STATE && m->width % 4 == 0));
    refuse_unless(from, !m->positions || m->flags & ATTENTION);
    refuse_unless(from, m->positions != POSITIONS_LEARNED || !(m->flags & STATE));
    if (!m->factor || from->error) return;
    refuse_unless(from, m->width % (4 * m->factor) == 0 && m->mixer_rank && m->ffn_rank && m->hidden <= 1);
    m->blocks = m->width / m->factor;
}

static void take_tables(reader *from)
{
    h2q_model *model = from->model;
    uint64_t together = 0, all;
    uint32_t i, j;
    for (i = 0; i < model->table_count && !from->error; i++) {
        table *one = &model->tables[i];
        one->order = take_word(from), one->rows = take_word(from), one->width = take_word(from);
        refuse_unless(from, one->order >= 2 && one->order <= MOST_ORDER && one->rows >= 1 && one->width >= 1);
        refuse_unless(from, (together += one->width) <= model->width);
        for (all = 1, j = 0; j < one->order && all <= one->rows; j++) all *= 257;
        one->exact = all == one->rows;
        if (one->order > model->history) model->history = one->order;
    }
}

static void take_block(reader *from, block *into)
{
    const h2q_model *m = from->model;
    const uint32_t width = m->width, ranks = m->mixer_rank, hidden = m->hidden * width;
    into->norm1 = take_vector(from, 2, width);
    if (m->flags & ATTENTION) {
        if (m->positions == POSITIONS_RELATIVE) into->log_slopes = take_vector(from, 1, m->heads);
        take_layer(from, &into->q, ranks, width, width);
        take_layer(from, &into->k, ranks, width, width);
        take_layer(from, &into->v, ranks, width, width);
        take_layer(from, &into->o, ranks, width, width);
    }
    if (m->flags & STATE) {
        take_layer(from, &into->value, ranks, width, width);
        take_layer(from, &into->decay, ranks, width, width);
        take_layer(from, &into->gate, ranks, width, width);
        take_layer(from, &into->out, ranks, width, width);
    }
    if (m->hidden) {
        into->norm2 = take_vector(from, 2, width);
        take_layer(from, &into->fc1, m->ffn_rank, width, hidden);
        take_layer(from, &into->fc2, m->ffn_rank, hidden, width);
    }
}

static void take_weights(reader *from)
{
    h2q_model *m = from->model;
    matrix head = {0};
    uint32_t i;
    if (m->factor) take_bank(from);
    take_matrix(from, &m->embedding, m->vocab, m->dim, m->vocab);
    for (i = 0; i < m->table_count; i++)
        take_matrix(from, &m->tables[i].weight, m->tables[i].rows, m->tables[i].width, m->tables[i].rows);
    if (m->positions == POSITIONS_LEARNED) take_matrix(from, &m->position, m->window, m->dim, m->window);
    m->layers = get(from, m->depth, sizeof(block));
    for (i = 0; i < m->depth && !from->error; i++) take_block(from, &m->layers[i]);
    if (m->flags & FINAL_NORM) m->final_norm = take_vector(from, 2, m->dim);
    if (!(m->flags & TIED)) take_matrix(from, &head, m->vocab, m->dim, m->vocab);
    turn_head(from, m->flags & TIED ? &m->embedding : &head);
    m->head_bias = take_vector(from, 1, m->vocab);
    if (from->at != from->end && !from->error) from->error = H2Q_TRUNCATED;
}

static void make_room(reader *from)
{
    h2q_model *m = from->model;
    const uint64_t width = m->width, all = m->depth * width;
    const uint64_t ranks = m->mixer_rank > m->ffn_rank ? m->mixer_rank : m->ffn_rank;
    m->padded = (m->window + VECTOR - 1) / VECTOR * VECTOR;
    if (m->flags & ATTENTION) {
        m->symbols = get(from, m->window, sizeof(uint32_t));
        m->keys = get_floats(from, all * m->padded);
        m->values = get_floats(from, all * m->window);
        m->scores = get_floats(from, m->padded);
        m->attended = get_floats(from, width);
    }
    if (m->flags & STATE) m->state = get_floats(from, all);
    if (m->history) m->recent = get(from, m->history, sizeof(uint32_t));
    if (m->hamilton) m->inner = get_floats(from, ranks * width), m->outer = get_floats(from, ranks * width);
    m->stream = get_floats(from, (uint64_t)m->dim + 3); /* three zeros behind them, for multiply_words */
    m->final = get_floats(from, (uint64_t)m->dim + 3);
    m->normed = get_floats(from, width);
    m->wide = get_floats(from, width * (m->hidden > 3 ? m->hidden : 3));
    m->logits = get_floats(from, m->vocab);
    m->energy = get_floats(from, m->depth);
}

/* Magic, version, size and digest. */
static int check_file(const void *data, size_t size, uint8_t digest[32])
{
    static const uint16_t probe = 1;
    uint32_t words[4];
    if (*(const uint8_t *)&probe != 1 || (uintptr_t)data % 4) return H2Q_MACHINE;
    if (size < sizeof words || memcmp(data, "H2QMODEL", 8)) return H2Q_NOT_A_MODEL;
    memcpy(words, data, sizeof words);
    if (words[2] != VERSION) return H2Q_OTHER_VERSION;
    if (words[3] != size || size < sizeof words + 32 || size % 4) return H2Q_TRUNCATED;
    sha256(data, size - 32, digest);
    return memcmp(digest, (const char *)data + size - 32, 32) ? H2Q_ALTERED : H2Q_OK;
}

h2q_model *h2q_open(const void *data, size_t size, int *error)
{
    uint8_t digest[32];
    reader from = {NULL, data, NULL, H2Q_OK};
    int unused;
    if (!error) error = &unused;
    *error = check_file(data, size, digest);
    if (*error) return NULL;
    from.model = calloc(1, sizeof(h2q_model));
    if (!from.model) {
        *error = H2Q_NO_MEMORY;
        return NULL;
    }
    memcpy(from.model->digest, digest, sizeof from.model->digest);
    from.at += 16, from.end = (const char *)data + size - 32;
    take_sizes(&from);
    if (!from.error) {
        const uint32_t told = take_word(&from);
        take_tables(&from);
        take(&from, told, 1);
    }
    if (!from.error) take_weights(&from);
    if (!from.error) make_room(&from);
    if (from.error) {
        *error = from.error;
        h2q_close(from.model);
        return NULL;
    }
    return from.model;
}

void h2q_close(h2q_model *model)
{
    if (!model) return;
    while (model->owned) {
        struct owned *next = model->owned->next;
        free(model->owned);
        model->owned = next;
    }
    free(model);
}

const char *h2q_message(int error)
{
    static const char *const messages[H2Q_ERRORS] = {
        "no error",
        "not a model: it was not written by jobs/export.py --format h2q",
        "of another version of the format: export it again, or take the runtime that belongs to it",
        "truncated, or longer than it says: copy it again",
        "altered: its sha256 is another; copy it again",
        "damaged: a size in it cannot be; export it again",
        "too large for this runtime, or no memory is left: close other programs, or export a smaller model",
        "no state of this model: take one that was saved with this very file",
        "the alphabet of the model has no such symbol: leave it out of the text",
        "not finite: the training has diverged, or the state is damaged; take an earlier checkpoint or state",
        "this machine is not little-endian, or the data is not 4-aligned",
    };
    return error >= 0 && error < H2Q_ERRORS ? messages[error] : "an error of no known number";
}

/* ------------------------------------------------------------------------------------------- a program: -DH2Q_MAIN */

#ifdef H2Q_MAIN
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

static const char USAGE[] =
    "h2q MODEL [--prompt TEXT] [--length N] [--temperature X] [--seed N] [--from STATE] [--to STATE]   writes\n"
    "h2q MODEL --score [--from STATE] [--to STATE] < FILE                                  bits per byte of FILE\n"
    "MODEL is a file of jobs/export.py --format h2q; --to saves what the model knows then, --from goes on with it.\n";

typedef struct {
    const char *prompt, *before, *behind;
    const char *writes; /* the last option that only writing has */
    double temperature, seed, length;
    int scores;
} options;

static int fail(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    fputs("error: ", stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    va_end(values);
    return 2;
}

/* Whether all that was printed is out. */
static int flushed(void) { return !fflush(stdout) && !ferror(stdout); }

static int fail_output(void) { return fail("standard output: cannot be written: %s", strerror(errno)); }

/* A whole file in memory of malloc's; NULL, and errno, where it cannot be read. */
static void *load(const char *path, size_t *size)
{
    struct stat about;
    char *data;
    FILE *file;
    if (stat(path, &about)) return NULL;
    errno = EINVAL; /* for what is no file */
    file = S_ISREG(about.st_mode) ? fopen(path, "rb") : NULL;
    if (!file) return NULL;
    *size = (size_t)about.st_size;
    data = malloc(*size + 1);
    if (data && fread(data, 1, *size, file) != *size) free(data), data = NULL;
    fclose(file);
    return data;
}

/* Whether a state may be put there: nothing is, or a regular file that holds one. */
static int replaceable(const char *path)
{
    struct stat about;
    uint32_t magic = 0;
    FILE *file;
    if (stat(path, &about)) return 1;
    file = S_ISREG(about.st_mode) ? fopen(path, "rb") : NULL;
    if (!file) return 0;
    if (fread(&magic, sizeof magic, 1, file) != 1) magic = 0;
    fclose(file);
    return magic == STATE_MAGIC;
}

/* The whole state or nothing: it is written beside, and takes its place when it is there. */
static int store_state(const h2q_model *model, const char *path, int wrote)
{
    const size_t size = h2q_state_size(model);
    void *state = malloc(size);
    char *beside = malloc(strlen(path) + 5);
    FILE *file = NULL;
    int done = 0, why;
    if (state && beside) {
        strcpy(beside, path), strcat(beside, ".tmp");
        errno = EEXIST;
        if (replaceable(beside)) file = fopen(beside, "wb");
    }
    if (file) {
        h2q_state_save(model, state);
        done = fwrite(state, 1, size, file) == size;
        done = !fclose(file) && done && !rename(beside, path);
    }
    why = errno;
    if (file && !done) remove(beside);
    free(state), free(beside);
    if (done) return 0;
    if (wrote) putchar('\n'), fflush(stdout);
    return fail("%s: cannot be written, by way of %s.tmp: %s; give --to another path", path, path, strerror(why));
}

static int load_state(h2q_model *model, const char *path)
{
    size_t size;
    void *state = load(path, &size);
    int error;
    if (!state) return fail("%s: cannot be read: %s; give --from a file that --to wrote", path, strerror(errno));
    error = h2q_state_restore(model, state, size);
    free(state);
    return error ? fail("%s: %s", path, h2q_message(error)) : 0;
}

/* Bits per byte of standard input; where no state predicts the first byte it has eight. */
static int score(h2q_model *model, int predicted)
{
    const clock_t began = clock();
    double bits = predicted ? 0.0 : 8.0, seconds;
    long count = 0;
    int byte, error;
    for (; (byte = getchar()) != EOF; count++) {
        if (count || predicted) bits += h2q_bits(model, (uint32_t)byte);
        error = h2q_step(model, (uint32_t)byte);
        if (error) return fail("standard input: byte %ld: %s", count, h2q_message(error));
    }
    if (ferror(stdin)) return fail("standard input: cannot be read: %s; give it a file: --score < FILE", strerror(errno));
    if (!count) return fail("standard input: holds no byte: give it a text, --score < FILE");
    seconds = (double)(clock() - began) / CLOCKS_PER_SEC;
    printf("%ld byte%s, %.4f bits per byte, %.0f bytes/s\n", count, count == 1 ? "" : "s", bits / (double)count,
           seconds > 0 ? (double)count / seconds : 0);
    return flushed() ? 0 : fail_output();
}

static int write_text(h2q_model *model, double length, float temperature, uint64_t seed)
{
    double left;
    for (left = length; left >= 1.0; left--) {
        const int byte = h2q_sample(model, temperature, &seed);
        if (byte < 0 || byte > 255) {
            if (left < length) putchar('\n'), fflush(stdout);
            if (byte < 0) return fail("the model: %s", h2q_message(-byte));
            return fail("the model: its symbol %d is no byte: export a model of at most 256 symbols to write", byte);
        }
        if (putchar(byte) == EOF || fflush(stdout)) return fail_output();
        h2q_step(model, (uint32_t)byte);
    }
    return 0;
}

/* Digits, and for what is not whole a point; no more than a double holds exactly. */
static int parse(const char *text, int whole, double *number)
{
    char *end;
    *number = strtod(text, &end);
    return end != text && !text[strspn(text, whole ? "0123456789" : "0123456789.")] && !*end &&
           *number <= 9007199254740992.0;
}

static int read_options(int count, char **words, options *to)
{
    int i;
    for (i = 2; i < count; i++) {
        const char *name = words[i], *value = words[i + 1]; /* NULL behind the last */
        const char **text = NULL;
        double *number = NULL;
        if (!strcmp(name, "--score")) {
            to->scores = 1;
            continue;
        }
        if (!strcmp(name, "--length")) number = &to->length;
        else if (!strcmp(name, "--temperature")) number = &to->temperature;
        else if (!strcmp(name, "--seed")) number = &to->seed;
        else if (!strcmp(name, "--prompt")) text = &to->prompt;
        else if (!strcmp(name, "--from")) text = &to->before;
        else if (!strcmp(name, "--to")) text = &to->behind;
        else return fail("%s: no option of this program: h2q --help lists them", name);
        if (!value) return fail("%s: needs a value behind it: h2q --help shows it", name);
        if (number && !parse(value, number != &to->temperature, number))
            return fail("%s: must be a %s from 0 to 9007199254740992, not '%s'", name,
                        number == &to->temperature ? "number such as 0.8," : "whole number", value);
        if (text) *text = value;
        if (number || text == &to->prompt) to->writes = name;
        i++;
    }
    if (to->scores && to->writes) return fail("%s: belongs to writing, --score ignores it: leave one out", to->writes);
    if (to->behind && !replaceable(to->behind))
        return fail("%s: is there and holds no state: give --to a path that is free", to->behind);
    return 0;
}

static int work(h2q_model *model, const options *wanted)
{
    const char *prompt = wanted->prompt;
    int code = wanted->before ? load_state(model, wanted->before) : 0, error;
    if (!code && wanted->scores)
        code = score(model, wanted->before != NULL);
    else if (!code) {
        if (!prompt) prompt = !wanted->before && h2q_vocab(model) > '\n' ? "\n" : "";
        error = h2q_read(model, (const uint8_t *)prompt, strlen(prompt));
        if (error) return fail("--prompt: %s", h2q_message(error));
        code = write_text(model, wanted->length, (float)wanted->temperature, (uint64_t)wanted->seed);
    }
    return code || !wanted->behind ? code : store_state(model, wanted->behind, !wanted->scores && wanted->length >= 1.0);
}

int main(int count, char **words)
{
    options wanted = {NULL, NULL, NULL, NULL, 1.0, 0.0, 400.0, 0};
    h2q_model *model;
    size_t size;
    void *data;
    int error, code;
    if (count < 2) return fail("no model: h2q --help shows how to give one");
    if (!strcmp(words[1], "--help") || !strcmp(words[1], "-h")) {
        fputs(USAGE, stdout);
        return flushed() ? 0 : fail_output();
    }
    code = read_options(count, words, &wanted);
    if (code) return code;
    data = load(words[1], &size);
    if (!data)
        return fail("%s: cannot be read: %s; give a file of jobs/export.py --format h2q", words[1], strerror(errno));
    model = h2q_open(data, size, &error);
    code = model ? work(model, &wanted) : fail("%s: %s", words[1], h2q_message(error));
    h2q_close(model);
    free(data);
    return code;
}
#endif
