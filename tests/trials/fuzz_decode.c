/* The decoder under fire: images of every kind, full and damaged, with boxes and operations of every kind, under
 * sanitizers.
 *
 * `fuzz_decode SEED COUNT` makes COUNT inputs, a function of SEED alone, and prints how many of each status came out.
 * Whoever writes beyond a buffer, reads beyond one, overflows or hangs ends the program with an error. What was not
 * damaged must decode, a crop must have the pixels of the full image, and all sets of instructions must agree, libjpeg
 * alone among them, on the pixels and on what is damaged. See test_fuzz_decode.py.
 *
 * libjpeg is not instrumented: in every second input the decoder's buffers end at a page that cannot be touched, so
 * that libjpeg's own writes beyond them are noticed as well.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { FENCES = 64, PAGE = 4096, HANG_S = 120, MUTANTS = 24 };
static struct { void *user, *base; size_t bytes; } fences[FENCES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int fenced;

static void *fence_malloc(size_t n) {
    if (!fenced) return malloc(n);
    size_t body = (n + PAGE - 1) / PAGE * PAGE;
    uint8_t *base = mmap(NULL, body + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return NULL;
    mprotect(base + body, PAGE, PROT_NONE);
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < FENCES && fences[i].user) i++;
    if (i == FENCES) abort();
    fences[i].user = base + body - n;
    fences[i].base = base;
    fences[i].bytes = body + PAGE;
    pthread_mutex_unlock(&lock);
    return base + body - n;
}

static void fence_free(void *p) {
    pthread_mutex_lock(&lock);
    for (int i = 0; p && i < FENCES; i++) {
        if (fences[i].user != p) continue;
        munmap(fences[i].base, fences[i].bytes);
        fences[i].user = NULL;
        p = NULL;
    }
    pthread_mutex_unlock(&lock);
    free(p);
}

#include <jpeglib.h>
#define malloc fence_malloc
#define free fence_free
#include "decode.c"
#undef malloc
#undef free

static void fail(const char *why) { fprintf(stderr, "FAILED: %s\n", why); abort(); }

/* -- random numbers ---------------------------------------------------------------------------------------------- */

static uint64_t state;
static uint64_t next(void) {
    uint64_t x = state += 0x9E3779B97F4A7C15;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return x ^ (x >> 31);
}
static uint32_t below(uint32_t n) { return next() % n; }
static int one_in(uint32_t n) { return below(n) == 0; }
static int from(const int *choices, int n) { return choices[below(n)]; }
#define FROM(array) from(array, sizeof array / sizeof *array)

/* -- images ------------------------------------------------------------------------------------------------------ */

typedef struct { uint8_t *bytes; size_t size; int rows, cols, rgb; } image;

struct refusal { struct jpeg_error_mgr base; jmp_buf back; };
static void refuse(j_common_ptr c) { longjmp(((struct refusal *)c->err)->back, 1); }

/* A JPEG: any sampling, progressive, arithmetic, grey, RGB, YCC, CMYK, YCCK, restart markers. */
static image try_jpeg(void) {
    static const int sides[] = {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 40, 64, 100, 201};
    static const int qualities[] = {1, 30, 75, 90, 100};
    struct jpeg_compress_struct c;
    struct refusal e;
    image made = {NULL, 0, FROM(sides), FROM(sides), 1};
    static unsigned char room[1 << 20];
    unsigned char *bytes = room;
    unsigned long size = sizeof room;
    c.err = jpeg_std_error(&e.base);
    e.base.error_exit = refuse;
    if (setjmp(e.back)) { jpeg_destroy_compress(&c); return (image){NULL, 0, 0, 0, 0}; }
    jpeg_create_compress(&c);
    jpeg_mem_dest(&c, &bytes, &size);
    c.image_height = made.rows;
    c.image_width = made.cols;
    int kind = below(8);                     /* 0: grey, 1: CMYK, 2: YCCK, 3: RGB, else YCC */
    c.input_components = kind == 0 ? 1 : kind < 3 ? 4 : 3;
    c.in_color_space = kind == 0 ? JCS_GRAYSCALE : kind < 3 ? JCS_CMYK : JCS_RGB;
    jpeg_set_defaults(&c);
    if (kind == 2) jpeg_set_colorspace(&c, JCS_YCCK);
    if (kind == 3) jpeg_set_colorspace(&c, JCS_RGB);
    made.rgb = kind == 0 || kind > 2;
    jpeg_set_quality(&c, FROM(qualities), TRUE);
    int blocks = 0;
    for (int i = 0; i < c.num_components; i++) {
        static const int factors[] = {1, 1, 2, 2, 4};
        int h = FROM(factors), v = FROM(factors);
        if (blocks + h * v > 10 - (c.num_components - 1 - i)) h = v = 1;
        c.comp_info[i].h_samp_factor = h;
        c.comp_info[i].v_samp_factor = v;
        blocks += h * v;
    }
    if (one_in(2)) {                         /* the usual ones: 4:2:0, 4:2:2, 4:4:4 */
        for (int i = 0; i < c.num_components; i++) c.comp_info[i].h_samp_factor = c.comp_info[i].v_samp_factor = 1;
        c.comp_info[0].h_samp_factor = 1 + below(2);
        c.comp_info[0].v_samp_factor = 1 + below(c.comp_info[0].h_samp_factor);
    }
    if (one_in(3)) jpeg_simple_progression(&c);
    c.arith_code = one_in(4);
    c.optimize_coding = one_in(3);
    if (one_in(3)) c.restart_interval = 1 + below(5);
    jpeg_start_compress(&c, TRUE);
    uint8_t row[201 * 4];
    int smooth = one_in(3), colour = below(256);
    while (c.next_scanline < c.image_height) {
        for (int x = 0; x < made.cols * c.input_components; x++)
            row[x] = smooth ? colour + x / 3 + c.next_scanline : next();
        JSAMPROW p = row;
        jpeg_write_scanlines(&c, &p, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    made.size = size;
    made.bytes = malloc(size);
    memcpy(made.bytes, bytes, size);
    return made;
}

/* Some combinations libjpeg does not write. */
static image make_jpeg(void) {
    image made;
    do made = try_jpeg(); while (!made.bytes);
    return made;
}

static image make_raw(void) {
    image made = {NULL, 0, 1 + below(60), 1 + below(60), 1};
    made.size = (size_t)made.rows * made.cols * 3;
    made.bytes = malloc(made.size);
    for (size_t i = 0; i < made.size; i++) made.bytes[i] = next();
    return made;
}

static size_t find(const image *m, uint8_t low, uint8_t high) {
    for (size_t i = 0; i + 1 < m->size; i++)
        if (m->bytes[i] == 0xFF && m->bytes[i + 1] >= low && m->bytes[i + 1] <= high) return i;
    return m->size;
}

/* Put bytes of another image, or of the same, at a place. */
static void insert(image *m, size_t at, const uint8_t *bytes, size_t n) {
    uint8_t *longer = malloc(m->size + n);
    memcpy(longer, m->bytes, at);
    memcpy(longer + at, bytes, n);
    memcpy(longer + at + n, m->bytes + at, m->size - at);
    free(m->bytes);
    m->bytes = longer;
    m->size += n;
}

static void damage(image *m, const image *other) {
    for (int n = 1 + below(3); n > 0 && m->size > 4; n--) {
        size_t at = below(m->size), end = at + 1 + below(m->size - at);
        if (one_in(3)) at = below(m->size < 700 ? m->size : 700), end = at + 1 + below(m->size - at);
        size_t head = find(m, 0xC0, 0xCF), scan = find(m, 0xDA, 0xDA);
        switch (below(12)) {
        case 0: case 1: case 2: m->bytes[at] ^= 1 << below(8); break;
        case 3: m->bytes[at] = next(); break;
        case 4: m->size = at + 1; break;
        case 5: m->size = at + 1; if (at > 1) m->bytes[at - 1] = 0xFF, m->bytes[at] = 0xD9; break;
        case 6: memset(m->bytes + at, one_in(2) ? 0 : 0xFF, end - at); break;
        case 7: memmove(m->bytes + at, m->bytes + below(m->size - (end - at) + 1), end - at); break;
        case 8: insert(m, at, other->bytes, other->size < 3000 ? other->size : 3000); break;
        case 9:                              /* size, precision, components, samplings in the header of the frame */
            if (head + 20 < m->size) m->bytes[head + 4 + below(15)] = one_in(2) ? next() : 12;
            break;
        case 10:                             /* hundreds of scans */
            if (scan < m->size && m->size - scan < 3000)
                for (int k = below(300); k > 0 && m->size < 200000; k--) {
                    size_t last = m->size - scan;
                    uint8_t *copy = malloc(last);
                    memcpy(copy, m->bytes + scan, last);
                    insert(m, scan, copy, last > 400 ? 400 : last);
                    free(copy);
                }
            break;
        default:                             /* another segment's length */
            if (scan > 4 && scan < m->size) m->bytes[2 + below(scan - 2)] = next();
        }
    }
}

/* -- boxes ------------------------------------------------------------------------------------------------------- */

static double odd_number(void) {
    static const double odd[] = {0, -0.0, 0.5, -0.5, 1e-300, 1e300, -1e300, 65535, -65535, 4294967296.0, -1, 1, 3.25, NAN,
                                 INFINITY, -INFINITY};
    return odd[below(sizeof odd / sizeof *odd)];
}

static void place_box(item *t, int size) {
    double rows = t->rows, cols = t->cols;
    switch (below(8)) {
    case 0: case 1: case 2:                  /* integers, inside */
        t->height = 1 + below(rows < 1 ? 1 : rows);
        t->width = 1 + below(cols < 1 ? 1 : cols);
        t->top = below(rows - t->height + 1 < 1 ? 1 : rows - t->height + 1);
        t->left = below(cols - t->width + 1 < 1 ? 1 : cols - t->width + 1);
        break;
    case 3:                                  /* parts of a pixel, inside */
        t->height = rows * (1 + below(1000)) / 1000;
        t->width = cols * (1 + below(1000)) / 1000;
        t->top = (rows - t->height) * below(1001) / 1000;
        t->left = (cols - t->width) * below(1001) / 1000;
        break;
    case 4: case 5:                          /* no resize, may reach out */
        t->height = t->width = size;
        t->top = (int)below(rows + 2 * size) - size;
        t->left = (int)below(cols + 2 * size) - size;
        if (one_in(4)) t->top += below(100) / 100.0;
        if (one_in(4)) t->left += below(100) / 100.0;
        break;
    case 6: t->height = rows; t->width = cols; t->top = t->left = 0; break;
    default:
        t->height = one_in(2) ? odd_number() : size;
        t->width = one_in(2) ? odd_number() : size;
        t->top = odd_number();
        t->left = odd_number();
    }
}

/* -- operations -------------------------------------------------------------------------------------------------- */

enum { MAX_STEPS = 3 };

/* An operation of any kind, one that does not exist among them; its numbers are a policy's, or odd. */
static step make_step(int size) {
    step t = {0};
    int odd = one_in(4);
    t.operation = one_in(50) ? odd_number() : (double)below(ERASE + 2);
    for (int i = 0; i < 7; i++) t.value[i] = odd ? odd_number() : (int)below(512) - 256 + below(100) / 100.0;
    if (odd || t.operation == SHIFT) return t;
    if (t.operation == AFFINE) {
        double angle = below(628) / 100.0, shear = one_in(2) ? below(200) / 100.0 - 1 : 0;
        int shifts = one_in(3);
        t.value[0] = shifts ? 1 : cos(angle);
        t.value[1] = shifts ? shear : -sin(angle);
        t.value[3] = shifts ? 0 : sin(angle);
        t.value[4] = shifts ? 1 : cos(angle);
        for (int i = 2; i < 6; i += 3) t.value[i] = (int)below(4 * size + 1) - 2 * size + (one_in(2) ? 0 : below(16) / 16.0);
    } else if (t.operation == ERASE) {
        for (int i = 0; i < 4; i++) t.value[i] = below(size + 2);
    } else if (t.operation != SOLARIZE && t.operation != SOLARIZE_ADD && t.operation != POSTERIZE) {
        t.value[0] = below(201) / 100.0 - 1;
    }
    return t;
}

/* Change images of any shape, on one thread and on three. */
static void try_operations(void) {
    enum { IMAGES = 3 };
    int n = 1 + below(IMAGES), h = 1 + below(one_in(8) ? 300 : 40), w = 1 + below(one_in(8) ? 300 : 40);
    step steps[IMAGES * MAX_STEPS];
    uint32_t ends[IMAGES], end = 0;
    size_t bytes = (size_t)n * h * w * 3;
    for (int i = 0; i < n; i++) {
        for (int k = below(MAX_STEPS + 1); k > 0; k--) steps[end++] = make_step(h < w ? w : h);
        ends[i] = end;
    }
    step *exact = malloc(end * sizeof *steps + 1);
    memcpy(exact, steps, end * sizeof *steps);
    uint8_t *one = fence_malloc(bytes), *two = malloc(bytes), status[IMAGES];
    for (size_t i = 0; i < bytes; i++) one[i] = two[i] = next();
    change_batch(exact, ends, n, h, w, 1, one, status);
    for (int i = 0; i < n; i++) if (status[i] != OK) fail("an image was not changed");
    change_batch(exact, ends, n, h, w, 3, two, status);
    if (memcmp(one, two, bytes)) fail("threads change images otherwise");
    fence_free(one);
    free(two);
    free(exact);
}

/* -- checks ------------------------------------------------------------------------------------------------------ */

/* The full image by libjpeg alone. */
static uint8_t *full_image(const image *m) {
    struct jpeg_decompress_struct c;
    struct jpeg_error_mgr e;
    c.err = jpeg_std_error(&e);
    jpeg_create_decompress(&c);
    jpeg_mem_src(&c, m->bytes, m->size);
    jpeg_read_header(&c, TRUE);
    c.out_color_space = JCS_RGB;
    c.dct_method = JDCT_ISLOW;
    jpeg_start_decompress(&c);
    uint8_t *out = malloc((size_t)m->rows * m->cols * 3);
    while (c.output_scanline < c.output_height) {
        JSAMPROW row = out + (size_t)c.output_scanline * m->cols * 3;
        jpeg_read_scanlines(&c, &row, 1);
    }
    jpeg_finish_decompress(&c);
    jpeg_destroy_decompress(&c);
    return out;
}

static void check_crop(const image *m, const item *t, int size, const uint8_t *fill, const uint8_t *out) {
    uint8_t *full = t->jpeg ? full_image(m) : m->bytes;
    for (int y = 0; y < size; y++)
        for (int x = 0; x < size; x++) {
            int row = (int)t->top + y, col = (int)t->left + (t->flip ? size - 1 - x : x);
            int inside = row >= 0 && col >= 0 && row < m->rows && col < m->cols;
            for (int k = 0; k < 3; k++) {
                uint8_t expected = inside ? full[((size_t)row * m->cols + col) * 3 + k] : fill[k];
                if (out[((size_t)y * size + x) * 3 + k] != expected) fail("a crop has other pixels than the full image");
            }
        }
    if (t->jpeg) free(full);
}

/* -- one batch --------------------------------------------------------------------------------------------------- */

static long counts[7], crops;

static void try_batch(image *m, int intact, int jpeg, int file) {
    static const int sizes[] = {1, 2, 7, 8, 13, 24, 33, 64};
    enum { ITEMS = 4 };
    item items[ITEMS];
    memset(items, 0, sizeof items);
    unsigned size = FROM(sizes), n = 1 + below(ITEMS);
    for (unsigned i = 0; i < n; i++) {
        item *t = items + i;
        t->size = m->size;
        t->rows = m->rows;
        t->cols = m->cols;
        t->jpeg = jpeg;
        t->flip = below(2);
        t->check = one_in(4);
        t->crc = crc32(0, m->bytes, m->size);
        if (!intact && one_in(6)) t->rows = one_in(2) ? below(65536) : m->rows + 1;
        if (!intact && one_in(6)) t->cols = one_in(2) ? below(65536) : m->cols + 1;
        if (!intact && one_in(10)) t->size = one_in(2) ? next() : below(m->size + 2);
        if (!intact && one_in(10)) t->offset = one_in(2) ? next() : below(m->size + 2);
        if (!intact && one_in(10)) t->crc++;
        if (!intact && one_in(10)) t->jpeg = !t->jpeg;
        place_box(t, size);
    }
    step steps[ITEMS * MAX_STEPS];
    uint32_t ends[ITEMS], end = 0;
    int changed = one_in(3);
    for (unsigned i = 0; i < n; i++) {
        for (int k = below(MAX_STEPS + 1); k > 0; k--) steps[end++] = make_step(size);
        ends[i] = end;
    }
    uint8_t *out = malloc((size_t)n * size * size * 3), *status = malloc(n);
    uint8_t fill[3] = {below(256), below(256), below(256)};
    int area = one_in(3);
    choose_paths(below(MAX_LEVEL + 1));
    make_batch(file, items, changed ? steps : NULL, changed ? ends : NULL, n, size, 1 + below(2), area, fill, out, status);
    choose_paths(-1);
    uint8_t *plain = malloc((size_t)n * size * size * 3), *plain_status = malloc(n);
    make_batch(file, items, changed ? steps : NULL, changed ? ends : NULL, n, size, 1, area, fill, plain, plain_status);
    if (memcmp(status, plain_status, n)) fail("another status than by plain instructions and libjpeg alone");
    if (memcmp(out, plain, (size_t)n * size * size * 3)) fail("other pixels than by plain instructions and libjpeg alone");
    free(plain);
    free(plain_status);
    for (unsigned i = 0; i < n; i++) {
        const item *t = items + i;
        if (status[i] > TOO_MUCH) fail("a status that does not exist");
        counts[status[i]]++;
        int is_full = t->height == size && t->width == size;
        int possible = t->top == floor(t->top) && t->left == floor(t->left) && fabs(t->top) < 1e6 && fabs(t->left) < 1e6;
        if (!intact || !possible) continue;
        int inside = t->top >= 0 && t->left >= 0 && t->top + t->height <= t->rows && t->left + t->width <= t->cols;
        int sound = t->height >= 1 && t->width >= 1 && (inside || is_full);
        if (sound && m->rgb && status[i] != OK) fail("what is sound was not decoded");
        if (!sound && status[i] == OK) fail("a box outside the image was decoded");
        if (sound && m->rgb && is_full && !changed) {
            check_crop(m, t, size, fill, out + (size_t)i * size * size * 3);
            crops++;
        }
    }
    free(out);
    free(status);
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    uint64_t seed = strtoull(argv[1], NULL, 10);
    long n = atol(argv[2]), inputs = 0;
    int file = memfd_create("image", 0);
    for (uint64_t round = 0; inputs < n; round++) {
        state = (seed << 32) + round;        /* a round can be repeated by itself */
        int jpeg = !one_in(12);
        image original = jpeg ? make_jpeg() : make_raw(), other = make_jpeg();
        for (int k = 0; k < MUTANTS && inputs < n; k++, inputs++) {
            alarm(HANG_S);
            image m = original;
            m.bytes = malloc(original.size);
            memcpy(m.bytes, original.bytes, original.size);
            int intact = k < 4;
            if (!intact) damage(&m, &other);
            if (ftruncate(file, 0) || pwrite(file, m.bytes, m.size, 0) != (ssize_t)m.size) fail("no memory file");
            fenced = k & 1;
            try_batch(&m, intact, jpeg, file);
            try_operations();
            uint8_t *exact = fence_malloc(m.size);
            memcpy(exact, m.bytes, m.size);
            int found = check_jpeg(exact, m.size, m.rows, m.cols);
            if (intact && jpeg && found != OK) fail("check_jpeg refuses what is sound");
            fence_free(exact);
            free(m.bytes);
        }
        free(original.bytes);
        free(other.bytes);
    }
    printf("inputs %ld, crops compared %ld, statuses", inputs, crops);
    for (int i = 0; i <= TOO_MUCH; i++) printf(" %ld", counts[i]);
    printf("\n");
    return 0;
}
