/* Batches of images from a file: decode what the crop needs, resize with antialiasing, flip, change by a policy.
 *
 * An image is stored as JPEG or as raw RGB. Only the rows and blocks that the crop box touches are decoded; a crop of
 * at least twice the output size is first scaled down by 2, 4 or 8 in the DCT domain (libjpeg-turbo), where the filter
 * is at no cost. The rest is a separable triangle filter, the definition of Pillow's and torchvision's antialiased
 * bilinear resize. The area filter (OpenCV's INTER_AREA, which FFCV uses) is an alternative; it takes the decoded
 * pixels without scaling in the DCT domain. The images of a batch are shared among threads, which wait for the next
 * batch; the caller holds no lock. With each set of instructions the pixels are the same (tests/test_paths.py).
 */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <jpeglib.h>
#include <jerror.h>
#include <zlib.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif
/* Code for wider vectors than any x86-64 has; the machine's are found at run time. */
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define HAS_AVX2 1
#define AVX2 __attribute__((target("avx2")))
#endif

enum { OK = 0, BAD_JPEG = 1, BAD_SIZE = 2, BAD_RANGE = 3, BAD_CRC = 4, NO_MEMORY = 5, TOO_MUCH = 6, NOT_READ = 7 };
enum { AGAIN = 8 };                   /* inside only: libjpeg must decode this one alone */
/* Bounds of memory and time, the same as in limits.py next to this file: a progressive JPEG takes 6 bytes a pixel before its first row
 * comes out, and every scan goes over all pixels, however few bytes it has. */
enum { MAX_PIXELS = 1 << 27, FREE_PIXELS = 1 << 24, PIXELS_PER_BYTE = 1024, MAX_SCANS = 200 };
enum { PRECISION = 14 };              /* bits of a filter weight */
enum { MIN_COLUMNS = 8 };             /* that are decoded side by side */
enum { ROWS = 4 };                    /* of the result that are mixed side by side */

/* Which instructions are used: 0: those that any machine has, 1: AVX2, BMI2 and PCLMUL, 2: also
 * AVX-512. The pixels are the same with each. */
enum { MAX_LEVEL = 2 };
static int level;
static int libjpeg_alone;             /* it reads the Huffman codes of all images */

/* Use instructions up to `wanted`, as far as the machine has them; return which. Below 0, libjpeg also reads the codes. */
int choose_paths(int wanted) {
    level = 0;
    libjpeg_alone = wanted < 0;
#ifdef HAS_AVX2
    if (wanted >= 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")
        && __builtin_cpu_supports("pclmul")) level = 1;
    if (wanted >= 2 && level == 1 && __builtin_cpu_supports("avx512bw")) level = 2;
#endif
    return level;
}

__attribute__((constructor)) static void choose(void) { choose_paths(255); }

/* One image to make. */
typedef struct {
    uint64_t offset, size;            /* of its bytes in the file */
    double top, left, height, width;  /* the crop box, in pixels of the stored image */
    uint32_t rows, cols;              /* of the stored image */
    uint32_t jpeg, flip, crc, check;  /* check: compare the CRC-32 of the bytes with crc */
} item;

typedef struct scratch {
    uint8_t *bytes; size_t bytes_size;       /* of the sample in the file */
    struct huffman *huffman;                 /* tables of codes, made when the first JPEG comes */
    uint8_t *decoded; size_t decoded_size;   /* RGB rows  */
    uint8_t *rows; size_t rows_size;         /* after the vertical pass */
    int16_t *wide; size_t wide_size;         /* weights of the horizontal pass, for wide vectors */
    uint8_t *before; size_t before_size;     /* an image as it was before an operation, in a black frame */
    int area;                                /* resize by the area filter */
    const uint8_t *fill;                     /* colour of what of a box lies outside the image */
    struct scratch *after;                   /* the next one in a list */
} scratch;

static int grow(void **p, size_t *have, size_t need) {
    if (*have >= need) return 1;
    free(*p);
    *p = malloc(need);
    *have = *p ? need : 0;
    return *p != NULL;
}

static double triangle(double x) { x = fabs(x); return x < 1 ? 1 - x : 0; }
static inline int pair(const int16_t *w) { int32_t two; memcpy(&two, w, 4); return two; }

/* Triangle filter from n_in samples to n_out, over the interval [start, start + length) of the input: output i mixes
 * count[i] samples from first[i] on; its weights, taps apart, add up to 1 << PRECISION. */
typedef struct { int *first, *count; int16_t *weight; int taps; } filter;

static int make_filter(filter *f, double start, double length, int n_in, int n_out) {
    double scale = length / n_out, support = scale > 1 ? scale : 1;
    int low = (int)floor(start), high = (int)ceil(start + length);
    if (low < 0) low = 0;
    if (high > n_in) high = n_in;
    f->taps = ((int)ceil(support) * 2 + 2) & ~1;
    f->first = calloc(1, (2 * sizeof(int) + f->taps * sizeof(int16_t)) * (size_t)n_out);
    if (!f->first) return 0;
    f->count = f->first + n_out;
    f->weight = (int16_t *)(f->count + n_out);
    for (int i = 0; i < n_out; i++) {
        double centre = start + (i + 0.5) * scale, sum = 0;
        int first = (int)(centre - support + 0.5), last = (int)(centre + support + 0.5);
        if (first < low) first = low;
        if (first > high - 1) first = high - 1;
        if (last > high) last = high;
        if (last <= first) last = first + 1;
        if (last > first + f->taps) last = first + f->taps;
        for (int k = first; k < last; k++) sum += triangle((k + 0.5 - centre) / support);
        int16_t *w = f->weight + (size_t)i * f->taps;
        int total = 0, best = 0;
        for (int k = 0; k < last - first; k++) {
            w[k] = sum > 0 ? (int16_t)lrint(triangle((first + k + 0.5 - centre) / support) / sum * (1 << PRECISION)) : 0;
            total += w[k];
            if (w[k] > w[best]) best = k;
        }
        w[best] += (1 << PRECISION) - total;     /* an image of one colour keeps it */
        f->first[i] = first;
        f->count[i] = last - first;
    }
    return 1;
}

/* Area filter with the same arguments: output i is the mean over its interval, so that a sample weighs as much as the
 * interval covers of it. The numbers are computed as in area_filter.py, bit for bit. */
static int make_area_filter(filter *f, double start, double length, int n_in, int n_out) {
    double scale = length / n_out, begin = floor(start), rest = start - begin;
    int end = (int)ceil(start + length);
    if (end > n_in) end = n_in;
    int low = -(int)begin, high = end - (int)begin;              /* of the samples, counted from `begin` */
    f->taps = ((int)ceil(scale) + 3) & ~1;
    f->first = calloc(1, (2 * sizeof(int) + f->taps * sizeof(int16_t)) * (size_t)n_out);
    if (!f->first) return 0;
    f->count = f->first + n_out;
    f->weight = (int16_t *)(f->count + n_out);
    for (int i = 0; i < n_out; i++) {
        double from = rest + i * scale, to = rest + (i + 1) * scale;
        int first = (int)floor(from), last = (int)ceil(to);
        if (first < low) first = low;
        if (first > high - 1) first = high - 1;
        if (last > high) last = high;
        if (last <= first) last = first + 1;
        if (last > first + f->taps) last = first + f->taps;
        int16_t *w = f->weight + (size_t)i * f->taps;
        int total = 0, best = 0;
        for (int k = 0; k < last - first; k++) {
            double lower = first + k > from ? first + k : from, upper = first + k + 1 < to ? first + k + 1 : to;
            w[k] = upper > lower ? (int16_t)lrint((upper - lower) / scale * (1 << PRECISION)) : 0;
            total += w[k];
            if (w[k] > w[best]) best = k;
        }
        w[best] += (1 << PRECISION) - total;     /* an image of one colour keeps it */
        f->first[i] = first + (int)begin;
        f->count[i] = last - first;
    }
    return 1;
}

/* -- resize ------------------------------------------------------------------------------------------------------- */

/* out[x] = sum over k of weight[k] * in[k * stride + x]: one output row from the rows above one another. */
static void mix_rows(const uint8_t *in, size_t stride, const int16_t *weight, int count, uint8_t *out, int n) {
    int x = 0;
#ifdef __SSE2__
    const __m128i zero = _mm_setzero_si128(), half = _mm_set1_epi32(1 << (PRECISION - 1));
    for (; x + 8 <= n; x += 8) {
        __m128i low = half, high = half;
        for (int k = 0; k < count; k += 2) {     /* two rows at a time; an odd last one is paired with weight 0 */
            const uint8_t *p = in + (size_t)k * stride + x;
            __m128i first = _mm_loadl_epi64((const __m128i *)p);
            __m128i second = _mm_loadl_epi64((const __m128i *)(k + 1 < count ? p + stride : p));
            __m128i pairs = _mm_unpacklo_epi8(first, second), w = _mm_set1_epi32(pair(weight + k));
            low = _mm_add_epi32(low, _mm_madd_epi16(_mm_unpacklo_epi8(pairs, zero), w));
            high = _mm_add_epi32(high, _mm_madd_epi16(_mm_unpackhi_epi8(pairs, zero), w));
        }
        low = _mm_packs_epi32(_mm_srai_epi32(low, PRECISION), _mm_srai_epi32(high, PRECISION));
        _mm_storel_epi64((__m128i *)(out + x), _mm_packus_epi16(low, low));
    }
#endif
    for (; x < n; x++) {
        int sum = 1 << (PRECISION - 1);
        for (int k = 0; k < count; k++) sum += weight[k] * in[(size_t)k * stride + x];
        out[x] = sum >> PRECISION;
    }
}

/* One pixel from `count` pixels side by side; may read (not use) 5 bytes more. */
static inline void mix_pixels(const uint8_t *in, const int16_t *weight, int count, uint8_t *out) {
#ifdef __SSE2__
    const __m128i zero = _mm_setzero_si128();
    __m128i sum = _mm_set1_epi32(1 << (PRECISION - 1));
    for (int k = 0; k < count; k += 2) {
        __m128i two = _mm_loadl_epi64((const __m128i *)(in + 3 * k));
        __m128i pairs = _mm_unpacklo_epi8(_mm_unpacklo_epi8(two, _mm_srli_si128(two, 3)), zero);
        sum = _mm_add_epi32(sum, _mm_madd_epi16(pairs, _mm_set1_epi32(pair(weight + k))));
    }
    sum = _mm_srai_epi32(sum, PRECISION);
    sum = _mm_packus_epi16(_mm_packs_epi32(sum, sum), zero);
    uint32_t rgb = (uint32_t)_mm_cvtsi128_si32(sum);
    memcpy(out, &rgb, 3);
#else
    for (int c = 0; c < 3; c++) {
        int sum = 1 << (PRECISION - 1);
        for (int k = 0; k < count; k++) sum += weight[k] * in[3 * k + c];
        out[c] = sum >> PRECISION;
    }
#endif
}

#ifdef HAS_AVX2
/* Like `mix_rows`. */
AVX2 static void mix_rows_avx2(const uint8_t *in, size_t stride, const int16_t *weight, int count, uint8_t *out, int n) {
    const __m256i zero = _mm256_setzero_si256(), half = _mm256_set1_epi32(1 << (PRECISION - 1));
    if (n < 32) {
        mix_rows(in, stride, weight, count, out, n);
        return;
    }
    for (int x = 0; x < n; x += 32) {
        if (x > n - 32) x = n - 32;              /* the last ones overlap those before */
        __m256i a = half, b = half, c = half, d = half;
        for (int k = 0; k < count; k += 2) {     /* two rows at a time; an odd last one is paired with weight 0 */
            const uint8_t *p = in + (size_t)k * stride + x;
            __m256i first = _mm256_loadu_si256((const __m256i *)p);
            __m256i second = _mm256_loadu_si256((const __m256i *)(k + 1 < count ? p + stride : p));
            __m256i low = _mm256_unpacklo_epi8(first, second), high = _mm256_unpackhi_epi8(first, second);
            __m256i w = _mm256_set1_epi32(pair(weight + k));
            a = _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), w));
            b = _mm256_add_epi32(b, _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), w));
            c = _mm256_add_epi32(c, _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), w));
            d = _mm256_add_epi32(d, _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), w));
        }
        a = _mm256_packs_epi32(_mm256_srai_epi32(a, PRECISION), _mm256_srai_epi32(b, PRECISION));
        c = _mm256_packs_epi32(_mm256_srai_epi32(c, PRECISION), _mm256_srai_epi32(d, PRECISION));
        _mm256_storeu_si256((__m256i *)(out + x), _mm256_packus_epi16(a, c));
    }
}

/* The weights of a filter as `mix_columns_avx2` multiplies with them: per output `fours` vectors of 16 numbers for
 * four samples each, the weights of two of them once per channel, then of the other two. */
static int widen(const filter *f, int n_out, int fours, scratch *s) {
    if (!grow((void **)&s->wide, &s->wide_size, (size_t)n_out * fours * 16 * sizeof(int16_t))) return 0;
    for (int i = 0; i < n_out; i++) {
        const int16_t *weight = f->weight + (size_t)i * f->taps;
        int16_t *w = s->wide + (size_t)i * fours * 16;
        for (int k = 0; k < 4 * fours; k += 2, w += 8) {
            int first = k < f->count[i] ? weight[k] : 0, second = k + 1 < f->count[i] ? weight[k + 1] : 0;
            for (int c = 0; c < 4; c++) {
                w[2 * c] = c < 3 ? first : 0;
                w[2 * c + 1] = c < 3 ? second : 0;
            }
        }
    }
    return 1;
}

/* What `mix_pixels` does, for a row of `size` pixels in each of ROWS rows; may read (not use) 16 bytes more. */
AVX2 static void mix_columns_avx2(uint8_t *const *in, const filter *f, const int16_t *wide, int fours, int flip, int size,
                                  uint8_t *const *out) {
    /* A sample's colours apart: of the samples 0 and 1 in the lower half, of 2 and 3 in the upper. */
    const __m256i apart = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,
                                           6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
    const int half = 1 << (PRECISION - 1);
    const __m256i start = _mm256_setr_epi32(half, half, half, 0, 0, 0, 0, 0);
    for (int o = 0; o < size; o++) {
        int j = flip ? size - 1 - o : o;
        size_t at = 3 * (size_t)(f->first[j] - f->first[0]);
        const int16_t *w = wide + (size_t)j * fours * 16;
        __m256i sum[ROWS];
        for (int r = 0; r < ROWS; r++) sum[r] = start;
        for (int k = 0; k < fours; k++, at += 12, w += 16) {
            __m256i weight = _mm256_loadu_si256((const __m256i *)w);
            for (int r = 0; r < ROWS; r++) {
                __m256i four = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(in[r] + at)));
                sum[r] = _mm256_add_epi32(sum[r], _mm256_madd_epi16(_mm256_shuffle_epi8(four, apart), weight));
            }
        }
        __m256i a = _mm256_add_epi32(_mm256_permute2x128_si256(sum[0], sum[1], 0x20),
                                     _mm256_permute2x128_si256(sum[0], sum[1], 0x31));
        __m256i b = _mm256_add_epi32(_mm256_permute2x128_si256(sum[2], sum[3], 0x20),
                                     _mm256_permute2x128_si256(sum[2], sum[3], 0x31));
        a = _mm256_packs_epi32(_mm256_srai_epi32(a, PRECISION), _mm256_srai_epi32(b, PRECISION));
        a = _mm256_packus_epi16(a, a);           /* rows 0 and 2 in the lower half, 1 and 3 in the upper */
        __m128i even = _mm256_castsi256_si128(a), odd = _mm256_extracti128_si256(a, 1);
        uint32_t rgb[ROWS] = {_mm_cvtsi128_si32(even), _mm_cvtsi128_si32(odd), _mm_extract_epi32(even, 1),
                              _mm_extract_epi32(odd, 1)};
        /* The fourth byte falls on the next pixel, which comes later. */
        for (int r = 0; r < ROWS; r++) {
            if (o + 1 < size) memcpy(out[r] + 3 * o, rgb + r, 4);
            else memcpy(out[r] + 3 * o, rgb + r, 3);
        }
    }
}

/* Like `mix_columns_avx2`, two rows in a vector. */
__attribute__((target("avx512bw"))) static void mix_columns_avx512(
    uint8_t *const *in, const filter *f, const int16_t *wide, int fours, int flip, int size, uint8_t *const *out) {
    const __m512i apart = _mm512_broadcast_i64x4(
        _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,
                         6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1));
    const int half = 1 << (PRECISION - 1);
    const __m512i start = _mm512_broadcast_i64x4(_mm256_setr_epi32(half, half, half, 0, 0, 0, 0, 0));
    for (int o = 0; o < size; o++) {
        int j = flip ? size - 1 - o : o;
        size_t at = 3 * (size_t)(f->first[j] - f->first[0]);
        const int16_t *w = wide + (size_t)j * fours * 16;
        __m512i sum[ROWS / 2];
        for (int r = 0; r < ROWS / 2; r++) sum[r] = start;
        for (int k = 0; k < fours; k++, at += 12, w += 16) {
            __m512i weight = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)w));
            for (int r = 0; r < ROWS / 2; r++) {
                __m512i four = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(in[2 * r] + at)));
                __m128i other = _mm_loadu_si128((const __m128i *)(in[2 * r + 1] + at));
                four = _mm512_mask_broadcast_i32x4(four, 0xFF00, other);
                sum[r] = _mm512_add_epi32(sum[r], _mm512_madd_epi16(_mm512_shuffle_epi8(four, apart), weight));
            }
        }
        __m512i rows = _mm512_add_epi32(_mm512_shuffle_i32x4(sum[0], sum[1], 0x88),
                                        _mm512_shuffle_i32x4(sum[0], sum[1], 0xDD));
        rows = _mm512_max_epi32(_mm512_srai_epi32(rows, PRECISION), _mm512_setzero_si512());
        uint8_t rgb[4 * ROWS];
        _mm_storeu_si128((__m128i *)rgb, _mm512_cvtusepi32_epi8(rows));
        /* The fourth byte falls on the next pixel, which comes later. */
        for (int r = 0; r < ROWS; r++) {
            if (o + 1 < size) memcpy(out[r] + 3 * o, rgb + 4 * r, 4);
            else memcpy(out[r] + 3 * o, rgb + 4 * r, 3);
        }
    }
}

static int resize_avx2(const uint8_t *in, size_t stride, const filter *y, const filter *x, int flip, int size, uint8_t *out,
                       scratch *s) {
    int from = x->first[0], n = (x->first[size - 1] + x->count[size - 1] - from) * 3, most = 1;
    for (int j = 0; j < size; j++) if (x->count[j] > most) most = x->count[j];
    int fours = (most + 3) / 4;
    size_t length = n + 12 * (size_t)fours + 16; /* of a row, with what may be read beyond */
    if (!widen(x, size, fours, s) || !grow((void **)&s->rows, &s->rows_size, ROWS * length)) return NO_MEMORY;
    for (int i = 0; i < size; i += ROWS) {
        uint8_t *rows[ROWS], *to[ROWS];
        for (int r = 0; r < ROWS; r++) {
            int last = i + r < size ? r : size - 1 - i;      /* beyond the image it is made again */
            rows[r] = s->rows + last * length;
            to[r] = out + (size_t)(i + last) * size * 3;
            if (last == r)
                mix_rows_avx2(in + (size_t)y->first[i + r] * stride + 3 * (size_t)from, stride,
                              y->weight + (size_t)(i + r) * y->taps, y->count[i + r], rows[r], n);
        }
        if (level >= 2) mix_columns_avx512(rows, x, s->wide, fours, flip, size, to);
        else mix_columns_avx2(rows, x, s->wide, fours, flip, size, to);
    }
    return OK;
}
#endif

/* RGB rows [n_rows, n_cols], stride bytes apart -> RGB [size, size]; the box is in coordinates of these rows. */
static int resize(const uint8_t *in, size_t stride, int n_rows, int n_cols, double top, double left, double height, double width,
                  int flip, int size, uint8_t *out, scratch *s) {
    filter y = {0}, x = {0};
    int (*make)(filter *, double, double, int, int) = s->area ? make_area_filter : make_filter;
    int rc = NO_MEMORY;
    if (!make(&y, top, height, n_rows, size) || !make(&x, left, width, n_cols, size)) goto done;
#ifdef HAS_AVX2
    if (level >= 1) {
        rc = resize_avx2(in, stride, &y, &x, flip, size, out, s);
        goto done;
    }
#endif
    int from = x.first[0], n = (x.first[size - 1] + x.count[size - 1] - from) * 3;
    if (!grow((void **)&s->rows, &s->rows_size, n + 8)) goto done;
    for (int i = 0; i < size; i++) {
        const uint8_t *row = in + (size_t)y.first[i] * stride + 3 * (size_t)from;
        mix_rows(row, stride, y.weight + (size_t)i * y.taps, y.count[i], s->rows, n);
        uint8_t *o = out + (size_t)i * size * 3;
        for (int j = 0; j < size; j++)
            mix_pixels(s->rows + (x.first[j] - from) * 3, x.weight + (size_t)j * x.taps, x.count[j],
                       o + 3 * (flip ? size - 1 - j : j));
    }
    rc = OK;
done:
    free(y.first); free(x.first);
    return rc;
}

/* -- crop without resize ------------------------------------------------------------------------------------------ */

typedef struct { int y0, y1, x0, x1; } region;   /* complete pixels of the image that a box touches */

static region clip(const item *t, int shrink, int rows, int cols) {
    region r = {(int)floor(t->top / shrink), (int)ceil((t->top + t->height) / shrink),
                (int)floor(t->left / shrink), (int)ceil((t->left + t->width) / shrink)};
    if (r.y0 < 0) r.y0 = 0;
    if (r.x0 < 0) r.x0 = 0;
    if (r.y1 > rows) r.y1 = rows;
    if (r.x1 > cols) r.x1 = cols;
    return r;
}

static void paint(const uint8_t *colour, uint8_t *out, int size) {
    for (size_t i = 0; i < (size_t)size * size; i++) memcpy(out + 3 * i, colour, 3);
}

/* Copy the region to where the box has it; what of the box lies outside the image takes the colour `fill`. */
static void place(const uint8_t *in, size_t stride, region r, const item *t, int size, uint8_t *out, const uint8_t *fill) {
    int dy = r.y0 - (int)t->top, dx = r.x0 - (int)t->left, n_rows = r.y1 - r.y0, n_cols = r.x1 - r.x0;
    if (n_rows < size || n_cols < size) paint(fill, out, size);
    for (int y = 0; y < n_rows; y++) {
        const uint8_t *p = in + y * stride;
        uint8_t *q = out + (size_t)(y + dy) * size * 3;
        if (!t->flip && n_cols > 0) memcpy(q + 3 * dx, p, (size_t)n_cols * 3);
        else for (int x = 0; x < n_cols; x++) memcpy(q + 3 * (size - 1 - x - dx), p + 3 * x, 3);
    }
}

/* -- JPEG --------------------------------------------------------------------------------------------------------- */

struct trap { struct jpeg_error_mgr base; struct jpeg_progress_mgr progress; jmp_buf back; int damaged; };
static void on_error(j_common_ptr c) { longjmp(((struct trap *)c->err)->back, BAD_JPEG); }

/* libjpeg goes on with made-up pixels after these; its other warnings (odd markers, stray bytes) cost no pixel. */
static void on_message(j_common_ptr c, int level) {
    static const int damage[] = {JWRN_BOGUS_PROGRESSION, JWRN_HIT_MARKER, JWRN_HUFF_BAD_CODE, JWRN_JPEG_EOF,
                                 JWRN_MUST_RESYNC, JWRN_TOO_MUCH_DATA};
    if (level >= 0) return;
    c->err->num_warnings++;
    for (size_t i = 0; i < sizeof damage / sizeof *damage; i++)
        if (c->err->msg_code == damage[i]) ((struct trap *)c->err)->damaged = 1;
}
static void on_output(j_common_ptr c) { (void)c; }

/* Called for every row of blocks that is read. */
static void on_progress(j_common_ptr c) {
    if (((j_decompress_ptr)c)->input_scan_number > MAX_SCANS) longjmp(((struct trap *)c->err)->back, TOO_MUCH);
}

static void catch_errors(struct jpeg_decompress_struct *c, struct trap *e) {
    c->err = jpeg_std_error(&e->base);
    e->base.error_exit = on_error;
    e->base.emit_message = on_message;
    e->base.output_message = on_output;
    e->progress.progress_monitor = on_progress;
    e->damaged = 0;
}

/* Read the header of a JPEG; whether it may be decoded. */
static int begin(struct jpeg_decompress_struct *c, struct trap *e, const uint8_t *bytes, size_t size, uint32_t rows,
                 uint32_t cols) {
    jpeg_create_decompress(c);
    c->progress = &e->progress;
    jpeg_mem_src(c, bytes, size);
    jpeg_read_header(c, TRUE);
    uint64_t pixels = (uint64_t)c->image_height * c->image_width;
    if (c->image_height != rows || c->image_width != cols) return BAD_SIZE;
    if (pixels > MAX_PIXELS || (pixels > FREE_PIXELS && pixels / PIXELS_PER_BYTE > size)) return TOO_MUCH;
    return OK;
}

/* -- Huffman codes ------------------------------------------------------------------------------------------------ */

/* libjpeg reads one symbol at a time, and what is skipped like what is decoded: half of the time went there. Here a
 * look at LOOK bits gives a symbol with its value, and where no value is needed several symbols. libjpeg does all else:
 * it calls `read_mcu` in place of its own function. What is odd in any way (a code that does not exist, data that end
 * early, a marker in the wrong place) is decoded once more by libjpeg alone, which decides whether it is damage. */
#if defined(LIBJPEG_TURBO_VERSION_NUMBER) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define HAS_HUFFMAN 1

enum { LOOK = 9 };                    /* bits that are looked up at once; tables of more miss the cache */

/* libjpeg's decoder of entropy codes as far as it is needed here; these two come first in all releases since 1998. */
typedef struct {
    void (*start_pass)(j_decompress_ptr);
    boolean (*decode_mcu)(j_decompress_ptr, JBLOCKROW *);
} entropy_decoder;

/* A table of codes (Annex C of the standard), AC or DC. A symbol says how many zeros come before a value, and the bits
 * of the value. */
typedef struct {
    uint8_t bits[17], symbols[256];   /* as the file has them */
    int made;
    uint32_t last[18];                /* of each length: the first 16 bits above its codes */
    int first[17];                    /* what is added to a code of this length to find its symbol */
    /* By the next LOOK bits. Bits 0 to 7: length of the code with its value; 8 to 12: of the code alone, 0 for a longer
     * one; 16 to 23: bits of the value; 24 to 27: zeros before it; 31: there is no value. */
    uint32_t one[1 << LOOK];
    /* Bits 0 to 7: length of as many symbols as there are, with their values, 0 for none; 8 to 15: coefficients that
     * they fill; 16: the block ends with them. */
    uint32_t many[1 << LOOK];
} codes;

/* Bits of a scan: the next ones are the highest of `window`. */
typedef struct {
    uint64_t window;
    int bits, made_up;                /* in the window; those after its end of the data, the last ones */
    const uint8_t *next, *end;
} reader;

struct huffman {
    codes dc[NUM_HUFF_TBLS], ac[NUM_HUFF_TBLS];
    reader in;
    int dc_before[MAX_COMPS_IN_SCAN];
    unsigned first_column, end_column;           /* of the MCUs that are wanted */
    unsigned column;
    unsigned until_restart, restart;             /* MCUs to go, 0: no markers; the number of the next marker */
};

static const uint8_t zigzag[DCTSIZE2 + 15] = {   /* what comes after a block is noticed at its end */
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55,
    62, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63};

static void again(j_decompress_ptr c) { longjmp(((struct trap *)c->err)->back, AGAIN); }

static inline uint32_t entry_of(int symbol, int length) {
    int size = symbol & 15, run = symbol >> 4;
    return (size ? 0 : 1u << 31) | run << 24 | size << 16 | length << 8 | (length + size);
}

static void make_codes(codes *t, const JHUFF_TBL *from) {
    if (t->made && !memcmp(t->bits + 1, from->bits + 1, 16) && !memcmp(t->symbols, from->huffval, 256)) return;
    memcpy(t->bits, from->bits, sizeof t->bits);
    memcpy(t->symbols, from->huffval, sizeof t->symbols);
    t->made = 1;
    for (int i = 0; i < 1 << LOOK; i++) t->one[i] = 1u << 31;
    memset(t->many, 0, sizeof t->many);
    int code = 0, n = 0;
    for (int length = 1; length <= 16; length++, code <<= 1) {
        t->first[length] = n - code;
        for (int i = 0; i < t->bits[length]; i++, code++, n++) {
            if (length > LOOK) continue;
            int rest = LOOK - length;
            for (int k = 0; k < 1 << rest; k++) t->one[(code << rest) + k] = entry_of(t->symbols[n], length);
        }
        t->last[length] = (uint32_t)code << (16 - length);
    }
    for (int look = 0; look < 1 << LOOK; look++) {
        int at = 0, filled = 0, ends = 0;
        while (at < LOOK && !ends) {
            uint32_t entry = t->one[look << at & ((1 << LOOK) - 1)];
            int run = entry >> 24 & 15, size = entry >> 16 & 15, length = entry >> 8 & 31;
            if (!length || length > LOOK - at) break;        /* the bits after these decide */
            ends = !size && run != 15;
            at += length + size;
            filled += ends ? 0 : run + 1;
        }
        t->many[look] = at | filled << 8 | (uint32_t)ends << 16;
    }
}

/* Fill the window byte by byte: 0xFF is followed by 0, which is dropped, or it begins a marker. */
static __attribute__((noinline)) reader fill_slowly(reader in, j_decompress_ptr c) {
    while (in.bits <= 56) {
        uint64_t byte = 0;
        if (in.next >= in.end) again(c);
        if (*in.next != 0xFF) {
            byte = *in.next++;
        } else {
            if (in.next + 1 >= in.end || in.next[1] == 0xFF) again(c);
            if (in.next[1] == 0) {
                byte = 0xFF;
                in.next += 2;
            } else {
                in.made_up += 8;
            }
        }
        in.window |= byte << (56 - in.bits);
        in.bits += 8;
    }
    return in;
}

/* Have 56 bits or more in the window. */
static inline reader fill(reader in, j_decompress_ptr c) {
    uint64_t eight;
    if (in.end - in.next < 8 || in.made_up) return fill_slowly(in, c);
    memcpy(&eight, in.next, 8);
    if (eight & ~(eight + 0x0101010101010101) & 0x8080808080808080) return fill_slowly(in, c);   /* one is 0xFF */
    in.window |= __builtin_bswap64(eight) >> in.bits;
    in.next += (63 - in.bits) >> 3;
    in.bits |= 56;
    return in;
}

static inline uint32_t look(reader in, int bits) { return in.window >> (64 - bits); }

static inline reader drop(reader in, int bits) {
    in.window <<= bits;
    in.bits -= bits;
    return in;
}

/* Symbol and length of a code longer than LOOK bits. */
static __attribute__((noinline)) uint32_t long_code(const codes *t, uint32_t bits, j_decompress_ptr c) {
    int length = LOOK + 1;
    while (length <= 16 && bits >= t->last[length]) length++;
    if (length > 16) again(c);
    int symbol = (int)(bits >> (16 - length)) + t->first[length];
    if (symbol < 0 || symbol > 255) again(c);
    return entry_of(t->symbols[symbol], length);
}

/* The value of a symbol whose code begins the window, of a bit or more: a first bit of 0 says that it is negative. */
static inline int value_of(uint64_t window, uint32_t entry) {
    int size = entry >> 16 & 15;
    uint64_t bits = window << (entry >> 8 & 31);
    int64_t negative = ~(int64_t)bits >> 63;
    return (int)(bits >> (64 - size)) - (int)(negative & ((1 << size) - 1));
}

/* Read the blocks of an MCU; without `blocks`, or where no pixel of it is wanted, only their lengths matter. */
static inline __attribute__((always_inline)) boolean read_mcu_with(j_decompress_ptr c, JBLOCKROW *blocks) {
    struct huffman *h = c->client_data;
    reader in = h->in;
    if (c->restart_interval) {
        if (!h->until_restart) {
            /* What is left in the window are less than 8 bits and bytes after them, which must be none. */
            if (in.bits - in.made_up >= 8 || in.end - in.next < 2 || in.next[0] != 0xFF
                || in.next[1] != JPEG_RST0 + (int)h->restart) again(c);
            in = (reader){0, 0, 0, in.next + 2, in.end};
            memset(h->dc_before, 0, sizeof h->dc_before);
            h->restart = (h->restart + 1) & 7;
            h->until_restart = c->restart_interval;
        }
        h->until_restart--;
    }
    int wanted = blocks && h->column >= h->first_column && h->column < h->end_column;
    if (++h->column == c->MCUs_per_row) h->column = 0;
    for (int b = 0; b < c->blocks_in_MCU; b++) {
        int component = c->MCU_membership[b];
        const jpeg_component_info *info = c->cur_comp_info[component];
        const codes *dc = h->dc + info->dc_tbl_no, *ac = h->ac + info->ac_tbl_no;
        if (in.bits < 32) in = fill(in, c);      /* a symbol has 31 bits at most with its value */
        uint32_t entry = dc->one[look(in, LOOK)];
        if (!(entry & 255)) entry = long_code(dc, look(in, 16), c);
        int level = h->dc_before[component], k = 1;
        if (!(entry >> 31)) level += value_of(in.window, entry);
        if (level < -32768 || level > 32767) again(c);
        h->dc_before[component] = level;
        in = drop(in, entry & 255);
        if (!wanted) {
            while (k < DCTSIZE2) {
                if (in.bits < 32) in = fill(in, c);
                entry = ac->many[look(in, LOOK)];
                int after = k + (entry >> 8 & 255);
                if (entry && after < DCTSIZE2) {
                    in = drop(in, entry & 255);
                    k = after;
                    if (entry >> 16) break;
                    continue;
                }
                entry = ac->one[look(in, LOOK)];
                if (!(entry & 255)) entry = long_code(ac, look(in, 16), c);
                in = drop(in, entry & 255);
                if (entry >> 31 && (entry >> 24 & 15) != 15) break;
                k += (entry >> 24 & 15) + 1;
            }
            if (k > DCTSIZE2) again(c);
            continue;
        }
        JCOEFPTR block = *blocks[b];
        block[0] = level;
        while (k < DCTSIZE2) {
            if (in.bits < 32) in = fill(in, c);
            entry = ac->one[look(in, LOOK)];
            if (__builtin_expect(entry >> 31, 0)) {
                if (!(entry & 255)) entry = long_code(ac, look(in, 16), c);
                if (entry >> 31) {
                    in = drop(in, entry & 255);
                    if ((entry >> 24 & 15) != 15) break;
                    k += 16;
                    continue;
                }
            }
            k += entry >> 24;
            block[zigzag[k++]] = value_of(in.window, entry);
            in = drop(in, entry & 255);
        }
        if (k > DCTSIZE2) again(c);
    }
    if (in.bits < in.made_up) again(c);
    h->in = in;
    return TRUE;
}

static boolean read_mcu(j_decompress_ptr c, JBLOCKROW *blocks) { return read_mcu_with(c, blocks); }
#ifdef HAS_AVX2
__attribute__((target("bmi,bmi2"))) static boolean read_mcu_bmi2(j_decompress_ptr c, JBLOCKROW *blocks) {
    return read_mcu_with(c, blocks);
}
#endif

/* Have libjpeg, which has read the head of the scan, call `read_mcu`, for a file of the usual kind: one scan of all
 * components, sequential. Columns [x, x + width) of the output are wanted; a block makes `side` of them. */
static int read_codes(j_decompress_ptr c, JDIMENSION x, JDIMENSION width, int side, scratch *s) {
    if (c->progressive_mode || c->arith_code || c->data_precision != 8 || jpeg_has_multiple_scans(c)) return OK;
    if (c->Ss != 0 || c->Se != DCTSIZE2 - 1 || c->Ah != 0 || c->Al != 0) return OK;
    if (c->comps_in_scan != c->num_components || !c->entropy || !c->src->bytes_in_buffer) return OK;
    if (!s->huffman) {
        s->huffman = calloc(1, sizeof *s->huffman);
        if (!s->huffman) return NO_MEMORY;
    }
    struct huffman *h = s->huffman;
    for (int i = 0; i < c->comps_in_scan; i++) {
        const jpeg_component_info *info = c->cur_comp_info[i];
        make_codes(h->dc + info->dc_tbl_no, c->dc_huff_tbl_ptrs[info->dc_tbl_no]);
        make_codes(h->ac + info->ac_tbl_no, c->ac_huff_tbl_ptrs[info->ac_tbl_no]);
    }
    unsigned column = c->comps_in_scan > 1 ? side * c->max_h_samp_factor : side;
    h->in = (reader){0, 0, 0, c->src->next_input_byte, c->src->next_input_byte + c->src->bytes_in_buffer};
    memset(h->dc_before, 0, sizeof h->dc_before);
    h->first_column = x / column > 1 ? x / column - 1 : 0;       /* one more on each side */
    h->end_column = (x + width) / column + 2;
    h->column = 0;
    h->restart = 0;
    h->until_restart = c->restart_interval;
    c->client_data = h;
    ((entropy_decoder *)c->entropy)->decode_mcu = read_mcu;
#ifdef HAS_AVX2
    if (level >= 1) ((entropy_decoder *)c->entropy)->decode_mcu = read_mcu_bmi2;
#endif
    return OK;
}
#endif

/* Decode an image; `alone`: libjpeg reads the Huffman codes. */
static int decode_by(const uint8_t *bytes, const item *t, int size, uint8_t *out, scratch *s, int alone) {
    struct jpeg_decompress_struct c;
    struct trap e;
    catch_errors(&c, &e);
    int thrown = setjmp(e.back);
    if (thrown) { jpeg_destroy_decompress(&c); return thrown; }
    int refused = begin(&c, &e, bytes, t->size, t->rows, t->cols);
    if (refused) { jpeg_destroy_decompress(&c); return refused; }
    c.out_color_space = JCS_RGB;
    c.dct_method = JDCT_ISLOW;
    int shrink = 1;
    while (!s->area && shrink < 8 && t->height / (2 * shrink) >= size && t->width / (2 * shrink) >= size) shrink *= 2;
    c.scale_num = 8 / shrink;
    c.scale_denom = 8;
    jpeg_start_decompress(&c);
    region r = clip(t, shrink, c.output_height, c.output_width);
    int n_rows = r.y1 - r.y0;
    /* Wider than the crop: colour at half resolution (4:2:0, 4:2:2) is interpolated from its neighbours, and without
     * them the outermost columns would differ from those of the full image; below 5 columns none is interpolated. */
    int left = r.x0 - 1, right = r.x1 + 1, width = c.output_width;
    if (right < left + MIN_COLUMNS) right = left + MIN_COLUMNS;
    if (right > width) right = width;
    if (left > right - MIN_COLUMNS) left = right - MIN_COLUMNS;
    if (left < 0) left = 0;
    JDIMENSION x = left, w = right - left;
    if (w < c.output_width) jpeg_crop_scanline(&c, &x, &w);
#ifdef HAS_HUFFMAN
    if (!alone && read_codes(&c, x, w, 8 / shrink, s) != OK) { jpeg_destroy_decompress(&c); return NO_MEMORY; }
#endif
    if (r.y0 > 0) jpeg_skip_scanlines(&c, r.y0);
    size_t stride = (size_t)c.output_width * 3;
    if (!grow((void **)&s->decoded, &s->decoded_size, stride * n_rows + 8)) { jpeg_destroy_decompress(&c); return NO_MEMORY; }
    for (int y = 0; y < n_rows;) {
        JSAMPROW row[4];
        int m = n_rows - y < 4 ? n_rows - y : 4;
        for (int i = 0; i < m; i++) row[i] = s->decoded + stride * (y + i);
        int got = jpeg_read_scanlines(&c, row, m);
        if (got == 0) break;
        y += got;
    }
    int n_cols = c.output_width, bad = e.damaged;
    jpeg_abort_decompress(&c);
    jpeg_destroy_decompress(&c);
    if (bad) return BAD_JPEG;
    if (t->height == size && t->width == size) {
        place(s->decoded + 3 * (r.x0 - (int)x), stride, r, t, size, out, s->fill);
        return OK;
    }
    return resize(s->decoded, stride, n_rows, n_cols, t->top / shrink - r.y0, t->left / shrink - x, t->height / shrink,
                  t->width / shrink, t->flip, size, out, s);
}

static int decode_jpeg(const uint8_t *bytes, const item *t, int size, uint8_t *out, scratch *s) {
    int rc = decode_by(bytes, t, size, out, s, libjpeg_alone);
    return rc == AGAIN ? decode_by(bytes, t, size, out, s, 1) : rc;
}

/* Whether a JPEG decodes without damage: all of it is read, at an eighth of the resolution, in whatever colours. */
int check_jpeg(const uint8_t *bytes, uint64_t size, uint32_t rows, uint32_t cols) {
    struct jpeg_decompress_struct c;
    struct trap e;
    catch_errors(&c, &e);
    int thrown = setjmp(e.back);
    if (thrown) { jpeg_destroy_decompress(&c); return thrown; }
    int rc = begin(&c, &e, bytes, size, rows, cols);
    if (rc == OK) {
        c.scale_num = 1;
        c.scale_denom = 8;
        jpeg_start_decompress(&c);
        JSAMPARRAY row = c.mem->alloc_sarray((j_common_ptr)&c, JPOOL_IMAGE, c.output_width * c.output_components, 1);
        while (c.output_scanline < c.output_height && jpeg_read_scanlines(&c, row, 1) > 0) {}
        jpeg_abort_decompress(&c);
        rc = e.damaged ? BAD_JPEG : OK;
    }
    jpeg_destroy_decompress(&c);
    return rc;
}

/* -- raw ---------------------------------------------------------------------------------------------------------- */

static int copy_raw(const uint8_t *bytes, const item *t, int size, uint8_t *out, scratch *s) {
    if (t->size < (uint64_t)t->rows * t->cols * 3) return BAD_SIZE;
    region r = clip(t, 1, t->rows, t->cols);
    const uint8_t *first = bytes + ((size_t)r.y0 * t->cols + r.x0) * 3;
    size_t stride = (size_t)t->cols * 3;
    if (t->height == size && t->width == size) {
        place(first, stride, r, t, size, out, s->fill);
        return OK;
    }
    return resize(first, stride, r.y1 - r.y0, r.x1 - r.x0, t->top - r.y0, t->left - r.x0, t->height, t->width, t->flip,
                  size, out, s);
}

/* -- operations of the policies -------------------------------------------------------------- */

/* The pixels are those of torchvision's operations on uint8 tensors (image_ops.py), bit for bit;
 * only AFFINE, whose coordinates and weights are integers here and float32 there, may be a level
 * off. torch rounds a product and the sum it is added to once, as `fused` does. The result is the
 * same on every machine. */
enum {                                       /* in the order of decode.py's OPERATIONS */
    AFFINE, BRIGHTNESS, COLOR, CONTRAST, SHARPNESS, POSTERIZE, SOLARIZE, SOLARIZE_ADD,
    AUTO_CONTRAST, EQUALIZE, INVERT, SHIFT, ERASE
};

/* decode.py compares it, so that an older library is not taken for this one. */
int operation_count(void) { return ERASE + 1; }

/* One operation and its numbers, see decode.py's `_encode`. */
typedef struct { double operation, value[7]; } step;

/* Loops that gain from wide vectors are compiled for these as well; the library takes what the
 * machine has. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) \
    && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define WIDE __attribute__((target_clones("default", "avx2")))
#else
#define WIDE
#endif

enum { CHUNK = 256 };                        /* pixels of an image that are changed at a time */

/* a * b + c, rounded to float once: for an a of 9 bits, product and sum are exact in double. */
static inline float fused(float a, float b, float c) { return (float)((double)a * b + c); }

/* Rounded towards 0 and cut to 0 to 255; |x| < 2^31, see `bounded`. */
static inline uint8_t to_level(float x) {
    int v = (int)x;
    v = v > 0 ? v : 0;
    return v < 255 ? v : 255;
}

/* Cut to low to high; what is no number becomes low. */
static inline int to_int(double x, int low, int high) {
    if (!(x > low)) return low;
    return x < high ? (int)x : high;
}

static inline double bounded(double x) {
    if (!(x > -1e6)) return -1e6;
    return x < 1e6 ? x : 1e6;
}

/* Grey of the pixel, rounded down. */
static inline float grey_of(float r, float g, float b) {
    return (float)(int)fused(b, 0.114f, fused(g, 0.587f, r * 0.2989f));
}

/* Replace each value v of channel c by table[c][v]. */
static void look_up(uint8_t *image, size_t pixels, uint8_t table[3][256]) {
    for (uint8_t *p = image, *end = image + 3 * pixels; p < end; p += 3) {
        p[0] = table[0][p[0]];
        p[1] = table[1][p[1]];
        p[2] = table[2][p[2]];
    }
}

/* Change each value alone, the same in all channels. */
WIDE static void map(uint8_t *p, size_t n, int operation, double value) {
    int mask = ~(255 >> to_int(value, 0, 8));
    int more = to_int(value, 0, 255);
    int threshold = to_int(ceilf((float)value), 0, 256);
    uint8_t least = threshold;
    switch (operation) {
    case POSTERIZE: for (size_t i = 0; i < n; i++) p[i] &= mask; break;
    case SOLARIZE:
        if (threshold < 256) for (size_t i = 0; i < n; i++) p[i] ^= p[i] >= least ? 255 : 0;
        break;
    case SOLARIZE_ADD:
        for (size_t i = 0; i < n; i++) {
            int sum = p[i] + (p[i] < 128 ? more : 0);
            p[i] = sum < 255 ? sum : 255;
        }
        break;
    case INVERT: for (size_t i = 0; i < n; i++) p[i] ^= 255; break;
    }
}

/* Add a colour. */
static void shift(uint8_t *image, size_t pixels, const double *value) {
    uint8_t table[3][256];
    for (int c = 0; c < 3; c++) {
        int levels = to_int(rint((float)value[c]), -255, 255);
        for (int v = 0; v < 256; v++) table[c][v] = to_int(v + levels, 0, 255);
    }
    look_up(image, pixels, table);
}

/* Stretch each channel to 0 to 255. */
WIDE static void auto_contrast(uint8_t *image, size_t pixels) {
    uint8_t low[3 * 32], high[3 * 32], table[3][256];
    memset(low, 255, sizeof low);
    memset(high, 0, sizeof high);
    size_t blocks = 3 * pixels / sizeof low;
    for (size_t i = 0; i < blocks; i++)
        for (size_t k = 0; k < sizeof low; k++) {
            uint8_t v = image[i * sizeof low + k];
            low[k] = v < low[k] ? v : low[k];
            high[k] = v > high[k] ? v : high[k];
        }
    for (size_t i = blocks * sizeof low; i < 3 * pixels; i++) {
        if (image[i] < low[i % 3]) low[i % 3] = image[i];
        if (image[i] > high[i % 3]) high[i % 3] = image[i];
    }
    for (int c = 0; c < 3; c++) {
        int least = 255, most = 0;
        for (size_t k = c; k < sizeof low; k += 3) {
            if (low[k] < least) least = low[k];
            if (high[k] > most) most = high[k];
        }
        float scale = (float)(most - least) * (float)(1.0 / 255);
        for (int v = 0; v < 256; v++)
            table[c][v] = most > least ? to_level((float)(v - least) / scale) : v;
    }
    look_up(image, pixels, table);
}

/* Spread the values of each channel evenly, by Pillow's rule. */
static void equalize(uint8_t *image, size_t pixels) {
    uint32_t count[2][3][256] = {{{0}}};     /* two of each: equal neighbours need not wait */
    uint8_t table[3][256];
    for (size_t i = 0; i < pixels; i++)
        for (int c = 0; c < 3; c++) count[i & 1][c][image[3 * i + c]]++;
    for (int c = 0; c < 3; c++) {
        size_t last = 0, below = 0;          /* pixels of the highest value; below v */
        for (int v = 0; v < 256; v++) {
            count[0][c][v] += count[1][c][v];
            if (count[0][c][v]) last = count[0][c][v];
        }
        size_t part = (pixels - last) / 255;
        for (int v = 0; v < 256; v++) {
            size_t to = part ? (below + part / 2) / part : (size_t)v;
            table[c][v] = to < 255 ? to : 255;
            below += count[0][c][v];
        }
    }
    look_up(image, pixels, table);
}

/* Grey of n pixels, n <= CHUNK. */
static inline void take_grey(const uint8_t *p, int n, float *grey) {
    float r[CHUNK], g[CHUNK], b[CHUNK];
    for (int i = 0; i < n; i++) {
        r[i] = p[3 * i];
        g[i] = p[3 * i + 1];
        b[i] = p[3 * i + 2];
    }
    for (int i = 0; i < n; i++) grey[i] = grey_of(r[i], g[i], b[i]);
}

/* Sum of the grey values. */
WIDE static uint64_t sum_grey(const uint8_t *image, size_t pixels) {
    uint64_t sum = 0;
    for (size_t start = 0; start < pixels; start += CHUNK) {
        int n = pixels - start < CHUNK ? (int)(pixels - start) : CHUNK, part = 0;
        float grey[CHUNK];
        take_grey(image + 3 * start, n, grey);
        for (int i = 0; i < n; i++) part += (int)grey[i];
        sum += part;
    }
    return sum;
}

/* Mix each value with `mean`. */
static void mix_with(float mean, uint8_t *image, size_t pixels, float ratio, float rest) {
    uint8_t table[3][256];
    for (int v = 0; v < 256; v++) table[0][v] = to_level(fmaf(mean, rest, v * ratio));
    memcpy(table[1], table[0], sizeof *table);
    memcpy(table[2], table[0], sizeof *table);
    look_up(image, pixels, table);
}

/* Mix each pixel with its grey. */
WIDE static void colour(uint8_t *image, size_t pixels, float ratio, float rest) {
    for (size_t start = 0; start < pixels; start += CHUNK) {
        int n = pixels - start < CHUNK ? (int)(pixels - start) : CHUNK;
        uint8_t *p = image + 3 * start;
        float grey[CHUNK], thrice[3 * CHUNK];
        take_grey(p, n, grey);
        for (int i = 0; i < n; i++) thrice[3 * i] = thrice[3 * i + 1] = thrice[3 * i + 2] = grey[i];
        for (int i = 0; i < 3 * n; i++) p[i] = to_level(fused(thrice[i], rest, p[i] * ratio));
    }
}

/* Mix n values with their mean over 3x3 pixels, in which their own weighs 5; p: the row before. */
WIDE static void sharpen_row(const uint8_t *p, size_t stride, float rest, uint8_t *out, size_t n) {
    for (size_t start = 0; start < n; start += CHUNK, p += CHUNK, out += CHUNK) {
        int m = n - start < CHUNK ? (int)(n - start) : CHUNK;
        const uint8_t *up = p - stride - 3, *here = p - 3, *down = p + stride - 3;
        uint16_t column[CHUNK + 6];
        int16_t apart[CHUNK];                /* of the mean from the value */
        for (int i = 0; i < m + 6; i++) column[i] = up[i] + here[i] + down[i];
        for (int i = 0; i < m; i++) {
            uint16_t sum = column[i] + column[i + 3] + column[i + 6] + 4 * p[i];
            uint16_t twice = 2 * sum + 13;   /* divided by 26: 10083 / 2^18 is near enough */
            apart[i] = (int16_t)((uint16_t)((uint32_t)twice * 10083 >> 16) >> 2) - p[i];
        }
        for (int i = 0; i < m; i++) out[i] = to_level(fused(apart[i], rest, p[i]));
    }
}

/* Copy the image into a frame of one black pixel; the stride of the copy, 0 without memory. */
static size_t copy_framed(const uint8_t *image, int h, int w, scratch *s) {
    size_t stride = 3 * ((size_t)w + 2), row = 3 * (size_t)w;
    if (!grow((void **)&s->before, &s->before_size, stride * ((size_t)h + 2) + 8)) return 0;
    memset(s->before, 0, stride);
    memset(s->before + stride * (h + 1), 0, stride + 8);
    for (int y = 0; y < h; y++) {
        uint8_t *p = s->before + stride * (y + 1);
        memset(p, 0, 3);
        memcpy(p + 3, image + row * y, row);
        memset(p + 3 + row, 0, 3);
    }
    return stride;
}

static int sharpen(uint8_t *image, int h, int w, float rest, scratch *s) {
    if (h < 3 || w < 3) return OK;
    size_t stride = copy_framed(image, h, w, s);
    if (!stride) return NO_MEMORY;
    for (int y = 1; y < h - 1; y++) {
        uint8_t *out = image + ((size_t)y * w + 1) * 3;
        sharpen_row(s->before + stride * (y + 1) + 6, stride, rest, out, 3 * ((size_t)w - 2));
    }
    return OK;
}

/* Weights of four neighbours; together 1 << PRECISION. */
typedef struct { int nw, ne, sw, se; } weights;

static inline weights weigh(int right, int down) {
    int all = 1 << PRECISION, se = (right * down + all / 2) >> PRECISION;
    return (weights){all - right - down + se, right - se, down - se, se};
}

/* A weighted sum as a level; halves go to the even one. */
static inline int to_even(int sum) {
    int odd = sum >> PRECISION & 1;
    return (sum + (1 << (PRECISION - 1)) - 1 + odd) >> PRECISION;
}

/* One value from its four neighbours; p and q: the upper and the lower left one. */
static inline int mix_value(const uint8_t *p, const uint8_t *q, weights w) {
    return to_even(w.nw * p[0] + w.ne * p[3] + w.sw * q[0] + w.se * q[3]);
}

/* One pixel from 2x2 pixels; may read (not use) 2 bytes more. */
static inline void mix_four(const uint8_t *p, size_t stride, weights w, uint8_t *out) {
#ifdef __SSE2__
    const __m128i zero = _mm_setzero_si128();
    __m128i up = _mm_loadl_epi64((const __m128i *)p);
    __m128i down = _mm_loadl_epi64((const __m128i *)(p + stride));
    up = _mm_unpacklo_epi8(_mm_unpacklo_epi8(up, _mm_srli_si128(up, 3)), zero);
    down = _mm_unpacklo_epi8(_mm_unpacklo_epi8(down, _mm_srli_si128(down, 3)), zero);
    __m128i sum = _mm_add_epi32(_mm_madd_epi16(up, _mm_set1_epi32(w.ne << 16 | w.nw)),
                                _mm_madd_epi16(down, _mm_set1_epi32(w.se << 16 | w.sw)));
    __m128i odd = _mm_and_si128(_mm_srli_epi32(sum, PRECISION), _mm_set1_epi32(1));
    sum = _mm_add_epi32(sum, _mm_add_epi32(odd, _mm_set1_epi32((1 << (PRECISION - 1)) - 1)));
    sum = _mm_srli_epi32(sum, PRECISION);
    sum = _mm_packus_epi16(_mm_packs_epi32(sum, sum), zero);
    uint32_t rgb = (uint32_t)_mm_cvtsi128_si32(sum);
    memcpy(out, &rgb, 3);
#else
    for (int c = 0; c < 3; c++) out[c] = mix_value(p + c, p + stride + c, w);
#endif
}

/* n values of a row whose pixels all lie alike between their neighbours. */
WIDE static void mix_row(const uint8_t *p, size_t stride, weights w, uint8_t *out, size_t n) {
    if (w.nw == 1 << PRECISION) {
        memcpy(out, p, n);
    } else if (w.nw + w.ne == 1 << PRECISION) {
        for (size_t i = 0; i < n; i++) out[i] = to_even(w.nw * p[i] + w.ne * p[i + 3]);
    } else {
        for (size_t i = 0; i < n; i++) out[i] = mix_value(p + i, p + stride + i, w);
    }
}

enum { POINT = 32 };                         /* bits of a coordinate after the point */

/* A coordinate's bits after the point, as many as a weight has. */
static inline int fraction(int64_t x) {
    return (int)(x >> (POINT - PRECISION)) & ((1 << PRECISION) - 1);
}

/* Take pixel (x, y) from (m0 x + m1 y + m2, m3 x + m4 y + m5), bilinear; outside is black. */
static int affine(uint8_t *image, int h, int w, const double *m, scratch *s) {
    const int64_t half = 1 << (POINT - PRECISION - 1);          /* of the last bit of a weight */
    const double one = (double)((int64_t)1 << POINT);
    double reach = (fabs(m[0]) + fabs(m[3])) * w + (fabs(m[1]) + fabs(m[4])) * h;
    if (!(reach + fabs(m[2]) + fabs(m[5]) < 1 << 30)) {    /* more than a coordinate can hold */
        memset(image, 0, (size_t)h * w * 3);
        return OK;
    }
    size_t stride = copy_framed(image, h, w, s);
    if (!stride) return NO_MEMORY;
    int64_t dx = llrint(m[0] * one), dy = llrint(m[3] * one);
    for (int y = 0; y < h; y++) {
        /* Coordinates in the frame, where the first pixel is 1; unsigned, all outside are large. */
        int64_t fx = llrint((m[1] * y + m[2] + 1) * one) + half;
        int64_t fy = llrint((m[4] * y + m[5] + 1) * one) + half;
        uint8_t *out = image + (size_t)y * w * 3;
        if (dx == (int64_t)1 << POINT && dy == 0) {
            int64_t from = fx >> POINT, row = fy >> POINT;      /* of pixel 0 */
            int64_t first = from < 0 ? -from : 0, end = from > 1 ? w + 1 - from : w;
            if (row < 0 || row > h || first >= end) { memset(out, 0, (size_t)w * 3); continue; }
            memset(out, 0, 3 * (size_t)first);
            mix_row(s->before + row * (int64_t)stride + 3 * (from + first), stride,
                    weigh(fraction(fx), fraction(fy)), out + 3 * first, 3 * (size_t)(end - first));
            memset(out + 3 * end, 0, 3 * (size_t)(w - end));
            continue;
        }
        for (int x = 0; x < w; x++, fx += dx, fy += dy, out += 3) {
            uint64_t column = (uint64_t)fx >> POINT, row = (uint64_t)fy >> POINT;
            if (column > (uint64_t)w || row > (uint64_t)h) { memset(out, 0, 3); continue; }
            mix_four(s->before + row * stride + 3 * column, stride,
                     weigh(fraction(fx), fraction(fy)), out);
        }
    }
    return OK;
}

/* Fill the box (top, left, height, width) with a colour. */
static void erase(uint8_t *image, int h, int w, const double *value) {
    int top = to_int(value[0], 0, h), left = to_int(value[1], 0, w);
    int height = to_int(value[2], 0, h - top), width = to_int(value[3], 0, w - left);
    for (int y = top; y < top + height; y++)
        for (int x = left; x < left + width; x++) {
            uint8_t *p = image + ((size_t)y * w + x) * 3;
            for (int c = 0; c < 3; c++) p[c] = to_int(value[4 + c], 0, 255);
        }
}

static int change(uint8_t *image, int h, int w, const step *t, scratch *s) {
    size_t pixels = (size_t)h * w;
    int operation = to_int(t->operation, 0, ERASE + 1);
    double factor = 1 + bounded(t->value[0]);
    float ratio = (float)factor, rest = (float)(1 - factor), mean;
    if (pixels == 0) return OK;
    switch (operation) {
    case AFFINE: return affine(image, h, w, t->value, s);
    case SHARPNESS: return sharpen(image, h, w, rest, s);
    case COLOR: colour(image, pixels, ratio, rest); break;
    case BRIGHTNESS: mix_with(0, image, pixels, ratio, rest); break;
    case CONTRAST:
        mean = (float)sum_grey(image, pixels) / (float)pixels;
        mix_with(mean, image, pixels, ratio, rest);
        break;
    case AUTO_CONTRAST: auto_contrast(image, pixels); break;
    case EQUALIZE: equalize(image, pixels); break;
    case SHIFT: shift(image, pixels, t->value); break;
    case ERASE: erase(image, h, w, t->value); break;
    default: map(image, 3 * pixels, operation, t->value[0]);
    }
    return OK;
}

/* -- a batch ------------------------------------------------------------------------------------------------------ */

typedef struct job {
    int fd;
    const item *items;     /* NULL: `out` holds the images, they are only changed */
    const step *steps;     /* image i takes steps[ends[i - 1]] to steps[ends[i] - 1] */
    const uint32_t *ends;  /* NULL: no image is changed */
    int n, height, width;
    int area;              /* of these two see scratch */
    const uint8_t *fill;
    uint8_t *out; uint8_t *status;
    int next;
    int places, helpers;   /* threads that may still join; that work at it now */
    struct job *after;
} job;

#ifdef HAS_AVX2
/* The CRC-32 of n bytes, n >= 64: four vectors of 16 bytes are multiplied by powers of x modulo the polynomial and
 * added to the bytes that many bits further on (Gopal et al., Intel, 2009), until 16 bytes are left with the same CRC. */
__attribute__((target("pclmul,sse4.1"))) static uint32_t crc_folded(const uint8_t *p, size_t n) {
    const __m128i far = _mm_set_epi64x(0x1c6e41596, 0x154442bd4);    /* 512 bits on */
    const __m128i near = _mm_set_epi64x(0x0ccaa009e, 0x1751997d0);   /* 128 bits on */
    __m128i x[4];
    for (int i = 0; i < 4; i++) x[i] = _mm_loadu_si128((const __m128i *)p + i);
    x[0] = _mm_xor_si128(x[0], _mm_cvtsi32_si128(-1));
    for (p += 64, n -= 64; n >= 64; p += 64, n -= 64)
        for (int i = 0; i < 4; i++) {
            __m128i next = _mm_loadu_si128((const __m128i *)p + i);
            __m128i low = _mm_clmulepi64_si128(x[i], far, 0x00), high = _mm_clmulepi64_si128(x[i], far, 0x11);
            x[i] = _mm_xor_si128(_mm_xor_si128(low, high), next);
        }
    for (int i = 1; i < 4; i++) {
        __m128i low = _mm_clmulepi64_si128(x[0], near, 0x00), high = _mm_clmulepi64_si128(x[0], near, 0x11);
        x[0] = _mm_xor_si128(_mm_xor_si128(low, high), x[i]);
    }
    uint8_t left[16];
    _mm_storeu_si128((__m128i *)left, x[0]);
    return crc32(crc32(0xFFFFFFFF, left, sizeof left), p, n);
}
#endif

static uint32_t crc_of(const uint8_t *p, size_t n) {
#ifdef HAS_AVX2
    if (level >= 1 && n >= 64) return crc_folded(p, n);
#endif
    return crc32(0, p, n);
}

/* Bytes of a sample, by pread: a file that is cut short under us gives an error, where mapped memory would kill us.
 * An address that no file can have is damage; what the system answers for others is a fault of disk or network. */
static int fetch(int fd, const item *t, scratch *s) {
    if (t->size == 0 || t->size > (uint64_t)1 << 31 || t->offset > INT64_MAX - t->size) return BAD_RANGE;
    if (!grow((void **)&s->bytes, &s->bytes_size, t->size)) return NO_MEMORY;
    for (size_t done = 0; done < t->size;) {
        ssize_t got = pread(fd, s->bytes + done, t->size - done, (off_t)(t->offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return got ? NOT_READ : BAD_RANGE;
        done += got;
    }
    if (t->check && crc_of(s->bytes, t->size) != t->crc) return BAD_CRC;
    return OK;
}

static int decode_one(const job *b, const item *t, uint8_t *out, scratch *s) {
    int size = b->width, rc = fetch(b->fd, t, s);
    if (rc != OK) return rc;
    int inside = t->top >= 0 && t->left >= 0 && t->top + t->height <= t->rows && t->left + t->width <= t->cols;
    int touches = t->top < t->rows && t->left < t->cols && t->top + t->height > 0 && t->left + t->width > 0;
    int unscaled = t->height == size && t->width == size;        /* a crop without resize may reach out */
    /* of a box below a pixel, rounding may leave nothing to mix */
    if (t->rows == 0 || t->cols == 0 || !(t->height >= 1) || !(t->width >= 1) || !(inside || unscaled)) return BAD_SIZE;
    if (unscaled && (floor(t->top) != t->top || floor(t->left) != t->left)) return BAD_SIZE;  /* it is copied, not resized */
    if (!touches) {
        paint(b->fill, out, size);
        return OK;
    }
    return t->jpeg ? decode_jpeg(s->bytes, t, size, out, s) : copy_raw(s->bytes, t, size, out, s);
}

static int make_one(const job *b, int i, uint8_t *out, scratch *s) {
    int rc = b->items ? decode_one(b, b->items + i, out, s) : OK;
    for (uint32_t k = b->ends && i > 0 ? b->ends[i - 1] : 0; b->ends && k < b->ends[i] && rc == OK; k++)
        rc = change(out, b->height, b->width, b->steps + k, s);
    return rc;
}

/* -- threads ------------------------------------------------------------------------------------------------------ */

/* Threads that wait for the next batch, and their buffers. They take no signals, end when no batch came for IDLE_S
 * seconds, and are of this process alone: a child begins without. */
enum { MAX_THREADS = 256, IDLE_S = 5, KEPT_BYTES = 1 << 22 };
static struct {
    pthread_mutex_t lock;
    pthread_cond_t come, left;        /* a job; a helper from its job */
    job *first;                       /* jobs with places */
    int threads, asked;               /* threads that live; that all jobs in progress asked for */
    scratch *spare;                   /* buffers not in use */
} pool = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, 0, 0, NULL};

static void before_fork(void) { pthread_mutex_lock(&pool.lock); }
static void after_fork(void) { pthread_mutex_unlock(&pool.lock); }

static void begin_in_child(void) {
    scratch *spare = pool.spare;
    memset(&pool, 0, sizeof pool);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.come, NULL);
    pthread_cond_init(&pool.left, NULL);
    pool.spare = spare;
}

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(before_fork, after_fork, begin_in_child); }

static void shed(void **p, size_t *have, size_t most) {
    if (*have <= most) return;
    free(*p);
    *p = NULL;
    *have = 0;
}

/* Free the buffers of more than `most` bytes. */
static void shed_all(scratch *s, size_t most) {
    shed((void **)&s->bytes, &s->bytes_size, most);
    shed((void **)&s->decoded, &s->decoded_size, most);
    shed((void **)&s->rows, &s->rows_size, most);
    shed((void **)&s->wide, &s->wide_size, most);
    shed((void **)&s->before, &s->before_size, most);
}

/* Make images of the job until none is left; what it changes of the pool needs the lock. */
static void work(job *b) {
    scratch alone = {0}, *s = pool.spare;
    if (s) pool.spare = s->after;
    pthread_mutex_unlock(&pool.lock);
    if (!s) s = calloc(1, sizeof *s);
    scratch *used = s ? s : &alone;
    used->area = b->area;
    used->fill = b->fill;
    size_t bytes = (size_t)b->height * b->width * 3;
    for (int i; (i = __atomic_fetch_add(&b->next, 1, __ATOMIC_RELAXED)) < b->n;) {
        b->status[i] = make_one(b, i, b->out + i * bytes, used);
        if (b->status[i] != OK) memset(b->out + i * bytes, 127, bytes);
    }
    shed_all(used, s ? KEPT_BYTES : 0);
    if (!s) free(alone.huffman);
    pthread_mutex_lock(&pool.lock);
    if (!s) return;
    s->after = pool.spare;
    pool.spare = s;
}

static void *serve(void *unused) {
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        job *b = pool.first;
        if (b) {
            if (--b->places == 0) pool.first = b->after;
            b->helpers++;
            work(b);
            if (--b->helpers == 0) pthread_cond_broadcast(&pool.left);
            continue;
        }
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += IDLE_S;
        if (pthread_cond_timedwait(&pool.come, &pool.lock, &until) && !pool.first) break;
    }
    pool.threads--;
    scratch *s = pool.spare;          /* as many buffers are left as may be used at once */
    if (s) pool.spare = s->after;
    pthread_mutex_unlock(&pool.lock);
    if (s) {
        shed_all(s, 0);
        free(s->huffman);
        free(s);
    }
    return unused;
}

/* Have as many threads as are asked for; fewer if the system gives no more. */
static void start_threads(void) {
    sigset_t all, before;
    pthread_t thread;
    if (pool.threads >= pool.asked || pool.threads >= MAX_THREADS) return;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool.threads < pool.asked && pool.threads < MAX_THREADS && !pthread_create(&thread, NULL, serve, NULL)) {
        pthread_detach(thread);
        pool.threads++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void run(job *b, int threads) {
    int helpers = (threads < b->n ? threads : b->n) - 1;
    if (helpers < 0) helpers = 0;
    if (helpers > MAX_THREADS - 1) helpers = MAX_THREADS - 1;
    pthread_mutex_lock(&pool.lock);
    if (helpers) {
        b->places = helpers;
        b->after = pool.first;
        pool.first = b;
        pool.asked += helpers;
        start_threads();
        pthread_cond_broadcast(&pool.come);
    }
    work(b);
    for (job **p = &pool.first; *p; p = &(*p)->after)
        if (*p == b) {                           /* not all came */
            *p = b->after;
            break;
        }
    while (b->helpers) pthread_cond_wait(&pool.left, &pool.lock);
    pool.asked -= helpers;
    pthread_mutex_unlock(&pool.lock);
}

/* Make n images, uint8 [n, size, size, 3], on `threads` threads; status[i] is 0 or why image i is grey instead. */
void make_batch(int fd, const item *items, const step *steps, const uint32_t *ends, int n, int size, int threads,
                int area, const uint8_t *fill, uint8_t *out, uint8_t *status) {
    job b = {fd, items, steps, ends, n, size, size, area, fill, out, status, 0, 0, 0, NULL};
    run(&b, threads);
}

/* Change n images, uint8 [n, height, width, 3], in the same way. */
void change_batch(const step *steps, const uint32_t *ends, int n, int height, int width, int threads, uint8_t *out,
                  uint8_t *status) {
    job b = {-1, NULL, steps, ends, n, height, width, 0, NULL, out, status, 0, 0, 0, NULL};
    run(&b, threads);
}
