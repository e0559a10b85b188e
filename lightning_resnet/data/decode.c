/* Batches of pictures from a file: decode what the crop needs, resize with antialiasing, flip.
 *
 * A picture is stored as JPEG or as raw RGB. Only the rows and blocks that the crop box touches are decoded; a crop of
 * at least twice the output size is first scaled down by 2, 4 or 8 in the DCT domain (libjpeg-turbo), where the filter
 * is at no cost. The rest is a separable triangle filter, the definition of Pillow's and torchvision's antialiased
 * bilinear resize. The pictures of a batch are shared among threads; the caller holds no lock.
 */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jpeglib.h>
#include <zlib.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum { OK = 0, BAD_JPEG = 1, BAD_SIZE = 2, BAD_RANGE = 3, BAD_CRC = 4, NO_MEMORY = 5 };
enum { PRECISION = 14 };              /* bits of a filter weight */

/* One picture to make. */
typedef struct {
    uint64_t offset, size;            /* of its bytes in the file */
    double top, left, height, width;  /* the crop box, in pixels of the stored picture */
    uint32_t rows, cols;              /* of the stored picture */
    uint32_t jpeg, flip, crc, check;  /* check: compare the CRC-32 of the bytes with crc */
} item;

typedef struct {
    uint8_t *bytes; size_t bytes_size;       /* of the sample in the file */
    uint8_t *decoded; size_t decoded_size;   /* RGBX rows */
    uint8_t *rows; size_t rows_size;         /* after the vertical pass */
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
        w[best] += (1 << PRECISION) - total;     /* a picture of one colour keeps it */
        f->first[i] = first;
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

/* One RGB pixel from `count` RGBX pixels side by side; may read (not use) one pixel more. */
static inline void mix_pixels(const uint8_t *in, const int16_t *weight, int count, uint8_t *out) {
#ifdef __SSE2__
    const __m128i zero = _mm_setzero_si128();
    __m128i sum = _mm_set1_epi32(1 << (PRECISION - 1));
    for (int k = 0; k < count; k += 2) {
        __m128i two = _mm_loadl_epi64((const __m128i *)(in + 4 * k));
        __m128i pairs = _mm_unpacklo_epi8(_mm_unpacklo_epi8(two, _mm_srli_si128(two, 4)), zero);
        sum = _mm_add_epi32(sum, _mm_madd_epi16(pairs, _mm_set1_epi32(pair(weight + k))));
    }
    sum = _mm_srai_epi32(sum, PRECISION);
    sum = _mm_packus_epi16(_mm_packs_epi32(sum, sum), zero);
    uint32_t rgbx = (uint32_t)_mm_cvtsi128_si32(sum);
    memcpy(out, &rgbx, 3);
#else
    for (int c = 0; c < 3; c++) {
        int sum = 1 << (PRECISION - 1);
        for (int k = 0; k < count; k++) sum += weight[k] * in[4 * k + c];
        out[c] = sum >> PRECISION;
    }
#endif
}

/* RGBX rows [n_rows, n_cols] -> RGB [size, size]; the box is in coordinates of these rows. */
static int resize(const uint8_t *in, int n_rows, int n_cols, double top, double left, double height, double width,
                  int flip, int size, uint8_t *out, scratch *s) {
    filter y = {0}, x = {0};
    int rc = NO_MEMORY;
    if (!make_filter(&y, top, height, n_rows, size) || !make_filter(&x, left, width, n_cols, size)) goto done;
    int from = x.first[0], n = (x.first[size - 1] + x.count[size - 1] - from) * 4;
    if (!grow((void **)&s->rows, &s->rows_size, n + 8)) goto done;
    for (int i = 0; i < size; i++) {
        const uint8_t *row = in + ((size_t)y.first[i] * n_cols + from) * 4;
        mix_rows(row, (size_t)n_cols * 4, y.weight + (size_t)i * y.taps, y.count[i], s->rows, n);
        uint8_t *o = out + (size_t)i * size * 3;
        for (int j = 0; j < size; j++)
            mix_pixels(s->rows + (x.first[j] - from) * 4, x.weight + (size_t)j * x.taps, x.count[j],
                       o + 3 * (flip ? size - 1 - j : j));
    }
    rc = OK;
done:
    free(y.first); free(x.first);
    return rc;
}

/* -- JPEG --------------------------------------------------------------------------------------------------------- */

struct trap { struct jpeg_error_mgr base; jmp_buf back; int fatal; };
static void on_error(j_common_ptr c) { longjmp(((struct trap *)c->err)->back, 1); }
/* Warnings: a decoder that has lost its place in the data tells it here and goes on with grey. */
static void on_message(j_common_ptr c, int level) {
    if (level < 0) {
        int code = c->err->msg_code;
        c->err->num_warnings++;
        if (code != 0 && ((struct trap *)c->err)->fatal >= 0) ((struct trap *)c->err)->fatal = code;
    }
}
static void on_output(j_common_ptr c) { (void)c; }

static int decode_jpeg(const uint8_t *bytes, const item *t, int size, uint8_t *out, scratch *s) {
    struct jpeg_decompress_struct c;
    struct trap e;
    c.err = jpeg_std_error(&e.base);
    e.base.error_exit = on_error;
    e.base.emit_message = on_message;
    e.base.output_message = on_output;
    e.fatal = 0;
    if (setjmp(e.back)) { jpeg_destroy_decompress(&c); return BAD_JPEG; }
    jpeg_create_decompress(&c);
    jpeg_mem_src(&c, bytes, t->size);
    jpeg_read_header(&c, TRUE);
    if (c.image_height != t->rows || c.image_width != t->cols) { jpeg_destroy_decompress(&c); return BAD_SIZE; }
    c.out_color_space = JCS_EXT_RGBX;
    c.dct_method = JDCT_ISLOW;
    int shrink = 1;
    while (shrink < 8 && t->height / (2 * shrink) >= size && t->width / (2 * shrink) >= size) shrink *= 2;
    c.scale_num = 8 / shrink;
    c.scale_denom = 8;
    jpeg_start_decompress(&c);
    double top = t->top / shrink, left = t->left / shrink, height = t->height / shrink, width = t->width / shrink;
    int y0 = (int)floor(top), y1 = (int)ceil(top + height), x0 = (int)floor(left), x1 = (int)ceil(left + width);
    if (y1 > (int)c.output_height) y1 = c.output_height;
    if (x1 > (int)c.output_width) x1 = c.output_width;
    JDIMENSION x = x0, w = x1 - x0;
    if (w < c.output_width) jpeg_crop_scanline(&c, &x, &w);
    if (y0 > 0) jpeg_skip_scanlines(&c, y0);
    size_t stride = (size_t)c.output_width * 4;
    if (!grow((void **)&s->decoded, &s->decoded_size, stride * (y1 - y0) + 8)) { jpeg_destroy_decompress(&c); return NO_MEMORY; }
    for (int y = 0; y < y1 - y0;) {
        JSAMPROW row[4];
        int m = y1 - y0 - y < 4 ? y1 - y0 - y : 4;
        for (int i = 0; i < m; i++) row[i] = s->decoded + stride * (y + i);
        int got = jpeg_read_scanlines(&c, row, m);
        if (got == 0) break;
        y += got;
    }
    int n_cols = c.output_width, bad = e.fatal != 0;
    jpeg_abort_decompress(&c);
    jpeg_destroy_decompress(&c);
    if (bad) return BAD_JPEG;
    return resize(s->decoded, y1 - y0, n_cols, top - y0, left - x, height, width, t->flip, size, out, s);
}

/* -- raw ---------------------------------------------------------------------------------------------------------- */

static int copy_raw(const uint8_t *bytes, const item *t, int size, uint8_t *out, scratch *s) {
    if (t->size < (uint64_t)t->rows * t->cols * 3) return BAD_SIZE;
    int y0 = (int)floor(t->top), y1 = (int)ceil(t->top + t->height);
    int x0 = (int)floor(t->left), x1 = (int)ceil(t->left + t->width);
    if (y1 > (int)t->rows) y1 = t->rows;
    if (x1 > (int)t->cols) x1 = t->cols;
    if (y1 - y0 == size && x1 - x0 == size) {
        for (int y = 0; y < size; y++) {
            const uint8_t *p = bytes + ((size_t)(y0 + y) * t->cols + x0) * 3;
            uint8_t *q = out + (size_t)y * size * 3;
            if (!t->flip) memcpy(q, p, (size_t)size * 3);
            else for (int x = 0; x < size; x++) memcpy(q + 3 * (size - 1 - x), p + 3 * x, 3);
        }
        return OK;
    }
    int n_cols = x1 - x0;
    if (!grow((void **)&s->decoded, &s->decoded_size, (size_t)n_cols * (y1 - y0) * 4 + 8)) return NO_MEMORY;
    for (int y = y0; y < y1; y++)
        for (int x = x0; x < x1; x++)
            memcpy(s->decoded + ((size_t)(y - y0) * n_cols + x - x0) * 4, bytes + ((size_t)y * t->cols + x) * 3, 3);
    return resize(s->decoded, y1 - y0, n_cols, t->top - y0, t->left - x0, t->height, t->width, t->flip, size, out, s);
}

/* -- a batch ------------------------------------------------------------------------------------------------------ */

typedef struct {
    int fd;
    const item *items; int n, size;
    uint8_t *out; uint8_t *status;
    int next;
} job;

/* Bytes of a sample, by pread: a file that is cut short under us gives an error, where mapped memory would kill us. */
static int fetch(int fd, const item *t, scratch *s) {
    if (t->size == 0 || t->size > (uint64_t)1 << 31) return BAD_RANGE;
    if (!grow((void **)&s->bytes, &s->bytes_size, t->size)) return NO_MEMORY;
    for (size_t done = 0; done < t->size;) {
        ssize_t got = pread(fd, s->bytes + done, t->size - done, (off_t)(t->offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return BAD_RANGE;
        done += got;
    }
    if (t->check && crc32(0, s->bytes, t->size) != t->crc) return BAD_CRC;
    return OK;
}

static int make_one(const job *b, int i, scratch *s) {
    const item *t = b->items + i;
    uint8_t *out = b->out + (size_t)i * b->size * b->size * 3;
    int rc = fetch(b->fd, t, s);
    if (rc != OK) return rc;
    if (t->rows == 0 || t->cols == 0 || t->top < 0 || t->left < 0 || !(t->height > 0) || !(t->width > 0) ||
        t->top + t->height > t->rows || t->left + t->width > t->cols) return BAD_SIZE;
    return t->jpeg ? decode_jpeg(s->bytes, t, b->size, out, s) : copy_raw(s->bytes, t, b->size, out, s);
}

static void *work(void *p) {
    job *b = p;
    scratch s = {0};
    size_t bytes = (size_t)b->size * b->size * 3;
    for (int i; (i = __atomic_fetch_add(&b->next, 1, __ATOMIC_RELAXED)) < b->n;) {
        b->status[i] = make_one(b, i, &s);
        if (b->status[i] != OK) memset(b->out + i * bytes, 127, bytes);
    }
    free(s.bytes);
    free(s.decoded);
    free(s.rows);
    return NULL;
}

/* Make n pictures, uint8 [n, size, size, 3], on `threads` threads; status[i] is 0 or why picture i is grey instead. */
void decode_batch(int fd, const item *items, int n, int size, int threads, uint8_t *out, uint8_t *status) {
    job b = {fd, items, n, size, out, status, 0};
    pthread_t t[256];
    int started = 0;
    if (threads > 256) threads = 256;
    while (started < threads - 1 && started < n - 1 && !pthread_create(t + started, NULL, work, &b)) started++;
    work(&b);
    while (started) pthread_join(t[--started], NULL);
}
