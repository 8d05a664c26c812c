#include "probe/gpu.h"

#include <math.h>
#include <string.h>

/* Most that is believed.  Drivers have been seen to answer -1 as an unsigned number; the bounds are
 * far above any machine, and far below that. */
static const double most[GPU_FIGURE_COUNT] = {
    [GPU_BUSY_PERCENT] = 100,          [GPU_MEMORY_BUSY_PERCENT] = 100,
    [GPU_MEMORY_TOTAL_BYTES] = 0x1p50, [GPU_MEMORY_USED_BYTES] = 0x1p50,
    [GPU_MEMORY_FREE_BYTES] = 0x1p50,  [GPU_POWER_WATTS] = 100e3,
    [GPU_POWER_LIMIT_WATTS] = 100e3,   [GPU_ENERGY_JOULES] = 0x1p53,
    [GPU_TEMPERATURE_CELSIUS] = 200,   [GPU_CLOCK_SM_HERTZ] = 100e9,
    [GPU_CLOCK_MEMORY_HERTZ] = 100e9,  [GPU_ECC_CORRECTED] = 0x1p53,
    [GPU_ECC_UNCORRECTED] = 0x1p53,
};

void gpu_figures_clear(struct gpu_reading *reading)
{
    for (size_t i = 0; i < GPU_FIGURE_COUNT; i++)
        reading->figures[i] = NAN;
}

void gpu_reading_init(struct gpu_reading *reading, unsigned index, const char *vendor)
{
    *reading = (struct gpu_reading){.index = index, .vendor = vendor};
    gpu_figures_clear(reading);
}

void gpu_figure_set(struct gpu_reading *reading, enum gpu_figure figure, double value)
{
    double least = figure == GPU_TEMPERATURE_CELSIUS ? -100 : 0;

    /* written so that NaN fails it */
    reading->figures[figure] = value >= least && value <= most[figure] ? value : NAN;
}

void gpu_memory_set(struct gpu_reading *reading, uint64_t total, uint64_t used, uint64_t free)
{
    bool sound = total > 0 && (double)total <= most[GPU_MEMORY_TOTAL_BYTES] && used <= total &&
                 free <= total - used;

    gpu_figure_set(reading, GPU_MEMORY_TOTAL_BYTES, sound ? (double)total : NAN);
    gpu_figure_set(reading, GPU_MEMORY_USED_BYTES, sound ? (double)used : NAN);
    gpu_figure_set(reading, GPU_MEMORY_FREE_BYTES, sound ? (double)free : NAN);
}

void gpu_text_copy(char out[GPU_TEXT_MAX], const char *text)
{
    size_t len = 0;

    while (*text == ' ' || *text == '\t' || *text == '\n')
        text++;
    for (; *text != '\0' && len < GPU_TEXT_MAX - 1; text++)
        out[len++] = (char)(*text >= ' ' && *text <= '~' ? *text : *text == '\n' ? ' ' : '?');
    while (len > 0 && out[len - 1] == ' ')
        len--;
    out[len] = '\0';
}
