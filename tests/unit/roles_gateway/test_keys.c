/* Who gets in: what a request must carry, and a file that changes meanwhile. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "roles/gateway/keys.h"

static char folder[64], path[128];

/* The headers of the one request there is here, in the place of the server's own. */
static const char *sent[4][2];

const char *http_request_header_at(const struct http_request *request, const char *name,
                                   unsigned nth)
{
    for (size_t i = 0; i < 4 && sent[i][0] != NULL; i++) {
        if (strcmp(sent[i][0], name) == 0 && nth-- == 0)
            return sent[i][1];
    }
    return NULL;
}

static void send_headers(const char *name, const char *value, const char *more, const char *its)
{
    memset(sent, 0, sizeof sent);
    sent[0][0] = name;
    sent[0][1] = value;
    sent[1][0] = more;
    sent[1][1] = its;
}

static const struct key *ask(const struct keys *keys, int status)
{
    struct http_request request = {0};
    struct api_error error = {0};
    const struct key *key = keys_check(keys, &request, &error);
    if (status == 0) {
        assert_non_null(key);
    } else {
        assert_null(key);
        assert_int_equal(error.status, status);
        if (status == 401)
            assert_string_equal(error.code, "invalid_api_key");
    }
    return key;
}

static void without_keys_all_is_open(void **state)
{
    struct keys *keys = (struct keys *)folder;
    assert_int_equal(keys_new(&keys, NULL), ERR_OK);
    assert_null(keys);
    send_headers(NULL, NULL, NULL, NULL);
    assert_string_equal(ask(NULL, 0)->id, "");
    send_headers("authorization", "Bearer sk-whatever", "authorization", "Basic x");
    assert_string_equal(ask(NULL, 0)->name, "");
    keys_tick(NULL);
    keys_free(NULL);
}

static void a_key_comes_in_one_of_three_headers(void **state)
{
    struct keys *keys = NULL;
    char text[KEY_TEXT_SIZE], bearer[KEY_TEXT_SIZE + 16];
    assert_int_equal(key_file_add(path, "ada", text), ERR_OK);
    assert_int_equal(keys_new(&keys, path), ERR_OK);
    snprintf(bearer, sizeof bearer, "Bearer %s", text);

    send_headers("authorization", bearer, NULL, NULL);
    assert_string_equal(ask(keys, 0)->name, "ada");
    memcpy(bearer, "bEARER", 6);
    assert_string_equal(ask(keys, 0)->name, "ada");
    send_headers("api-key", text, NULL, NULL);
    assert_string_equal(ask(keys, 0)->name, "ada");
    send_headers("x-api-key", text, "accept", "*/*");
    assert_string_equal(ask(keys, 0)->name, "ada");

    send_headers(NULL, NULL, NULL, NULL);
    ask(keys, 401);
    send_headers("authorization", "Bearer", NULL, NULL);
    ask(keys, 401);
    send_headers("authorization", text, NULL, NULL);
    ask(keys, 401);
    send_headers("authorization", "Basic YTpi", NULL, NULL);
    ask(keys, 401);
    send_headers("authorization", "Bearer wv-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", NULL,
                 NULL);
    ask(keys, 401);
    send_headers("authorization", bearer, "authorization", bearer);
    ask(keys, 401);
    send_headers("authorization", bearer, "x-api-key", text);
    ask(keys, 401);
    keys_free(keys);
}

static void a_change_of_the_file_counts_at_the_next_tick(void **state)
{
    struct keys *keys = NULL;
    char ada[KEY_TEXT_SIZE], bob[KEY_TEXT_SIZE];
    unlink(path);
    assert_int_equal(keys_new(&keys, path), ERR_NOT_FOUND);
    assert_int_equal(key_file_add(path, "ada", ada), ERR_OK);
    assert_int_equal(keys_new(&keys, path), ERR_OK);
    assert_int_equal(key_file_add(path, "bob", bob), ERR_OK);
    send_headers("api-key", bob, NULL, NULL);
    ask(keys, 401);
    keys_tick(keys);
    assert_string_equal(ask(keys, 0)->name, "bob");

    assert_int_equal(key_file_revoke(path, "ada"), ERR_OK);
    keys_tick(keys);
    send_headers("api-key", ada, NULL, NULL);
    ask(keys, 401);

    send_headers("api-key", bob, NULL, NULL);
    FILE *file = fopen(path, "a");
    fputs("nonsense\n", file);
    fclose(file);
    keys_tick(keys);
    ask(keys, 503);
    unlink(path);
    keys_tick(keys);
    ask(keys, 503);
    assert_int_equal(key_file_add(path, "bob", bob), ERR_OK);
    keys_tick(keys);
    assert_string_equal(ask(keys, 0)->name, "bob");
    keys_free(keys);
}

static int make_folder(void **state)
{
    strcpy(folder, "/tmp/wyvern-gate-XXXXXX");
    if (mkdtemp(folder) == NULL)
        return -1;
    snprintf(path, sizeof path, "%s/keys", folder);
    return 0;
}

static int drop_folder(void **state)
{
    unlink(path);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_keys_all_is_open),
        cmocka_unit_test(a_key_comes_in_one_of_three_headers),
        cmocka_unit_test(a_change_of_the_file_counts_at_the_next_tick),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
