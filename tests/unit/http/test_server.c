/* What the server does for honest and for slow, leaving and hurried readers. */
#include "rig.h"

#include <netinet/tcp.h>
#include <strings.h>

#define HOST "Host: h\r\n"

/* Says `request`, reads until the end, and gives the reply (free with buf_done). */
static struct buf ask(const struct rig *rig, const char *request)
{
    struct buf reply;
    buf_init(&reply, BIG_BYTES * 4);
    int fd = raw_connect(rig);
    raw_say(fd, request);
    raw_read(fd, &reply, NULL, 0);
    close(fd);
    return reply;
}

static const char *body_of(const struct buf *reply)
{
    const char *body = strstr(buf_text(reply), "\r\n\r\n");
    assert_non_null(body);
    return body + 4;
}

static void expect_echo(const struct rig *rig, const char *request, const char *body)
{
    struct buf reply = ask(rig, request);
    assert_int_equal(status_of(buf_text(&reply)), 200);
    assert_string_equal(body_of(&reply), body);
    buf_done(&reply);
}

static void test_requests(void **state)
{
    struct rig rig;
    rig_start(&rig, NULL);
    expect_echo(&rig, "GET /echo?a=b&c HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n",
                "GET|/echo|a=b&c|-|0|");
    expect_echo(&rig, "GET /echo HTTP/1.0\r\n\r\n", "GET|/echo||-|0|");
    expect_echo(&rig, "\r\nGET /a%20b/%C3%A9 HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n",
                "GET|/a b/\xc3\xa9||-|0|");
    expect_echo(&rig, "GET http://h:80/echo?q HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n",
                "GET|/echo|q|-|0|");
    expect_echo(&rig, "GET http://h?q HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n",
                "GET|/|q|-|0|");
    expect_echo(&rig, "OPTIONS * HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", "OPTIONS|*||-|0|");
    expect_echo(&rig,
                "POST /echo HTTP/1.1\r\n" HOST "X-EXTRA: \t some value \t\r\nEmpty:\r\n"
                "Content-Length: 3\r\nConnection: close\r\n\r\nabc",
                "POST|/echo||some value|3|abc");
    expect_echo(&rig,
                "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: Chunked\r\nConnection: close\r\n"
                "\r\n2;ext=1\r\nab\r\n1\r\nc\r\n0\r\nX-Extra: trailer\r\n\r\n",
                "POST|/echo||-|3|abc");
    expect_echo(&rig,
                "GET /echo HTTP/1.1\r\n" HOST "Connection: Upgrade, close\r\nUpgrade: h2c\r\n"
                "HTTP2-Settings: AA\r\n\r\n",
                "GET|/echo||-|0|");
    rig_stop(&rig);
}

static void test_head_and_framing(void **state)
{
    struct rig rig;
    rig_start(&rig, NULL);
    struct buf reply = ask(&rig, "HEAD /echo HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n");
    assert_int_equal(status_of(buf_text(&reply)), 200);
    assert_non_null(strstr(buf_text(&reply), "Content-Length: 16\r\n"));
    assert_non_null(strstr(buf_text(&reply), "\r\nDate: "));
    assert_non_null(strstr(buf_text(&reply), "\r\nX-Request-Id: r1\r\n"));
    assert_string_equal(body_of(&reply), "");
    buf_done(&reply);
    reply = ask(&rig, "HEAD /burst HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n");
    assert_string_equal(body_of(&reply), "");
    buf_done(&reply);
    reply = ask(&rig, "GET /count?3 HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n");
    assert_non_null(strstr(buf_text(&reply), "Transfer-Encoding: chunked\r\n"));
    assert_string_equal(body_of(&reply), "2\r\n2 \r\n2\r\n1 \r\n2\r\n0 \r\n0\r\n\r\n");
    buf_done(&reply);
    reply = ask(&rig, "GET /count?3 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_null(strstr(buf_text(&reply), "chunked"));
    assert_non_null(strstr(buf_text(&reply), "Connection: close\r\n"));
    assert_string_equal(body_of(&reply), "2 1 0 ");
    buf_done(&reply);
    rig_stop(&rig);
}

static void test_keep_alive(void **state)
{
    struct rig rig;
    struct buf reply;
    buf_init(&reply, 65536);
    rig_start(&rig, NULL);
    int fd = raw_connect(&rig);
    raw_say(fd, "GET /1 HTTP/1.1\r\n" HOST "\r\n");
    raw_read(fd, &reply, "GET|/1||-|0|", 1);
    raw_say(fd, "GET /later HTTP/1.1\r\n" HOST "\r\n");
    raw_read(fd, &reply, "later", 1);
    raw_say(fd, "GET /2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    raw_read(fd, &reply, "GET|/2||-|0|", 1);
    assert_non_null(strstr(buf_text(&reply), "Connection: keep-alive\r\n"));
    raw_say(fd, "GET /3 HTTP/1.0\r\n\r\n");
    raw_read(fd, &reply, NULL, 0);
    assert_non_null(strstr(buf_text(&reply), "GET|/3||-|0|"));
    assert_int_equal(rig_counts(&rig)->connections_total, 1);
    assert_int_equal(rig_counts(&rig)->responses_by_class[2], 4);
    close(fd);
    buf_done(&reply);
    rig_stop(&rig);
}

/* Many requests at once, among them late and streamed ones: answered whole and in order. */
static void test_pipelining(void **state)
{
    struct rig rig;
    struct buf said, reply;
    buf_init(&said, (size_t)4 << 20);
    buf_init(&reply, (size_t)16 << 20);
    rig_start(&rig, NULL);
    const int rounds = 1500; /* more bytes than the server keeps waiting */
    for (int i = 0; i < rounds; i++) {
        assert_int_equal(buf_printf(&said,
                                    "POST /n%d HTTP/1.1\r\n" HOST "Content-Length: 40\r\n\r\n"
                                    "[%038d]",
                                    i, i),
                         ERR_OK);
        if (i % 500 == 100) {
            assert_int_equal(buf_append_text(&said, "GET /later HTTP/1.1\r\n" HOST "\r\n"
                                                    "GET /count?5 HTTP/1.1\r\n" HOST "\r\n"),
                             ERR_OK);
        }
    }
    assert_int_equal(buf_append_text(&said, "GET /end HTTP/1.0\r\n\r\n"), ERR_OK);
    int fd = raw_connect(&rig);
    assert_true(raw_send(fd, said.data, said.len));
    raw_read(fd, &reply, NULL, 0);
    const char *at = reply.data;
    for (int i = 0; i < rounds; i++) {
        char wanted[96];
        snprintf(wanted, sizeof wanted, "POST|/n%d||-|40|[%038d]", i, i);
        at = strstr(at, wanted);
        assert_non_null(at);
        if (i % 500 == 100) {
            const char *later = strstr(at, "\r\n\r\nlaterHTTP/1.1 200");
            at = strstr(at, "2\r\n4 \r\n2\r\n3 \r\n2\r\n2 \r\n2\r\n1 \r\n2\r\n0 \r\n0\r\n\r\nHTTP");
            assert_non_null(at);
            assert_true(later != NULL && later < at);
        }
    }
    assert_non_null(strstr(at, "GET|/end||-|0|"));
    assert_int_equal(atomic_load(&rig.asked), rounds + 7);
    close(fd);
    buf_done(&said);
    buf_done(&reply);
    rig_stop(&rig);
}

/* Every cut of two pipelined requests into two sends gives the same two replies. */
static void test_every_cut(void **state)
{
    static const char two[] = "POST /a%20?q HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n"
                              "X-Extra: v\r\n\r\n3\r\nabc\r\n0\r\nT: t\r\n\r\n"
                              "POST /b HTTP/1.1\r\n" HOST "Connection: close\r\n"
                              "Content-Length: 2\r\n\r\nxy";
    struct rig rig;
    rig_start(&rig, NULL);
    for (size_t cut = 1; cut < sizeof two - 1; cut++) {
        struct buf reply;
        buf_init(&reply, 65536);
        int fd = raw_connect(&rig);
        assert_true(raw_send(fd, two, cut));
        /* The second part goes once the first was taken from the socket. */
        for (int unread = 1; unread > 0;) {
            struct tcp_info info;
            socklen_t size = sizeof info;
            assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size), 0);
            unread = (int)info.tcpi_unacked;
        }
        assert_true(raw_send(fd, two + cut, sizeof two - 1 - cut));
        raw_read(fd, &reply, NULL, 0);
        const char *first = strstr(buf_text(&reply), "POST|/a |q|v|3|abcHTTP/1.1 200 OK\r\n");
        assert_non_null(first);
        assert_non_null(strstr(first, "POST|/b||-|2|xy"));
        close(fd);
        buf_done(&reply);
    }
    rig_stop(&rig);
}

static void test_expect_continue(void **state)
{
    struct rig rig;
    struct buf reply;
    buf_init(&reply, 65536);
    rig_start(&rig, NULL);
    int fd = raw_connect(&rig);
    raw_say(fd, "POST /echo HTTP/1.1\r\n" HOST "Expect: 100-Continue\r\nContent-Length: 3\r\n\r\n");
    raw_read(fd, &reply, "HTTP/1.1 100 Continue\r\n\r\n", 1);
    raw_say(fd, "abc");
    raw_read(fd, &reply, "POST|/echo||-|3|abc", 1);
    close(fd);
    /* Too large: refused instead of invited. */
    buf_clear(&reply);
    fd = raw_connect(&rig);
    raw_say(fd, "POST /echo HTTP/1.1\r\n" HOST "Expect: 100-continue\r\n"
                "Content-Length: 99999999\r\n\r\n");
    raw_read(fd, &reply, NULL, 0);
    assert_int_equal(status_of(buf_text(&reply)), 413);
    close(fd);
    buf_done(&reply);
    rig_stop(&rig);
}

/* The reader leaves: before any reply, on a quiet stream, behind pipelined bytes, by a reset. */
static void test_reader_leaves(void **state)
{
    struct rig rig;
    struct buf reply;
    buf_init(&reply, 65536);
    rig_start(&rig, NULL);
    int fd = raw_connect(&rig);
    raw_say(fd, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    wait_for(&rig.asked, 1);
    assert_int_equal(atomic_load(&rig.left), 0);
    close(fd);
    wait_for(&rig.left, 1);

    fd = raw_connect(&rig);
    raw_say(fd, "POST /begin HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\nabc");
    raw_read(fd, &reply, "begun", 1);
    close(fd);
    wait_for(&rig.left, 2);

    fd = raw_connect(&rig); /* so much waits that reading is paused: the sweep finds out */
    raw_say(fd, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    wait_for(&rig.asked, 3);
    char *more = calloc(1, 100000);
    assert_true(raw_send(fd, more, 100000));
    free(more);
    close(fd);
    wait_for(&rig.left, 3);

    fd = raw_connect(&rig);
    raw_say(fd, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    wait_for(&rig.asked, 4);
    const struct linger hard = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(fd);
    wait_for(&rig.left, 4);

    assert_int_equal(rig_counts(&rig)->readers_left_total, 4);
    assert_int_equal(rig.exchanges, 0);
    assert_int_equal(atomic_load(&rig.whole), 0);
    buf_done(&reply);
    rig_stop(&rig);
}

/* A reader that has closed its sending side still gets a reply that was whole by then. */
static void test_half_close(void **state)
{
    struct rig rig;
    struct buf reply;
    buf_init(&reply, BIG_BYTES * 2);
    rig_start(&rig, NULL);
    int fd = raw_connect(&rig);
    raw_say(fd, "GET /big HTTP/1.1\r\n" HOST "\r\n");
    shutdown(fd, SHUT_WR);
    raw_read(fd, &reply, NULL, 0);
    const char *body = strstr(buf_text(&reply), "\r\n\r\n");
    assert_non_null(body);
    assert_int_equal(reply.len - (size_t)(body + 4 - reply.data), BIG_BYTES);
    for (size_t i = 0; i < BIG_BYTES; i++) {
        if (body[4 + i] != big_byte(i)) {
            fail_msg("byte %zu of the reply is wrong", i);
        }
    }
    wait_for(&rig.whole, 1);
    close(fd);
    buf_done(&reply);
    rig_stop(&rig);
}

static int slow_reader(const struct rig *rig, const char *request)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)rig->port)};
    const int small = 4096;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    raw_say(fd, request);
    return fd;
}

static void test_slow_reader_is_dropped(void **state)
{
    struct rig rig;
    /* By the bytes that wait … */
    rig_start(&rig, NULL);
    int fd = slow_reader(&rig, "GET /flood HTTP/1.1\r\n" HOST "\r\n");
    wait_for(&rig.left, 1);
    close(fd);
    rig_stop(&rig);
    /* … and by the time that nothing was taken. */
    const struct http_limits limits = {.write_ms = 100};
    rig_start(&rig, &limits);
    fd = slow_reader(&rig, "GET /big HTTP/1.1\r\n" HOST "\r\n");
    wait_for(&rig.left, 1);
    close(fd);
    rig_stop(&rig);
}

/* A reader that is slow and steady is not dropped. */
static void test_steady_reader_is_kept(void **state)
{
    struct rig rig;
    const struct http_limits limits = {.write_ms = 500};
    rig_start(&rig, &limits);
    int fd = slow_reader(&rig, "GET /big HTTP/1.0\r\n\r\n");
    const struct timespec pause = {.tv_nsec = 30000000};
    char part[262144];
    size_t total = 0;
    for (ssize_t len; (len = recv(fd, part, sizeof part, MSG_WAITALL)) > 0; total += (size_t)len) {
        nanosleep(&pause, NULL);
    }
    assert_true(total > BIG_BYTES);
    wait_for(&rig.whole, 1);
    close(fd);
    rig_stop(&rig);
}

/* A stream that outruns the kernel's buffers arrives whole and in order. */
static void test_spilled_stream_is_whole(void **state)
{
    struct rig rig;
    struct buf reply;
    const struct http_limits limits = {.write_queue_bytes = (size_t)16 << 20};
    buf_init(&reply, BIG_BYTES);
    rig_start(&rig, &limits);
    int fd = slow_reader(&rig, "GET /spill HTTP/1.0\r\n\r\n");
    raw_read(fd, &reply, NULL, 0);
    const char *body = body_of(&reply);
    assert_int_equal(strlen(body), 4000 * 1000);
    for (int i = 0; i < 4000; i++) {
        char piece[1001];
        snprintf(piece, sizeof piece, "%01000d", i);
        assert_memory_equal(body + (size_t)i * 1000, piece, 1000);
    }
    wait_for(&rig.whole, 1);
    close(fd);
    buf_done(&reply);
    rig_stop(&rig);
}

/* Writes of one turn arrive as one: the kernel saw one segment's worth, not a hundred. */
static void test_burst_is_coalesced(void **state)
{
    struct rig rig;
    rig_start(&rig, NULL);
    int fd = raw_connect(&rig);
    raw_say(fd, "GET /burst HTTP/1.1\r\n" HOST "\r\n");
    char part[16384];
    ssize_t len = recv(fd, part, sizeof part - 1, 0);
    assert_true(len > 0);
    part[len] = '\0';
    assert_non_null(strstr(part, "\r\n0\r\n\r\n")); /* head, 100 chunks and end in one read */
    close(fd);
    rig_stop(&rig);
}

static void answer_orphan(struct rig *rig)
{
    http_reply(rig->orphan, 200, NULL, 0, "text/plain", "late", 4);
    rig->orphan = NULL;
}

static bool no_connections(struct rig *rig)
{
    return rig_counts(rig)->connections_now == 0;
}

/* Without on_close, an exchange outlives its reader until it is answered. */
static void test_orphan(void **state)
{
    struct rig rig;
    rig_start(&rig, NULL);
    for (int i = 0; i < 2; i++) {
        int fd = raw_connect(&rig);
        raw_say(fd, "GET /orphan HTTP/1.1\r\n" HOST "\r\n");
        wait_for(&rig.asked, i + 1);
        close(fd);
        while (!no_connections(&rig)) {
        }
        assert_int_equal(rig.exchanges, 1);
        if (i == 0) { /* the second one is left to http_server_free */
            rig_do(&rig, answer_orphan);
            rig_counts(&rig);
            assert_int_equal(rig.exchanges, 0);
        }
    }
    rig_stop(&rig);
}

static void stop_listening(struct rig *rig)
{
    http_server_stop_listening(rig->server);
}

/* stop_listening: idle connections end at once, a running reply ends whole and then closes. */
static void test_stop_listening(void **state)
{
    struct rig rig;
    struct buf reply;
    buf_init(&reply, 65536);
    rig_start(&rig, NULL);
    int idle = raw_connect(&rig);
    raw_say(idle, "GET /echo HTTP/1.1\r\n" HOST "\r\n");
    raw_read(idle, &reply, "GET|/echo", 1);
    int busy = raw_connect(&rig);
    raw_say(busy, "GET /count?50 HTTP/1.1\r\n" HOST "\r\n");
    buf_clear(&reply);
    raw_read(busy, &reply, "49 ", 1);
    rig_do(&rig, stop_listening);
    raw_read(busy, &reply, NULL, 0);
    assert_non_null(strstr(buf_text(&reply), "\r\n0 \r\n0\r\n\r\n"));
    buf_clear(&reply);
    raw_read(idle, &reply, NULL, 0);
    assert_int_equal(reply.len, 0);
    close(idle);
    close(busy);
    buf_done(&reply);
    rig_stop(&rig);
}

/* Freed with everything open: every on_close is heard. */
static void test_free_while_busy(void **state)
{
    struct rig rig;
    int fds[20];
    rig_start(&rig, NULL);
    for (int i = 0; i < 20; i++) {
        fds[i] = raw_connect(&rig);
        raw_say(fds[i], i % 2 == 0 ? "GET /hold HTTP/1.1\r\n" HOST "\r\n"
                                   : "GET /begin HTTP/1.1\r\n" HOST "\r\n");
    }
    wait_for(&rig.asked, 20);
    rig_stop(&rig);
    assert_int_equal(atomic_load(&rig.left), 20);
    for (int i = 0; i < 20; i++) {
        close(fds[i]);
    }
}

static void test_busy_port(void **state)
{
    struct rig rig;
    rig_start(&rig, NULL);
    struct loop *loop;
    struct http_server *second = NULL;
    const struct http_config config = {
        .host = "127.0.0.1", .port = rig.port, .handler = rig_handle, .arg = &rig};
    assert_int_equal(loop_new(&loop), ERR_OK);
    assert_int_equal(http_server_new(&second, loop, &config), ERR_UNAVAILABLE);
    assert_null(second);
    assert_non_null(strstr(err_text(), "in use"));
    loop_free(loop);
    rig_stop(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_head_and_framing),
        cmocka_unit_test(test_keep_alive),
        cmocka_unit_test(test_pipelining),
        cmocka_unit_test(test_every_cut),
        cmocka_unit_test(test_expect_continue),
        cmocka_unit_test(test_reader_leaves),
        cmocka_unit_test(test_half_close),
        cmocka_unit_test(test_slow_reader_is_dropped),
        cmocka_unit_test(test_steady_reader_is_kept),
        cmocka_unit_test(test_spilled_stream_is_whole),
        cmocka_unit_test(test_burst_is_coalesced),
        cmocka_unit_test(test_orphan),
        cmocka_unit_test(test_stop_listening),
        cmocka_unit_test(test_free_while_busy),
        cmocka_unit_test(test_busy_port),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
