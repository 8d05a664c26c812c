#include "bus/link.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

#define RECONNECT_WAIT   100 /* ms */
#define RECONNECT_JITTER 50
#define CONNECT_MS       2000
#define PING_MS          2000

struct link {
    natsConnection *nats;
    struct loop *loop;
    pthread_t thread; /* the loop's */
    struct loop_wake *wake;
    struct loop_fd *watch;
    int watched; /* what it watches, a descriptor of ours; -1: none */
    struct link_callbacks callbacks;
    unsigned held;
    bool waiting_to_write; /* the socket took no more: the watch tells when it does */
    atomic_bool unsent;    /* libnats has bytes for the socket */
    pthread_mutex_t mutex; /* guards what follows: libnats' threads set it */
    int fd;                /* to be watched, ours; -1: none */
    bool fd_changed, lost, connected, closed;
};

enum err link_failed(natsStatus status, const char *what)
{
    enum err code = ERR_UNAVAILABLE;
    if (status == NATS_CONNECTION_AUTH_FAILED || status == NATS_NOT_PERMITTED)
        code = ERR_DENIED;
    else if (status == NATS_NO_MEMORY)
        code = ERR_NOMEM;
    else if (status == NATS_MAX_PAYLOAD)
        code = ERR_LIMIT;
    return err_set(code, "%s: %s", what, natsStatus_GetText(status));
}

/* ---- called by libnats, on any thread ---- */

/* Takes the descriptor. */
static void set_fd(struct link *link, int fd)
{
    pthread_mutex_lock(&link->mutex);
    if (link->fd >= 0)
        close(link->fd); /* the loop has not looked since */
    link->fd = fd;
    link->fd_changed = true;
    pthread_mutex_unlock(&link->mutex);
    loop_wake_send(link->wake);
}

/* libnats closes its socket before the loop hears of it, and what the loop opens next gets the same
 * number: so the loop watches a descriptor that it closes itself. */
static natsStatus on_attach(void **data, void *loop, natsConnection *nats, natsSock socket)
{
    (void)nats;
    int fd = fcntl(socket, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return NATS_SYS_ERROR;
    *data = loop; /* what natsOptions_SetEventLoop was given: the link */
    set_fd(loop, fd);
    return NATS_OK;
}

static natsStatus on_want_read(void *data, bool add)
{
    if (!add)
        set_fd(data, -1);
    return NATS_OK;
}

static natsStatus on_want_write(void *data, bool add)
{
    struct link *link = data;
    atomic_store(&link->unsent, add);
    /* On the loop's own thread whoever publishes flushes. */
    if (add && !pthread_equal(pthread_self(), link->thread))
        loop_wake_send(link->wake);
    return NATS_OK;
}

static natsStatus on_detach(void *data)
{
    set_fd(data, -1);
    return NATS_OK;
}

static void note_state(struct link *link, bool connected, bool closed)
{
    pthread_mutex_lock(&link->mutex);
    link->lost |= !connected;
    link->connected = connected;
    link->closed |= closed;
    /* Within the lock: who sees that it is closed frees all of it. */
    loop_wake_send(link->wake);
    pthread_mutex_unlock(&link->mutex);
}

static void on_connected(natsConnection *nats, void *closure)
{
    (void)nats;
    note_state(closure, true, false);
}

static void on_disconnected(natsConnection *nats, void *closure)
{
    (void)nats;
    note_state(closure, false, false);
}

static void on_closed(natsConnection *nats, void *closure)
{
    (void)nats;
    note_state(closure, false, true);
}

static void on_error(natsConnection *nats, natsSubscription *sub, natsStatus status, void *closure)
{
    (void)sub;
    (void)closure;
    const char *text = NULL;
    natsConnection_GetLastError(nats, &text);
    log_warn("broker.error status=\"%s\" text=\"%s\"", natsStatus_GetText(status),
             text != NULL ? text : "");
}

/* ---- the loop's side ---- */

static void on_writable(void *arg)
{
    struct link *link = arg;
    natsConnection_ProcessWriteEvent(link->nats);
    if (atomic_load(&link->unsent))
        return;
    loop_fd_writable(link->watch, NULL);
    link->waiting_to_write = false;
}

void link_flush(struct link *link)
{
    if (link->held > 0 || link->waiting_to_write || !atomic_load(&link->unsent))
        return;
    natsConnection_ProcessWriteEvent(link->nats);
    if (atomic_load(&link->unsent) && link->watch != NULL) {
        loop_fd_writable(link->watch, on_writable);
        link->waiting_to_write = true;
    }
}

void link_hold(struct link *link)
{
    link->held++;
}

void link_release(struct link *link)
{
    link->held--;
    link_flush(link);
}

static void on_readable(void *arg)
{
    struct link *link = arg;
    natsConnection_ProcessReadEvent(link->nats);
    link->callbacks.readable(link->callbacks.arg);
}

static void unwatch(struct link *link)
{
    loop_fd_free(link->watch);
    link->watch = NULL;
    link->waiting_to_write = false;
    if (link->watched >= 0)
        close(link->watched);
    link->watched = -1;
}

/* Takes the descriptor. */
static void watch(struct link *link, int fd)
{
    if (loop_fd_new(&link->watch, link->loop, fd, on_readable, link) == ERR_OK) {
        link->watched = fd;
    } else {
        log_error("broker.unwatched why=\"%s\"", err_text());
        close(fd);
    }
}

static void on_wake(void *arg)
{
    struct link *link = arg;
    pthread_mutex_lock(&link->mutex);
    bool fd_changed = link->fd_changed, lost = link->lost, connected = link->connected;
    int fd = link->fd;
    link->fd_changed = link->lost = false;
    link->fd = -1;
    pthread_mutex_unlock(&link->mutex);
    if (fd_changed) {
        unwatch(link);
        if (fd >= 0)
            watch(link, fd);
    }
    if (lost)
        link->callbacks.state(link->callbacks.arg, false);
    if (connected)
        link->callbacks.state(link->callbacks.arg, true);
    link_flush(link);
}

static natsStatus set_options(natsOptions *opts, struct link *link, const struct bus_config *config)
{
    natsStatus s = natsOptions_SetURL(opts, config->join->url);
    if (s == NATS_OK && config->join->user != NULL)
        s = natsOptions_SetUserInfo(opts, config->join->user, config->join->password);
    if (s == NATS_OK)
        s = natsOptions_SetName(opts, config->client_name);
    if (s == NATS_OK)
        s = natsOptions_SetTimeout(opts, CONNECT_MS);
    if (s == NATS_OK)
        s = natsOptions_SetPingInterval(opts, PING_MS);
    if (s == NATS_OK)
        s = natsOptions_SetMaxReconnect(opts, -1);
    if (s == NATS_OK)
        s = natsOptions_SetReconnectWait(opts, RECONNECT_WAIT);
    if (s == NATS_OK)
        s = natsOptions_SetReconnectJitter(opts, RECONNECT_JITTER, RECONNECT_JITTER);
    if (s == NATS_OK)
        s = natsOptions_SetReconnectBufSize(opts, 1); /* nothing is sent late by surprise */
    if (s == NATS_OK)
        s = natsOptions_SetSendAsap(opts, true); /* else a flusher thread adds a millisecond */
    if (s == NATS_OK)
        s = natsOptions_SetEventLoop(opts, link, on_attach, on_want_read, on_want_write, on_detach);
    if (s == NATS_OK)
        s = natsOptions_SetErrorHandler(opts, on_error, link);
    if (s == NATS_OK)
        s = natsOptions_SetDisconnectedCB(opts, on_disconnected, link);
    if (s == NATS_OK)
        s = natsOptions_SetReconnectedCB(opts, on_connected, link);
    if (s == NATS_OK)
        s = natsOptions_SetClosedCB(opts, on_closed, link);
    if (s == NATS_OK && config->wait)
        s = natsOptions_SetRetryOnFailedConnect(opts, true, on_connected, link);
    return s;
}

static enum err connect_to(struct link *link, bool *connected, const struct bus_config *config)
{
    natsOptions *opts = NULL;
    natsStatus s = nats_Open(-1);
    if (s == NATS_OK)
        s = natsOptions_Create(&opts);
    if (s == NATS_OK)
        s = set_options(opts, link, config);
    if (s == NATS_OK)
        s = natsConnection_Connect(&link->nats, opts);
    natsOptions_Destroy(opts);
    *connected = s == NATS_OK;
    if (s == NATS_OK || (s == NATS_NOT_YET_CONNECTED && config->wait))
        return ERR_OK;
    enum err err = link_failed(s, config->join->url);
    return err_prefix(err, "can't reach the broker (is `wyvern up` running?)");
}

enum err link_open(struct link **out, bool *connected, struct loop *loop,
                   const struct bus_config *config, const struct link_callbacks *callbacks)
{
    struct link *link = calloc(1, sizeof *link);
    if (link == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    link->loop = loop;
    link->thread = pthread_self();
    link->fd = link->watched = -1;
    link->callbacks = *callbacks;
    pthread_mutex_init(&link->mutex, NULL);
    enum err err = loop_wake_new(&link->wake, loop, on_wake, link);
    if (err == ERR_OK)
        err = connect_to(link, connected, config);
    if (err != ERR_OK) {
        link_close(link);
        return err;
    }
    *out = link;
    return ERR_OK;
}

natsConnection *link_nats(const struct link *link)
{
    return link->nats;
}

/* The closed callback is libnats' last. */
static bool wait_closed(struct link *link)
{
    const struct timespec pause = {.tv_nsec = NS_PER_MS};
    int64_t deadline_ns = clock_mono_ns() + CONNECT_MS * NS_PER_MS;
    for (;;) {
        pthread_mutex_lock(&link->mutex);
        bool closed = link->closed;
        pthread_mutex_unlock(&link->mutex);
        if (closed || clock_mono_ns() > deadline_ns)
            return closed;
        nanosleep(&pause, NULL);
    }
}

void link_close(struct link *link)
{
    if (link == NULL)
        return;
    if (link->nats != NULL) {
        natsConnection_Close(link->nats);
        bool closed = wait_closed(link);
        natsConnection_Destroy(link->nats);
        if (!closed) {
            log_error("broker.close_stuck");
            return; /* leaked on purpose: a thread may still use it */
        }
    }
    unwatch(link);
    if (link->fd >= 0)
        close(link->fd);
    loop_wake_free(link->wake);
    pthread_mutex_destroy(&link->mutex);
    free(link);
}
