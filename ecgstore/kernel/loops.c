/* The loops of an ingest that cost most, each the twin of a NumPy function in plain.py, and the same to the bit.
 *
 * That it is the same hangs on three things: every sum has a fixed order, no product is fused with a sum
 * (-ffp-contract=off), and the compiler may not reorder (no -ffast-math). Plain C99 without intrinsics, so that the
 * compiler makes of it what each machine has. Nothing here knows of Python: callers have checked every shape.
 *
 * Letters as everywhere: l lead, t sample as recorded, m sample of the lower rate.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>

/* One build for machines with wide registers and one for all others; without fused products both give the same bits.
 * Which of them serves is settled when the library is loaded, which only the GNU C library can do. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && !defined(NO_CLONES)
#define FOR_EVERY_MACHINE __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EVERY_MACHINE
#endif

#define NOT_RECORDED (-32768)
#define MAX_COUNT 32767

/* Raised with every change of what a function takes. */
int loops_version(void)
{
    return 3;
}

static inline int64_t decode_one(const int16_t *counts_tl, int64_t n_samples, int64_t n_leads, const float *mv_per_count_l,
                                 const float *offset_mv_l, float *signal_mv_lt, uint16_t *sum_l)
{
    int64_t n_missing = 0;
    for (int64_t lead = 0; lead < n_leads; lead++) {
        const int16_t *counts_t = counts_tl + lead;
        float *signal_mv_t = signal_mv_lt + lead * n_samples;
        const float scale = mv_per_count_l[lead], offset_mv = offset_mv_l[lead];
        uint16_t sum = 0;
        int16_t lowest = MAX_COUNT;
        for (int64_t t = 0; t < n_samples; t++) {
            const int16_t count = counts_t[t * n_leads];
            sum = (uint16_t)(sum + (uint16_t)count);
            lowest = count < lowest ? count : lowest;
            signal_mv_t[t] = (float)count * scale - offset_mv;
        }
        sum_l[lead] = sum;
        for (int64_t t = 0; lowest == NOT_RECORDED && t < n_samples; t++)
            if (counts_t[t * n_leads] == NOT_RECORDED) {
                signal_mv_t[t] = NAN;
                n_missing++;
            }
    }
    return n_samples * n_leads - n_missing;
}

/* Interleaved counts (records, samples, leads) to millivolts (records, leads, samples), NaN where nothing was recorded;
 * per record and lead the sum of its counts modulo 2^16, and per record how many samples were recorded. */
FOR_EVERY_MACHINE
void decode(const int16_t *counts_rtl, int64_t n_records, int64_t n_samples, int64_t n_leads, const float *mv_per_count_rl,
            const float *offset_mv_rl, float *signal_mv_rlt, uint16_t *sum_rl, int64_t *n_recorded_r)
{
    for (int64_t r = 0; r < n_records; r++) {
        const int64_t its = r * n_leads, begin = its * n_samples;
        n_recorded_r[r] = decode_one(counts_rtl + begin, n_samples, n_leads, mv_per_count_rl + its, offset_mv_rl + its,
                                     signal_mv_rlt + begin, sum_rl + its);
    }
}

/* Odd reflection about both ends, again and again where the record is shorter than the padding. */
static void extend(const float *signal_t, int64_t n, int64_t left, int64_t n_padded, float *padded_t)
{
    int64_t begin = left, end = left + n;
    memcpy(padded_t + left, signal_t, (size_t)n * sizeof(float));
    if (n == 1) {
        for (int64_t t = 0; t < n_padded; t++)
            padded_t[t] = signal_t[0];
        return;
    }
    while (begin > 0) {
        const int64_t k = begin < n - 1 ? begin : n - 1;
        const float twice = 2.0f * padded_t[begin];
        for (int64_t i = 1; i <= k; i++)
            padded_t[begin - i] = twice - padded_t[begin + i];
        begin -= k;
    }
    while (end < n_padded) {
        const int64_t k = n_padded - end < n - 1 ? n_padded - end : n - 1;
        const float twice = 2.0f * padded_t[end - 1];
        for (int64_t i = 0; i < k; i++)
            padded_t[end + i] = twice - padded_t[end - 2 - i];
        end += k;
    }
}

/* One row for each place within a step. */
static inline void split_by(int64_t factor, const float *restrict round_t, int64_t n_row, float *restrict rows)
{
    for (int64_t m = 0; m < n_row; m++)
        for (int64_t place = 0; place < factor; place++)
            rows[place * n_row + m] = round_t[factor * m + place];
}

/* Steps of two and three, by far the most frequent, are built each for itself. */
static inline void split(const float *round_t, int64_t n_row, int64_t factor, float *rows)
{
    if (factor == 2)
        split_by(2, round_t, n_row, rows);
    else if (factor == 3)
        split_by(3, round_t, n_row, rows);
    else
        split_by(factor, round_t, n_row, rows);
}

/* Leads of n samples each, extended to n_padded samples of which `left` are in front, taken for circles, filtered, and every
 * factor-th sample: (leads, n_padded / factor). `half` are the filter's first taps and the middle one, `reach` + 1 of
 * them. Per lead the step from the extended signal's end to its beginning. Returns 0 where there is no memory. */
FOR_EVERY_MACHINE
int decimate(const float *const *signal_lt, int64_t n_leads, int64_t n, int64_t left, int64_t n_padded, int64_t factor,
             const float *half, int64_t reach, float *out_lm, float *jump_l)
{
    if (factor == 1) {
        for (int64_t lead = 0; lead < n_leads; lead++) {
            float *out_t = out_lm + lead * n_padded;
            extend(signal_lt[lead], n, left, n_padded, out_t);
            jump_l[lead] = out_t[0] - out_t[n_padded - 1];
        }
        return 1;
    }
    const int64_t n_out = n_padded / factor, n_round = n_padded + 2 * reach;
    /* One row for each place within a step, so that what a tap is multiplied with lies side by side. */
    const int64_t n_row = n_round / factor + 1;
    float *round_t = calloc((size_t)(n_row * factor), sizeof(float));
    float *rows = malloc((size_t)(n_row * factor) * sizeof(float));
    int64_t *at = malloc((size_t)(2 * reach + 1) * sizeof(int64_t));
    const int is_done = round_t && rows && at;
    for (int64_t k = 0; is_done && k <= 2 * reach; k++)
        at[k] = (k % factor) * n_row + k / factor;
    for (int64_t lead = 0; is_done && lead < n_leads; lead++) {
        extend(signal_lt[lead], n, left, n_padded, round_t + reach);
        jump_l[lead] = round_t[reach] - round_t[reach + n_padded - 1];
        memcpy(round_t, round_t + n_padded, (size_t)reach * sizeof(float));
        memcpy(round_t + reach + n_padded, round_t + reach, (size_t)reach * sizeof(float));
        split(round_t, n_row, factor, rows);
        float *restrict out_m = out_lm + lead * n_out;
        memset(out_m, 0, (size_t)n_out * sizeof(float));
        int64_t k = 0;
        for (; k + 3 <= reach; k += 3) {
            const float *a_m = rows + at[k], *b_m = rows + at[2 * reach - k], *c_m = rows + at[k + 1];
            const float *d_m = rows + at[2 * reach - k - 1], *e_m = rows + at[k + 2], *f_m = rows + at[2 * reach - k - 2];
            const float first = half[k], second = half[k + 1], third = half[k + 2];
            for (int64_t m = 0; m < n_out; m++) {
                float sum = out_m[m] + first * (a_m[m] + b_m[m]);
                sum += second * (c_m[m] + d_m[m]);
                out_m[m] = sum + third * (e_m[m] + f_m[m]);
            }
        }
        for (; k < reach; k++) {
            const float tap = half[k], *a_m = rows + at[k], *b_m = rows + at[2 * reach - k];
            for (int64_t m = 0; m < n_out; m++)
                out_m[m] += tap * (a_m[m] + b_m[m]);
        }
        const float *middle_m = rows + at[reach], tap = half[reach];
        for (int64_t m = 0; m < n_out; m++)
            out_m[m] += tap * middle_m[m];
    }
    free(round_t);
    free(rows);
    free(at);
    return is_done;
}

/* Millivolts (leads, n) to counts of 1 µV, NaN to NOT_RECORDED, the rest within ±32767; per lead how many were beyond. */
FOR_EVERY_MACHINE
void quantise(const float *signal_mv_lt, int64_t n_leads, int64_t n, int16_t *counts_lt, int64_t *n_clipped_l)
{
    /* Adding and taking away 1.5 · 2^23 rounds to the nearest whole number, ties to even. */
    const float magic = 12582912.0f;
    for (int64_t lead = 0; lead < n_leads; lead++) {
        const float *signal_mv_t = signal_mv_lt + lead * n;
        int16_t *counts_t = counts_lt + lead * n;
        int32_t n_clipped = 0;
        for (int64_t t = 0; t < n; t++) {
            float scaled = signal_mv_t[t] * 1000.0f;
            const int is_missing = scaled != scaled;
            /* Half a count beyond the last one is rounded away from it. */
            n_clipped += (scaled >= MAX_COUNT + 0.5f) | (scaled <= -MAX_COUNT - 0.5f);
            scaled = scaled > (float)MAX_COUNT ? (float)MAX_COUNT : scaled;
            scaled = scaled < -(float)MAX_COUNT ? -(float)MAX_COUNT : scaled;
            scaled = is_missing ? (float)NOT_RECORDED : (scaled + magic) - magic;
            counts_t[t] = (int16_t)scaled;
        }
        n_clipped_l[lead] = n_clipped;
    }
}

/* Counts (leads, n): per lead how many were recorded, their sum and sum of squares, the lowest and the highest. */
FOR_EVERY_MACHINE
void tally(const int16_t *counts_lt, int64_t n_leads, int64_t n, int64_t *n_l, int64_t *total_l, int64_t *squares_l,
           int16_t *lowest_l, int16_t *highest_l)
{
    for (int64_t lead = 0; lead < n_leads; lead++) {
        const int16_t *counts_t = counts_lt + lead * n;
        int64_t total = 0, squares = 0, n_recorded = n;
        int16_t lowest = MAX_COUNT, highest = NOT_RECORDED;
        for (int64_t t = 0; t < n; t++) {
            const int16_t count = counts_t[t];
            lowest = count < lowest ? count : lowest;
            highest = count > highest ? count : highest;
        }
        for (int64_t t = 0; t < n; t++) {
            const int32_t value = counts_t[t];
            total += value;
            squares += value * value;
        }
        if (lowest == NOT_RECORDED) {
            lowest = MAX_COUNT;
            for (int64_t t = 0; t < n; t++) {
                const int16_t count = counts_t[t];
                if (count != NOT_RECORDED) {
                    lowest = count < lowest ? count : lowest;
                    continue;
                }
                n_recorded--;
                total -= count;
                squares -= (int64_t)count * count;
            }
        }
        n_l[lead] = n_recorded;
        total_l[lead] = total;
        squares_l[lead] = squares;
        lowest_l[lead] = lowest;
        highest_l[lead] = highest;
    }
}

/* How many values side by side are compared, or summed, on their own. */
#define N_LANES 32

/* Least and greatest of what is recorded, NaN where nothing is; returns how many values are not recorded. */
static inline int64_t find_ends(const float *signal_t, int64_t n, float *lowest, float *highest)
{
    float low[N_LANES], high[N_LANES];
    int32_t is_missing[N_LANES] = {0};
    int64_t n_missing = 0, t = 0;
    for (int lane = 0; lane < N_LANES; lane++) {
        low[lane] = INFINITY;
        high[lane] = -INFINITY;
    }
    for (; t + N_LANES <= n; t += N_LANES)
        for (int lane = 0; lane < N_LANES; lane++) {
            const float value = signal_t[t + lane];
            low[lane] = value < low[lane] ? value : low[lane];
            high[lane] = value > high[lane] ? value : high[lane];
            is_missing[lane] += value != value;
        }
    for (; t < n; t++) {
        const float value = signal_t[t];
        low[0] = value < low[0] ? value : low[0];
        high[0] = value > high[0] ? value : high[0];
        is_missing[0] += value != value;
    }
    for (int lane = 0; lane < N_LANES; lane++) {
        low[0] = low[lane] < low[0] ? low[lane] : low[0];
        high[0] = high[lane] > high[0] ? high[lane] : high[0];
        n_missing += is_missing[lane];
    }
    /* There is one zero only: which of the two is met first would hang on the order. */
    *lowest = n_missing == n ? NAN : low[0] + 0.0f;
    *highest = n_missing == n ? NAN : high[0] + 0.0f;
    return n_missing;
}

/* How many values stand in runs of at least `least` equal ones. A run holds four of every least / 4 values: few signals
 * need more than that look. */
static inline int64_t count_flat(const float *grid_g, int64_t n, int64_t least)
{
    const int64_t coarse = least / 4 > 1 ? least / 4 : 1, wanted = least < 4 ? least : 4;
    int64_t run = 1, longest = 1, n_flat = 0;
    for (int64_t g = coarse; g < n; g += coarse) {
        run = grid_g[g] == grid_g[g - coarse] ? run + 1 : 1;
        longest = run > longest ? run : longest;
    }
    if (longest < wanted)
        return 0;
    run = 1;
    for (int64_t g = 1; g <= n; g++) {
        if (g < n && grid_g[g] == grid_g[g - 1]) {
            run++;
            continue;
        }
        n_flat += run >= least ? run : 0;
        run = 1;
    }
    return n_flat;
}

/* Leads of n samples each: every step-th value as a grid (leads, n_grid); per lead the ends of its range, how many values are
 * not recorded, how many of the grid stand in runs of at least `least` equal ones, and how many at either end. */
FOR_EVERY_MACHINE
void look(const float *const *signal_lt, int64_t n_leads, int64_t n, int64_t step, int64_t least, float *grid_lg,
          float *lowest_l, float *highest_l, int64_t *n_missing_l, int64_t *n_flat_l, int64_t *n_lowest_l, int64_t *n_highest_l)
{
    const int64_t n_grid = (n + step - 1) / step;
    for (int64_t lead = 0; lead < n_leads; lead++) {
        const float *signal_t = signal_lt[lead];
        float *grid_g = grid_lg + lead * n_grid;
        n_missing_l[lead] = find_ends(signal_t, n, lowest_l + lead, highest_l + lead);
        const float lowest = lowest_l[lead], highest = highest_l[lead];
        int32_t n_lowest = 0, n_highest = 0;
        for (int64_t g = 0; g < n_grid; g++)
            grid_g[g] = signal_t[g * step];
        for (int64_t g = 0; g < n_grid; g++) {
            n_lowest += grid_g[g] == lowest;
            n_highest += grid_g[g] == highest;
        }
        n_lowest_l[lead] = n_lowest, n_highest_l[lead] = n_highest;
        n_flat_l[lead] = count_flat(grid_g, n_grid, least);
    }
}

/* Of records of which three leads come one after the other: the sum of the squares of second - first - third where all
 * three are recorded, and in how many places. Every N_LANES-th square goes to one sum; these are added in their order. */
FOR_EVERY_MACHINE
void residual(const float *const *three_rt, int64_t n_records, int64_t n, double *total_r, int64_t *n_recorded_r)
{
    for (int64_t r = 0; r < n_records; r++) {
        const float *first_t = three_rt[3 * r], *second_t = three_rt[3 * r + 1], *third_t = three_rt[3 * r + 2];
        double square[N_LANES] = {0.0};
        int32_t is_there[N_LANES] = {0};
        for (int64_t t = 0; t < n; t += N_LANES) {
            float left[N_LANES];
            for (int64_t lane = 0; lane < N_LANES && t + lane < n; lane++)
                left[lane] = second_t[t + lane] - first_t[t + lane] - third_t[t + lane];
            for (int64_t lane = n - t; lane < N_LANES; lane++)
                left[lane] = NAN;
            for (int lane = 0; lane < N_LANES; lane++) {
                const int there = left[lane] == left[lane];
                is_there[lane] += there;
                square[lane] += there ? (double)left[lane] * (double)left[lane] : 0.0;
            }
        }
        total_r[r] = 0.0, n_recorded_r[r] = 0;
        for (int lane = 0; lane < N_LANES; lane++) {
            total_r[r] += square[lane];
            n_recorded_r[r] += is_there[lane];
        }
    }
}
