/*
 * amdgpu.c - Source of names and units: the kernel's documentation of amdgpu, "GPU Power/Thermal
 * Controls and Monitoring", and of hwmon's sysfs interface.
 */
#include "probe/amdgpu.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "probe/file.h"

#define VENDOR_AMD      "0x1002"
#define CARDS_MAX       256 /* card numbers that are looked at */
#define HWMON_MAX       16  /* entries of a card's hwmon folder that are looked at */
#define MICRO           1e-6
#define MILLI           1e-3
#define SMALL_FILE_SIZE 128

static enum err read_text(const char *folder, const char *name, char out[SMALL_FILE_SIZE])
{
    char path[PATH_MAX];

    enum err err = file_path(path, "%s/%s", folder, name);

    return err == ERR_OK ? file_read_text(path, out, SMALL_FILE_SIZE) : err;
}

/* A number × scale; NaN when it can't be had. */
static double read_scaled(const char *folder, const char *name, double scale)
{
    char path[PATH_MAX];
    int64_t number;

    if (file_path(path, "%s/%s", folder, name) != ERR_OK ||
        file_read_number(path, &number) != ERR_OK)
        return NAN;
    return (double)number * scale;
}

/* Card numbers of AMD GPUs, ascending. */
static enum err list_cards(const char *drm, bool cards[CARDS_MAX])
{
    DIR *dir = opendir(drm);
    const struct dirent *entry;

    if (dir == NULL)
        return err_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_OS, "can't read %s: %s", drm,
                       strerror(errno));
    while ((entry = readdir(dir)) != NULL) {
        const char *number = entry->d_name + 4;
        char folder[PATH_MAX], vendor[SMALL_FILE_SIZE];
        size_t len = strlen(entry->d_name);
        if (strncmp(entry->d_name, "card", 4) != 0 || len < 5 || len > 7 ||
            strspn(number, "0123456789") != len - 4 || atoi(number) >= CARDS_MAX)
            continue; /* connectors are named card0-DP-1 */
        if (file_path(folder, "%s/card%d/device", drm, atoi(number)) == ERR_OK &&
            read_text(folder, "vendor", vendor) == ERR_OK &&
            strncmp(vendor, VENDOR_AMD, strlen(VENDOR_AMD)) == 0)
            cards[atoi(number)] = true;
    }
    closedir(dir);
    return ERR_OK;
}

/* The GPU's own number; of cards that have none, their place on the PCI bus. */
static void read_uuid(const char *folder, char uuid[GPU_TEXT_MAX])
{
    char text[SMALL_FILE_SIZE], target[PATH_MAX];
    enum err err = read_text(folder, "unique_id", text);
    const char *place;
    ssize_t len;

    if (err == ERR_OK) {
        text[strcspn(text, "\n")] = '\0';
        if (text[0] != '\0' && strspn(text, "0123456789abcdefABCDEF") == strlen(text))
            snprintf(uuid, GPU_TEXT_MAX, "GPU-%.32s", text);
        return;
    }
    if (err != ERR_NOT_FOUND)
        return;
    len = readlink(folder, target, sizeof target - 1);
    if (len <= 0 || access(folder, F_OK) != 0) /* it vanished between two looks */
        return;
    target[len] = '\0';
    place = strrchr(target, '/') != NULL ? strrchr(target, '/') + 1 : target;
    if (*place != '\0' && strlen(place) < GPU_TEXT_MAX - 4 &&
        strspn(place, "0123456789abcdef:.") == strlen(place))
        snprintf(uuid, GPU_TEXT_MAX, "PCI-%.32s", place);
}

static void read_names(const char *sysfs, const char *folder, struct gpu_reading *gpu)
{
    char text[SMALL_FILE_SIZE], module[PATH_MAX], name[SMALL_FILE_SIZE];

    if (read_text(folder, "product_name", text) == ERR_OK && text[0] != '\n')
        gpu_text_copy(gpu->name, text);
    if (gpu->name[0] == '\0' && read_text(folder, "device", text) == ERR_OK) {
        text[strcspn(text, "\n")] = '\0';
        snprintf(name, sizeof name, "AMD GPU %.16s", text);
        gpu_text_copy(gpu->name, name);
    }
    gpu_text_copy(gpu->driver, "amdgpu");
    if (file_path(module, "%s/module/amdgpu", sysfs) == ERR_OK &&
        read_text(module, "version", text) == ERR_OK)
        gpu_text_copy(gpu->driver, text);
}

/* "ue: 0\nce: 0": uncorrected and corrected errors of the memory. */
static void read_ecc(const char *folder, struct gpu_reading *gpu)
{
    char text[SMALL_FILE_SIZE], junk;
    unsigned long long uncorrected, corrected;

    if (read_text(folder, "ras/umc_err_count", text) != ERR_OK || strchr(text, '-') != NULL ||
        sscanf(text, "ue: %llu ce: %llu %c", &uncorrected, &corrected, &junk) != 2)
        return;
    gpu_figure_set(gpu, GPU_ECC_UNCORRECTED, (double)uncorrected);
    gpu_figure_set(gpu, GPU_ECC_CORRECTED, (double)corrected);
}

/* The card's one hwmonN folder. */
static bool find_hwmon(const char *folder, char out[PATH_MAX])
{
    char path[PATH_MAX];
    const struct dirent *entry;
    DIR *dir;
    bool found = false;

    if (file_path(path, "%s/hwmon", folder) != ERR_OK)
        return false;
    dir = opendir(path);
    for (int i = 0; dir != NULL && !found && i < HWMON_MAX && (entry = readdir(dir)) != NULL; i++)
        found = strncmp(entry->d_name, "hwmon", 5) == 0 &&
                file_path(out, "%s/%s", path, entry->d_name) == ERR_OK;
    if (dir != NULL)
        closedir(dir);
    return found;
}

static void read_sensors(const char *folder, struct gpu_reading *gpu)
{
    char hwmon[PATH_MAX];

    if (!find_hwmon(folder, hwmon))
        return;
    gpu_figure_set(gpu, GPU_POWER_WATTS, read_scaled(hwmon, "power1_average", MICRO));
    if (isnan(gpu->figures[GPU_POWER_WATTS])) /* newer chips know only the present power */
        gpu_figure_set(gpu, GPU_POWER_WATTS, read_scaled(hwmon, "power1_input", MICRO));
    gpu_figure_set(gpu, GPU_POWER_LIMIT_WATTS, read_scaled(hwmon, "power1_cap", MICRO));
    gpu_figure_set(gpu, GPU_TEMPERATURE_CELSIUS, read_scaled(hwmon, "temp1_input", MILLI));
    gpu_figure_set(gpu, GPU_CLOCK_SM_HERTZ, read_scaled(hwmon, "freq1_input", 1));
    gpu_figure_set(gpu, GPU_CLOCK_MEMORY_HERTZ, read_scaled(hwmon, "freq2_input", 1));
}

/* False when nothing can be said of the card. */
static bool read_card(const char *sysfs, const char *folder, unsigned index,
                      struct gpu_reading *gpu)
{
    double total, used;

    gpu_reading_init(gpu, index, "amd");
    read_uuid(folder, gpu->uuid);
    if (gpu->uuid[0] == '\0')
        return false;
    read_names(sysfs, folder, gpu);
    gpu_figure_set(gpu, GPU_BUSY_PERCENT, read_scaled(folder, "gpu_busy_percent", 1));
    gpu_figure_set(gpu, GPU_MEMORY_BUSY_PERCENT, read_scaled(folder, "mem_busy_percent", 1));
    total = read_scaled(folder, "mem_info_vram_total", 1);
    used = read_scaled(folder, "mem_info_vram_used", 1);
    if (total > 0 && used >= 0 && used <= total)
        gpu_memory_set(gpu, (uint64_t)total, (uint64_t)used, (uint64_t)(total - used));
    read_sensors(folder, gpu);
    read_ecc(folder, gpu);
    gpu->up =
        !isnan(gpu->figures[GPU_BUSY_PERCENT]) || !isnan(gpu->figures[GPU_MEMORY_TOTAL_BYTES]);
    if (!gpu->up)
        gpu_figures_clear(gpu);
    return true;
}

enum err amdgpu_read(const char *sysfs, struct gpu_list *out)
{
    char drm[PATH_MAX], folder[PATH_MAX];
    bool cards[CARDS_MAX] = {false};
    unsigned index = 0, count = 0;
    enum err err = file_path(drm, "%s/class/drm", sysfs);

    if (err == ERR_OK)
        err = list_cards(drm, cards);
    if (err != ERR_OK)
        return err;
    for (unsigned i = 0; i < CARDS_MAX && count < GPU_MAX; i++) {
        if (!cards[i])
            continue;
        if (file_path(folder, "%s/card%u/device", drm, i) == ERR_OK &&
            read_card(sysfs, folder, index++, &out->gpus[count]))
            count++;
    }
    if (index == 0)
        return err_set(ERR_NOT_FOUND, "no AMD GPU under %s", drm);
    out->count = count;
    return ERR_OK;
}
