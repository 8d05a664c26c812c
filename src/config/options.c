/*
 * options.c - from table rows to settings: defaults, then the file, then the environment, then
 * flags.  Each later source overwrites the earlier one; all go through value_set().
 */
#include "config/options.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config/ini.h"
#include "config/table.h"

/* A text from the file, kept until options_done(). */
struct option_text {
    struct option_text *next;
    char text[];
};

static const struct option_row *row_find(const char *name, size_t len, const char *verb)
{
    for (size_t i = 0; i < option_row_count; i++) {
        const struct option_row *row = &option_rows[i];
        if (strlen(row->name) == len && memcmp(row->name, name, len) == 0 &&
            (verb == NULL || option_taken_by(row, verb)))
            return row;
    }
    return NULL;
}

/* ---- one value ---- */

static bool choice_has(const char *choices, const char *text)
{
    size_t len = strlen(text);
    for (const char *at = choices; at != NULL; at = strchr(at, '|')) {
        at += *at == '|';
        if (len > 0 && strncmp(at, text, len) == 0 && (at[len] == '|' || at[len] == '\0'))
            return true;
    }
    return false;
}

static enum err flag_parse(const char *text, bool *out)
{
    static const char *const yes[] = {"1", "true", "yes", "on"};
    static const char *const no[] = {"0", "false", "no", "off"};
    for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++) {
        if (strcmp(text, yes[i]) == 0 || strcmp(text, no[i]) == 0) {
            *out = strcmp(text, yes[i]) == 0;
            return ERR_OK;
        }
    }
    return ERR_USAGE;
}

static enum err real_parse(const struct option_row *row, const char *text, double *out)
{
    char *end = NULL;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || errno != 0 || isspace((unsigned char)text[0]))
        return ERR_USAGE;
    if (!(value >= row->least && value <= row->most)) /* refuses nan as well */
        return ERR_USAGE;
    *out = value;
    return ERR_OK;
}

static enum err integer_parse(const struct option_row *row, const char *text, int64_t *out)
{
    char *end = NULL;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || isspace((unsigned char)text[0]))
        return ERR_USAGE;
    if ((double)value < row->least || (double)value > row->most)
        return ERR_USAGE;
    *out = value;
    return ERR_OK;
}

/* What a value must look like, said to a person; `source` names where it came from ("--port"). */
static enum err value_refuse(const struct option_row *row, const char *source, const char *text)
{
    switch (row->kind) {
    case OPTION_FLAG:
        return err_set(ERR_USAGE, "%s is yes or no, not '%s'", source, text);
    case OPTION_INT:
    case OPTION_INT64:
        return err_set(ERR_USAGE, "%s is a whole number from %.0f to %.0f, not '%s'", source,
                       row->least, row->most, text);
    case OPTION_REAL:
        return err_set(ERR_USAGE, "%s is a number from %g to %g, not '%s'", source, row->least,
                       row->most, text);
    case OPTION_CHOICE:
    case OPTION_LEVEL:
        return err_set(ERR_USAGE, "%s is one of %s, not '%s'", source, row->argument, text);
    case OPTION_TEXT:
        break;
    }
    return err_set(ERR_USAGE, "%s needs a value (%s)", source, row->argument);
}

static enum err value_set(struct settings *settings, const struct option_row *row,
                          const char *source, const char *text)
{
    void *place = (char *)settings + row->offset;
    int64_t whole = 0;
    enum err err = ERR_USAGE;
    switch (row->kind) {
    case OPTION_FLAG:
        err = flag_parse(text, place);
        break;
    case OPTION_INT:
        err = integer_parse(row, text, &whole);
        if (err == ERR_OK)
            *(int *)place = (int)whole;
        break;
    case OPTION_INT64:
        err = integer_parse(row, text, place);
        break;
    case OPTION_REAL:
        err = real_parse(row, text, place);
        break;
    case OPTION_CHOICE:
        if (!choice_has(row->argument, text))
            break;
        *(const char **)place = text;
        err = ERR_OK;
        break;
    case OPTION_TEXT:
        if (*text == '\0')
            break;
        *(const char **)place = text;
        err = ERR_OK;
        break;
    case OPTION_LEVEL:
        err = log_level_parse(text, place);
        break;
    }
    return err == ERR_OK ? ERR_OK : value_refuse(row, source, text);
}

/* ---- the four sources ---- */

static void absent_set(struct settings *settings, const struct option_row *row)
{
    void *place = (char *)settings + row->offset;
    switch (row->kind) {
    case OPTION_INT:
        *(int *)place = -1;
        break;
    case OPTION_INT64:
        *(int64_t *)place = -1;
        break;
    case OPTION_REAL:
        *(double *)place = (double)NAN;
        break;
    case OPTION_FLAG:
    case OPTION_TEXT:
    case OPTION_CHOICE:
    case OPTION_LEVEL:
        break; /* zero */
    }
}

/* Every row, also those that the verb does not take: a role may read any member. */
static enum err defaults_set(struct settings *settings)
{
    memset(settings, 0, sizeof *settings);
    for (size_t i = 0; i < option_row_count; i++) {
        const struct option_row *row = &option_rows[i];
        if (row->fallback == NULL) {
            absent_set(settings, row);
            continue;
        }
        enum err err = value_set(settings, row, row->name, row->fallback);
        if (err != ERR_OK)
            return err_prefix(ERR_INTERNAL, "default of an option");
    }
    return ERR_OK;
}

static enum err environment_read(struct settings *settings, const char *verb)
{
    for (size_t i = 0; i < option_row_count; i++) {
        const struct option_row *row = &option_rows[i];
        char name[OPTION_ENV_SIZE];
        option_env_name(name, row->name);
        const char *text = getenv(name);
        if (text == NULL || *text == '\0' || !option_taken_by(row, verb))
            continue;
        enum err err = value_set(settings, row, name, text);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

struct file_reading {
    struct settings *settings;
    const char *verb;
    bool sections; /* second round: the verb's own section, which wins */
};

static enum err text_keep(struct settings *settings, const char *text, const char **out)
{
    size_t size = strlen(text) + 1;
    struct option_text *kept = malloc(sizeof *kept + size);
    if (kept == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    memcpy(kept->text, text, size);
    kept->next = settings->texts;
    settings->texts = kept;
    *out = kept->text;
    return ERR_OK;
}

static enum err file_value(void *arg, const char *section, const char *name, const char *value)
{
    struct file_reading *reading = arg;
    const struct option_row *row = row_find(name, strlen(name), NULL);
    if (row == NULL)
        return err_set(ERR_CONFIG, "there is no option '%s'", name);
    if (strcmp(name, "config") == 0)
        return err_set(ERR_CONFIG, "a file can't name another one");
    if ((*section != '\0') != reading->sections ||
        (*section != '\0' && strcmp(section, reading->verb) != 0))
        return ERR_OK;
    row = row_find(name, strlen(name), reading->verb);
    if (row == NULL) {
        if (!reading->sections)
            return ERR_OK; /* for the verbs that take it */
        return err_set(ERR_CONFIG, "wyvern %s takes no option '%s'", reading->verb, name);
    }
    const char *kept = NULL;
    enum err err = text_keep(reading->settings, value, &kept);
    if (err == ERR_OK)
        err = value_set(reading->settings, row, name, kept);
    return err == ERR_USAGE ? ERR_CONFIG : err;
}

static enum err file_read(struct settings *settings, const char *verb, const char *path)
{
    struct file_reading reading = {.settings = settings, .verb = verb};
    enum err err = ini_read(path, file_value, &reading);
    if (err != ERR_OK)
        return err;
    reading.sections = true;
    return ini_read(path, file_value, &reading);
}

/* ---- the command line ---- */

/* Changes that make one of the other: a letter more, less, another, or two that changed places. */
static unsigned distance(const char *a, const char *b)
{
    enum { MOST = 32 };
    size_t a_len = strlen(a), b_len = strlen(b);
    if (a_len >= MOST || b_len >= MOST)
        return MOST;
    unsigned rows[3][MOST]; /* the row before the last, the last, this one */
    for (unsigned j = 0; j <= b_len; j++)
        rows[1][j] = j;
    for (unsigned i = 1; i <= a_len; i++) {
        unsigned *this = rows[2];
        this[0] = i;
        for (size_t j = 1; j <= b_len; j++) {
            this[j] = rows[1][j - 1] + (a[i - 1] != b[j - 1]);
            if (rows[1][j] + 1 < this[j])
                this[j] = rows[1][j] + 1;
            if (this[j - 1] + 1 < this[j])
                this[j] = this[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                rows[0][j - 2] + 1 < this[j])
                this[j] = rows[0][j - 2] + 1;
        }
        memcpy(rows[0], rows[1], sizeof rows[0]);
        memcpy(rows[1], rows[2], sizeof rows[1]);
    }
    return rows[1][b_len];
}

const char *options_nearest(const char *text, const char *const *names, size_t count)
{
    const char *best = NULL;
    unsigned best_distance = (unsigned)(strlen(text) + 2) / 3 + 1; /* this far is another word */
    for (size_t i = 0; i < count; i++) {
        unsigned far = distance(text, names[i]);
        size_t len = strlen(text);
        if (len >= 3 && strncmp(text, names[i], len) == 0)
            far = 1; /* its beginning */
        if (far < best_distance) {
            best = names[i];
            best_distance = far;
        }
    }
    return best;
}

static enum err unknown_refuse(const struct verb *verb, const char *name, size_t len)
{
    const char *names[256];
    size_t count = 0;
    for (size_t i = 0; i < option_row_count && count < sizeof names / sizeof names[0]; i++) {
        if (option_taken_by(&option_rows[i], verb->name))
            names[count++] = option_rows[i].name;
    }
    char text[64];
    snprintf(text, sizeof text, "%.*s", (int)(len < 60 ? len : 60), name);
    if (row_find(name, len, NULL) != NULL)
        return err_set(ERR_USAGE, "wyvern %s takes no option --%s; see wyvern %s --help",
                       verb->name, text, verb->name);
    const char *near = options_nearest(text, names, count);
    if (near != NULL)
        return err_set(ERR_USAGE, "there is no option --%s; did you mean --%s?", text, near);
    return err_set(ERR_USAGE, "there is no option --%s; see wyvern %s --help", text, verb->name);
}

/* "-o" → the row of --output; NULL: there is none. */
static const struct option_row *letter_find(const char *argument, const char *verb)
{
    for (size_t i = 0; i < option_letter_count; i++) {
        const char *name = option_letters[i].name;
        if (argument[1] == option_letters[i].letter && argument[2] == '\0')
            return row_find(name, strlen(name), verb);
    }
    return NULL;
}

/* One argument that begins with "-": sets it, and moves *at past a value of its own. */
static enum err flag_take(const struct verb *verb, int argc, char **argv, int *at,
                          struct settings *settings)
{
    const char *argument = argv[*at];
    bool letter = argument[1] != '-';
    const char *name = argument + 2;
    size_t len = letter ? strlen(name) : strcspn(name, "=");
    const struct option_row *row =
        letter ? letter_find(argument, verb->name) : row_find(name, len, verb->name);
    if (row == NULL && letter)
        return err_set(ERR_USAGE, "there is no option %.60s; see wyvern %s --help", argument,
                       verb->name);
    if (row == NULL)
        return unknown_refuse(verb, name, len);
    char source[64];
    snprintf(source, sizeof source, "--%s", row->name);
    if (name[len] == '=')
        return value_set(settings, row, source, name + len + 1);
    if (row->kind == OPTION_FLAG)
        return value_set(settings, row, source, "yes");
    if (*at + 1 >= argc || strncmp(argv[*at + 1], "--", 2) == 0)
        return err_set(ERR_USAGE, "%s needs a value (%s)", source, row->argument);
    *at += 1;
    return value_set(settings, row, source, argv[*at]);
}

/* Looks for --help and --config before anything is set. */
static void early_find(int argc, char **argv, bool *help, const char **config)
{
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            *help = true;
        else if (strcmp(argv[i], "--config") == 0 && i + 1 < argc)
            *config = argv[i + 1];
        else if (strncmp(argv[i], "--config=", 9) == 0)
            *config = argv[i] + 9;
    }
}

static enum err arguments_check(const struct verb *verb, int count)
{
    if (count >= verb->min_args && (verb->max_args < 0 || count <= verb->max_args))
        return ERR_OK;
    if (verb->max_args == 0)
        return err_set(ERR_USAGE, "wyvern %s takes options only; see wyvern %s --help", verb->name,
                       verb->name);
    return err_set(ERR_USAGE, "usage: wyvern %s [OPTION]… %s", verb->name, verb->arguments);
}

static enum err command_line_read(const struct verb *verb, int *argc, char **argv,
                                  struct settings *settings)
{
    int kept = 0;
    bool options_end = false;
    for (int i = 0; i < *argc; i++) {
        if (options_end || argv[i][0] != '-' || argv[i][1] == '\0') {
            argv[kept++] = argv[i];
        } else if (strcmp(argv[i], "--") == 0) {
            options_end = true;
        } else {
            enum err err = flag_take(verb, *argc, argv, &i, settings);
            if (err != ERR_OK)
                return err;
        }
    }
    enum err err = arguments_check(verb, kept);
    if (err == ERR_OK)
        *argc = kept;
    return err;
}

enum err options_parse(const struct verb *verb, int *argc, char **argv, struct settings *settings,
                       bool *help)
{
    bool wants_help = false;
    const char *config = getenv("WYVERN_CONFIG");
    early_find(*argc, argv, &wants_help, &config);
    struct settings found;
    enum err err = defaults_set(&found);
    if (err != ERR_OK)
        return err;
    if (wants_help)
        goto out;
    if (config != NULL && *config != '\0')
        err = file_read(&found, verb->name, config);
    if (err == ERR_OK)
        err = environment_read(&found, verb->name);
    if (err == ERR_OK)
        err = command_line_read(verb, argc, argv, &found);
    if (err != ERR_OK) {
        options_done(&found);
        return err;
    }
out:
    *settings = found;
    *help = wants_help;
    return ERR_OK;
}

void options_done(struct settings *settings)
{
    if (settings == NULL)
        return;
    while (settings->texts != NULL) {
        struct option_text *text = settings->texts;
        settings->texts = text->next;
        free(text);
    }
}
