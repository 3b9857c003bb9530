/* Whether a JPEG is one that a card's decoder may have: baseline, usual, and without any damage.

   Goes through all of the file, its coded data too: every Huffman code is read and every coefficient
   bounded, so nothing is left that decoders take in different ways. No pixel is made. It holds no
   lock of the interpreter. Optional: jpeg_scan.py says what is without it.

   Source of the format: ITU T.81. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

/* The largest dequantised coefficient: of 8-bit pixels 1024 and half a step of up to 255. */
#define MOST 1152
#define FAST 10

/* In the order of REASONS in jpeg_scan.py; 0: none. */
enum { FITS, PROGRESSIVE, COLOURS, SAMPLING, UNUSUAL, DAMAGED };

typedef struct {
    int is_defined;
    uint16_t fast[1 << FAST]; /* length << 8 | symbol by the next bits; 0: longer */
    int32_t past[18];         /* by length: the code after its last one, at 16 bits */
    int32_t offset[17];       /* from a code of that length to its symbol's place */
    uint8_t symbols[256];
} Huffman;

typedef struct {
    int width, height, components, sampling, interval, has_jfif, adobe; /* its transform; -1: none */
    int exif_begin, exif_end, exifs;
    int id[3], h[3], v[3], quantiser[3];
    int has_quantiser[4];
    uint8_t steps[4][64];
    Huffman tables[2][2]; /* DC and AC */
} Picture;

static int read_16(const uint8_t *at) { return at[0] << 8 | at[1]; }

static int read_quantisers(Picture *p, const uint8_t *at, int size) {
    for (; size >= 65; at += 65, size -= 65) {
        if (at[0] > 3) return UNUSUAL; /* 16 bits, or no table */
        p->has_quantiser[at[0]] = 1;
        memcpy(p->steps[at[0]], at + 1, 64);
        if (memchr(at + 1, 0, 64)) return DAMAGED;
    }
    return size ? DAMAGED : FITS;
}

static int read_huffman(Picture *p, const uint8_t *at, int size) {
    while (size >= 17) {
        int symbols = 0, code = 0;
        if (at[0] & 0xEE) return UNUSUAL; /* baseline has two of each */
        Huffman *table = &p->tables[at[0] >> 4][at[0] & 1];
        for (int length = 1; length <= 16; length++) symbols += at[length];
        if (symbols > 256 || size < 17 + symbols) return DAMAGED;
        for (int i = 0; i < symbols && at[0] < 2; i++)
            if (at[17 + i] > 15) return DAMAGED; /* bits of a difference */
        memset(table, 0, sizeof *table);
        memcpy(table->symbols, at + 17, symbols);
        for (int length = 1, place = 0; length <= 16; length++, code <<= 1) {
            table->offset[length] = place - code;
            for (int i = 0; i < at[length]; i++, code++, place++) {
                if (length > FAST || code >= 1 << length) continue;
                uint16_t entry = length << 8 | table->symbols[place];
                int shift = FAST - length;
                for (int j = 0; j < 1 << shift; j++) table->fast[(code << shift) + j] = entry;
            }
            if (at[length] && code >= 1 << length) return DAMAGED; /* none is all ones */
            table->past[length] = code << (16 - length);
        }
        table->is_defined = 1;
        at += 17 + symbols;
        size -= 17 + symbols;
    }
    return size ? DAMAGED : FITS;
}

/* By horizontal and vertical factor of the first channel; others have 1. In the order of SAMPLINGS
   in jpeg_scan.py, after grey. */
static const int FACTORS[][2] = {{1, 1}, {1, 1}, {2, 1}, {2, 2}, {1, 2}, {4, 1}};

static int read_frame(Picture *p, const uint8_t *at, int size) {
    if (p->components) return DAMAGED;
    if (size < 6 || size != 6 + 3 * at[5]) return DAMAGED;
    if (at[0] != 8) return UNUSUAL;
    p->height = read_16(at + 1);
    p->width = read_16(at + 3);
    if (!p->height || !p->width) return UNUSUAL;
    if (at[5] != 1 && at[5] != 3) return COLOURS;
    p->components = at[5];
    for (int i = 0; i < p->components; i++) {
        const uint8_t *of = at + 6 + 3 * i;
        p->id[i] = of[0];
        p->h[i] = of[1] >> 4;
        p->v[i] = of[1] & 15;
        p->quantiser[i] = of[2];
        if (of[2] > 3) return DAMAGED;
        if (i && (p->h[i] != 1 || p->v[i] != 1)) return SAMPLING;
        if (p->components == 3 && of[0] != i + 1) return COLOURS;
    }
    int kinds = sizeof FACTORS / sizeof *FACTORS;
    p->sampling = p->components == 1 ? 0 : 1;
    while (p->sampling < kinds &&
           (FACTORS[p->sampling][0] != p->h[0] || FACTORS[p->sampling][1] != p->v[0]))
        p->sampling++;
    if (p->sampling == kinds || (p->components == 1 && p->sampling)) return SAMPLING;
    return FITS;
}

/* The bits of the coded data, without what is stuffed in. */
typedef struct {
    const uint8_t *at, *end;
    uint64_t bits;
    int count; /* of bits that are read and not used */
} Bits;

/* Have at least 32 bits, or all that are left up to a marker. */
static inline void fill(Bits *b) {
    if (b->end - b->at >= 8) {
        const uint8_t *p = b->at;
        uint64_t next = (uint64_t)p[0] << 56 | (uint64_t)p[1] << 48 | (uint64_t)p[2] << 40 |
                        (uint64_t)p[3] << 32 | (uint64_t)p[4] << 24 | (uint64_t)p[5] << 16 |
                        (uint64_t)p[6] << 8 | p[7];
        if (!((~next - 0x0101010101010101u) & next & 0x8080808080808080u)) { /* none is 0xFF */
            int bytes = (63 - b->count) >> 3;
            b->bits = b->bits << (8 * bytes) | next >> (64 - 8 * bytes);
            b->count += 8 * bytes;
            b->at += bytes;
            return;
        }
    }
    while (b->count <= 48 && b->at < b->end) {
        int byte = *b->at;
        if (byte == 0xFF) {
            if (b->end - b->at < 2 || b->at[1]) return; /* a marker */
            b->at++;
        }
        b->at++;
        b->bits = b->bits << 8 | byte;
        b->count += 8;
    }
}

/* The next symbol, or -1. */
static inline int symbol(Bits *b, const Huffman *table) {
    if (b->count < 32) fill(b);
    int next = (int)(b->count >= 16 ? b->bits >> (b->count - 16) : b->bits << (16 - b->count));
    next &= 0xFFFF;
    int entry = table->fast[next >> (16 - FAST)], length = entry >> 8, found = entry & 255;
    if (!entry) {
        for (length = FAST + 1; length <= 16 && next >= table->past[length]; length++) continue;
        if (length > 16) return -1;
        found = table->symbols[(next >> (16 - length)) + table->offset[length]];
    }
    b->count -= length;
    return b->count < 0 ? -1 : found;
}

/* The value of so many bits, 1 to 11, that are there. */
static inline int value(Bits *b, int size) {
    b->count -= size;
    int bits = (int)(b->bits >> b->count) & ((1 << size) - 1);
    return bits < 1 << (size - 1) ? bits - (1 << size) + 1 : bits;
}

static int is_large(int coefficient, int step) {
    return (coefficient < 0 ? -coefficient : coefficient) * step > MOST;
}

static int read_block(Bits *bits, const Huffman *dc, const Huffman *ac, const uint8_t *steps,
                      int *before) {
    Bits b = *bits; /* in registers */
    int size = symbol(&b, dc);
    if (size < 0 || size > 11 || b.count < size) return DAMAGED;
    if (size) *before += value(&b, size);
    if (is_large(*before, steps[0])) return DAMAGED;
    for (int k = 1; k < 64; k++) {
        int both = symbol(&b, ac);
        if (both == 0) break;
        if (both < 0) return DAMAGED;
        size = both & 15;
        k += both >> 4;
        if (k > 63 || size > 10 || b.count < size) return DAMAGED;
        if (size == 0) {
            /* Only sixteen zeros; zeros up to the end have a code of their own. */
            if (both != 0xF0 || k == 63) return DAMAGED;
        } else if (steps[k] << size <= MOST) {
            b.count -= size; /* small, whatever the bits are */
        } else if (is_large(value(&b, size), steps[k])) {
            return DAMAGED;
        }
    }
    *bits = b;
    return FITS;
}

static int read_scan(Picture *p, const uint8_t *at, int size, const uint8_t *end) {
    const Huffman *dc[3], *ac[3];
    int before[3] = {0, 0, 0};
    if (!p->components) return DAMAGED;
    if (size != 4 + 2 * at[0]) return DAMAGED;
    if (at[0] != p->components) return UNUSUAL;
    for (int i = 0; i < p->components; i++) {
        int selected = at[2 + 2 * i];
        if (at[1 + 2 * i] != p->id[i] || selected & 0xEE) return UNUSUAL;
        dc[i] = &p->tables[0][selected >> 4];
        ac[i] = &p->tables[1][selected & 1];
        if (!dc[i]->is_defined || !ac[i]->is_defined || !p->has_quantiser[p->quantiser[i]])
            return DAMAGED;
    }
    if (memcmp(at + size - 3, "\0\x3f\0", 3)) return UNUSUAL;
    if (p->components == 3 && p->adobe >= 0 && p->adobe != 1) return COLOURS;
    int across = 8 * p->h[0], down = 8 * p->v[0];
    long units = (long)((p->width + across - 1) / across) * ((p->height + down - 1) / down);
    Bits b = {at + size, end, 0, 0};
    for (long unit = 0; unit < units; unit++) {
        if (p->interval && unit && unit % p->interval == 0) {
            if (b.count >= 8 || b.end - b.at < 2 || b.at[0] != 0xFF ||
                b.at[1] != 0xD0 + (unit / p->interval - 1) % 8)
                return DAMAGED;
            b = (Bits){b.at + 2, end, 0, 0};
            memset(before, 0, sizeof before);
        }
        for (int i = 0; i < p->components; i++)
            for (int block = 0; block < p->h[i] * p->v[i]; block++)
                if (read_block(&b, dc[i], ac[i], p->steps[p->quantiser[i]], &before[i]))
                    return DAMAGED;
    }
    if (b.count >= 8) return DAMAGED;
    if (b.end - b.at >= 2 && !memcmp(b.at, "\xff\xd9", 2))
        return b.end - b.at == 2 ? FITS : UNUSUAL; /* something follows the picture */
    return DAMAGED;
}

static int scan(Picture *p, const uint8_t *bytes, size_t size) {
    const uint8_t *at = bytes + 2, *end = bytes + size;
    p->adobe = -1;
    if (size < 4 || memcmp(bytes, "\xff\xd8", 2)) return DAMAGED;
    if (size > INT32_MAX) return UNUSUAL;
    while (end - at >= 4 && at[0] == 0xFF) {
        int marker = at[1], length = read_16(at + 2) - 2, reason = FITS;
        const uint8_t *content = at + 4;
        if (length < 0 || end - content < length) return DAMAGED;
        at = content + length;
        if (marker == 0xDB) {
            reason = read_quantisers(p, content, length);
        } else if (marker == 0xC4) {
            reason = read_huffman(p, content, length);
        } else if (marker == 0xC0) {
            reason = read_frame(p, content, length);
        } else if (marker == 0xC2) {
            return PROGRESSIVE;
        } else if (marker == 0xDA) {
            return length < 6 ? DAMAGED : read_scan(p, content, length, end);
        } else if (marker == 0xDD) {
            if (length != 2) return DAMAGED;
            p->interval = read_16(content);
        } else if (marker == 0xE1 && length >= 6 && !memcmp(content, "Exif\0", 6)) {
            if (p->exifs++) return UNUSUAL;
            p->exif_begin = (int)(content + 6 - bytes);
            p->exif_end = (int)(at - bytes);
        } else if (marker == 0xEE && length >= 12 && !memcmp(content, "Adobe", 5)) {
            p->adobe = content[11];
        } else if (!(marker >= 0xE0 && marker <= 0xEF) && marker != 0xFE) {
            return UNUSUAL;
        }
        if (reason) return reason;
    }
    return DAMAGED;
}

static PyObject *py_scan(PyObject *self, PyObject *args) {
    Py_buffer encoded;
    if (!PyArg_ParseTuple(args, "y*:scan", &encoded)) return NULL;
    Picture *p = PyMem_Calloc(1, sizeof *p);
    PyObject *found = NULL;
    if (p == NULL) {
        PyErr_NoMemory();
    } else {
        int reason;
        Py_BEGIN_ALLOW_THREADS
        reason = scan(p, encoded.buf, encoded.len);
        Py_END_ALLOW_THREADS
        found = Py_BuildValue("iiiiiii", reason, p->height, p->width, p->sampling, p->interval,
                              p->exif_begin, p->exif_end);
        PyMem_Free(p);
    }
    PyBuffer_Release(&encoded);
    return found;
}

/* What it does is said in _jpeg_scan.pyi. */
static PyMethodDef METHODS[] = {{"scan", py_scan, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};

static PyModuleDef_Slot SLOTS[] = {{0, NULL}};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, "models._jpeg_scan", NULL, 0, METHODS, SLOTS, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__jpeg_scan(void) { return PyModuleDef_Init(&MODULE); }
