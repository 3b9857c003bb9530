/* resize.cu as C for the host: the kernel's own text, its threads one after the other. */
#define __device__
#define __global__

static struct { unsigned x, y, z; } blockIdx, threadIdx, blockDim, gridDim;

#include "resize.cu"

static void launch(void kernel(const Picture *), const Picture *pictures, unsigned count) {
    gridDim.x = 3;
    gridDim.y = count;
    blockDim.x = 5;
    for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)
        for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++)
            for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++) kernel(pictures);
}

void pass(int is_second, const Picture *pictures, unsigned count) {
    launch(is_second ? second_pass : first_pass, pictures, count);
}

void resize(const Picture *pictures, unsigned count) {
    launch(first_pass, pictures, count);
    launch(second_pass, pictures, count);
}
