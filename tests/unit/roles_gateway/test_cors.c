/* Which origins are let in, what a preflight allows; a real server answers. */
#include "../http/rig.h"

#include "roles/gateway/cors.h"

#define HOST "Host: h\r\n"

static struct cors *cors;

static void handle(void *arg, struct http_exchange *exchange, const struct http_request *request)
{
    if (!cors_enter(cors, exchange, request))
        http_reply(exchange, cors_is_foreign(cors, request) ? 403 : 200, NULL, 0, "text/plain", "x",
                   1);
}

/* The head of the reply to one request. */
static const char *ask(const char *request)
{
    static char head[4096];
    struct rig rig = {0};
    struct buf reply;
    const struct http_config config = {.host = "127.0.0.1", .handler = handle, .arg = &rig};
    assert_int_equal(loop_new(&rig.loop), ERR_OK);
    assert_int_equal(loop_wake_new(&rig.wake, rig.loop, rig_wake, &rig), ERR_OK);
    assert_int_equal(http_server_new(&rig.server, rig.loop, &config), ERR_OK);
    sem_init(&rig.command_done, 0, 0);
    rig.port = http_server_port(rig.server);
    assert_int_equal(pthread_create(&rig.thread, NULL, rig_run, &rig), 0);
    int fd = raw_connect(&rig);
    buf_init(&reply, sizeof head - 1);
    raw_say(fd, request);
    raw_read(fd, &reply, "\r\n\r\n", 1);
    strcpy(head, buf_text(&reply));
    buf_done(&reply);
    close(fd);
    rig_stop(&rig);
    return head;
}

static bool says(const char *head, const char *line)
{
    return strstr(head, line) != NULL;
}

static void off_it_says_nothing(void **state)
{
    assert_int_equal(cors_new(&cors, NULL), ERR_OK);
    const char *head = ask("GET / HTTP/1.1\r\n" HOST "Origin: https://a.example\r\n\r\n");
    assert_false(says(head, "Access-Control"));
    assert_false(says(head, "Vary"));
    head = ask("OPTIONS / HTTP/1.1\r\n" HOST "Origin: https://a.example\r\n"
               "Access-Control-Request-Method: POST\r\n\r\n");
    assert_int_equal(status_of(head), 200); /* of the handler, not ours */
    cors_free(cors);
}

static void a_named_origin_gets_in_and_no_other(void **state)
{
    static const char *const others[] = {
        "Origin: https://evil.example\r\n",
        "Origin: https://a.example:8443\r\n",
        "Origin: http://a.example\r\n",
        "Origin: https://a.example.evil\r\n",
        "Origin: null\r\n",
        "Origin: https://a.example\r\nOrigin: https://evil.example\r\n",
        ""};
    char request[512];
    assert_int_equal(cors_new(&cors, "https://A.example, http://localhost:3000"), ERR_OK);
    const char *head = ask("GET / HTTP/1.1\r\n" HOST "Origin: https://a.example\r\n\r\n");
    assert_true(says(head, "Access-Control-Allow-Origin: https://a.example\r\n"));
    assert_true(says(head, "Vary: Origin\r\n"));
    assert_false(says(head, "Credentials"));
    head = ask("GET / HTTP/1.1\r\n" HOST "Origin: http://localhost:3000\r\n\r\n");
    assert_true(says(head, "Access-Control-Allow-Origin: http://localhost:3000\r\n"));
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        snprintf(request, sizeof request, "GET / HTTP/1.1\r\n" HOST "%s\r\n", others[i]);
        head = ask(request);
        assert_false(says(head, "Access-Control"));
        assert_true(says(head, "Vary: Origin\r\n"));
    }
    cors_free(cors);
}

static void a_star_is_for_all_without_credentials(void **state)
{
    assert_int_equal(cors_new(&cors, "*"), ERR_OK);
    const char *head = ask("GET / HTTP/1.1\r\n" HOST "Origin: https://b.example\r\n\r\n");
    assert_true(says(head, "Access-Control-Allow-Origin: *\r\n"));
    assert_false(says(head, "Credentials"));
    assert_false(says(head, "Vary"));
    cors_free(cors);
}

static void a_preflight_is_answered_at_once(void **state)
{
    static const char asked[] =
        "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: "
        "authorization,content-type,x-stainless-os,cookie,openai-beta,x;y\r\n\r\n";
    char request[512];
    assert_int_equal(cors_new(&cors, "https://a.example"), ERR_OK);
    snprintf(request, sizeof request,
             "OPTIONS /v1/chat/completions HTTP/1.1\r\n" HOST "Origin: https://a.example\r\n%s",
             asked);
    const char *head = ask(request);
    assert_int_equal(status_of(head), 204);
    assert_true(says(head, "Access-Control-Allow-Origin: https://a.example\r\n"));
    assert_true(says(head, "Access-Control-Allow-Methods: GET, POST, DELETE, OPTIONS\r\n"));
    assert_true(says(head, "Access-Control-Allow-Headers: authorization, content-type, "
                           "x-stainless-os, openai-beta\r\n"));
    assert_true(says(head, "Access-Control-Max-Age: 3600\r\n"));
    snprintf(request, sizeof request,
             "OPTIONS /v1/models HTTP/1.1\r\n" HOST "Origin: https://evil.example\r\n%s", asked);
    head = ask(request);
    assert_int_equal(status_of(head), 204);
    assert_false(says(head, "Access-Control"));
    head = ask("OPTIONS / HTTP/1.1\r\n" HOST "\r\n"); /* no preflight */
    assert_int_equal(status_of(head), 200);
    cors_free(cors);
}

static void pages_of_others_do_nothing(void **state)
{
    static const struct {
        const char *method, *headers;
        int off, named, star; /* the status: CORS off, a.example named, "*" */
    } cases[] = {
        {"POST", "", 200, 200, 200}, /* no browser */
        {"POST", "Origin: https://evil.example\r\n", 200, 200, 200},
        {"POST", "Sec-Fetch-Site: same-origin\r\n", 200, 200, 200},
        {"POST", "Sec-Fetch-Site: none\r\n", 200, 200, 200},
        {"POST", "Sec-Fetch-Site: cross-site\r\n", 403, 403, 200},
        {"POST", "Sec-Fetch-Site: same-site\r\n", 403, 403, 200},
        {"POST", "Sec-Fetch-Site: nonsense\r\n", 403, 403, 200},
        {"DELETE", "Sec-Fetch-Site: cross-site\r\n", 403, 403, 200},
        {"POST", "Sec-Fetch-Site: cross-site\r\nOrigin: https://a.example\r\n", 403, 200, 200},
        {"POST", "Sec-Fetch-Site: cross-site\r\nOrigin: https://evil.example\r\n", 403, 403, 200},
        {"POST", "Sec-Fetch-Site: cross-site\r\nOrigin: null\r\n", 403, 403, 200},
        {"GET", "Sec-Fetch-Site: cross-site\r\n", 200, 200, 200}};
    static const char *const allowed[] = {NULL, "https://a.example", "*"};
    char request[512];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const int wanted[] = {cases[i].off, cases[i].named, cases[i].star};
        snprintf(request, sizeof request, "%s /x HTTP/1.1\r\n" HOST "%sContent-Length: 0\r\n\r\n",
                 cases[i].method, cases[i].headers);
        for (size_t a = 0; a < 3; a++) {
            assert_int_equal(cors_new(&cors, allowed[a]), ERR_OK);
            assert_int_equal(status_of(ask(request)), wanted[a]);
            cors_free(cors);
        }
    }
}

static void a_list_of_headers_is_bounded(void **state)
{
    char asked[8192] = "", out[64];
    for (int i = 0; i < 800; i++)
        strcat(asked, "x-header,");
    cors_allowed_headers(out, sizeof out, asked);
    assert_true(strlen(out) < sizeof out);
    assert_int_equal(strncmp(out, "x-header, x-header", 18), 0);
    cors_allowed_headers(out, sizeof out, "");
    assert_string_equal(out, "");
}

static void what_is_no_origin_is_refused(void **state)
{
    static const char *const wrong[] = {
        "a.example", "https://a.example/",  "null",       "https://", "",
        ", ",        "*,https://a.example", "https://a b"};
    struct cors *made = NULL;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(cors_new(&made, wrong[i]), ERR_USAGE);
    char many[4096] = "";
    for (int i = 0; i <= CORS_ORIGINS_MAX; i++)
        strcat(many, "https://a.example,");
    assert_int_equal(cors_new(&made, many), ERR_USAGE);
    cors_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(off_it_says_nothing),
        cmocka_unit_test(a_named_origin_gets_in_and_no_other),
        cmocka_unit_test(a_star_is_for_all_without_credentials),
        cmocka_unit_test(a_preflight_is_answered_at_once),
        cmocka_unit_test(pages_of_others_do_nothing),
        cmocka_unit_test(a_list_of_headers_is_bounded),
        cmocka_unit_test(what_is_no_origin_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
