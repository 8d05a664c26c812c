/*
 * manpage.c - man pages, as man(7) wants them, from the option table and about.c.
 */
#include <string.h>

#include "config/about.h"
#include "config/options.h"
#include "config/table.h"

#define LINE_MOST 76 /* mandoc wants lines of at most 80 bytes */

/* ---- roff ---- */

/* One character that roff would take for its own. */
static size_t char_put(const char *text, FILE *out)
{
    unsigned char lead = (unsigned char)*text;
    if (lead < 0x80) {
        if (*text == '\\')
            fputs("\\e", out);
        else if (*text == '-')
            fputs("\\-", out);
        else if (*text == '^' || *text == '~')
            fprintf(out, "\\(%s", *text == '^' ? "ha" : "ti");
        else if (*text == '"')
            fputs("\\(dq", out);
        else if (*text == '\'')
            fputs("\\(aq", out);
        else if (*text == '`')
            fputs("\\(ga", out);
        else
            fputc(*text, out);
        return 1;
    }
    size_t more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
    unsigned code = lead & (0x3fu >> more);
    size_t at = 1;
    for (; at <= more && text[at] != '\0'; at++)
        code = code << 6 | ((unsigned char)text[at] & 0x3fu);
    if (code == 0x2026)
        fputs("...", out);
    else
        fprintf(out, "\\[u%04X]", code);
    return at;
}

/* About what char_put() makes of a word. */
static size_t word_cost(const char *text, size_t len)
{
    size_t cost = len;
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '-' || text[i] == '\\')
            cost += 1;
        else if (strchr("^~\"'`", text[i]) != NULL)
            cost += 3;
        else if ((unsigned char)text[i] >= 0xc0)
            cost += 6;
    }
    return cost;
}

/* Words filled into lines, the first of which has `column` bytes already; none of them begins as a
 * request of roff's. */
static void words_put_from(const char *text, size_t column, FILE *out)
{
    for (text += strspn(text, " "); *text != '\0'; text += strspn(text, " ")) {
        size_t len = strcspn(text, " "), cost = word_cost(text, len);
        if (column > 0 && column + 1 + cost > LINE_MOST) {
            fputc('\n', out);
            column = 0;
        } else if (column > 0) {
            fputc(' ', out);
            column++;
        }
        if (column == 0 && (*text == '.' || *text == '\''))
            fputs("\\&", out);
        bool sentence = len > 1 && text[len - 1] == '.' && text[len] == ' ' && text[len + 1] == ' ';
        for (size_t at = 0; at < len;)
            at += char_put(text + at, out);
        column += cost;
        text += len;
        if (sentence && *text != '\0') { /* a sentence ends its line: roff spaces it */
            fputc('\n', out);
            column = 0;
        }
    }
    if (column > 0)
        fputc('\n', out);
}

static void words_put(const char *text, FILE *out)
{
    words_put_from(text, 0, out);
}

static void paragraphs_put(const char *text, FILE *out)
{
    char part[2048];
    for (bool first = true; *text != '\0'; first = false) {
        size_t len = strcspn(text, "\n");
        snprintf(part, sizeof part, "%.*s", (int)len, text);
        if (!first)
            fputs(".PP\n", out);
        words_put(part, out);
        text += len + (text[len] == '\n');
    }
}

static void escaped_put(const char *text, FILE *out)
{
    while (*text != '\0')
        text += char_put(text, out);
}

static void upper_put(const char *text, FILE *out)
{
    for (; *text != '\0'; text++)
        fputc(*text >= 'a' && *text <= 'z' ? *text - 'a' + 'A' : *text, out);
}

static void title_put(const char *verb, FILE *out)
{
    fputs(".\\\" Written by wyvern help --man; change src/config/table.c and about.c.\n.TH WYVERN",
          out);
    if (verb != NULL) {
        fputs("\\-", out);
        upper_put(verb, out);
    }
    fputs(" 1 \"" WYVERN_DATE "\" \"wyvern " WYVERN_VERSION "\" \"wyvern\"\n.SH NAME\nwyvern", out);
    if (verb != NULL) {
        fputs("\\-", out);
        escaped_put(verb, out);
    }
    fputs(" \\- ", out);
}

/* ---- one verb ---- */

static void option_put(const struct option_row *row, FILE *out)
{
    char env[OPTION_ENV_SIZE], text[800];
    option_env_name(env, row->name);
    fputs(".TP\n", out);
    for (size_t i = 0; i < option_letter_count; i++) {
        if (strcmp(option_letters[i].name, row->name) == 0)
            fprintf(out, "\\fB\\-%c\\fR, ", option_letters[i].letter);
    }
    fputs("\\fB\\-\\-", out);
    escaped_put(row->name, out);
    fputs("\\fR", out);
    if (row->argument != NULL) {
        fputs(" \\fI", out);
        escaped_put(row->argument, out);
        fputs("\\fR", out);
    }
    fputc('\n', out);
    if (row->fallback != NULL)
        snprintf(text, sizeof text, "%s.  Default: %s.  Environment: %s.", row->help, row->fallback,
                 env);
    else
        snprintf(text, sizeof text, "%s.  Environment: %s.", row->help, env);
    words_put(text, out);
}

static void examples_put(const char *examples, FILE *out)
{
    char part[400];
    fputs(".SH EXAMPLES\n", out);
    for (; *examples != '\0'; examples += strcspn(examples, "\n") + 1) {
        const char *what = strchr(examples, '\t');
        if (what == NULL)
            return;
        snprintf(part, sizeof part, "%.*s", (int)(what - examples), examples);
        fputs(".TP\n\\fB", out);
        escaped_put(part, out);
        fputs("\\fR\n", out);
        snprintf(part, sizeof part, "%.*s", (int)strcspn(what + 1, "\n"), what + 1);
        words_put(part, out);
    }
}

static void ends_put(FILE *out)
{
    fputs(".SH ENVIRONMENT\n", out);
    words_put("Each option has a variable, named above: a flag wins over it, and it wins over the "
              "file of --config.  WYVERN_KEY holds the API key of verbs that ask.  NO_COLOR, when "
              "set, keeps colours away.",
              out);
    fputs(".SH EXIT STATUS\n", out);
    words_put(
        "0 when all went well, else one of sysexits(3): 64 the command line, 65 the input, 66 "
        "a file that is not there, 69 no service, 70 a fault of ours, 74 a read or write, 75 "
        "try again later, 77 not allowed, 78 a configuration file.",
        out);
}

void options_man(const struct verb *verb, FILE *out)
{
    const struct about *about = about_find(verb->name);
    title_put(verb->name, out);
    words_put_from(verb->summary, strlen("wyvern\\-VERBNAME \\- "), out);
    fputs(".SH SYNOPSIS\n\\fBwyvern ", out);
    escaped_put(verb->name, out);
    fputs("\\fR [\\fIOPTION\\fR]...", out);
    if (*verb->arguments != '\0') {
        fputs(" \\fI", out);
        escaped_put(verb->arguments, out);
        fputs("\\fR", out);
    }
    fputs("\n.SH DESCRIPTION\n", out);
    if (about != NULL) {
        paragraphs_put(about->text, out);
    } else {
        char text[400];
        snprintf(text, sizeof text, "%s.", verb->summary);
        words_put(text, out);
    }
    fputs(".SH OPTIONS\n", out);
    for (size_t i = 0; i < option_row_count; i++) {
        if (option_taken_by(&option_rows[i], verb->name))
            option_put(&option_rows[i], out);
    }
    fputs(".TP\n\\fB\\-\\-help\\fR\nshow a summary of this.\n", out);
    ends_put(out);
    if (about != NULL && about->examples != NULL)
        examples_put(about->examples, out);
    fputs(".SH SEE ALSO\n\\fBwyvern\\fR(1)\n", out);
}

void options_man_overview(const struct verb *verbs, size_t count, FILE *out)
{
    title_put(NULL, out);
    fputs("serve a language model from one machine or many, and talk to it\n.SH "
          "SYNOPSIS\n\\fBwyvern\\fR "
          "\\fIVERB\\fR [\\fIOPTION\\fR]...\n.SH DESCRIPTION\n",
          out);
    words_put(
        "wyvern is one program.  wyvern up serves a model behind OpenAI's API; the other verbs "
        "talk to a service, watch it, or add machines to it.  Data goes to standard output, "
        "progress and logs to standard error.",
        out);
    fputs(".SH VERBS\n", out);
    for (size_t i = 0; i < count; i++) {
        fputs(".TP\n\\fBwyvern\\-", out);
        escaped_put(verbs[i].name, out);
        fputs("\\fR(1)\n", out);
        words_put(verbs[i].summary, out);
    }
    fputs(".TP\n\\fBwyvern help\\fR [\\fIVERB\\fR]\nall verbs, or the options of "
          "one.\n.TP\n\\fBwyvern "
          "\\-\\-version\\fR\nthe version.\n",
          out);
    ends_put(out);
    fputs(".SH FILES\n.TP\n\\fI$XDG_STATE_HOME/wyvern\\fR or \\fI\\(ti/.local/state/wyvern\\fR\n",
          out);
    words_put("queues, logs, credentials, and the history of wyvern chat.", out);
    fputs(".TP\n\\fI\\(ti/.cache/wyvern/models\\fR\n", out);
    words_put("models that are found by their name.", out);
}
