/*
 * http_bench.c - what the HTTP server alone can do, its client on the same machine.
 *
 *   http_bench [connections [seconds [streams]]]
 *
 * Prints one JSON line: small JSON POSTs a second with their latency (closed loop over keep-alive
 * connections), resident bytes an idle event stream adds, and CPU per event and stream when one
 * event goes to all of them.  The server runs in a child process, the client is plain epoll.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/loop.h"
#include "http/server.h"
#include "http/sse.h"

#define STREAMS_MAX 4000
#define SAMPLES_MAX 4000000
#define ROUNDS      200
#define ROUND_MS    10

/* ---- the server, in the child ---- */

struct bench_server {
    struct loop *loop;
    struct loop_timer *ticks;
    struct http_exchange *streams[STREAMS_MAX];
    size_t stream_count;
    int rounds_left;
    double cpu_before_s;
    int report_fd;
};

static double cpu_s(void)
{
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
           (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
}

static void on_tick(void *arg)
{
    static const char event[] = "{\"choices\":[{\"delta\":{\"content\":\" word\"},\"index\":0}]}";
    struct bench_server *bench = arg;
    if (bench->rounds_left-- == 0) {
        double used_s = cpu_s() - bench->cpu_before_s;
        loop_timer_stop(bench->ticks);
        if (write(bench->report_fd, &used_s, sizeof used_s) != sizeof used_s) {
            abort();
        }
        return;
    }
    for (size_t i = 0; i < bench->stream_count; i++) {
        sse_send(bench->streams[i], NULL, event, sizeof event - 1);
    }
}

static void handle(void *arg, struct http_exchange *exchange, const struct http_request *request)
{
    static const char reply[] = "{\"id\":\"chatcmpl-0\",\"object\":\"chat.completion\"}";
    struct bench_server *bench = arg;
    if (strcmp(request->path, "/stream") == 0 && bench->stream_count < STREAMS_MAX) {
        sse_begin(exchange, NULL, 0);
        bench->streams[bench->stream_count++] = exchange;
        return;
    }
    if (strcmp(request->path, "/fan") == 0) {
        bench->rounds_left = ROUNDS;
        bench->cpu_before_s = cpu_s();
        loop_timer_start(bench->ticks, ROUND_MS, ROUND_MS);
    }
    http_reply(exchange, 200, NULL, 0, "application/json", reply, sizeof reply - 1);
}

/* Reports its port, then serves until it is killed. */
static void serve(int report_fd)
{
    struct bench_server *bench = calloc(1, sizeof *bench);
    struct http_server *server = NULL;
    if (bench == NULL) {
        exit(EXIT_FAILURE);
    }
    const struct http_config config = {.host = "127.0.0.1", .handler = handle, .arg = bench};
    bench->report_fd = report_fd;
    if (loop_new(&bench->loop) != ERR_OK ||
        loop_timer_new(&bench->ticks, bench->loop, on_tick, bench) != ERR_OK ||
        http_server_new(&server, bench->loop, &config) != ERR_OK) {
        fprintf(stderr, "http_bench: %s\n", err_text());
        exit(EXIT_FAILURE);
    }
    unsigned port = http_server_port(server);
    if (write(report_fd, &port, sizeof port) != sizeof port) {
        exit(EXIT_FAILURE);
    }
    loop_run(bench->loop);
}

/* ---- the client ---- */

static void must(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "http_bench: %s: %s\n", what, strerror(errno));
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

static void say(int fd, const char *text)
{
    must(send(fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text), "send");
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a;
    float y = *(const float *)b;
    return (x > y) - (x < y);
}

struct posts {
    double per_s, per_cpu_s; /* a second; a second of the server's CPU */
    double p50_us, p99_us;
};

static double server_cpu_s(pid_t pid)
{
    clockid_t clock;
    struct timespec used;
    must(clock_getcpuclockid(pid, &clock) == 0 && clock_gettime(clock, &used) == 0, "its CPU");
    return (double)used.tv_sec + (double)used.tv_nsec / (double)NS_PER_S;
}

/* One request in flight on each connection, the next one on its reply. */
static struct posts bench_posts(unsigned port, pid_t pid, int connections, double seconds)
{
    static const char post[] =
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
        "\r\nContent-Length: 76\r\n\r\n"
        "{\"model\":\"default\",\"messages\":[{\"role\":\"user\",\"content\":\"Good "
        "morning!!!\"}]}";
    int64_t *sent_ns = calloc((size_t)connections, sizeof *sent_ns);
    int *fds = calloc((size_t)connections, sizeof *fds);
    float *samples = malloc(SAMPLES_MAX * sizeof *samples);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    size_t count = 0;
    must(sent_ns != NULL && fds != NULL && samples != NULL && epoll >= 0, "memory");
    double begin_cpu_s = server_cpu_s(pid);
    int64_t begin_ns = clock_mono_ns();
    for (int i = 0; i < connections; i++) {
        fds[i] = dial(port);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        must(epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &event) == 0, "epoll");
        sent_ns[i] = clock_mono_ns();
        say(fds[i], post);
    }
    int64_t end_ns = begin_ns + (int64_t)(seconds * (double)NS_PER_S);
    while (clock_mono_ns() < end_ns) {
        struct epoll_event events[256];
        int ready = epoll_wait(epoll, events, 256, 100);
        for (int e = 0; e < ready; e++) {
            uint32_t i = events[e].data.u32;
            char reply[2048];
            ssize_t len = recv(fds[i], reply, sizeof reply, 0);
            must(len > 12 && memcmp(reply, "HTTP/1.1 200", 12) == 0, "reply");
            int64_t now_ns = clock_mono_ns();
            if (count < SAMPLES_MAX) {
                samples[count++] = (float)(now_ns - sent_ns[i]) / 1000.0F;
            }
            sent_ns[i] = now_ns;
            say(fds[i], post);
        }
    }
    double took_s = (double)(clock_mono_ns() - begin_ns) / (double)NS_PER_S;
    double used_s = server_cpu_s(pid) - begin_cpu_s;
    qsort(samples, count, sizeof *samples, by_value);
    must(count > 0, "no replies");
    struct posts result = {(double)count / took_s, (double)count / used_s, samples[count / 2],
                           samples[count * 99 / 100]};
    for (int i = 0; i < connections; i++) {
        close(fds[i]);
    }
    close(epoll);
    free(sent_ns);
    free(fds);
    free(samples);
    return result;
}

static long resident_bytes(pid_t pid)
{
    char path[64];
    long total = 0, resident = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    FILE *file = fopen(path, "re");
    must(file != NULL && fscanf(file, "%ld %ld", &total, &resident) == 2, path);
    fclose(file);
    return resident * sysconf(_SC_PAGESIZE);
}

struct streams {
    double bytes_each;
    double us_per_event;
};

static struct streams bench_streams(unsigned port, pid_t pid, int report_fd, int count)
{
    int *fds = calloc((size_t)count, sizeof *fds);
    char buffer[65536];
    must(fds != NULL, "memory");
    long before = resident_bytes(pid);
    for (int i = 0; i < count; i++) {
        fds[i] = dial(port);
        say(fds[i], "GET /stream HTTP/1.1\r\nHost: localhost\r\nUser-Agent: http_bench\r\n"
                    "Accept: text/event-stream\r\n\r\n");
        must(recv(fds[i], buffer, sizeof buffer, 0) > 0, "stream");
    }
    struct streams result = {.bytes_each = (double)(resident_bytes(pid) - before) / count};
    int trigger = dial(port);
    say(trigger, "POST /fan HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    /* The kernel's buffers hold all rounds: nobody has to read meanwhile. */
    double used_s = 0;
    must(read(report_fd, &used_s, sizeof used_s) == sizeof used_s, "report");
    result.us_per_event = used_s * 1e6 / ROUNDS / count;
    for (int i = 0; i < count; i++) {
        close(fds[i]);
    }
    close(trigger);
    free(fds);
    return result;
}

int main(int argc, char **argv)
{
    int connections = argc > 1 ? atoi(argv[1]) : 16;
    double seconds = argc > 2 ? atof(argv[2]) : 3;
    int count = argc > 3 ? atoi(argv[3]) : 1000;
    int report[2];
    if (connections < 1 || seconds <= 0 || count < 1 || count > STREAMS_MAX) {
        fprintf(stderr, "usage: http_bench [connections [seconds [streams (to %d)]]]\n",
                STREAMS_MAX);
        return EX_USAGE;
    }
    must(pipe(report) == 0, "pipe");
    pid_t pid = fork();
    must(pid >= 0, "fork");
    if (pid == 0) {
        serve(report[1]);
        return EXIT_SUCCESS;
    }
    unsigned port = 0;
    close(report[1]);
    must(read(report[0], &port, sizeof port) == sizeof port, "the server did not start");
    struct streams streams = bench_streams(port, pid, report[0], count);
    struct posts posts = bench_posts(port, pid, connections, seconds);
    printf("{\"posts_per_second\":%.0f,\"posts_per_cpu_second\":%.0f,\"p50_us\":%.0f,\"p99_us\":%."
           "0f,\"connections\":%d,"
           "\"bytes_per_idle_stream\":%.0f,\"us_per_event_and_stream\":%.2f,\"streams\":%d}\n",
           posts.per_s, posts.per_cpu_s, posts.p50_us, posts.p99_us, connections,
           streams.bytes_each, streams.us_per_event, count);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return EXIT_SUCCESS;
}
