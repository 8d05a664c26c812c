/*
 * up_check.c - what must be true before `wyvern up` starts anything.  Each failure is one sentence
 * that ends with the mend, and leaves nothing behind.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/params.h"
#include "config/keys.h"
#include "engine/model_file.h"
#include "probe/host.h"
#include "roles/up.h"

#define MIB           (UINT64_C(1) << 20)
#define DISK_LEAST    (256 * MIB)
#define STORE_LEAST   (128 * MIB)
#define STORE_MOST    (8192 * MIB) /* below BROKER_STORE_MAX_GIB */
#define LOCK_TRIES    100
#define LOCK_PAUSE_US 50000
#define PORT_TRIES    64

/* --- the lock -------------------------------------------------------------------------------- */

static pid_t lock_owner(int fd)
{
    char text[32] = "";
    ssize_t got = pread(fd, text, sizeof text - 1, 0);
    return got > 0 ? (pid_t)strtol(text, NULL, 10) : 0;
}

/* Is what we locked still the file of that name?  Its last owner removes it. */
static bool lock_is_current(const struct up *up)
{
    struct stat ours, there;
    return fstat(up->lock_fd, &ours) == 0 && stat(up->lock_path, &there) == 0 &&
           ours.st_ino == there.st_ino && ours.st_dev == there.st_dev;
}

static void lock_write_pid(const struct up *up)
{
    char text[32];
    int len = snprintf(text, sizeof text, "%d\n", (int)getpid());
    /* Only to name the owner in a sentence: the lock itself is what counts. */
    if (ftruncate(up->lock_fd, 0) != 0 || pwrite(up->lock_fd, text, (size_t)len, 0) != len)
        return;
}

/* An owner that was killed leaves a keeper behind that holds the lock until it has cleaned up:
 * that is worth waiting for, a living owner is not. */
enum err up_lock(struct up *up)
{
    snprintf(up->lock_path, sizeof up->lock_path, "%s/lock", up->state_dir);
    for (int i = 0; i < LOCK_TRIES; i++) {
        up->lock_fd = open(up->lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (up->lock_fd < 0)
            return err_set(ERR_IO, "can't open %s: %s", up->lock_path, strerror(errno));
        if (flock(up->lock_fd, LOCK_EX | LOCK_NB) == 0) {
            if (lock_is_current(up)) {
                lock_write_pid(up);
                return ERR_OK;
            }
        } else {
            pid_t owner = lock_owner(up->lock_fd);
            if (owner > 0 && kill(owner, 0) == 0)
                i = LOCK_TRIES;
        }
        close(up->lock_fd);
        up->lock_fd = -1;
        usleep(LOCK_PAUSE_US);
    }
    return err_set(ERR_FULL,
                   "another wyvern up works in %s: stop it, or choose another directory with "
                   "--state-dir",
                   up->state_dir);
}

void up_unlock(struct up *up)
{
    if (up->lock_fd < 0)
        return;
    (void)unlink(up->lock_path);
    close(up->lock_fd);
    up->lock_fd = -1;
}

/* --- the model ------------------------------------------------------------------------------- */

/* Hashing takes a second per GiB or two, so the result is kept as long as the file looks the same.
 */
static enum err model_hash(struct up *up)
{
    char cache[PATH_MAX + 16], known[512] = "", look[128];
    struct stat info;
    if (stat(up->model, &info) != 0)
        return err_set(ERR_NOT_FOUND, "can't find the model %s: %s", up->model, strerror(errno));
    snprintf(cache, sizeof cache, "%s/model.sha256", up->state_dir);
    snprintf(look, sizeof look, "%ju %jd.%09ld %ju ", (uintmax_t)info.st_size,
             (intmax_t)info.st_mtim.tv_sec, info.st_mtim.tv_nsec, (uintmax_t)info.st_ino);
    size_t len = strlen(look);
    FILE *file = fopen(cache, "re");
    if (file) {
        bool hit = fgets(known, sizeof known, file) && strncmp(known, look, len) == 0 &&
                   strspn(known + len, "0123456789abcdef") == 64;
        fclose(file);
        if (hit) {
            snprintf(up->model_sha256, sizeof up->model_sha256, "%.64s", known + len);
            return ERR_OK;
        }
    }
    char found[65];
    up_say(up, "checking %s", up->model_file);
    enum err err = file_sha256(found, up->model);
    if (err != ERR_OK)
        return err;
    memcpy(up->model_sha256, found, sizeof found);
    file = fopen(cache, "we");
    if (file) { /* if it can't be kept it is computed again */
        fprintf(file, "%s%s\n", look, found);
        fclose(file);
    }
    return ERR_OK;
}

/* The name in subjects and to clients: the file's, without .gguf. */
static enum err model_name(struct up *up, const char *base)
{
    static const char suffix[] = ".gguf";
    size_t len = strlen(base);
    if (len > sizeof suffix - 1 && strcmp(base + len - (sizeof suffix - 1), suffix) == 0)
        len -= sizeof suffix - 1;
    if (len > MODEL_NAME_MAX)
        return err_set(ERR_LIMIT,
                       "the model's name %.40s… is longer than %d bytes: rename the file", base,
                       MODEL_NAME_MAX);
    for (size_t i = 0; i < strlen(base); i++)
        if ((unsigned char)base[i] < ' ' || base[i] == ';' || base[i] == 0x7f)
            return err_set(ERR_INVALID, "the model's file name holds a character that join files "
                                        "can't carry: rename the file");
    memcpy(up->model_name, base, len);
    up->model_name[len] = '\0';
    return ERR_OK;
}

static enum err check_model(struct up *up)
{
    char found[PATH_MAX];
    enum err err = model_find(found, up->settings->model, NULL);
    if (err != ERR_OK)
        return err;
    memcpy(up->model, found, sizeof found);
    if (strncmp(found, "fake:", 5) == 0) {
        up->model_file = up->model;
        snprintf(up->model_name, sizeof up->model_name, "fake");
        return ERR_OK;
    }
    if (access(up->model, R_OK) != 0)
        return err_set(ERR_DENIED, "can't read the model %s: %s", up->model, strerror(errno));
    const char *slash = strrchr(up->model, '/');
    up->model_file = slash ? slash + 1 : up->model;
    err = model_name(up, up->model_file);
    return err == ERR_OK ? model_hash(up) : err;
}

/* What the gateways will read again: said here, before anything starts. */
static enum err check_params(const struct up *up)
{
    struct prompt_params params = prompt_params_default();
    struct model_file file = {.arch = ""};
    json_t *root = NULL;
    enum err err = ERR_OK;
    if (up->settings->params == NULL)
        return ERR_OK;
    err = params_parse(&params, &root, up->settings->params, PARAMS_DEFAULTS);
    bool searches = params.search.given;
    json_decref(root);
    if (err != ERR_OK || !searches)
        return err;
    if (strncmp(up->model, "fake:", 5) != 0)
        err = model_file_check(&file, up->model);
    if (err == ERR_OK && strcmp(file.arch, "blenderbot") != 0)
        err = err_set(ERR_USAGE, "--params: num_beams and the like are not for a model of this "
                                 "kind: leave them out");
    return err;
}

static enum err check_keys(const struct up *up)
{
    struct key_ring ring = {0};
    enum err err = up->settings->keys != NULL ? key_ring_load(&ring, up->settings->keys) : ERR_OK;
    key_ring_done(&ring);
    return err;
}

/* --- shape ----------------------------------------------------------------------------------- */

static enum err check_shape(struct up *up)
{
    const struct settings *s = up->settings;
    enum err err = device_list_fill(&up->devices, s->device);
    if (err != ERR_OK)
        return err;
    up->nodes = (unsigned)s->nodes;
    up->workers = s->workers > 0 ? (unsigned)s->workers : device_list_workers(&up->devices);
    if (s->workers > 0 && up->workers < up->nodes)
        return err_set(ERR_USAGE, "--workers %u is less than --nodes %u: each node needs one",
                       up->workers, up->nodes);
    if (up->workers < up->nodes)
        up->workers = up->nodes;
    unsigned share = host_cpus() / up->workers;
    up->threads = s->threads > 0 ? (unsigned)s->threads : share > 0 ? share : 1;
    return ERR_OK;
}

static enum err check_disk(struct up *up)
{
    uint64_t free_bytes;
    enum err err = host_disk_free(up->state_dir, &free_bytes);
    if (err != ERR_OK)
        return err;
    if (free_bytes < DISK_LEAST)
        return err_set(ERR_IO,
                       "only %" PRIu64 " MiB are free where %s lies, and %" PRIu64
                       " are needed: make room, or choose another place with --state-dir",
                       free_bytes / MIB, up->state_dir, DISK_LEAST / MIB);
    up->store_bytes = free_bytes / 2 < STORE_MOST ? free_bytes / 2 : STORE_MOST;
    if (up->store_bytes < STORE_LEAST)
        up->store_bytes = STORE_LEAST;
    return ERR_OK;
}

static enum err gateways_fit(const struct up *up, int port)
{
    for (int i = 0; i < up->settings->gateways; i++) {
        if (port + i > 65535)
            return err_set(ERR_USAGE, "--port %d leaves no room for %d gateways", port,
                           up->settings->gateways);
        enum err err = net_port_probe(up->settings->host, port + i, NULL);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

static enum err check_ports(struct up *up)
{
    int wanted = up->settings->port;
    enum err err = ERR_OK;
    for (int i = 0; i < PORT_TRIES; i++) {
        up->port = wanted;
        err = wanted > 0 ? ERR_OK : net_port_probe(up->settings->host, 0, &up->port);
        if (err == ERR_OK)
            err = gateways_fit(up, up->port);
        if (err == ERR_OK || wanted > 0)
            break;
    }
    return err == ERR_OK ? err : err_set(err, "%s; choose another port with --port", err_text());
}

/* A gateway holds a descriptor per connection: take what we are allowed. */
static void files_raise(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

enum err up_check(struct up *up)
{
    char logs[PATH_MAX + 8];
    enum err err = program_path(up->program);
    if (err == ERR_OK)
        err = check_shape(up);
    if (err == ERR_OK)
        err = check_model(up);
    if (err == ERR_OK)
        err = check_params(up);
    if (err == ERR_OK)
        err = check_keys(up);
    if (err == ERR_OK)
        err = check_disk(up);
    if (err == ERR_OK)
        err = check_ports(up);
    if (err == ERR_OK)
        err = broker_find(up->broker_program);
    if (err == ERR_OK)
        err = up_watch_check(up);
    if (err != ERR_OK)
        return err;
    snprintf(logs, sizeof logs, "%s/logs", up->state_dir);
    if (mkdir(logs, 0700) != 0 && errno != EEXIST)
        return err_set(ERR_IO, "can't make the directory %s: %s", logs, strerror(errno));
    files_raise();
    return ERR_OK;
}
