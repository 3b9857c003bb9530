/* Pillow's resize on the card: resize, crop, padding, turns and grey of decoded pictures.

   The same integers as models/_resample.c, so the same bytes: weights in 1 / 2^22, 8 bits between
   the two passes. resize.py fills in the pictures, compiles this text by NVRTC and has the same
   arithmetic in NumPy. It is also C: a test compiles it for the host and runs it there. */
#ifdef __cplusplus
extern "C" {
#endif

#define BITS 22
#define HALF (1 << (BITS - 1))

/* One picture. All members are 64 bits, as PICTURE in resize.py names them. Addresses are the
   device's. A table is int32: the first input of each output, their counts, their weights. */
typedef struct {
    long long source;      /* address of the pixel that is shown first: RGB, 3 bytes */
    long long row_step;    /* bytes from a shown pixel to the one below it, */
    long long column_step; /* and to the one right of it: a turn is in these two */
    long long middle;      /* address of what is between the passes */
    long long out;         /* address of the row of the model's input, [height, width, channels] */
    long long down;        /* address of the table of rows */
    long long across;      /* address of the table of columns */
    long long down_outputs, down_taps, across_outputs, across_taps;
    long long is_down_first;
    long long begin;       /* across first: first shown row of the middle; down first: column */
    long long rows;        /* of the middle */
    long long columns;     /* of the middle */
    long long channels;    /* of the row: 3, or 1 for grey */
    long long height, width, top, left;
    long long colour;      /* of the padding: red, then green << 8, then blue << 16 */
} Picture;

__device__ static int clip(int sum) {
    sum >>= BITS;
    return sum < 0 ? 0 : sum > 255 ? 255 : sum;
}

/* A shown pixel; grey is ITU-R BT.601 in 16 bits, as Pillow rounds it. */
__device__ static void shown(const Picture *p, long long y, long long x, int *pixel) {
    const unsigned char *at =
        (const unsigned char *)(p->source + y * p->row_step + x * p->column_step);
    if (p->channels == 1) {
        pixel[0] = (at[0] * 19595 + at[1] * 38470 + at[2] * 7471 + 0x8000) >> 16;
    } else {
        pixel[0] = at[0];
        pixel[1] = at[1];
        pixel[2] = at[2];
    }
}

/* From the shown picture to the middle. Threads stride over its pixels, blockIdx.y is a picture. */
__global__ void first_pass(const Picture *pictures) {
    const Picture *p = pictures + blockIdx.y;
    const int *table = (const int *)(p->is_down_first ? p->down : p->across);
    long long outputs = p->is_down_first ? p->down_outputs : p->across_outputs;
    long long taps = p->is_down_first ? p->down_taps : p->across_taps;
    long long pixels = p->rows * p->columns, step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < pixels; i += step) {
        long long y = i / p->columns, x = i % p->columns;
        long long output = p->is_down_first ? y : x;
        const int *weights = table + 2 * outputs + output * taps;
        int first = table[output], count = table[outputs + output];
        int sums[3] = {HALF, HALF, HALF}, pixel[3] = {0, 0, 0};
        for (int tap = 0; tap < count; tap++) {
            if (p->is_down_first)
                shown(p, first + tap, p->begin + x, pixel);
            else
                shown(p, p->begin + y, first + tap, pixel);
            for (int c = 0; c < 3; c++) sums[c] += pixel[c] * weights[tap];
        }
        unsigned char *to = (unsigned char *)(p->middle + i * p->channels);
        for (int c = 0; c < p->channels; c++) to[c] = clip(sums[c]);
    }
}

/* From the middle to the row of the model's input, with its padding. */
__global__ void second_pass(const Picture *pictures) {
    const Picture *p = pictures + blockIdx.y;
    const int *table = (const int *)(p->is_down_first ? p->across : p->down);
    long long outputs = p->is_down_first ? p->across_outputs : p->down_outputs;
    long long taps = p->is_down_first ? p->across_taps : p->down_taps;
    long long pixels = p->height * p->width, step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < pixels; i += step) {
        long long y = i / p->width - p->top, x = i % p->width - p->left;
        unsigned char *to = (unsigned char *)(p->out + i * p->channels);
        if (y < 0 || y >= p->down_outputs || x < 0 || x >= p->across_outputs) {
            for (int c = 0; c < p->channels; c++) to[c] = p->colour >> 8 * c & 255;
            continue;
        }
        long long output = p->is_down_first ? x : y;
        const int *weights = table + 2 * outputs + output * taps;
        int first = table[output], count = table[outputs + output];
        int sums[3] = {HALF, HALF, HALF};
        for (int tap = 0; tap < count; tap++) {
            long long at = p->is_down_first ? y * p->columns + first + tap - p->begin
                                            : (first + tap - p->begin) * p->columns + x;
            const unsigned char *pixel = (const unsigned char *)(p->middle + at * p->channels);
            for (int c = 0; c < p->channels; c++) sums[c] += pixel[c] * weights[tap];
        }
        for (int c = 0; c < p->channels; c++) to[c] = clip(sums[c]);
    }
}

#ifdef __cplusplus
}
#endif
