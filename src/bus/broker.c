/*
 * broker.c - see broker.h.
 */
#include "bus/broker.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/id.h"
#include "base/net.h"
#include "bus/broker_conf.h"

#define ANSWER_MS         100
#define CONF_MAX          ((size_t)64 * 1024)
#define PIECES_OF_VERSION 3

struct broker {
    struct child *child;
    struct broker_users users;
    int port;
    struct join model; /* texts owned */
    char bind_host[NET_HOST_MAX], host[NET_HOST_MAX], url[BROKER_URL_MAX];
    char conf[PATH_MAX], pid_file[PATH_MAX], service_file[PATH_MAX];
};

/* --- finding the program --------------------------------------------------------------------- */

/* "nats-server: v2.15.1" of at least 2.12.3: earlier ones lose synced messages. */
static bool version_fits(const char *path)
{
    static const int least[PIECES_OF_VERSION] = {2, 12, 3};
    char command[PATH_MAX + 32], line[128] = "";
    if (strchr(path, '\''))
        return false;
    snprintf(command, sizeof command, "'%s' --version 2>/dev/null", path);
    FILE *pipe = popen(command, "re");
    if (!pipe)
        return false;
    bool got = fgets(line, sizeof line, pipe) != NULL;
    pclose(pipe);
    int version[PIECES_OF_VERSION] = {0};
    const char *v = strstr(line, ": v");
    if (!got || !v || sscanf(v, ": v%d.%d.%d", &version[0], &version[1], &version[2]) != 3)
        return false;
    for (int i = 0; i < PIECES_OF_VERSION; i++)
        if (version[i] != least[i])
            return version[i] > least[i];
    return true;
}

/* Takes the candidate if it runs and is new enough; *old remembers one that is not. */
static bool program_try(char out[PATH_MAX], const char *path, char old[PATH_MAX])
{
    struct stat info;
    char absolute[PATH_MAX];
    if (stat(path, &info) != 0 || !S_ISREG(info.st_mode) || access(path, X_OK) != 0 ||
        !realpath(path, absolute))
        return false;
    bool fits = version_fits(absolute);
    snprintf(fits ? out : old, PATH_MAX, "%s", absolute);
    return fits;
}

static bool program_on_path(char out[PATH_MAX], char old[PATH_MAX])
{
    const char *path = getenv("PATH");
    char candidate[PATH_MAX];
    while (path && *path) {
        size_t len = strcspn(path, ":");
        int n = snprintf(candidate, sizeof candidate, "%.*s/nats-server", (int)len, path);
        if (len > 0 && n > 0 && n < PATH_MAX && program_try(out, candidate, old))
            return true;
        path += len + (path[len] == ':');
    }
    return false;
}

static char below_found[PATH_MAX]; /* nftw gives its callback no argument */

static int below_visit(const char *path, const struct stat *info, int type, struct FTW *at)
{
    (void)info;
    if (type != FTW_F || strcmp(path + at->base, "nats-server") != 0)
        return 0;
    snprintf(below_found, sizeof below_found, "%s", path);
    return 1;
}

enum err broker_find(char out[PATH_MAX])
{
    char program[PATH_MAX], candidate[PATH_MAX + 32], old[PATH_MAX] = "";
    const char *named = getenv("WYVERN_NATS_SERVER");
    if (named && *named) {
        if (program_try(out, named, old))
            return ERR_OK;
        return err_set(ERR_NOT_FOUND,
                       "$WYVERN_NATS_SERVER names %s, which is no nats-server from 2.12.3 on",
                       named);
    }
    enum err err = program_path(program);
    if (err != ERR_OK)
        return err;
    char *slash = strrchr(program, '/');
    *(slash ? slash : program) = '\0';
    snprintf(candidate, sizeof candidate, "%s/nats-server", program);
    if (program_try(out, candidate, old))
        return ERR_OK;
    snprintf(candidate, sizeof candidate, "%s/../lib/wyvern/nats-server", program); /* installed */
    if (program_try(out, candidate, old) || program_on_path(out, old))
        return ERR_OK;
    snprintf(candidate, sizeof candidate, "%s/../.deps/nats", program);
    if (nftw(candidate, below_visit, 16, FTW_PHYS) == 1 && program_try(out, below_found, old))
        return ERR_OK;
    if (old[0])
        return err_set(ERR_NOT_FOUND,
                       "%s is older than nats-server 2.12.3, which loses messages: run make deps, "
                       "or set WYVERN_NATS_SERVER to a newer one",
                       old);
    return err_set(ERR_NOT_FOUND, "no nats-server was found: run make deps, or set "
                                  "WYVERN_NATS_SERVER to where it is");
}

/* --- addresses ------------------------------------------------------------------------------- */

static enum err port_choose(const char *host, int wished, int before, int *port)
{
    if (before > 0 && net_port_probe(host, before, port) == ERR_OK)
        return ERR_OK;
    if (wished > 0 && net_port_probe(host, wished, port) == ERR_OK)
        return ERR_OK;
    return net_port_probe(host, 0, port);
}

static void url_make(char out[BROKER_URL_MAX], const char *host, int port)
{
    char in_url[NET_HOST_MAX + 2];
    net_url_host(in_url, host);
    snprintf(out, BROKER_URL_MAX, "nats://%s:%d", in_url, port);
}

static int url_port(const char *url)
{
    const char *colon = strrchr(url, ':');
    int port = colon ? atoi(colon + 1) : 0;
    return port > 0 && port <= 65535 ? port : 0;
}

/* --- files ----------------------------------------------------------------------------------- */

/* Whole or not at all, readable by us alone. */
static enum err file_write(const char *path, const struct buf *content)
{
    char part[PATH_MAX + 8];
    snprintf(part, sizeof part, "%s.new", path);
    (void)unlink(part);
    int fd = open(part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(ERR_IO, "can't write %s: %s", part, strerror(errno));
    ssize_t written = write(fd, content->data, content->len);
    int failed = written == (ssize_t)content->len ? 0 : written < 0 ? errno : ENOSPC;
    if (close(fd) != 0 && !failed)
        failed = errno;
    if (!failed && rename(part, path) != 0)
        failed = errno;
    if (!failed)
        return ERR_OK;
    (void)unlink(part);
    return err_set(ERR_IO, "can't write %s: %s", path, strerror(failed));
}

static enum err join_file_write(const struct broker *broker, const char *path, const char *host,
                                bool nodes_only)
{
    struct buf text;
    char url[BROKER_URL_MAX];
    url_make(url, host, broker->port);
    buf_init(&text, CONF_MAX);
    enum err err = broker_join_text(&text, url, &broker->model, &broker->users, nodes_only);
    if (err == ERR_OK)
        err = file_write(path, &text);
    buf_done(&text);
    return err;
}

enum err broker_write_node_file(const struct broker *broker, const char *path, const char *host)
{
    return join_file_write(broker, path, host, true);
}

static enum err conf_write(const struct broker *broker, const char *state_dir)
{
    struct buf text;
    char store[PATH_MAX];
    struct broker_conf conf = {.host = broker->bind_host,
                               .port = broker->port,
                               .pid_file = broker->pid_file,
                               .store_dir = store};
    if (snprintf(store, sizeof store, "%s/broker/jetstream", state_dir) >= PATH_MAX)
        return err_set(ERR_LIMIT, "the state directory's path is too long");
    buf_init(&text, CONF_MAX);
    enum err err = broker_conf_text(&text, &conf, &broker->users);
    if (err == ERR_OK)
        err = file_write(broker->conf, &text);
    buf_done(&text);
    return err;
}

static enum err paths_make(struct broker *broker, const char *state_dir)
{
    char dir[PATH_MAX];
    int longest = snprintf(broker->conf, PATH_MAX, "%s/broker/nats.conf", state_dir);
    snprintf(broker->pid_file, PATH_MAX, "%s/broker/nats.pid", state_dir);
    snprintf(broker->service_file, PATH_MAX, "%s/service.ini", state_dir);
    if (longest < 0 || longest >= PATH_MAX - 16)
        return err_set(ERR_LIMIT, "the state directory's path is too long");
    snprintf(dir, sizeof dir, "%s/broker", state_dir);
    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return err_set(ERR_IO, "can't make the directory %s: %s", dir, strerror(errno));
    return ERR_OK;
}

/* Passwords and port of the last time where there are any; new ones otherwise. */
static int users_prepare(struct broker *broker)
{
    int port = 0;
    for (int i = 0; i < BROKER_ROLE_COUNT; i++) {
        struct join join;
        if (join_read(&join, broker->service_file, broker_role_names[i]) == ERR_OK) {
            if (id_is_valid(join.password, ID_LEN)) {
                memcpy(broker->users.password[i], join.password, ID_SIZE);
                port = url_port(join.url);
            }
            join_done(&join);
        }
        if (!broker->users.password[i][0])
            id_random(broker->users.password[i], ID_LEN);
    }
    return port;
}

/* --- life ------------------------------------------------------------------------------------ */

static enum err model_copy(struct join *out, const struct join *model)
{
    out->model = strdup(model->model);
    out->model_file = strdup(model->model_file);
    out->model_sha256 = strdup(model->model_sha256 ? model->model_sha256 : "");
    return out->model && out->model_file && out->model_sha256 ? ERR_OK
                                                              : err_set(ERR_NOMEM, "out of memory");
}

static enum err child_make(struct broker *broker, struct loop *loop,
                           const struct broker_config *config)
{
    char log[PATH_MAX];
    const char *argv[] = {config->program, "-c", broker->conf, NULL};
    if (snprintf(log, sizeof log, "%s/logs/broker.log", config->state_dir) >= PATH_MAX)
        return err_set(ERR_LIMIT, "the state directory's path is too long");
    struct proc_spec spec = {.argv = argv, .log_path = log, .death_signal = SIGKILL};
    return child_new(&broker->child, loop, "broker", &spec, &config->events);
}

enum err broker_new(struct broker **out, struct loop *loop, const struct broker_config *config)
{
    struct broker *broker = calloc(1, sizeof *broker);
    if (!broker)
        return err_set(ERR_NOMEM, "out of memory");
    snprintf(broker->bind_host, sizeof broker->bind_host, "%s", config->bind_host);
    snprintf(broker->host, sizeof broker->host, "%s", config->host);
    enum err err = paths_make(broker, config->state_dir);
    if (err == ERR_OK)
        err = model_copy(&broker->model, &config->model);
    if (err == ERR_OK) {
        int before = users_prepare(broker);
        err = port_choose(broker->bind_host, config->port, before, &broker->port);
    }
    if (err == ERR_OK) {
        url_make(broker->url, broker->host, broker->port);
        err = conf_write(broker, config->state_dir);
    }
    if (err == ERR_OK)
        err = join_file_write(broker, broker->service_file, broker->host, false);
    if (err == ERR_OK)
        err = child_make(broker, loop, config);
    if (err != ERR_OK) {
        broker_free(broker);
        return err;
    }
    *out = broker;
    return ERR_OK;
}

void broker_free(struct broker *broker)
{
    if (!broker)
        return;
    child_free(broker->child);
    if (broker->pid_file[0])
        (void)unlink(broker->pid_file);
    join_done(&broker->model);
    explicit_bzero(&broker->users, sizeof broker->users);
    free(broker);
}

enum err broker_start(struct broker *broker)
{
    return child_start(broker->child);
}

/* Waits for fd, up to the deadline. */
static bool wait_for(int fd, short events, int64_t deadline_ns)
{
    int64_t left_ns = deadline_ns - clock_mono_ns();
    struct pollfd poll_fd = {.fd = fd, .events = events};
    return left_ns > 0 && poll(&poll_fd, 1, (int)(left_ns / NS_PER_MS) + 1) > 0;
}

bool broker_answers(const struct broker *broker)
{
    struct sockaddr_storage address;
    socklen_t len;
    char hello[8] = "";
    int64_t deadline_ns = clock_mono_ns() + ANSWER_MS * NS_PER_MS;
    if (net_address(&address, &len, broker->host, broker->port) != ERR_OK)
        return false;
    int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    bool connected = connect(fd, (struct sockaddr *)&address, len) == 0 ||
                     (errno == EINPROGRESS && wait_for(fd, POLLOUT, deadline_ns));
    /* The server speaks first: INFO {…} */
    bool answers = connected && wait_for(fd, POLLIN, deadline_ns) &&
                   recv(fd, hello, sizeof hello - 1, 0) >= 4 && strncmp(hello, "INFO", 4) == 0;
    close(fd);
    return answers;
}

struct child *broker_child(const struct broker *broker)
{
    return broker->child;
}

const char *broker_url(const struct broker *broker)
{
    return broker->url;
}

int broker_port(const struct broker *broker)
{
    return broker->port;
}

const char *broker_pid_file(const struct broker *broker)
{
    return broker->pid_file;
}

const char *broker_service_file(const struct broker *broker)
{
    return broker->service_file;
}
