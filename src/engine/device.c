/*
 * device.c - finding a device.
 *
 * ggml tells names and PCI addresses of its devices, but no UUIDs.  CUDA itself takes them: it
 * shows only the device that CUDA_VISIBLE_DEVICES names.  A node's supervisor sets that for each
 * worker; a process started by hand sets it here, before the runtime has looked for devices.
 */
#include "engine/device.h"

#include <ggml.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "probe/host.h"

#define VISIBLE "CUDA_VISIBLE_DEVICES"
#define GIB     (1024.0 * 1024 * 1024)

static bool is_uuid(const char *id)
{
    return strncmp(id, "GPU-", 4) == 0 || strncmp(id, "MIG-", 4) == 0;
}

static bool is_gpu(ggml_backend_dev_t device)
{
    enum ggml_backend_dev_type type = ggml_backend_dev_type(device);
    return type == GGML_BACKEND_DEVICE_TYPE_GPU || type == GGML_BACKEND_DEVICE_TYPE_IGPU;
}

static bool is_called(ggml_backend_dev_t device, const char *id)
{
    struct ggml_backend_dev_props props;
    ggml_backend_dev_get_props(device, &props);
    return strcmp(ggml_backend_dev_name(device), id) == 0 ||
           (props.device_id != NULL && strcmp(props.device_id, id) == 0);
}

/* Is the one GPU that CUDA shows the one with this UUID? */
static bool is_shown_alone(const char *id)
{
    const char *shown = getenv(VISIBLE);
    return is_uuid(id) && shown != NULL && strcmp(shown, id) == 0;
}

static enum err refuse(const char *device)
{
    struct buf names;
    buf_init(&names, 1024);
    for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
        ggml_backend_dev_t one = ggml_backend_dev_get(i);
        if (is_gpu(one) && buf_printf(&names, "%sgpu:%s", names.len > 0 ? ", " : "",
                                      ggml_backend_dev_name(one)) != ERR_OK)
            break;
    }
    enum err err =
        names.len > 0
            ? err_set(ERR_UNSUPPORTED,
                      "device %.96s: the model runtime sees no such device; use cpu, %s", device,
                      buf_text(&names))
            : err_set(ERR_UNSUPPORTED,
                      "device %.96s: this build of the model runtime has no such device; use cpu",
                      device);
    buf_done(&names);
    return err;
}

enum err device_find(ggml_backend_dev_t *out, const char *device)
{
    bool gpu = device != NULL && strncmp(device, "gpu", 3) == 0;
    const char *id = gpu && device[3] == ':' ? device + 4 : "";
    if (is_uuid(id) && getenv(VISIBLE) == NULL)
        setenv(VISIBLE, id, 0);
    if (ggml_backend_dev_count() == 0)
        ggml_backend_load_all();
    if (!gpu) {
        *out = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        return *out != NULL ? ERR_OK : refuse("cpu");
    }
    for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
        ggml_backend_dev_t one = ggml_backend_dev_get(i);
        if (is_gpu(one) && (is_shown_alone(id) || is_called(one, id))) {
            *out = one;
            return ERR_OK;
        }
    }
    return refuse(device);
}

enum err device_check_room(ggml_backend_dev_t device, const char *model_path)
{
    struct stat file;
    uint64_t total = 0, room = 0;
    if (stat(model_path, &file) != 0)
        return ERR_OK; /* who opens it says so */
    if (ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_CPU) {
        if (host_memory(&total, &room) != ERR_OK)
            return ERR_OK; /* not known */
    } else {
        size_t device_room = 0, device_total = 0;
        ggml_backend_dev_memory(device, &device_room, &device_total);
        if (device_total == 0)
            return ERR_OK;
        room = device_room;
    }
    if ((uint64_t)file.st_size <= room)
        return ERR_OK;
    return err_set(ERR_NOMEM, "the model %.200s has %.1f GiB, and %s has room for %.1f", model_path,
                   (double)file.st_size / GIB, ggml_backend_dev_name(device), (double)room / GIB);
}

enum err device_check_graph(ggml_backend_t backend, struct ggml_cgraph *graph)
{
    ggml_backend_dev_t device = ggml_backend_get_device(backend);
    bool cpu = ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_CPU; /* it can do all */
    for (int i = 0; i < ggml_graph_n_nodes(graph) && !cpu; i++) {
        const struct ggml_tensor *node = ggml_graph_node(graph, i);
        if (!ggml_backend_supports_op(backend, node))
            return err_set(ERR_UNSUPPORTED,
                           "the device %s can't compute %s for this model; use cpu",
                           ggml_backend_name(backend), ggml_op_desc(node));
    }
    return ERR_OK;
}
