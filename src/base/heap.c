#include "base/heap.h"

#include <malloc.h>

#define WORTH_IT ((size_t)4 << 20)
#define CALM     ((size_t)256 << 10)

bool heap_settle(struct heap *heap)
{
#ifdef __GLIBC__
    size_t now = mallinfo2().fordblks, before = heap->last;
    heap->last = now;
    if (now < heap->low)
        heap->low = now;
    if (now < heap->low + WORTH_IT || now > before + CALM)
        return false;
    malloc_trim(0); /* about 1.5 ms for each thousand holes */
    heap->low = now;
    return true;
#else
    (void)heap;
    return false;
#endif
}
