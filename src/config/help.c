/*
 * help.c - what the option table says to people: --help, and the manual docs/CLI.md.
 */
#include <string.h>

#include "config/about.h"
#include "config/options.h"
#include "config/table.h"
#include "config/wrap.h"

#define HELP_COLUMN 26 /* where an option's text begins */

static void flag_text(const struct option_row *row, char *out, size_t cap)
{
    if (row->argument == NULL)
        snprintf(out, cap, "--%s", row->name);
    else
        snprintf(out, cap, "--%s %s", row->name, row->argument);
}

static void row_print(const struct option_row *row, int width, FILE *out)
{
    char flag[96], text[400], env[OPTION_ENV_SIZE];
    flag_text(row, flag, sizeof flag);
    option_env_name(env, row->name);
    if (row->fallback != NULL)
        snprintf(text, sizeof text, "%s [%s; %s]", row->help, row->fallback, env);
    else
        snprintf(text, sizeof text, "%s [%s]", row->help, env);
    fprintf(out, "  %s", flag);
    int column = 2 + (int)strlen(flag);
    if (column + 2 > HELP_COLUMN) {
        fprintf(out, "\n%*s", HELP_COLUMN, "");
    } else {
        fprintf(out, "%*s", HELP_COLUMN - column, "");
    }
    wrap_print(out, text, HELP_COLUMN, HELP_COLUMN, width);
}

/* Each command on a line of its own, what it does behind it. */
static void examples_print(const char *examples, int width, FILE *out)
{
    char part[400];
    fputs("\nExamples:\n", out);
    for (; *examples != '\0'; examples += strcspn(examples, "\n") + 1) {
        size_t len = strcspn(examples, "\t");
        const char *what = examples + len + (examples[len] == '\t');
        fprintf(out, "  %.*s\n      ", (int)len, examples);
        snprintf(part, sizeof part, "%.*s", (int)strcspn(what, "\n"), what);
        wrap_print(out, part, 6, 6, width);
    }
}

void options_help(const struct verb *verb, FILE *out)
{
    int width = wrap_width(fileno(out));
    fprintf(out, "Usage: wyvern %s [OPTION]…%s%s\n\n", verb->name, *verb->arguments ? " " : "",
            verb->arguments);
    wrap_print(out, verb->summary, 0, 0, width);
    const struct about *about = about_find(verb->name);
    if (about != NULL) {
        fputc('\n', out);
        wrap_print(out, about->text, 0, 0, width);
    }
    fputs("\nOptions [default; environment]:\n", out);
    for (size_t i = 0; i < option_row_count; i++) {
        if (option_taken_by(&option_rows[i], verb->name))
            row_print(&option_rows[i], width, out);
    }
    fprintf(out, "  %-*s", HELP_COLUMN - 2, "--help");
    wrap_print(out, "show this", HELP_COLUMN, HELP_COLUMN, width);
    fputc('\n', out);
    wrap_print(out, "A flag wins over the environment, that over the file of --config.", 0, 0,
               width);
    if (about != NULL && about->examples != NULL)
        examples_print(about->examples, width, out);
}

void options_overview(const struct verb *verbs, size_t count, FILE *out)
{
    enum { COLUMN = 14 };
    int width = wrap_width(fileno(out));
    fputs("Usage: wyvern VERB [OPTION]…\n\n", out);
    wrap_print(out, "Serves a language model from one machine or many, and talks to it.", 0, 0,
               width);
    fputc('\n', out);
    for (size_t i = 0; i < count; i++) {
        fprintf(out, "  %-*s", COLUMN - 2, verbs[i].name);
        wrap_print(out, verbs[i].summary, COLUMN, COLUMN, width);
    }
    fputc('\n', out);
    wrap_print(out,
               "wyvern VERB --help shows a verb's options; wyvern --version the version. "
               "Begin with: wyvern up",
               0, 0, width);
}

/* A cell of a Markdown table: bars would end it. */
static void cell_print(const char *text, FILE *out)
{
    for (; *text != '\0'; text++) {
        if (*text == '|')
            fputc('\\', out);
        fputc(*text, out);
    }
}

/* Paragraphs and commands, in Markdown. */
static void about_manual(const struct verb *verb, FILE *out)
{
    const struct about *about = about_find(verb->name);
    if (about == NULL)
        return;
    fputc('\n', out);
    for (const char *at = about->text; *at != '\0'; at++)
        fputs(*at == '\n' ? "\n\n" : (char[]){*at, '\0'}, out);
    fputs("\n", out);
    if (about->examples == NULL)
        return;
    fputs("\n```sh\n", out);
    for (const char *at = about->examples; *at != '\0'; at++)
        fputs(*at == '\t' ? "  # " : (char[]){*at, '\0'}, out);
    fputs("```\n", out);
}

static void manual_verb(const struct verb *verb, FILE *out)
{
    fprintf(out, "\n## wyvern %s\n\n%s.\n\n    wyvern %s [OPTION]…%s%s\n", verb->name,
            verb->summary, verb->name, *verb->arguments ? " " : "", verb->arguments);
    about_manual(verb, out);
    fputs("\n| option | default | environment | |\n|---|---|---|---|\n", out);
    for (size_t i = 0; i < option_row_count; i++) {
        const struct option_row *row = &option_rows[i];
        if (!option_taken_by(row, verb->name))
            continue;
        char flag[96], env[OPTION_ENV_SIZE];
        flag_text(row, flag, sizeof flag);
        option_env_name(env, row->name);
        fputs("| `", out);
        cell_print(flag, out);
        fprintf(out, "` | %s | `%s` | ", row->fallback != NULL ? row->fallback : "", env);
        cell_print(row->help, out);
        fputs(" |\n", out);
    }
}

void options_manual(const struct verb *verbs, size_t count, FILE *out)
{
    fputs(
        "# Command line\n\n"
        "Written by `wyvern help --markdown` from the option table (src/config/table.c); change\n"
        "it there. A flag wins over the environment, that over the file of `--config`, that over\n"
        "the default. Data goes to standard output, progress and logs to standard error; the\n"
        "exit status is one of sysexits(3).\n\n"
        "| verb | |\n|---|---|\n",
        out);
    for (size_t i = 0; i < count; i++)
        fprintf(out, "| [`%s`](#wyvern-%s) | %s |\n", verbs[i].name, verbs[i].name,
                verbs[i].summary);
    for (size_t i = 0; i < count; i++)
        manual_verb(&verbs[i], out);
}
