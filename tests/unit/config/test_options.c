/* Options: precedence of the four sources, refusals with their sentences, the table itself. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/options.h"
#include "config/table.h"

static int run_nothing(const struct settings *settings, int argc, char **argv)
{
    return settings == NULL && argc == 0 && argv == NULL;
}

static const struct verb up = {"up", "", "Up", 0, 0, run_nothing};
static const struct verb ask = {"ask", "[PROMPT]…", "Ask", 0, -1, run_nothing};
static const struct verb convert = {"convert", "IN OUT", "Convert", 2, 2, run_nothing};
static const struct verb batch = {"batch", "IN.jsonl", "Batch", 1, 1, run_nothing};

/* Parses words separated by spaces; what is left of them comes back in left[]. */
static char words_copy[512];
static char *left[32];
static int left_count;
static bool help_wanted;

static enum err parse(const struct verb *verb, const char *words, struct settings *settings)
{
    snprintf(words_copy, sizeof words_copy, "%s", words);
    left_count = 0;
    for (char *word = strtok(words_copy, " "); word != NULL; word = strtok(NULL, " "))
        left[left_count++] = word;
    help_wanted = false;
    return options_parse(verb, &left_count, left, settings, &help_wanted);
}

static void refuse(const struct verb *verb, const char *words, const char *sentence_part)
{
    struct settings settings;
    memset(&settings, 0x5a, sizeof settings);
    struct settings before = settings;
    assert_int_equal(parse(verb, words, &settings), ERR_USAGE);
    if (strstr(err_text(), sentence_part) == NULL)
        fail_msg("'%s' said '%s', without '%s'", words, err_text(), sentence_part);
    assert_memory_equal(&settings, &before, sizeof settings);
}

static void defaults_are_the_documented_ones(void **state)
{
    struct settings s;
    assert_int_equal(parse(&up, "", &s), ERR_OK);
    assert_string_equal(s.url, "http://127.0.0.1:8080");
    assert_string_equal(s.host, "127.0.0.1");
    assert_string_equal(s.node_net, "auto");
    assert_null(s.type);
    assert_int_equal(s.port, 8080);
    assert_int_equal(s.metrics_port, 8000);
    assert_int_equal(s.nodes, 1);
    assert_int_equal(s.workers, 0);
    assert_int_equal(s.slots, 4);
    assert_int_equal(s.gateways, 1);
    assert_int_equal(s.responders, 2);
    assert_int_equal(s.max_queue, 1024);
    assert_int_equal(s.max_wait_s, 3600);
    assert_int_equal(s.max_reply_s, 3600);
    assert_int_equal(s.keep_hours, 24);
    assert_int_equal(s.keep_files_hours, 720);
    assert_int_equal(s.drain_timeout_s, 600);
    assert_int_equal(s.body_limit_kib, 1024);
    assert_int_equal(s.repeat, 7);
    assert_int_equal(s.log_level, LOG_LEVEL_INFO);
    assert_null(s.model);
    assert_null(s.state_dir);
    assert_int_equal(s.min_tokens, -1);
    assert_int_equal(s.max_tokens, -1);
    assert_int_equal(s.top_k, -1);
    assert_true(s.seed == -1);
    assert_true(isnan(s.temperature));
    assert_true(isnan(s.top_p));
    assert_false(s.json);
}

static void flags_take_both_spellings_and_leave_arguments(void **state)
{
    struct settings s;
    assert_int_equal(parse(&ask, "one --seed 7 two --temperature=0.5 --json -- --three", &s),
                     ERR_OK);
    assert_true(s.seed == 7);
    assert_true(fabs(s.temperature - 0.5) < 1e-9);
    assert_true(s.json);
    assert_int_equal(left_count, 3);
    assert_string_equal(left[0], "one");
    assert_string_equal(left[1], "two");
    assert_string_equal(left[2], "--three");
    assert_int_equal(parse(&ask, "-", &s), ERR_OK); /* standard input, not an option */
    assert_int_equal(left_count, 1);
}

static void bad_input_is_refused_with_a_mend(void **state)
{
    refuse(&ask, "--tempratur 1", "did you mean --temperature");
    refuse(&ask, "--slots 3", "takes no option --slots");
    refuse(&ask, "--completely-else", "see wyvern ask --help");
    refuse(&ask, "--seed", "--seed needs a value");
    refuse(&ask, "--seed --json", "--seed needs a value");
    refuse(&ask, "--max-tokens 0", "from 1 to");
    refuse(&ask, "--max-tokens 99999999999999999999", "whole number");
    refuse(&ask, "--max-tokens 5x", "whole number");
    refuse(&ask, "--temperature nan", "number from 0 to 2");
    refuse(&ask, "--top-p 1.5", "number from 0 to 1");
    refuse(&ask, "--json=maybe", "yes or no");
    refuse(&ask, "--system=", "needs a value");
    refuse(&ask, "-x", "no option -x");
    refuse(&ask, "--log-level loud", "error|warn|info|debug");
    refuse(&up, "--node-net bridges", "auto|namespaces|ports");
    refuse(&up, "--node-net auto|ports", "auto|namespaces|ports");
    refuse(&up, "--port 65536", "0 to 65535");
    refuse(&up, "extra", "takes options only");
    refuse(&convert, "in", "IN OUT");
    refuse(&convert, "in out more", "IN OUT");
}

static char file_path[] = "wyvern-options-XXXXXX"; /* in the folder we run in */

static void file_write(const char *text)
{
    FILE *file = fopen(file_path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void parse_with_file(const struct verb *verb, const char *words, struct settings *settings)
{
    char line[256];
    snprintf(line, sizeof line, "--config %s %s", file_path, words);
    assert_int_equal(parse(verb, line, settings), ERR_OK);
}

static void a_flag_wins_over_environment_over_file_over_default(void **state)
{
    struct settings s;
    file_write("slots = 8\nmax-queue = 10\nsystem = be kind\n[up]\nnodes = 3\n[ask]\nseed = 5\n");
    parse_with_file(&up, "", &s);
    assert_int_equal(s.slots, 8);
    assert_int_equal(s.max_queue, 10);
    assert_int_equal(s.nodes, 3);
    options_done(&s);

    setenv("WYVERN_SLOTS", "16", 1);
    setenv("WYVERN_MAX_QUEUE", "", 1); /* empty: as if it were not there */
    parse_with_file(&up, "", &s);
    assert_int_equal(s.slots, 16);
    assert_int_equal(s.max_queue, 10);
    options_done(&s);
    parse_with_file(&up, "--slots 32", &s);
    assert_int_equal(s.slots, 32);
    options_done(&s);
    unsetenv("WYVERN_SLOTS");
    unsetenv("WYVERN_MAX_QUEUE");

    parse_with_file(&ask, "hello",
                    &s); /* does not take slots: the file may name them all the same */
    assert_true(s.seed == 5);
    assert_string_equal(s.system, "be kind");
    file_write("");
    assert_string_equal(s.system, "be kind"); /* a copy, ours until options_done */
    options_done(&s);
    assert_null(s.texts);
}

static void a_section_wins_wherever_it_stands(void **state)
{
    struct settings s;
    file_write("[up]\nslots = 2\n[ask]\nseed = 1\n");
    parse_with_file(&up, "", &s);
    assert_int_equal(s.slots, 2);
    options_done(&s);
}

static void a_bad_environment_is_named(void **state)
{
    struct settings s;
    setenv("WYVERN_SLOTS", "many", 1);
    assert_int_equal(parse(&up, "", &s), ERR_USAGE);
    assert_non_null(strstr(err_text(), "WYVERN_SLOTS"));
    assert_int_equal(parse(&ask, "hello", &s), ERR_OK); /* which does not take it */
    unsetenv("WYVERN_SLOTS");
}

static void refuse_file(const char *text, const char *sentence_part)
{
    struct settings s;
    char line[128];
    file_write(text);
    snprintf(line, sizeof line, "--config=%s", file_path);
    assert_int_equal(parse(&up, line, &s), ERR_CONFIG);
    if (strstr(err_text(), sentence_part) == NULL)
        fail_msg("said '%s', without '%s'", err_text(), sentence_part);
}

static void a_bad_file_is_named_with_its_line(void **state)
{
    struct settings s;
    refuse_file("slots = 4\nnonsense = 1\n", "line 2");
    refuse_file("slots = many\n", "whole number");
    refuse_file("just words\n", "line 1");
    refuse_file("[up]\nseed = 3\n", "takes no option 'seed'");
    refuse_file("config = other\n", "another one");
    char wide[400];
    memset(wide, 'x', sizeof wide);
    memcpy(wide, "system = ", 9);
    wide[sizeof wide - 1] = '\0';
    refuse_file(wide, "longer than");
    assert_int_equal(parse(&up, "--config /nonexistent/file", &s), ERR_NOT_FOUND);
}

static void help_is_found_before_anything_is_checked(void **state)
{
    struct settings s;
    assert_int_equal(parse(&convert, "--nonsense --help", &s), ERR_OK);
    assert_true(help_wanted);
    assert_int_equal(parse(&ask, "-- --help", &s), ERR_OK);
    assert_false(help_wanted);
}

/* Every row is sound: unique for a verb, with a default that parses (defaults_set proves that), an
 * environment name that fits, and a help text. */
static void the_table_is_sound(void **state)
{
    static const char *const verbs[] = {
        "up",   "ask",     "chat",  "load",    "status",    "doctor", "convert", "generate",
        "node", "gateway", "infer", "respond", "telemetry", "top",    "key",     "batch"};
    for (size_t i = 0; i < option_row_count; i++) {
        const struct option_row *row = &option_rows[i];
        char env[OPTION_ENV_SIZE];
        option_env_name(env, row->name);
        assert_int_equal(strlen(env), strlen("WYVERN_") + strlen(row->name));
        assert_true(strlen(row->help) > 0 && row->offset < sizeof(struct settings));
        assert_true((row->kind == OPTION_FLAG) == (row->argument == NULL));
        if (row->kind == OPTION_INT || row->kind == OPTION_INT64 || row->kind == OPTION_REAL)
            assert_true(row->least < row->most);
        size_t takers = 0;
        for (size_t v = 0; v < sizeof verbs / sizeof verbs[0]; v++) {
            if (!option_taken_by(row, verbs[v]))
                continue;
            takers++;
            for (size_t j = 0; j < i; j++)
                assert_false(strcmp(option_rows[j].name, row->name) == 0 &&
                             option_taken_by(&option_rows[j], verbs[v]));
        }
        assert_true(takers > 0);
    }
    assert_false(option_taken_by(&option_rows[0], "as")); /* not by a name's beginning */
}

/* Each letter stands for an option that is there, and for one only. */
static void letters_are_short_names(void **state)
{
    struct settings s;
    for (size_t i = 0; i < option_letter_count; i++) {
        bool there = false;
        for (size_t j = 0; j < option_row_count; j++)
            there = there || strcmp(option_rows[j].name, option_letters[i].name) == 0;
        assert_true(there);
        for (size_t j = 0; j < i; j++)
            assert_true(option_letters[j].letter != option_letters[i].letter);
    }
    assert_int_equal(parse(&batch, "in -o out --ordered", &s), ERR_OK);
    assert_string_equal(s.output, "out");
    assert_true(s.ordered);
    options_done(&s);
    assert_int_equal(parse(&batch, "in -o", &s), ERR_USAGE);
    assert_int_equal(parse(&batch, "in -oout", &s), ERR_USAGE);
    assert_int_equal(parse(&batch, "in -x", &s), ERR_USAGE);
    assert_int_equal(parse(&ask, "-o out", &s), ERR_USAGE); /* not one of its options */
}

static void names_come_near(void **state)
{
    static const char *const names[] = {"status", "load", "chat", "generate"};
    assert_string_equal(options_nearest("lod", names, 4), "load");
    assert_string_equal(options_nearest("gen", names, 4), "generate");
    assert_string_equal(options_nearest("stauts", names, 4), "status");
    assert_string_equal(options_nearest("chta", names, 4), "chat"); /* two changed places */
    assert_null(options_nearest("xyzzy", names, 4));
    assert_null(options_nearest("", names, 4));
}

static char *printed(void (*print)(const struct verb *, FILE *), const struct verb *verb)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    assert_non_null(out);
    print(verb, out);
    fclose(out);
    return text;
}

static void print_manual(const struct verb *verb, FILE *out)
{
    options_manual(verb, 1, out);
}

static void help_fits_the_width_and_names_everything(void **state)
{
    setenv("COLUMNS", "60", 1);
    char *text = printed(options_help, &up);
    char *manual = printed(print_manual, &up);
    for (size_t i = 0; i < option_row_count; i++) {
        char flag[64];
        snprintf(flag, sizeof flag, "--%s", option_rows[i].name);
        bool taken = option_taken_by(&option_rows[i], "up");
        assert_true(!taken || strstr(text, flag) != NULL);
        assert_true(!taken || strstr(manual, flag) != NULL);
    }
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n"))
        assert_true(strlen(line) <= 60 + 8); /* a dash or dots take more bytes than columns */
    free(text);
    free(manual);
    unsetenv("COLUMNS");
}

int main(void)
{
    int fd = mkstemp(file_path);
    if (fd < 0)
        return 1;
    close(fd);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_the_documented_ones),
        cmocka_unit_test(flags_take_both_spellings_and_leave_arguments),
        cmocka_unit_test(bad_input_is_refused_with_a_mend),
        cmocka_unit_test(a_flag_wins_over_environment_over_file_over_default),
        cmocka_unit_test(a_section_wins_wherever_it_stands),
        cmocka_unit_test(a_bad_environment_is_named),
        cmocka_unit_test(a_bad_file_is_named_with_its_line),
        cmocka_unit_test(help_is_found_before_anything_is_checked),
        cmocka_unit_test(the_table_is_sound),
        cmocka_unit_test(letters_are_short_names),
        cmocka_unit_test(names_come_near),
        cmocka_unit_test(help_fits_the_width_and_names_everything),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(file_path);
    return failed;
}
