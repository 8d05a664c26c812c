/* How large bodies may be, each and all together; replies that wait for their reader. */
#include "rig.h"

#define HOST "Host: h\r\n"
#define MIB  ((size_t)1 << 20)

static void say_bytes(int fd, size_t len)
{
    static char block[65536];
    memset(block, 'b', sizeof block);
    for (size_t sent = 0; sent < len;) {
        size_t part = len - sent < sizeof block ? len - sent : sizeof block;
        assert_true(raw_send(fd, block, part));
        sent += part;
    }
}

static int post(struct rig *rig, const char *method, const char *path, size_t len)
{
    char head[256];
    struct buf reply;
    int fd = raw_connect(rig);
    snprintf(head, sizeof head, "%s %s HTTP/1.1\r\n" HOST "Content-Length: %zu\r\n\r\n", method,
             path, len);
    raw_say(fd, head);
    buf_init(&reply, 16 * MIB);
    if (len < MIB) {
        say_bytes(fd, len); /* of a refused one the rest may stay unsaid */
    } else {
        char block[65536];
        memset(block, 'b', sizeof block);
        for (size_t sent = 0; sent < len && raw_send(fd, block, sizeof block);) {
            sent += sizeof block;
        }
    }
    raw_read(fd, &reply, "\r\n\r\n", 1);
    int status = status_of(buf_text(&reply));
    buf_done(&reply);
    close(fd);
    return status;
}

static void a_bodys_bound_follows_its_path_and_method(void **state)
{
    struct rig rig;
    const struct http_limits limits = {.body_bytes = 1000};
    rig_start(&rig, &limits);
    assert_int_equal(post(&rig, "POST", "/small", 10), 200);
    assert_int_equal(post(&rig, "POST", "/small", 11), 413);
    assert_int_equal(post(&rig, "POST", "/small?a=b", 11), 413);
    assert_int_equal(post(&rig, "POST", "/%73mall", 11), 413);
    assert_int_equal(post(&rig, "DELETE", "/small", 11), 200);
    assert_int_equal(post(&rig, "GET", "/echo", 1000), 200);
    assert_int_equal(post(&rig, "POST", "/echo", 1001), 413);
    assert_int_equal(post(&rig, "POST", "/large", 3 * MIB), 200);
    rig_stop(&rig);
}

static void what_is_not_admitted_sends_no_body(void **state)
{
    struct rig rig;
    struct buf reply;
    rig_start(&rig, NULL);
    buf_init(&reply, MIB);
    int fd = raw_connect(&rig);
    raw_say(fd,
            "POST /secret HTTP/1.1\r\n" HOST "Content-Length: 9\r\nExpect: 100-continue\r\n\r\n");
    raw_read(fd, &reply, NULL, 0);
    assert_int_equal(status_of(buf_text(&reply)), 401);
    assert_non_null(strstr(buf_text(&reply), "WWW-Authenticate: Bearer\r\n"));
    assert_non_null(strstr(buf_text(&reply), "who are you?"));
    assert_int_equal(atomic_load(&rig.asked), 0);
    close(fd);
    buf_done(&reply);
    rig_stop(&rig);
}

static void a_chunked_body_has_the_same_bound(void **state)
{
    struct rig rig;
    struct buf reply;
    rig_start(&rig, NULL);
    buf_init(&reply, MIB);
    int fd = raw_connect(&rig);
    raw_say(fd, "POST /small HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"
                "8\r\n12345678\r\n3\r\nabc\r\n0\r\n\r\n");
    raw_read(fd, &reply, NULL, 0);
    assert_int_equal(status_of(buf_text(&reply)), 413);
    close(fd);
    buf_done(&reply);
    rig_stop(&rig);
}

/* What a head promises takes no memory; what has come does, until its request has ended. */
static void all_bodies_together_have_a_bound(void **state)
{
    struct rig rig;
    struct buf reply;
    int fds[40];
    const struct http_limits limits = {.body_bytes = 100000, .bodies_bytes = 250000};
    rig_start(&rig, &limits);
    buf_init(&reply, MIB);
    for (int i = 0; i < 40; i++) {
        fds[i] = raw_connect(&rig);
        raw_say(fds[i], "POST /hold HTTP/1.1\r\n" HOST "Content-Length: 100000\r\n\r\n");
    }
    say_bytes(fds[0], 100000);
    say_bytes(fds[1], 100000);
    wait_for(&rig.asked, 2);
    say_bytes(fds[2], 60000);
    raw_read(fds[2], &reply, "\r\n\r\n", 1);
    assert_int_equal(status_of(buf_text(&reply)), 503);
    assert_non_null(strstr(buf_text(&reply), "Retry-After: "));
    say_bytes(fds[3], 40000);
    for (int i = 0; i < 40; i++) {
        close(fds[i]);
    }
    wait_for(&rig.left, 2);
    while (rig_counts(&rig)->connections_now > 0) {
    }
    assert_int_equal(post(&rig, "POST", "/echo", 100000), 200);
    assert_int_equal(post(&rig, "POST", "/echo", 100000), 200);
    assert_int_equal(post(&rig, "POST", "/echo", 100000), 200);
    buf_done(&reply);
    rig_stop(&rig);
}

static void added_headers_are_of_their_reply_alone(void **state)
{
    struct rig rig;
    struct buf reply;
    rig_start(&rig, NULL);
    buf_init(&reply, MIB);
    int fd = raw_connect(&rig);
    raw_say(fd, "GET /extra HTTP/1.1\r\n" HOST "\r\nGET /echo HTTP/1.1\r\n" HOST "\r\n");
    raw_read(fd, &reply, "GET|/echo", 1);
    assert_int_equal(status_of(buf_text(&reply)), 200);
    const char *one = strstr(buf_text(&reply), "X-One: 1\r\n");
    assert_non_null(one);
    assert_non_null(strstr(buf_text(&reply), "X-Two: two words\r\n"));
    assert_null(strstr(buf_text(&reply), "X-Long"));
    assert_null(strstr(one + 1, "X-One"));
    close(fd);
    buf_done(&reply);
    rig_stop(&rig);
}

static void a_reply_that_waits_for_its_reader_arrives_whole(void **state)
{
    struct rig rig;
    struct buf reply;
    const struct timespec pause = {.tv_nsec = 200000000};
    rig_start(&rig, NULL);
    buf_init(&reply, 64 * MIB);
    int fd = raw_connect(&rig);
    raw_say(fd, "GET /pour?160 HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n");
    wait_for(&rig.asked, 1);
    nanosleep(&pause, NULL);
    /* What the kernel does not hold waits, and not in memory. */
    assert_true(atomic_load(&rig.poured) < 120);
    raw_read(fd, &reply, NULL, 0);
    assert_int_equal(atomic_load(&rig.poured), 160);
    size_t letters = 0;
    for (size_t i = 0; i < reply.len; i++) {
        letters += reply.data[i] == 'z';
    }
    assert_int_equal(letters, 6 * POUR_BYTES);
    assert_true(reply.len > 160 * POUR_BYTES);
    close(fd);

    fd = raw_connect(&rig); /* a reader that leaves is not waited for */
    raw_say(fd, "GET /pour?160 HTTP/1.1\r\n" HOST "\r\n");
    wait_for(&rig.asked, 2);
    close(fd);
    wait_for(&rig.left, 1);
    buf_done(&reply);
    rig_stop(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bodys_bound_follows_its_path_and_method),
        cmocka_unit_test(what_is_not_admitted_sends_no_body),
        cmocka_unit_test(a_chunked_body_has_the_same_bound),
        cmocka_unit_test(all_bodies_together_have_a_bound),
        cmocka_unit_test(added_headers_are_of_their_reply_alone),
        cmocka_unit_test(a_reply_that_waits_for_its_reader_arrives_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
