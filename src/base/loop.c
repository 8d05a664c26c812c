/*
 * A thin cover over libuv.  Every handle is heap memory that its close callback frees, because
 * libuv still touches a handle after uv_close() until the loop has turned once more; loop_free()
 * closes what is left and turns the loop until all of that has happened.
 */
#include "base/loop.h"

#include <stdlib.h>
#include <uv.h>

struct loop {
    uv_loop_t uv;
};

enum kind { KIND_TIMER = 1, KIND_WAKE, KIND_FD, KIND_SIGNAL };

/* One layout for all handles of ours: uv.data points to it, and `kind` says it is ours to free. */
struct loop_handle {
    union {
        uv_handle_t any;
        uv_timer_t timer;
        uv_async_t async;
        uv_poll_t poll;
        uv_signal_t signal;
    } uv;
    enum kind kind;
    loop_fn *fn;
    loop_fn *write_fn; /* of descriptors, may be NULL */
    loop_signal_fn *signal_fn;
    void *arg;
};

struct loop_timer {
    struct loop_handle h;
};
struct loop_wake {
    struct loop_handle h;
};
struct loop_fd {
    struct loop_handle h;
};

static enum err uv_failed(int status, const char *what)
{
    return err_set(status == UV_ENOMEM ? ERR_NOMEM : ERR_OS, "%s: %s", what, uv_strerror(status));
}

enum err loop_new(struct loop **out)
{
    struct loop *loop = calloc(1, sizeof *loop);
    if (loop == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    int status = uv_loop_init(&loop->uv);
    if (status != 0) {
        free(loop);
        return uv_failed(status, "can't make an event loop");
    }
    *out = loop;
    return ERR_OK;
}

static void free_closed(uv_handle_t *handle)
{
    free(handle); /* the union is the first member of what was allocated */
}

static void close_handle(struct loop_handle *handle)
{
    if (handle != NULL && !uv_is_closing(&handle->uv.any))
        uv_close(&handle->uv.any, free_closed);
}

static void close_left(uv_handle_t *handle, void *arg)
{
    (void)arg;
    /* data is set by us alone; handles of http/ are closed by their server before. */
    if (!uv_is_closing(handle))
        uv_close(handle, handle->data != NULL ? free_closed : NULL);
}

void loop_free(struct loop *loop)
{
    if (loop == NULL)
        return;
    uv_run(&loop->uv, UV_RUN_NOWAIT);
    uv_walk(&loop->uv, close_left, NULL);
    while (uv_loop_close(&loop->uv) == UV_EBUSY)
        uv_run(&loop->uv, UV_RUN_ONCE);
    free(loop);
}

void loop_run(struct loop *loop)
{
    uv_run(&loop->uv, UV_RUN_DEFAULT);
}

void loop_stop(struct loop *loop)
{
    uv_stop(&loop->uv);
}

static struct loop_handle *handle_new(enum kind kind, loop_fn *fn, void *arg)
{
    struct loop_handle *handle = calloc(1, sizeof *handle);
    if (handle != NULL) {
        handle->kind = kind;
        handle->fn = fn;
        handle->arg = arg;
    }
    return handle;
}

/* The handle that the struct hidden in `made` became part of, or the reason why not. */
static enum err handle_ready(struct loop_handle *handle, int status, const char *what)
{
    if (status != 0) {
        free(handle);
        return uv_failed(status, what);
    }
    handle->uv.any.data = handle;
    return ERR_OK;
}

static void on_timer(uv_timer_t *timer)
{
    struct loop_handle *handle = timer->data;
    handle->fn(handle->arg);
}

enum err loop_timer_new(struct loop_timer **out, struct loop *loop, loop_fn *fn, void *arg)
{
    struct loop_handle *handle = handle_new(KIND_TIMER, fn, arg);
    if (handle == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    enum err err = handle_ready(handle, uv_timer_init(&loop->uv, &handle->uv.timer), "timer");
    if (err == ERR_OK)
        *out = (struct loop_timer *)handle;
    return err;
}

void loop_timer_start(struct loop_timer *timer, uint64_t delay_ms, uint64_t repeat_ms)
{
    uv_update_time(timer->h.uv.timer.loop);
    uv_timer_start(&timer->h.uv.timer, on_timer, delay_ms, repeat_ms);
}

void loop_timer_stop(struct loop_timer *timer)
{
    uv_timer_stop(&timer->h.uv.timer);
}

void loop_timer_free(struct loop_timer *timer)
{
    if (timer != NULL)
        close_handle(&timer->h);
}

static void on_async(uv_async_t *async)
{
    struct loop_handle *handle = async->data;
    handle->fn(handle->arg);
}

enum err loop_wake_new(struct loop_wake **out, struct loop *loop, loop_fn *fn, void *arg)
{
    struct loop_handle *handle = handle_new(KIND_WAKE, fn, arg);
    if (handle == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    enum err err =
        handle_ready(handle, uv_async_init(&loop->uv, &handle->uv.async, on_async), "wake");
    if (err == ERR_OK)
        *out = (struct loop_wake *)handle;
    return err;
}

void loop_wake_send(void *wake)
{
    uv_async_send(&((struct loop_wake *)wake)->h.uv.async);
}

void loop_wake_free(struct loop_wake *wake)
{
    if (wake != NULL)
        close_handle(&wake->h);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct loop_handle *handle = poll->data;
    if ((events & UV_WRITABLE) && handle->write_fn != NULL)
        handle->write_fn(handle->arg);
    bool readable = status < 0 || (events & (UV_READABLE | UV_DISCONNECT));
    if (readable && !uv_is_closing(&handle->uv.any))
        handle->fn(handle->arg);
}

void loop_fd_writable(struct loop_fd *watch, loop_fn *fn)
{
    int events = UV_READABLE | UV_DISCONNECT | (fn != NULL ? UV_WRITABLE : 0);
    watch->h.write_fn = fn;
    uv_poll_start(&watch->h.uv.poll, events, on_poll);
}

enum err loop_fd_new(struct loop_fd **out, struct loop *loop, int fd, loop_fn *fn, void *arg)
{
    struct loop_handle *handle = handle_new(KIND_FD, fn, arg);
    if (handle == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    enum err err = handle_ready(handle, uv_poll_init(&loop->uv, &handle->uv.poll, fd), "watch");
    if (err != ERR_OK)
        return err;
    int status = uv_poll_start(&handle->uv.poll, UV_READABLE | UV_DISCONNECT, on_poll);
    if (status != 0) {
        close_handle(handle);
        return uv_failed(status, "watch");
    }
    *out = (struct loop_fd *)handle;
    return ERR_OK;
}

void loop_fd_free(struct loop_fd *watch)
{
    if (watch == NULL)
        return;
    /* Stopped at once: the caller may close the descriptor right after. */
    uv_poll_stop(&watch->h.uv.poll);
    close_handle(&watch->h);
}

static void on_signal(uv_signal_t *signal, int signum)
{
    struct loop_handle *handle = signal->data;
    handle->signal_fn(handle->arg, signum);
}

enum err loop_signal(struct loop *loop, int signum, loop_signal_fn *fn, void *arg)
{
    struct loop_handle *handle = handle_new(KIND_SIGNAL, NULL, arg);
    if (handle == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    handle->signal_fn = fn;
    enum err err = handle_ready(handle, uv_signal_init(&loop->uv, &handle->uv.signal), "signal");
    if (err != ERR_OK)
        return err;
    int status = uv_signal_start(&handle->uv.signal, on_signal, signum);
    if (status != 0) {
        close_handle(handle);
        return uv_failed(status, "signal");
    }
    return ERR_OK;
}

void *loop_uv(struct loop *loop)
{
    return &loop->uv;
}
