/* Small plain PNGs: one call from the file to its pixels, 8 bits grey or RGB.

   Reads only what is whole and valid in every byte: CRC, zlib's checksum, lengths. Anything else,
   whatever it is, gives None, and png.py goes on with Pillow, which decides. So what this file
   does not know costs a little time and changes no answer. Deflate is RFC 1951, zlib's frame is RFC
   1950, PNG is W3C's third edition. Optional: png.py says what runs without it. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Beyond these it is not small, and Pillow takes it on a thread without the interpreter's lock. */
#define MAX_PIXELS (1 << 14)
#define MAX_CHUNKS 64
#define MAX_BLOCKS 512

/* Symbols of a code are looked up by this many bits; the few longer ones are searched. */
#define FAST_BITS 9
#define MAX_BITS 15
#define LENGTHS 286
#define DISTANCES 30
#define END_OF_BLOCK 256

static uint32_t crc_table[8][256];
static uint8_t reverse[256]; /* the bits of each byte */

static uint32_t read_32(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static uint64_t read_64_little(const uint8_t *at) {
    uint32_t low = at[0] | at[1] << 8 | at[2] << 16 | (uint32_t)at[3] << 24;
    uint32_t high = at[4] | at[5] << 8 | at[6] << 16 | (uint32_t)at[7] << 24;
    return low | (uint64_t)high << 32;
}

static void fill_tables(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) reverse[i] |= (i >> bit & 1) << (7 - bit);
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
        crc_table[0][i] = crc;
    }
    for (int i = 0; i < 256; i++)
        for (int t = 1; t < 8; t++)
            crc_table[t][i] = crc_table[t - 1][i] >> 8 ^ crc_table[0][crc_table[t - 1][i] & 255];
}

/* CRC-32 of PNG, eight bytes in a step. */
static uint32_t crc_32(const uint8_t *at, size_t bytes) {
    uint32_t crc = 0xFFFFFFFFu;
    for (; bytes >= 8; at += 8, bytes -= 8) {
        uint64_t word = read_64_little(at) ^ crc;
        crc = 0;
        for (int i = 0; i < 8; i++) crc ^= crc_table[7 - i][word >> 8 * i & 255];
    }
    for (; bytes; at++, bytes--) crc = crc >> 8 ^ crc_table[0][(crc ^ *at) & 255];
    return ~crc;
}

static uint32_t adler_32(const uint8_t *at, size_t bytes) {
    uint32_t sum = 1, sums = 0;
    while (bytes) {
        size_t step = bytes < 5552 ? bytes : 5552; /* until the sums could overflow */
        bytes -= step;
        for (; step; step--) sums += sum += *at++;
        sum %= 65521;
        sums %= 65521;
    }
    return sums << 16 | sum;
}

/* Bits that are read from the lowest on; those above `count` are not read yet. */
typedef struct {
    const uint8_t *next, *end;
    uint64_t bits;
    int count;
} Bits;

/* Have at least 56 bits, or all that are left. */
static inline void refill(Bits *in) {
    if (in->end - in->next >= 8) {
        in->bits |= read_64_little(in->next) << in->count;
        in->next += (63 - in->count) >> 3;
        in->count |= 56;
        return;
    }
    for (; in->count <= 55 && in->next < in->end; in->count += 8)
        in->bits |= (uint64_t)*in->next++ << in->count;
}

/* Take bits that `refill` has made sure of but for the end of the input; -1: there it is. */
static inline int take(Bits *in, int count) {
    if (in->count < count) return -1;
    int value = (int)(in->bits & ((1u << count) - 1));
    in->bits >>= count;
    in->count -= count;
    return value;
}

/* A canonical Huffman code. An entry of `fast` is symbol << 4 | bits, 0 for none or a longer one;
   the codes of each length are counted, and `symbols` has them in order. */
typedef struct {
    uint16_t fast[1 << FAST_BITS], symbols[LENGTHS + 2], counts[MAX_BITS + 1];
} Code;

/* Build a code from the bits of each symbol; 0 unless it is complete, or has one bit or none. */
static int build(Code *code, const uint8_t *bits, int symbols) {
    uint16_t offsets[MAX_BITS + 2] = {0};
    int left = 1, used = 0;
    memset(code->counts, 0, sizeof code->counts);
    for (int i = 0; i < symbols; i++) code->counts[bits[i]]++;
    code->counts[0] = 0;
    for (int n = 1; n <= MAX_BITS; n++) {
        left = 2 * left - code->counts[n];
        if (left < 0) return 0;
        used += code->counts[n];
        offsets[n + 1] = used;
    }
    if (left && !(used == 0 || (used == 1 && code->counts[1]))) return 0;
    for (int i = 0; i < symbols; i++)
        if (bits[i]) code->symbols[offsets[bits[i]]++] = i;
    /* The table for n bits, twice, is the one for n + 1 without the symbols of n + 1 bits. */
    unsigned forward = 0;
    const uint16_t *next = code->symbols;
    code->fast[0] = 0;
    for (int n = 1; n <= FAST_BITS; n++, forward <<= 1) {
        memcpy(code->fast + (1 << (n - 1)), code->fast, sizeof *code->fast << (n - 1));
        for (int i = 0; i < code->counts[n]; i++, forward++) {
            unsigned reversed = reverse[forward & 255] << 8 | reverse[forward >> 8];
            code->fast[reversed >> (16 - n)] = *next++ << 4 | n;
        }
    }
    return 1;
}

/* Search a symbol bit by bit: a code is less than the first of its length plus their number. */
static int search(Bits *in, const Code *code) {
    int value = 0, first = 0, index = 0;
    for (int n = 1; n <= MAX_BITS && n <= in->count; n++) {
        value |= (int)(in->bits >> (n - 1) & 1);
        if (value - first < code->counts[n]) {
            take(in, n);
            return code->symbols[index + value - first];
        }
        index += code->counts[n];
        first = (first + code->counts[n]) << 1;
        value <<= 1;
    }
    return -1;
}

/* Read one symbol; -1: no such code, or the end of the input. */
static inline int symbol(Bits *in, const Code *code) {
    unsigned entry = code->fast[in->bits & ((1 << FAST_BITS) - 1)];
    if (!entry) return search(in, code);
    return take(in, entry & 15) < 0 ? -1 : (int)(entry >> 4);
}

static const uint16_t LENGTH_BASES[] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                        31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
static const uint8_t LENGTH_BITS[] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                      2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
static const uint16_t DISTANCE_BASES[] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,
                                          33,  49,  65,  97,  129, 193,  257,  385,  513,  769,
                                          1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};

/* The memory of one call. */
typedef struct {
    Bits in;
    uint8_t *start, *next, *end; /* of the output */
    Code lengths, distances;
} Inflate;

static int copy_symbols(Inflate *z) {
    Bits *in = &z->in;
    for (;;) {
        refill(in); /* once: the longest length with its distance takes 48 bits */
        int sign = symbol(in, &z->lengths);
        if (sign < 0) return 0;
        if (sign < END_OF_BLOCK) {
            if (z->next == z->end) return 0;
            *z->next++ = sign;
            continue;
        }
        if (sign == END_OF_BLOCK) return 1;
        sign -= END_OF_BLOCK + 1;
        if (sign >= (int)sizeof LENGTH_BITS) return 0;
        int more = take(in, LENGTH_BITS[sign]);
        int length = LENGTH_BASES[sign] + more;
        int far = symbol(in, &z->distances);
        if (more < 0 || far < 0 || far >= DISTANCES) return 0;
        more = take(in, far < 2 ? 0 : (far - 2) >> 1);
        int distance = DISTANCE_BASES[far] + more;
        if (more < 0 || distance > z->next - z->start || length > z->end - z->next) return 0;
        for (; length; length--, z->next++) *z->next = z->next[-distance];
    }
}

/* Read the codes of a block; the code that they are written in takes the place of the distances'. */
static int read_codes(Inflate *z) {
    static const uint8_t ORDER[] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    uint8_t bits[LENGTHS + DISTANCES] = {0};
    Bits *in = &z->in;
    refill(in);
    int lengths = take(in, 5), distances = take(in, 5), count = take(in, 4), filled = 0;
    if (lengths < 0 || distances < 0 || count < 0) return 0;
    lengths += 257;
    distances += 1;
    if (lengths > LENGTHS || distances > DISTANCES) return 0;
    for (int i = 0; i < count + 4; i++) {
        refill(in);
        int length = take(in, 3);
        if (length < 0) return 0;
        bits[ORDER[i]] = length;
    }
    if (!build(&z->distances, bits, sizeof ORDER)) return 0;
    memset(bits, 0, sizeof ORDER);
    while (filled < lengths + distances) {
        refill(in);
        int sign = symbol(in, &z->distances);
        if (sign < 0) return 0;
        if (sign < 16) {
            bits[filled++] = sign;
            continue;
        }
        int more = take(in, sign == 16 ? 2 : sign == 17 ? 3 : 7);
        int times = more + (sign == 18 ? 11 : 3);
        if (more < 0 || times > lengths + distances - filled || (sign == 16 && !filled)) return 0;
        memset(bits + filled, sign == 16 ? bits[filled - 1] : 0, times);
        filled += times;
    }
    return bits[END_OF_BLOCK] && build(&z->lengths, bits, lengths) &&
           build(&z->distances, bits + lengths, distances);
}

static void fixed_codes(Inflate *z) {
    uint8_t bits[LENGTHS + 2];
    for (int i = 0; i < LENGTHS + 2; i++) bits[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    build(&z->lengths, bits, LENGTHS + 2);
    memset(bits, 5, DISTANCES + 2); /* the last two never occur */
    build(&z->distances, bits, DISTANCES + 2);
}

static int copy_stored(Inflate *z) {
    Bits *in = &z->in;
    take(in, in->count & 7);
    in->next -= in->count >> 3; /* give whole bytes back */
    in->bits = 0;
    in->count = 0;
    if (in->end - in->next < 4) return 0;
    int bytes = in->next[0] | in->next[1] << 8, inverse = in->next[2] | in->next[3] << 8;
    in->next += 4;
    if (bytes != (inverse ^ 0xFFFF) || bytes > in->end - in->next || bytes > z->end - z->next)
        return 0;
    memcpy(z->next, in->next, bytes);
    in->next += bytes;
    z->next += bytes;
    return 1;
}

/* Inflate a zlib stream that fills the output exactly and ends with its bytes; 0 for all others. */
static int inflate(Inflate *z, const uint8_t *stream, size_t bytes) {
    if (bytes < 6 || (stream[0] & 15) != 8 || stream[0] >> 4 > 7 || stream[1] & 32 ||
        (stream[0] << 8 | stream[1]) % 31)
        return 0;
    z->in = (Bits){stream + 2, stream + bytes - 4, 0, 0};
    int is_last = 0, kind;
    for (int blocks = 0; !is_last; blocks++) {
        if (blocks == MAX_BLOCKS) return 0;
        refill(&z->in);
        is_last = take(&z->in, 1);
        kind = take(&z->in, 2);
        if (is_last < 0 || kind < 0 || kind > 2) return 0;
        if (kind == 0) {
            if (!copy_stored(z)) return 0;
            continue;
        }
        if (kind == 1) fixed_codes(z);
        if (kind == 2 && !read_codes(z)) return 0;
        if (!copy_symbols(z)) return 0;
    }
    return z->next == z->end && z->in.next == z->in.end && z->in.count < 8 &&
           read_32(stream + bytes - 4) == adler_32(z->start, z->end - z->start);
}

static inline uint8_t paeth(int left, int up, int corner) {
    int to_left = abs(up - corner), to_up = abs(left - corner), to_corner = abs(left + up - 2 * corner);
    return to_left <= to_up && to_left <= to_corner ? left : to_up <= to_corner ? up : corner;
}

/* Undo the filter of one row; `up` is the row above, zeros for the first. */
static inline int unfilter(int filter, const uint8_t *restrict row, const uint8_t *restrict up,
                           uint8_t *restrict out, size_t bytes, size_t step) {
    size_t i = 0;
    switch (filter) {
    case 0:
        memcpy(out, row, bytes);
        return 1;
    case 1:
        for (; i < step; i++) out[i] = row[i];
        for (; i < bytes; i++) out[i] = row[i] + out[i - step];
        return 1;
    case 2:
        for (; i < bytes; i++) out[i] = row[i] + up[i];
        return 1;
    case 3:
        for (; i < step; i++) out[i] = row[i] + (up[i] >> 1);
        for (; i < bytes; i++) out[i] = row[i] + ((out[i - step] + up[i]) >> 1);
        return 1;
    case 4:
        for (; i < step; i++) out[i] = row[i] + up[i];
        for (; i < bytes; i++) out[i] = row[i] + paeth(out[i - step], up[i], up[i - step]);
        return 1;
    }
    return 0;
}

/* Find the one IDAT of a file that has nothing else which may change its pixels. */
static const uint8_t *find_rows(const uint8_t *file, size_t bytes, size_t *length) {
    const uint8_t *found = NULL;
    size_t at = 33;
    for (int chunks = 0; chunks < MAX_CHUNKS; chunks++) {
        if (bytes - at < 12) return NULL;
        size_t size = read_32(file + at);
        const uint8_t *kind = file + at + 4;
        if (size > bytes - at - 12) return NULL;
        if (!memcmp(kind, "IEND", 4)) return found;
        if (!memcmp(kind, "IDAT", 4)) {
            if (found) return NULL;
            found = kind + 4;
            *length = size;
        } else if (!(kind[0] & 32) || !memcmp(kind, "tRNS", 4) || !memcmp(kind, "eXIf", 4)) {
            return NULL;
        }
        at += size + 12;
    }
    return NULL;
}

static PyObject *decode(const uint8_t *file, size_t bytes, int channels) {
    static const uint8_t BEGIN[] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    const uint8_t *rows;
    size_t length = 0;
    if (bytes < 45 || memcmp(file, BEGIN, 16)) return Py_NewRef(Py_None);
    uint32_t width = read_32(file + 16), height = read_32(file + 20);
    const uint8_t layout[] = {8, channels == 1 ? 0 : 2, 0, 0, 0};
    if (!width || !height || width > MAX_PIXELS || height > MAX_PIXELS / width ||
        memcmp(file + 24, layout, sizeof layout) || !(rows = find_rows(file, bytes, &length)))
        return Py_NewRef(Py_None);
    size_t line = (size_t)width * channels, raw = height * (line + 1);
    if (length > raw + raw / 8 + 1024 || crc_32(rows - 4, length + 4) != read_32(rows + length))
        return Py_NewRef(Py_None);
    Inflate *z = malloc(sizeof *z + raw + line);
    if (z == NULL) return PyErr_NoMemory();
    PyObject *pixels = NULL;
    z->start = z->next = (uint8_t *)(z + 1) + line;
    z->end = z->start + raw;
    if (inflate(z, rows, length) && (pixels = PyBytes_FromStringAndSize(NULL, height * line))) {
        uint8_t *out = (uint8_t *)PyBytes_AsString(pixels);
        const uint8_t *row = z->start, *up = memset(z + 1, 0, line);
        for (uint32_t y = 0; y < height; y++, row += line + 1, up = out, out += line)
            if (!unfilter(row[0], row + 1, up, out, line, channels)) {
                Py_CLEAR(pixels);
                break;
            }
    }
    free(z);
    if (pixels == NULL) return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    return Py_BuildValue("(Nii)", pixels, (int)height, (int)width);
}

static PyObject *py_decode(PyObject *self, PyObject *args) {
    const char *file;
    Py_ssize_t bytes;
    int channels;
    if (!PyArg_ParseTuple(args, "y#i:decode", &file, &bytes, &channels)) return NULL;
    if (channels != 1 && channels != 3)
        return PyErr_Format(PyExc_ValueError, "decode: expected 1 or 3 channels, got %d", channels);
    return decode((const uint8_t *)file, bytes, channels);
}

static int fill(PyObject *module) {
    fill_tables();
    return 0;
}

/* What it does is said in _png.pyi. */
static PyMethodDef METHODS[] = {{"decode", py_decode, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};

static PyModuleDef_Slot SLOTS[] = {{Py_mod_exec, fill}, {0, NULL}};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, "models._png", NULL, 0, METHODS, SLOTS, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__png(void) { return PyModuleDef_Init(&MODULE); }
