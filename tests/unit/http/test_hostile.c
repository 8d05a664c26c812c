/* What the server must refuse, with which status; whole and cut at every byte. */
#include "rig.h"

#include <netinet/tcp.h>

#define HOST "Host: h\r\n"

struct hostile {
    const char *name;
    const char *request;
    int status;
};

static const struct hostile cases[] = {
    {"two content lengths",
     "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400},
    {"two equal content lengths",
     "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400},
    {"list of content lengths", "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 3, 3\r\n\r\nabc",
     400},
    {"signed content length", "POST /echo HTTP/1.1\r\n" HOST "Content-Length: +3\r\n\r\nabc", 400},
    {"content length overflow",
     "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 99999999999999999999999\r\n\r\nabc", 400},
    {"content length and chunked",
     "POST /echo HTTP/1.1\r\n" HOST
     "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     400},
    {"chunked and content length",
     "POST /echo HTTP/1.1\r\n" HOST
     "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
     400},
    {"unknown coding", "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: xchunked\r\n\r\n", 400},
    {"gzip before chunked",
     "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501},
    {"gzip before chunked, two lines",
     "POST /echo HTTP/1.1\r\n" HOST
     "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     501},
    {"chunked before gzip",
     "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400},
    {"chunked twice",
     "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400},
    {"chunked in HTTP/1.0",
     "POST /echo HTTP/1.0\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
    {"chunk size overflow",
     "POST /echo HTTP/1.1\r\n" HOST
     "Transfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n",
     400},
    {"chunk size that is none",
     "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400},
    {"chunk size with a sign",
     "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n-1\r\n", 400},
    {"chunk without its end",
     "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
     400},
    {"chunk ended by a bare LF",
     "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n", 400},
    {"folded header", "GET /echo HTTP/1.1\r\n" HOST "A: b\r\n c\r\n\r\n", 400},
    {"space before the colon", "GET /echo HTTP/1.1\r\n" HOST "A : b\r\n\r\n", 400},
    {"bare LF", "GET /echo HTTP/1.1\n" HOST "\n", 400},
    {"bare LF after a header", "GET /echo HTTP/1.1\r\nHost: h\n\r\n", 400},
    {"bare CR in a value", "GET /echo HTTP/1.1\r\n" HOST "A: b\rc\r\n\r\n", 400},
    {"header without a name", "GET /echo HTTP/1.1\r\n" HOST ": b\r\n\r\n", 400},
    {"header without a colon", "GET /echo HTTP/1.1\r\n" HOST "AB\r\n\r\n", 400},
    {"no host", "GET /echo HTTP/1.1\r\nA: b\r\n\r\n", 400},
    {"two hosts", "GET /echo HTTP/1.1\r\n" HOST "Host: i\r\n\r\n", 400},
    {"a host that is a list", "GET /echo HTTP/1.1\r\nHost: h, i\r\n\r\n", 400},
    {"unknown method", "BREW /echo HTTP/1.1\r\n" HOST "\r\n", 501},
    {"lower-case method", "get /echo HTTP/1.1\r\n" HOST "\r\n", 501},
    {"CONNECT", "CONNECT h:443 HTTP/1.1\r\n" HOST "\r\n", 501},
    {"TLS", "\x16\x03\x01\x02\x01", 400},
    {"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
    {"HTTP/1.2", "GET /echo HTTP/1.2\r\n" HOST "\r\n", 505},
    {"HTTP/2.0", "GET /echo HTTP/2.0\r\n" HOST "\r\n", 505},
    {"HTTP/0.9", "GET /echo HTTP/0.9\r\n" HOST "\r\n", 505},
    {"unknown expectation",
     "POST /echo HTTP/1.1\r\n" HOST "Expect: miracles\r\nContent-Length: 1\r\n\r\n", 417},
    {"dot segments", "GET /a/../b HTTP/1.1\r\n" HOST "\r\n", 400},
    {"encoded dot segments", "GET /a/%2e%2E/b HTTP/1.1\r\n" HOST "\r\n", 400},
    {"dot segment at the end", "GET /a/.. HTTP/1.1\r\n" HOST "\r\n", 400},
    {"encoded NUL", "GET /a%00b HTTP/1.1\r\n" HOST "\r\n", 400},
    {"cut escape", "GET /a%2 HTTP/1.1\r\n" HOST "\r\n", 400},
    {"fragment", "GET /a#b HTTP/1.1\r\n" HOST "\r\n", 400},
    {"no path", "GET echo HTTP/1.1\r\n" HOST "\r\n", 400},
    {"body over the limit", "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 1001\r\n\r\n", 413},
    {"chunked body over the limit",
     "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3e9\r\n%0*d", 413},
};

static const struct http_limits limits = {
    .head_bytes = 2000, .header_count = 20, .body_bytes = 1000};

/* Sends the request in parts of `step` bytes and wants the status, and then the end. */
static void expect_refusal(struct rig *rig, const char *name, const char *request, size_t len,
                           size_t step, int status)
{
    struct buf reply;
    buf_init(&reply, 65536);
    int fd = raw_connect(rig);
    const int at_once = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &at_once, sizeof at_once);
    for (size_t at = 0; at < len; at += step) {
        size_t part = len - at < step ? len - at : step;
        if (!raw_send(fd, request + at, part)) {
            break;
        }
    }
    raw_read(fd, &reply, NULL, 0);
    if (status_of(buf_text(&reply)) != status) {
        fail_msg("%s (parts of %zu): want %d, got: %.120s", name, step, status, buf_text(&reply));
    }
    assert_non_null(strstr(buf_text(&reply), "Connection: close\r\n"));
    assert_non_null(strstr(buf_text(&reply), "{\"error\":{\"message\":\""));
    close(fd);
    buf_done(&reply);
}

static void test_refusals(void **state)
{
    struct rig rig;
    rig_start(&rig, &limits);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char request[4096];
        /* %0*d in a case stands for 1,001 bytes of body. */
        const char *mark = strstr(cases[i].request, "%0*d");
        int len = mark == NULL ? snprintf(request, sizeof request, "%s", cases[i].request)
                               : snprintf(request, sizeof request, "%.*s%01001d",
                                          (int)(mark - cases[i].request), cases[i].request, 0);
        expect_refusal(&rig, cases[i].name, request, (size_t)len, sizeof request, cases[i].status);
        expect_refusal(&rig, cases[i].name, request, (size_t)len, 1, cases[i].status);
    }
    assert_int_equal(atomic_load(&rig.asked), 0); /* no handler saw any of it */
    const struct http_counts *counts = rig_counts(&rig);
    assert_int_equal(counts->refused_total, 2 * sizeof cases / sizeof *cases);
    assert_int_equal(counts->requests_total, 0);
    rig_stop(&rig);
}

static void test_nul(void **state)
{
    struct rig rig;
    rig_start(&rig, &limits);
    static const char in_value[] = "GET /echo HTTP/1.1\r\n" HOST "A: b\0c\r\n\r\n";
    static const char in_target[] = "GET /e\0cho HTTP/1.1\r\n" HOST "\r\n";
    static const char in_name[] = "GET /echo HTTP/1.1\r\n" HOST "A\0: b\r\n\r\n";
    expect_refusal(&rig, "NUL in a value", in_value, sizeof in_value - 1, 4096, 400);
    expect_refusal(&rig, "NUL in the target", in_target, sizeof in_target - 1, 4096, 400);
    expect_refusal(&rig, "NUL in a name", in_name, sizeof in_name - 1, 4096, 400);
    rig_stop(&rig);
}

static void expect_large(struct rig *rig, const char *name, const char *before, const char *unit,
                         size_t times, int status)
{
    struct buf request;
    buf_init(&request, (size_t)1 << 20);
    assert_int_equal(buf_append_text(&request, before), ERR_OK);
    for (size_t i = 0; i < times; i++) {
        assert_int_equal(buf_append_text(&request, unit), ERR_OK);
    }
    expect_refusal(rig, name, request.data, request.len, request.len, status);
    expect_refusal(rig, name, request.data, request.len, 100, status);
    buf_done(&request);
}

static void test_sizes(void **state)
{
    struct rig rig;
    rig_start(&rig, &limits);
    const char *head = "GET /echo HTTP/1.1\r\n" HOST;
    const char *chunked = "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n";
    expect_large(&rig, "giant target", "GET /", "a", 70000, 431);
    expect_large(&rig, "giant header", "GET /echo HTTP/1.1\r\n" HOST "A: ", "a", 70000, 431);
    expect_large(&rig, "giant name", "GET /echo HTTP/1.1\r\n" HOST, "a", 70000, 431);
    expect_large(&rig, "many headers", head, "A: b\r\n", 10000, 431);
    expect_large(&rig, "blank lines without end", "", "\r\n", 70000, 431);
    expect_large(&rig, "chunk extension without end",
                 "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1;", "a", 70000,
                 431);
    expect_large(&rig, "chunk extensions without end", chunked, "1;aaaaaaaaaaaaaa=b\r\nx\r\n", 900,
                 431);
    expect_large(&rig, "trailers without end",
                 "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\n",
                 "A: b\r\n", 10000, 431);
    expect_large(&rig, "chunks over the limit", chunked, "4\r\nabcd\r\n", 400, 413);
    assert_int_equal(atomic_load(&rig.asked), 0);
    rig_stop(&rig);
}

/* A client that sends the whole large body before it reads still gets the 413. */
static void test_large_body_is_drained(void **state)
{
    struct rig rig;
    rig_start(&rig, &limits);
    expect_large(&rig, "large body",
                 "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 900000\r\n\r\n", "0123456789",
                 90000, 413);
    rig_stop(&rig);
}

static void test_slow_head_and_body(void **state)
{
    struct rig rig;
    const struct http_limits slow = {.head_ms = 200, .body_ms = 200, .idle_ms = 200};
    rig_start(&rig, &slow);
    const char *head = "GET /echo HTTP/1.1\r\nHost:";
    const char *body = "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 10\r\n\r\nabc";
    expect_refusal(&rig, "slow head", head, strlen(head), 4096, 408);
    expect_refusal(&rig, "slow body", body, strlen(body), 4096, 408);
    /* Dribbling does not help: the deadline is for the whole head. */
    int fd = raw_connect(&rig);
    struct buf reply;
    buf_init(&reply, 65536);
    raw_say(fd, "GET /echo HTTP/1.1\r\n");
    const struct timespec pause = {.tv_nsec = 10000000};
    while (raw_send(fd, "A", 1) && recv(fd, (char[1]){0}, 1, MSG_PEEK | MSG_DONTWAIT) < 0) {
        nanosleep(&pause, NULL);
    }
    raw_read(fd, &reply, NULL, 0);
    assert_int_equal(status_of(buf_text(&reply)), 408);
    close(fd);
    /* An idle one is closed without a word. */
    buf_clear(&reply);
    fd = raw_connect(&rig);
    raw_read(fd, &reply, NULL, 0);
    assert_int_equal(reply.len, 0);
    close(fd);
    buf_done(&reply);
    rig_stop(&rig);
}

static void test_too_many_connections(void **state)
{
    struct rig rig;
    const struct http_limits few = {.connections = 2};
    rig_start(&rig, &few);
    int first = raw_connect(&rig);
    int second = raw_connect(&rig);
    raw_say(first, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    raw_say(second, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    wait_for(&rig.asked, 2);
    expect_refusal(&rig, "third", "GET /echo HTTP/1.1\r\n" HOST "\r\n", 29, 4096, 503);
    close(first);
    wait_for(&rig.left, 1);
    struct buf reply;
    buf_init(&reply, 65536);
    int third = raw_connect(&rig);
    raw_say(third, "GET /echo HTTP/1.1\r\n" HOST "\r\n");
    raw_read(third, &reply, "GET|/echo", 1);
    close(second);
    close(third);
    buf_done(&reply);
    rig_stop(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_nul),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_large_body_is_drained),
        cmocka_unit_test(test_slow_head_and_body),
        cmocka_unit_test(test_too_many_connections),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
