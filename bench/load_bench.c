/*
 * load_bench.c - many readers of one gateway, cheap enough never to be what is measured.
 *
 *   load_bench ask [-s] [-u USERS] [-w SECONDS] [-t SECONDS] [-p PID] [-e MS] [-f MS] PORT CONTENT
 *   load_bench idle [-u USERS] PORT CONTENT
 *
 * ask: each user has one kept connection and sends its next chat when the last reply is whole; -s:
 * streamed.  After -w seconds of warming up it counts for -t seconds, and meanwhile the CPU of
 * process PID.  -e and -f: what the engine's script takes until the reply's end and until its first
 * piece, which is subtracted from the times.  Prints one JSON line.
 *
 * idle: opens streamed chats, waits until each has the head of its reply, says "open", and holds
 * them until its input ends.
 *
 * CONTENT is the message; "%" in it becomes the user's number.  Plain sockets and epoll.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"

#define USERS_MAX   20000
#define SAMPLES_MAX 2000000
#define HEAD_MAX    4096
#define CONTENT_MAX 65536
#define IN_FLIGHT                                                                                  \
    64 /* idle: requests sent at a time that have no head yet: a bound, not a rate                 \
        */

struct options {
    bool stream;
    int users, pid;
    double seconds, warm_seconds, engine_ms, first_ms;
    unsigned port;
    const char *content;
};

/* How far the present reply was read. */
enum part { PART_HEAD, PART_LENGTH, PART_CHUNK_HEAD, PART_CHUNK, PART_WHOLE };

struct reader {
    int fd;
    enum part part;
    char head[HEAD_MAX]; /* of the reply, or the line that tells a chunk's size */
    size_t head_len;
    size_t left;     /* of the body or chunk, line ends included */
    bool last_chunk; /* its size was 0 */
    bool failed;     /* a status other than 200 */
    int64_t sent_ns, first_ns;
    char *request;
    size_t request_len;
};

struct samples {
    float *first, *whole;
    size_t count;
};

static void must(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "load_bench: %s: %s\n", what, strerror(errno));
        exit(EXIT_FAILURE);
    }
}

static int dial(unsigned port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    const int on = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(fd >= 0, "socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    must(connect(fd, (struct sockaddr *)&address, sizeof address) == 0, "connect");
    return fd;
}

/* ---- requests ---- */

static char *request_text(const struct options *options, int user, size_t *len)
{
    static char content[CONTENT_MAX], body[CONTENT_MAX + 512];
    char *request = malloc(sizeof body + 512);
    size_t out = 0;
    must(request != NULL, "memory");
    for (const char *in = options->content; *in != '\0' && out < sizeof content - 16; in++) {
        if (*in == '%')
            out += (size_t)snprintf(content + out, 16, "%d", user);
        else
            content[out++] = *in;
    }
    content[out] = '\0';
    int body_len = snprintf(body, sizeof body,
                            "{\"model\":\"default\",\"messages\":[{\"role\":\"user\",\"content\":"
                            "\"%s\"}]%s}",
                            content, options->stream ? ",\"stream\":true" : "");
    *len = (size_t)snprintf(request, sizeof body + 512,
                            "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                            "User-Agent: load_bench\r\nAccept: */*\r\n"
                            "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
                            body_len, body);
    return request;
}

static void ask(struct reader *reader)
{
    reader->part = PART_HEAD;
    reader->head_len = 0;
    reader->first_ns = 0;
    reader->last_chunk = false;
    reader->sent_ns = clock_mono_ns();
    must(send(reader->fd, reader->request, reader->request_len, MSG_NOSIGNAL) ==
             (ssize_t)reader->request_len,
         "send");
}

/* ---- replies ---- */

/* Looks for the line end(s) that close the head; the bytes of data that belong to it. */
static size_t take_head(struct reader *reader, const char *data, size_t len, const char *end)
{
    size_t before = reader->head_len, end_len = strlen(end);
    size_t room = HEAD_MAX - 1 - before;
    size_t taken = len < room ? len : room;
    must(taken > 0, "a head too long");
    memcpy(reader->head + before, data, taken);
    reader->head[before + taken] = '\0';
    size_t from = before >= end_len ? before - end_len + 1 : 0;
    const char *found = strstr(reader->head + from, end);
    if (found == NULL) {
        reader->head_len += taken;
        return taken;
    }
    reader->head_len = 0;
    size_t all = (size_t)(found - reader->head) + end_len;
    reader->head[all] = '\0';
    return all - before;
}

static void begin_body(struct reader *reader)
{
    const char *length = strcasestr(reader->head, "\ncontent-length:");
    reader->failed = strncmp(reader->head, "HTTP/1.1 200", 12) != 0;
    if (length != NULL) {
        reader->left = strtoul(length + 16, NULL, 10);
        reader->part = reader->left > 0 ? PART_LENGTH : PART_WHOLE;
    } else {
        must(strcasestr(reader->head, "\ntransfer-encoding: chunked") != NULL, "no length");
        reader->part = PART_CHUNK_HEAD;
    }
}

/* Takes what came; true when the reply is whole. */
static bool take(struct reader *reader, const char *data, size_t len, int64_t now_ns)
{
    while (len > 0 && reader->part != PART_WHOLE) {
        size_t used;
        if (reader->part == PART_HEAD) {
            used = take_head(reader, data, len, "\r\n\r\n");
            if (reader->head_len == 0)
                begin_body(reader);
        } else if (reader->part == PART_CHUNK_HEAD) {
            used = take_head(reader, data, len, "\r\n");
            if (reader->head_len == 0) {
                reader->left = strtoul(reader->head, NULL, 16) + 2;
                reader->last_chunk = reader->left == 2;
                reader->part = PART_CHUNK;
            }
        } else {
            if (reader->first_ns == 0)
                reader->first_ns = now_ns;
            used = len < reader->left ? len : reader->left;
            reader->left -= used;
            if (reader->left == 0)
                reader->part = reader->part == PART_LENGTH || reader->last_chunk ? PART_WHOLE
                                                                                 : PART_CHUNK_HEAD;
        }
        data += used;
        len -= used;
    }
    must(len == 0, "more than was asked for");
    return reader->part == PART_WHOLE;
}

/* ---- figures ---- */

/* User and system, all its threads, ended ones too; 0: this process. */
static double cpu_s(int pid)
{
    clockid_t clock;
    struct timespec used;
    must(clock_getcpuclockid(pid, &clock) == 0 && clock_gettime(clock, &used) == 0, "its CPU");
    return (double)used.tv_sec + (double)used.tv_nsec / 1e9;
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a;
    float y = *(const float *)b;
    return (x > y) - (x < y);
}

static double part_of(float *values, size_t count, double p)
{
    qsort(values, count, sizeof *values, by_value);
    return (double)values[(size_t)(p * (double)(count - 1))];
}

/* ---- ask ---- */

static struct reader *readers_open(const struct options *options, int epoll)
{
    struct reader *readers = calloc((size_t)options->users, sizeof *readers);
    must(readers != NULL, "memory");
    for (int i = 0; i < options->users; i++) {
        readers[i].fd = dial(options->port);
        readers[i].request = request_text(options, i, &readers[i].request_len);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        must(epoll_ctl(epoll, EPOLL_CTL_ADD, readers[i].fd, &event) == 0, "epoll");
    }
    return readers;
}

static void readers_close(struct reader *readers, int count)
{
    for (int i = 0; i < count; i++) {
        close(readers[i].fd);
        free(readers[i].request);
    }
    free(readers);
}

/* Waits, and reads what came for one after the other; calls back for each whole reply. */
static void readers_turn(struct reader *readers, int epoll, int wait_ms,
                         void (*whole)(void *arg, struct reader *reader, int64_t now_ns), void *arg)
{
    static char data[256 << 10];
    struct epoll_event events[256];
    int ready = epoll_wait(epoll, events, 256, wait_ms);
    for (int e = 0; e < ready; e++) {
        struct reader *reader = &readers[events[e].data.u32];
        ssize_t len = recv(reader->fd, data, sizeof data, 0);
        must(len > 0, "the gateway closed");
        int64_t now_ns = clock_mono_ns();
        if (take(reader, data, (size_t)len, now_ns))
            whole(arg, reader, now_ns);
    }
}

struct asking {
    const struct options *options;
    struct samples samples;
    int64_t from_ns; /* what was sent before does not count */
    size_t replies, failed, open;
    bool ending;
};

static void on_whole(void *arg, struct reader *reader, int64_t now_ns)
{
    struct asking *asking = arg;
    struct samples *samples = &asking->samples;
    asking->failed += reader->failed;
    asking->replies += now_ns >= asking->from_ns;
    if (reader->sent_ns >= asking->from_ns && samples->count < SAMPLES_MAX && !reader->failed) {
        samples->first[samples->count] =
            (float)((double)(reader->first_ns - reader->sent_ns) / 1e6 - asking->options->first_ms);
        samples->whole[samples->count++] =
            (float)((double)(now_ns - reader->sent_ns) / 1e6 - asking->options->engine_ms);
    }
    if (asking->ending)
        asking->open--;
    else
        ask(reader);
}

static int run_ask(const struct options *options)
{
    struct asking asking = {.options = options, .open = (size_t)options->users};
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    asking.samples.first = malloc(SAMPLES_MAX * sizeof(float));
    asking.samples.whole = malloc(SAMPLES_MAX * sizeof(float));
    must(epoll >= 0 && asking.samples.first != NULL && asking.samples.whole != NULL, "memory");
    struct reader *readers = readers_open(options, epoll);
    asking.from_ns = clock_mono_ns() + (int64_t)(options->warm_seconds * (double)NS_PER_S);
    /* Users come one after the other, spread over one reply's time. */
    double apart_ms = options->engine_ms / options->users;
    int64_t come_ns = clock_mono_ns();
    for (int i = 0; i < options->users; i++, come_ns += (int64_t)(apart_ms * (double)NS_PER_MS)) {
        while (clock_mono_ns() < come_ns)
            readers_turn(readers, epoll, 1, on_whole, &asking);
        ask(&readers[i]);
    }
    while (clock_mono_ns() < asking.from_ns)
        readers_turn(readers, epoll, 100, on_whole, &asking);
    asking.replies = 0;
    double their_s = cpu_s(options->pid), own_s = cpu_s(0);
    int64_t begin_ns = clock_mono_ns();
    asking.from_ns = begin_ns;
    while (clock_mono_ns() < begin_ns + (int64_t)(options->seconds * (double)NS_PER_S))
        readers_turn(readers, epoll, 100, on_whole, &asking);
    double took_s = (double)(clock_mono_ns() - begin_ns) / (double)NS_PER_S;
    their_s = cpu_s(options->pid) - their_s;
    own_s = cpu_s(0) - own_s;
    size_t replies = asking.replies;
    asking.ending = true;
    while (asking.open > 0) /* nothing is broken off: that would be a cancellation */
        readers_turn(readers, epoll, 100, on_whole, &asking);
    struct samples *s = &asking.samples;
    must(s->count > 0, "no replies");
    printf("{\"users\":%d,\"replies\":%zu,\"failed\":%zu,\"seconds\":%.3f,\"per_second\":%.1f,"
           "\"cpu_s\":%.6f,\"own_cpu_s\":%.6f,\"whole_p50_ms\":%.3f,\"whole_p99_ms\":%.3f,"
           "\"first_p50_ms\":%.3f,\"first_p99_ms\":%.3f,\"samples\":%zu}\n",
           options->users, replies, asking.failed, took_s, (double)replies / took_s, their_s, own_s,
           part_of(s->whole, s->count, 0.5), part_of(s->whole, s->count, 0.99),
           part_of(s->first, s->count, 0.5), part_of(s->first, s->count, 0.99), s->count);
    readers_close(readers, options->users);
    free(s->first);
    free(s->whole);
    close(epoll);
    return EXIT_SUCCESS;
}

/* ---- idle ---- */

static void on_whole_idle(void *arg, struct reader *reader, int64_t now_ns)
{
    (void)arg;
    (void)now_ns;
    must(false, reader->head); /* a stream that was to be idle has ended */
}

static int run_idle(const struct options *options)
{
    char word[16];
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    must(epoll >= 0, "epoll");
    struct reader *readers = readers_open(options, epoll);
    for (int i = 0; i < options->users; i++) {
        ask(&readers[i]);
        if (i % IN_FLIGHT == IN_FLIGHT - 1)
            usleep(5000); /* the gateway's queue of connections is no part of this */
    }
    for (int open = 0; open < options->users;) {
        readers_turn(readers, epoll, 100, on_whole_idle, NULL);
        open = 0;
        for (int i = 0; i < options->users; i++)
            open += readers[i].part != PART_HEAD;
    }
    puts("open");
    fflush(stdout);
    must(read(STDIN_FILENO, word, sizeof word) >= 0, "input");
    readers_close(readers, options->users);
    close(epoll);
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    struct options options = {.users = 16, .seconds = 3, .warm_seconds = 1};
    const char *mode = argc > 1 ? argv[1] : "";
    int flag;
    while (argc > 1 && (flag = getopt(argc - 1, argv + 1, "su:t:w:p:e:f:")) != -1) {
        options.stream |= flag == 's';
        if (flag == 'u')
            options.users = atoi(optarg);
        else if (flag == 't')
            options.seconds = atof(optarg);
        else if (flag == 'w')
            options.warm_seconds = atof(optarg);
        else if (flag == 'p')
            options.pid = atoi(optarg);
        else if (flag == 'e')
            options.engine_ms = atof(optarg);
        else if (flag == 'f')
            options.first_ms = atof(optarg);
        else if (flag != 's')
            return EX_USAGE;
    }
    argv += 1 + optind;
    if (argc - 1 - optind != 2 || options.users < 1 || options.users > USERS_MAX ||
        options.seconds <= 0) {
        fputs("usage: load_bench ask|idle [-s] [-u USERS] [-t S] [-w S] [-p PID] [-e MS] [-f MS] "
              "PORT CONTENT\n",
              stderr);
        return EX_USAGE;
    }
    options.port = (unsigned)atoi(argv[0]);
    options.content = argv[1];
    if (strcmp(mode, "idle") == 0) {
        options.stream = true;
        return run_idle(&options);
    }
    return run_ask(&options);
}
