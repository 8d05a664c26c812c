/*
 * rig.h - a real server on a thread of its own, and raw sockets to talk to it.
 *
 * Paths: /echo answers with what was asked; /hold never answers; /later answers after 20 ms;
 * /big answers with 8 MiB; /begin starts a stream and holds it; /count streams `query` pieces 1 ms
 * apart; /burst streams 100 pieces in one turn; /spill 4,000 of 1,000 bytes; /flood streams until
 * the reader is dropped;
 * /events sends three server-sent events; /orphan holds without an on_close; /pour streams `query`
 * blocks of 256 KiB, each when the one before has left; /extra answers with headers added before.
 * /secret is refused with 401 before its body.  Bodies: of /small at most 10 bytes, of /large 8
 * MiB, of all others what the limits say.
 */
#ifndef TEST_HTTP_RIG_H
#define TEST_HTTP_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/loop.h"
#include "http/server.h"
#include "http/sse.h"

#define BIG_BYTES  ((size_t)8 << 20)
#define PATIENCE_S 20

struct rig {
    struct loop *loop;
    struct http_server *server;
    struct loop_wake *wake;
    pthread_t thread;
    unsigned port;
    void (*command)(struct rig *rig);
    sem_t command_done;
    atomic_int asked, whole, left; /* handler calls; on_close complete and not */
    struct http_exchange *orphan;
    atomic_int poured; /* blocks of /pour */
    size_t body_bytes;
    struct http_counts counts;
    unsigned exchanges;
};

/* What byte i of /big is. */
static inline char big_byte(size_t i)
{
    return (char)('a' + (i * 7 + i / 1000) % 26);
}

struct job { /* one exchange that is not answered in its handler */
    struct rig *rig;
    struct http_exchange *exchange;
    struct loop_timer *timer;
    int pieces;
};

static inline void job_closed(void *arg, bool complete)
{
    struct job *job = arg;
    loop_timer_free(job->timer);
    atomic_fetch_add(complete ? &job->rig->whole : &job->rig->left, 1);
    free(job);
}

static inline struct job *job_new(struct rig *rig, struct http_exchange *exchange)
{
    struct job *job = calloc(1, sizeof *job);
    if (job == NULL) {
        abort();
    }
    job->rig = rig;
    job->exchange = exchange;
    http_on_close(exchange, job_closed, job);
    return job;
}

static inline void job_start(struct job *job, loop_fn *fn, uint64_t each_ms)
{
    if (loop_timer_new(&job->timer, job->rig->loop, fn, job) != ERR_OK) {
        abort();
    }
    loop_timer_start(job->timer, each_ms, each_ms);
}

static inline void job_count(void *arg)
{
    struct job *job = arg;
    if (job->pieces-- > 0) {
        char piece[32];
        int len = snprintf(piece, sizeof piece, "%d ", job->pieces);
        http_stream_write(job->exchange, piece, (size_t)len);
    } else {
        loop_timer_stop(job->timer);
        http_stream_end(job->exchange);
    }
}

static inline void job_flood(void *arg)
{
    static const char zeros[32768];
    struct job *job = arg;
    if (!http_stream_write(job->exchange, zeros, sizeof zeros)) {
        loop_timer_stop(job->timer);
    }
}

#define POUR_BYTES ((size_t)256 << 10)

static inline void job_pour(void *arg)
{
    struct job *job = arg;
    static char block[POUR_BYTES];
    if (job->pieces-- == 0) {
        http_stream_end(job->exchange);
        return;
    }
    memset(block, 'a' + job->pieces % 26, sizeof block);
    http_stream_write(job->exchange, block, sizeof block);
    atomic_fetch_add(&job->rig->poured, 1);
    http_on_drained(job->exchange, job_pour, job);
}

static inline void job_later(void *arg)
{
    struct job *job = arg;
    loop_timer_stop(job->timer);
    http_reply(job->exchange, 200, NULL, 0, "text/plain", "later", 5);
}

static inline void answer_echo(struct http_exchange *exchange, const struct http_request *request)
{
    struct buf text;
    buf_init(&text, (size_t)4 << 20);
    const char *extra = http_request_header(request, "x-extra");
    if (buf_printf(&text, "%s|%s|%s|%s|%zu|", request->method, request->path, request->query,
                   extra != NULL ? extra : "-", request->body_len) != ERR_OK ||
        buf_append(&text, request->body, request->body_len) != ERR_OK) {
        abort();
    }
    const struct http_header header = {"X-Request-Id", "r1"};
    http_reply(exchange, 200, &header, 1, "text/plain", text.data, text.len);
    buf_done(&text);
}

static inline void answer_stream(struct rig *rig, struct http_exchange *exchange,
                                 const struct http_request *request)
{
    struct job *job = job_new(rig, exchange);
    if (strcmp(request->path, "/events") == 0) {
        sse_begin(exchange, NULL, 0);
        sse_send(exchange, NULL, "{\"a\":1}", 7);
        sse_comment(exchange, "still here");
        sse_send(exchange, "done", "[DONE]", 6);
        http_stream_end(exchange);
        return;
    }
    http_stream_begin(exchange, 200, NULL, 0, "text/plain");
    if (strcmp(request->path, "/begin") == 0) {
        http_request_drop_body(exchange);
        http_stream_write(exchange, "begun", 5);
    } else if (strcmp(request->path, "/count") == 0) {
        job->pieces = atoi(request->query);
        job_start(job, job_count, 1);
    } else if (strcmp(request->path, "/pour") == 0) {
        job->pieces = atoi(request->query);
        job_pour(job);
    } else if (strcmp(request->path, "/flood") == 0) {
        job_start(job, job_flood, 1);
    } else if (strcmp(request->path, "/spill") == 0) {
        for (int i = 0; i < 4000; i++) {
            char piece[1001];
            snprintf(piece, sizeof piece, "%01000d", i);
            http_stream_write(exchange, piece, 1000);
        }
        http_stream_end(exchange);
    } else { /* /burst */
        for (int i = 0; i < 100; i++) {
            http_stream_write(exchange, "0123456789", 10);
        }
        http_stream_end(exchange);
    }
}

static inline void rig_handle(void *arg, struct http_exchange *exchange,
                              const struct http_request *request)
{
    struct rig *rig = arg;
    const char *path = request->path;
    atomic_fetch_add(&rig->asked, 1);
    if (strcmp(path, "/hold") == 0) {
        job_new(rig, exchange);
    } else if (strcmp(path, "/later") == 0) {
        job_start(job_new(rig, exchange), job_later, 20);
    } else if (strcmp(path, "/big") == 0) {
        char *big = malloc(BIG_BYTES);
        for (size_t i = 0; i < BIG_BYTES; i++) {
            big[i] = big_byte(i);
        }
        job_new(rig, exchange);
        http_reply(exchange, 200, NULL, 0, "text/plain", big, BIG_BYTES);
        free(big);
    } else if (strcmp(path, "/orphan") == 0) {
        rig->orphan = exchange;
    } else if (strcmp(path, "/extra") == 0) {
        char longer[HTTP_EXTRA_BYTES];
        memset(longer, 'x', sizeof longer - 1);
        longer[sizeof longer - 1] = '\0';
        bool added = http_reply_header_add(exchange, "X-One", "1") &&
                     http_reply_header_add(exchange, "X-Two", "two words") &&
                     !http_reply_header_add(exchange, "X-Long", longer);
        http_reply(exchange, added ? 200 : 500, NULL, 0, "text/plain", "x", 1);
    } else if (strcmp(path, "/busy") == 0) {
        const struct http_header retry = {"Retry-After", "2"};
        http_reply(exchange, 429, &retry, 1, "text/plain", "busy", 4);
    } else if (strcmp(path, "/begin") == 0 || strcmp(path, "/count") == 0 ||
               strcmp(path, "/burst") == 0 || strcmp(path, "/spill") == 0 ||
               strcmp(path, "/flood") == 0 || strcmp(path, "/pour") == 0 ||
               strcmp(path, "/events") == 0) {
        answer_stream(rig, exchange, request);
    } else {
        answer_echo(exchange, request);
    }
}

static inline int rig_admit(void *arg, const struct http_request *head, size_t *body_bytes,
                            const char **why)
{
    struct rig *rig = arg;
    *body_bytes = rig->body_bytes;
    if (strcmp(head->path, "/secret") == 0) {
        *why = "who are you?";
        return 401;
    }
    if (strcmp(head->path, "/small") == 0 && strcmp(head->method, "POST") == 0) {
        *body_bytes = 10;
    }
    if (strcmp(head->path, "/large") == 0 && http_request_header(head, "host") != NULL) {
        *body_bytes = (size_t)8 << 20;
    }
    return 0;
}

static inline void rig_wake(void *arg)
{
    struct rig *rig = arg;
    if (rig->command != NULL) {
        rig->command(rig);
        rig->command = NULL;
        sem_post(&rig->command_done);
    }
}

static inline void *rig_run(void *arg)
{
    struct rig *rig = arg;
    loop_run(rig->loop);
    return NULL;
}

/* Runs fn on the server's thread and waits for it. */
static inline void rig_do(struct rig *rig, void (*fn)(struct rig *rig))
{
    rig->command = fn;
    loop_wake_send(rig->wake);
    while (sem_wait(&rig->command_done) != 0) {
    }
}

static inline void rig_start(struct rig *rig, const struct http_limits *limits)
{
    struct http_config config = {.host = "127.0.0.1", .handler = rig_handle, .arg = rig};
    *rig = (struct rig){.body_bytes = (size_t)1 << 20};
    if (limits != NULL) {
        config.limits = *limits;
    }
    if (config.limits.body_bytes != 0) {
        rig->body_bytes = config.limits.body_bytes;
    }
    config.admit = rig_admit;
    sem_init(&rig->command_done, 0, 0);
    assert_int_equal(loop_new(&rig->loop), ERR_OK);
    assert_int_equal(loop_wake_new(&rig->wake, rig->loop, rig_wake, rig), ERR_OK);
    assert_int_equal(http_server_new(&rig->server, rig->loop, &config), ERR_OK);
    rig->port = http_server_port(rig->server);
    assert_int_not_equal(rig->port, 0);
    assert_int_equal(pthread_create(&rig->thread, NULL, rig_run, rig), 0);
}

static inline void rig_end(struct rig *rig)
{
    http_server_free(rig->server);
    loop_stop(rig->loop);
}

static inline void rig_stop(struct rig *rig)
{
    rig_do(rig, rig_end);
    pthread_join(rig->thread, NULL);
    loop_free(rig->loop);
    sem_destroy(&rig->command_done);
}

static inline void rig_copy_counts(struct rig *rig)
{
    rig->counts = *http_server_counts(rig->server);
    rig->exchanges = http_server_exchanges(rig->server);
}

static inline const struct http_counts *rig_counts(struct rig *rig)
{
    rig_do(rig, rig_copy_counts);
    return &rig->counts;
}

/* Waits until *value is wanted, at most PATIENCE_S. */
static inline void wait_for(atomic_int *value, int wanted)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    int64_t deadline_ns = clock_mono_ns() + PATIENCE_S * NS_PER_S;
    while (atomic_load(value) != wanted) {
        if (clock_mono_ns() > deadline_ns) {
            fail_msg("waited in vain: %d is not %d", atomic_load(value), wanted);
        }
        nanosleep(&pause, NULL);
    }
}

static inline int raw_connect(const struct rig *rig)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)rig->port)};
    const struct timeval patience = {.tv_sec = PATIENCE_S};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

/* False: the server closed meanwhile. */
static inline bool raw_send(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t sent = send(fd, data, len, MSG_NOSIGNAL);
        if (sent <= 0) {
            return false;
        }
        data += sent;
        len -= (size_t)sent;
    }
    return true;
}

static inline void raw_say(int fd, const char *text)
{
    assert_true(raw_send(fd, text, strlen(text)));
}

/* Reads until `until` has been seen `times` times (NULL: until the end) into text. */
static inline void raw_read(int fd, struct buf *text, const char *until, int times)
{
    char part[16384];
    for (;;) {
        const char *at = buf_text(text);
        int seen = 0;
        while (until != NULL && (at = strstr(at, until)) != NULL) {
            at += strlen(until);
            seen++;
        }
        if (until != NULL && seen >= times) {
            return;
        }
        ssize_t len = recv(fd, part, sizeof part, 0);
        if (len < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            fail_msg("no more came; so far: %.200s", buf_text(text));
        }
        if (len <= 0) {
            if (until != NULL) {
                fail_msg("the connection ended before %s; so far: %.200s", until, buf_text(text));
            }
            return;
        }
        assert_int_equal(buf_append(text, part, (size_t)len), ERR_OK);
    }
}

static inline int status_of(const char *reply)
{
    return strncmp(reply, "HTTP/1.1 ", 9) == 0 ? atoi(reply + 9) : 0;
}

#endif
