/* Pillow's resize, computed only where pixels are kept: the part of a picture, uint8 grey or RGB.

   The same arithmetic as Pillow, so the same bytes: weights in double precision, added up in order,
   rounded to 22 bits after the point; columns before rows; 8 bits between the two. It holds no
   lock of the interpreter. Optional: resample.py says what runs without it. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __GNUC__
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif
/* AVX2 is compiled for x86-64 whatever the compiler's target, and used where the machine has it. */
#if defined(__GNUC__) && defined(__x86_64__)
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2")))
#endif

/* 32 bits less 8 of the result and 2 for sums outside 0 to 1. */
#define BITS 22
#define HALF (1 << (BITS - 1))
/* Bytes after the end of a row that two pixels in a step may reach. */
#define PAD 8
#define AXIS "models._resample.Axis"

static const double PI = 3.14159265358979323846;

/* Which inputs of one axis each output is made of. Output i is the sum of its count[i] inputs from
   first[i] on, times the weights from weights[i * taps] on. */
typedef struct {
    int source, outputs, taps;
    int32_t *first, *count, *weights;
} Axis;

static double box(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

static double bilinear(double x) {
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double sinc(double x) { return x == 0.0 ? 1.0 : sin(x * PI) / (x * PI); }

static double hamming(double x) {
    /* Pillow's two constants are single precision. */
    x = fabs(x);
    return x == 0.0 ? 1.0 : x >= 1.0 ? 0.0 : sinc(x) * (0.54f + 0.46f * cos(x * PI));
}

static double bicubic(double x) {
    x = fabs(x);
    if (x < 1.0) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0.0;
}

static double lanczos(double x) { return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

static const struct {
    const char *name;
    double (*weight)(double);
    double reach; /* from its centre, in pixels of the smaller side */
} FILTERS[] = {
    {"box", box, 0.5},         {"bilinear", bilinear, 1.0}, {"hamming", hamming, 1.0},
    {"bicubic", bicubic, 2.0}, {"lanczos", lanczos, 3.0},
};

/* Fill in one output: its inputs, and their weights in 1 / 2^22. */
static void weigh(Axis *axis, int output, double centre, double stretch, int kind, double *exact) {
    double reach = FILTERS[kind].reach * stretch, narrow = 1.0 / stretch, sum = 0.0;
    int first = (int)(centre - reach + 0.5), last = (int)(centre + reach + 0.5);
    int32_t *weights = axis->weights + (size_t)output * axis->taps;
    if (first < 0) first = 0;
    if (last > axis->source) last = axis->source;
    for (int i = first; i < last; i++) {
        exact[i - first] = FILTERS[kind].weight((i - centre + 0.5) * narrow);
        sum += exact[i - first];
    }
    for (int i = 0; i < last - first; i++) {
        double scaled = (sum != 0.0 ? exact[i] / sum : exact[i]) * (1 << BITS);
        weights[i] = (int32_t)(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    }
    for (int i = last - first; i < axis->taps; i++) weights[i] = 0;
    axis->first[output] = first;
    axis->count[output] = last - first;
}

static void free_axis(PyObject *capsule) { free(PyCapsule_GetPointer(capsule, AXIS)); }

static PyObject *py_axis(PyObject *self, PyObject *args) {
    int source, target, begin, end, kind = 0, kinds = sizeof FILTERS / sizeof *FILTERS;
    const char *name;
    if (!PyArg_ParseTuple(args, "iiiis:axis", &source, &target, &begin, &end, &name)) return NULL;
    while (kind < kinds && strcmp(name, FILTERS[kind].name)) kind++;
    if (kind == kinds || source < 1 || begin < 0 || end <= begin || end > target)
        return PyErr_Format(PyExc_ValueError, "axis: expected a filter and 0 <= begin < end <= "
                            "target, got %s and %d to %d of %d", name, begin, end, target);
    double scale = (double)source / target, stretch = scale < 1.0 ? 1.0 : scale;
    size_t outputs = end - begin, taps = 2 * (size_t)ceil(FILTERS[kind].reach * stretch) + 1;
    taps += taps % 2; /* in pairs; the second of the last one may weigh nothing */
    double *exact = malloc(taps * sizeof *exact);
    Axis *axis = malloc(sizeof *axis + (2 + taps) * outputs * sizeof(int32_t));
    PyObject *capsule = exact && axis ? PyCapsule_New(axis, AXIS, free_axis) : PyErr_NoMemory();
    if (capsule == NULL) {
        free(exact);
        free(axis);
        return NULL;
    }
    *axis = (Axis){source, (int)outputs, (int)taps, (int32_t *)(axis + 1), NULL, NULL};
    axis->count = axis->first + outputs;
    axis->weights = axis->count + outputs;
    Py_BEGIN_ALLOW_THREADS
    for (int i = begin; i < end; i++)
        weigh(axis, i - begin, (i + 0.5) * scale, stretch, kind, exact);
    Py_END_ALLOW_THREADS
    free(exact);
    return capsule;
}

/* Its outputs' first inputs, their counts and their weights, one after the other: int32. */
static PyObject *py_table(PyObject *self, PyObject *capsule) {
    const Axis *axis = PyCapsule_GetPointer(capsule, AXIS);
    if (axis == NULL) return NULL;
    size_t bytes = (2 + (size_t)axis->taps) * axis->outputs * sizeof(int32_t);
    return PyBytes_FromStringAndSize((const char *)axis->first, bytes);
}

INLINE uint8_t clip(int32_t sum) {
    sum >>= BITS;
    return sum < 0 ? 0 : sum > 255 ? 255 : sum;
}

/* Resample one row into the columns that are kept. */
typedef void Across(const uint8_t *row, const Axis *axis, int channels, uint8_t *out);

static void across(const uint8_t *row, const Axis *axis, int channels, uint8_t *out) {
    for (int x = 0; x < axis->outputs; x++) {
        const uint8_t *pixel = row + (size_t)axis->first[x] * channels;
        const int32_t *weights = axis->weights + (size_t)x * axis->taps;
        for (int lane = 0; lane < channels; lane++) {
            int32_t sum = HALF;
            for (int i = 0; i < axis->count[x]; i++) sum += pixel[i * channels + lane] * weights[i];
            *out++ = clip(sum);
        }
    }
}

#ifdef AVX2
/* The same for RGB, two pixels of four lanes in a step; the last lane is dropped. Reads up to
   PAD bytes after the last pixel and writes one. */
AVX2 static void across_avx2(const uint8_t *row, const Axis *axis, int channels, uint8_t *out) {
    if (channels == 1) {
        across(row, axis, 1, out);
        return;
    }
    const __m128i lanes = _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i both = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
    for (int x = 0; x < axis->outputs; x++) {
        const uint8_t *pixel = row + (size_t)axis->first[x] * 3;
        const int32_t *weight = axis->weights + (size_t)x * axis->taps;
        __m256i sums = _mm256_setr_epi32(HALF, HALF, HALF, 0, 0, 0, 0, 0);
        for (int i = 0; i < axis->count[x]; i += 2, pixel += 6, weight += 2) {
            __m128i bytes = _mm_loadl_epi64((const __m128i *)pixel);
            __m256i pixels = _mm256_cvtepu8_epi32(_mm_shuffle_epi8(bytes, lanes));
            __m128i pair = _mm_loadl_epi64((const __m128i *)weight);
            __m256i weights = _mm256_permutevar8x32_epi32(_mm256_castsi128_si256(pair), both);
            sums = _mm256_add_epi32(sums, _mm256_mullo_epi32(pixels, weights));
        }
        __m128i sum = _mm256_extracti128_si256(sums, 1);
        sum = _mm_add_epi32(_mm256_castsi256_si128(sums), sum);
        sum = _mm_packs_epi32(_mm_srai_epi32(sum, BITS), sum);
        int32_t four = _mm_cvtsi128_si32(_mm_packus_epi16(sum, sum));
        memcpy(out + 3 * x, &four, sizeof four);
    }
}
#endif

/* Mix the rows of output y, which lie in a ring of so many rows, into one row. */
INLINE void down(const uint8_t *ring, size_t stride, int rows, const Axis *axis, int y,
                 size_t bytes, int32_t *restrict sums, uint8_t *restrict out) {
    const int32_t *weights = axis->weights + (size_t)y * axis->taps;
    for (size_t i = 0; i < bytes; i++) sums[i] = HALF;
    for (int tap = 0; tap < axis->count[y]; tap++) {
        const uint8_t *restrict row = ring + (axis->first[y] + tap) % rows * stride;
        for (size_t i = 0; i < bytes; i++) sums[i] += row[i] * weights[tap];
    }
    for (size_t i = 0; i < bytes; i++) out[i] = clip(sums[i]);
}

/* Memory that a call works in; rows end with PAD bytes that may be read and written. */
typedef struct {
    int32_t *sums;
    uint8_t *row, *ring;
    int rows; /* of the ring */
} Memory;

INLINE void resample(const uint8_t *image, const Axis *rows, const Axis *columns, int channels,
                     int is_down_first, Memory memory, uint8_t *out, Across *across_row) {
    size_t source = (size_t)columns->source * channels;
    size_t bytes = (size_t)columns->outputs * channels, stride = bytes + PAD;
    int next = 0;
    for (int y = 0; y < rows->outputs; y++, out += bytes) {
        if (is_down_first) {
            down(image, source, rows->source, rows, y, source, memory.sums, memory.row);
            across_row(memory.row, columns, channels, memory.ring);
            memcpy(out, memory.ring, bytes);
            continue;
        }
        /* The ring holds the last rows that were resampled across; each that is needed is, once. */
        int last = rows->first[y] + rows->count[y];
        for (next = next < rows->first[y] ? rows->first[y] : next; next < last; next++) {
            const uint8_t *row = image + next * source;
            if ((rows->source - 1 - next) * source < PAD) row = memcpy(memory.row, row, source);
            across_row(row, columns, channels, memory.ring + next % memory.rows * stride);
        }
        down(memory.ring, stride, memory.rows, rows, y, bytes, memory.sums, out);
    }
}

#ifdef AVX2
AVX2 static void resample_avx2(const uint8_t *image, const Axis *rows, const Axis *columns,
                               int channels, int is_down_first, Memory memory, uint8_t *out) {
    resample(image, rows, columns, channels, is_down_first, memory, out, across_avx2);
}
#endif

static void resample_plain(const uint8_t *image, const Axis *rows, const Axis *columns,
                           int channels, int is_down_first, Memory memory, uint8_t *out) {
    resample(image, rows, columns, channels, is_down_first, memory, out, across);
}

typedef void Run(const uint8_t *, const Axis *, const Axis *, int, int, Memory, uint8_t *);

static PyObject *call(PyObject *args, Run *run) {
    Py_buffer image, out;
    PyObject *row_capsule, *column_capsule, *result = NULL;
    int channels, is_down_first;
    if (!PyArg_ParseTuple(args, "y*OOipw*:resample", &image, &row_capsule, &column_capsule,
                          &channels, &is_down_first, &out))
        return NULL;
    const Axis *rows = PyCapsule_GetPointer(row_capsule, AXIS);
    const Axis *columns = rows ? PyCapsule_GetPointer(column_capsule, AXIS) : NULL;
    if (columns == NULL) goto release;
    size_t bytes = (size_t)columns->outputs * channels;
    if ((channels != 1 && channels != 3) ||
        (size_t)image.len != (size_t)rows->source * columns->source * channels ||
        (size_t)out.len != rows->outputs * bytes) {
        PyErr_Format(PyExc_ValueError, "resample: expected %d x %d to %d x %d pixels of 1 or 3 "
                     "bytes, got %zd to %zd bytes", columns->source, rows->source,
                     columns->outputs, rows->outputs, image.len, out.len);
        goto release;
    }
    size_t row = (size_t)columns->source * channels + PAD, widest = row > bytes ? row : bytes;
    Memory memory = {NULL, NULL, NULL, is_down_first ? 1 : rows->taps};
    memory.sums = malloc(widest * sizeof *memory.sums + row + memory.rows * (bytes + PAD));
    if (memory.sums == NULL && PyErr_NoMemory() == NULL) goto release;
    memory.row = (uint8_t *)(memory.sums + widest);
    memory.ring = memory.row + row;
    Py_BEGIN_ALLOW_THREADS
    run(image.buf, rows, columns, channels, is_down_first, memory, out.buf);
    Py_END_ALLOW_THREADS
    free(memory.sums);
    result = Py_NewRef(Py_None);
release:
    PyBuffer_Release(&image);
    PyBuffer_Release(&out);
    return result;
}

/* The fastest that this machine runs, and its name. */
static Run *fastest = resample_plain;
static const char *instructions = "plain";

static PyObject *py_resample(PyObject *self, PyObject *args) { return call(args, fastest); }

static PyObject *py_plain(PyObject *self, PyObject *args) { return call(args, resample_plain); }

static int fill(PyObject *module) {
#ifdef AVX2
    if (__builtin_cpu_supports("avx2")) {
        fastest = resample_avx2;
        instructions = "avx2";
    }
#endif
    return PyModule_AddStringConstant(module, "INSTRUCTIONS", instructions);
}

/* What each does is said in _resample.pyi. */
static PyMethodDef METHODS[] = {
    {"axis", py_axis, METH_VARARGS, NULL},
    {"table", py_table, METH_O, NULL},
    {"resample", py_resample, METH_VARARGS, NULL},
    {"resample_plain", py_plain, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot SLOTS[] = {{Py_mod_exec, fill}, {0, NULL}};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, "models._resample", NULL, 0, METHODS, SLOTS, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__resample(void) { return PyModuleDef_Init(&MODULE); }
