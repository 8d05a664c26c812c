/*
 * completion.c - completion for bash and zsh, from the option table.
 */
#include <string.h>

#include "config/options.h"
#include "config/table.h"

/* ---- what both need ---- */

enum takes { TAKES_NOTHING, TAKES_CHOICES, TAKES_FILES, TAKES_FOLDERS, TAKES_TEXT };

static enum takes value_of(const struct option_row *row)
{
    if (row->argument == NULL)
        return TAKES_NOTHING;
    if (row->kind == OPTION_CHOICE || row->kind == OPTION_LEVEL)
        return TAKES_CHOICES;
    if (strcmp(row->argument, "FILE") == 0)
        return TAKES_FILES;
    return strcmp(row->argument, "DIR") == 0 ? TAKES_FOLDERS : TAKES_TEXT;
}

static bool takes_files(const struct verb *verb)
{
    return strstr(verb->arguments, "IN") != NULL;
}

/* "a|b|c" with spaces between. */
static void choices_put(const char *choices, FILE *out)
{
    for (; *choices != '\0'; choices++)
        fputc(*choices == '|' ? ' ' : *choices, out);
}

/* The words that "add NAME | list | revoke NAME" lets come first; false: any. */
static bool words_put(const struct verb *verb, FILE *out)
{
    bool any = false;
    if (strstr(verb->arguments, " | ") == NULL)
        return false;
    for (const char *at = verb->arguments; at != NULL; at = strstr(at, " | ")) {
        at += strncmp(at, " | ", 3) == 0 ? 3 : 0;
        fprintf(out, "%s%.*s", any ? " " : "", (int)strcspn(at, " "), at);
        any = true;
    }
    return true;
}

/* ---- bash ---- */

static void bash_values(enum takes takes, const char *action, FILE *out)
{
    bool any = false;
    for (size_t i = 0; i < option_row_count; i++) {
        const struct option_row *row = &option_rows[i];
        if (value_of(row) != takes || takes == TAKES_CHOICES)
            continue;
        fprintf(out, "%s--%s", any ? " | " : "        ", row->name);
        any = true;
        for (size_t j = 0; j < option_letter_count; j++) {
            if (strcmp(option_letters[j].name, row->name) == 0)
                fprintf(out, " | -%c", option_letters[j].letter);
        }
    }
    if (any)
        fprintf(out, ")\n            %s ;;\n", action);
}

static void bash_verb(const struct verb *verb, FILE *out)
{
    fprintf(out, "        %s)\n            options=\"", verb->name);
    for (size_t i = 0; i < option_row_count; i++) {
        if (option_taken_by(&option_rows[i], verb->name))
            fprintf(out, "--%s ", option_rows[i].name);
    }
    fputs("--help\"\n            words=\"", out);
    (void)words_put(verb, out);
    fprintf(out, "\"\n            files=%s ;;\n", takes_files(verb) ? "yes" : "");
}

void options_bash(const struct verb *verbs, size_t count, FILE *out)
{
    fputs("# bash completion for wyvern; written by wyvern help --completion bash.\n\n"
          "_wyvern() {\n"
          "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}\n"
          "    local verbs options words files\n"
          "    COMPREPLY=()\n"
          "    # --name=value comes in three words\n"
          "    if [[ $cur == = ]]; then\n"
          "        cur=\n"
          "    elif [[ $prev == = ]]; then\n"
          "        prev=${COMP_WORDS[COMP_CWORD - 2]}\n"
          "    fi\n"
          "    verbs=\"",
          out);
    for (size_t i = 0; i < count; i++)
        fprintf(out, "%s ", verbs[i].name);
    fputs("help\"\n"
          "    if ((COMP_CWORD == 1)); then\n"
          "        mapfile -t COMPREPLY < <(compgen -W \"$verbs --help --version\" -- \"$cur\")\n"
          "        return\n"
          "    fi\n"
          "    case $prev in\n",
          out);
    for (size_t i = 0; i < option_row_count; i++) {
        if (value_of(&option_rows[i]) != TAKES_CHOICES)
            continue;
        fprintf(out, "        --%s)\n            mapfile -t COMPREPLY < <(compgen -W \"",
                option_rows[i].name);
        choices_put(option_rows[i].argument, out);
        fputs("\" -- \"$cur\")\n            return ;;\n", out);
    }
    bash_values(TAKES_FILES,
                "compopt -o filenames\n            mapfile -t COMPREPLY < <(compgen -f -- "
                "\"$cur\")\n            return",
                out);
    bash_values(TAKES_FOLDERS,
                "compopt -o filenames\n            mapfile -t COMPREPLY < <(compgen -d "
                "-- \"$cur\")\n            return",
                out);
    bash_values(TAKES_TEXT, "return", out);
    fputs("    esac\n    case ${COMP_WORDS[1]} in\n", out);
    for (size_t i = 0; i < count; i++)
        bash_verb(&verbs[i], out);
    fputs("        help)\n"
          "            options=\"--man --completion --markdown --metrics-markdown\"\n"
          "            words=$verbs ;;\n"
          "        *)\n"
          "            return ;;\n"
          "    esac\n"
          "    if [[ $cur == -* ]]; then\n"
          "        mapfile -t COMPREPLY < <(compgen -W \"$options\" -- \"$cur\")\n"
          "    elif [[ -n $words ]]; then\n"
          "        mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
          "    elif [[ -n $files ]]; then\n"
          "        compopt -o filenames\n"
          "        mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
          "    fi\n"
          "}\n"
          "complete -F _wyvern wyvern\n",
          out);
}

/* ---- zsh ---- */

/* Within '…', and within [ ] of _arguments. */
static void zsh_text(const char *text, FILE *out)
{
    for (; *text != '\0'; text++) {
        if (*text == '\'')
            fputs("'\\''", out);
        else if (strchr("[]:\\", *text) != NULL)
            fprintf(out, "\\%c", *text);
        else
            fputc(*text, out);
    }
}

static void zsh_option(const struct option_row *row, FILE *out)
{
    enum takes takes = value_of(row);
    fprintf(out, "                '--%s%s[", row->name, takes == TAKES_NOTHING ? "" : "=");
    zsh_text(row->help, out);
    fputc(']', out);
    if (takes != TAKES_NOTHING) {
        fputc(':', out);
        zsh_text(takes == TAKES_CHOICES ? row->name : row->argument, out);
        fputc(':', out);
    }
    if (takes == TAKES_CHOICES) {
        fputc('(', out);
        choices_put(row->argument, out);
        fputc(')', out);
    } else if (takes == TAKES_FILES || takes == TAKES_FOLDERS) {
        fputs(takes == TAKES_FILES ? "_files" : "_files -/", out);
    }
    fputs("' \\\n", out);
}

static void zsh_verb(const struct verb *verb, FILE *out)
{
    fprintf(out, "        %s)\n            _arguments -S \\\n", verb->name);
    for (size_t i = 0; i < option_row_count; i++) {
        if (option_taken_by(&option_rows[i], verb->name))
            zsh_option(&option_rows[i], out);
    }
    fputs("                '--help[show the options]'", out);
    if (strstr(verb->arguments, " | ") != NULL) {
        fputs(" \\\n                '1:what:(", out);
        (void)words_put(verb, out);
        fputs(")'", out);
    } else if (takes_files(verb)) {
        fputs(" \\\n                '*:file:_files'", out);
    } /* a spec for words of any kind would keep zsh from finishing options */
    fputs("\n            ;;\n", out);
}

void options_zsh(const struct verb *verbs, size_t count, FILE *out)
{
    fputs(
        "#compdef wyvern\n# zsh completion for wyvern; written by wyvern help --completion zsh.\n\n"
        "_wyvern() {\n    local -a verbs\n    verbs=(\n",
        out);
    for (size_t i = 0; i < count; i++) {
        fprintf(out, "        '%s:", verbs[i].name);
        zsh_text(verbs[i].summary, out);
        fputs("'\n", out);
    }
    fputs("        'help:Show the verbs, or the options of one'\n"
          "    )\n"
          "    if ((CURRENT == 2)); then\n"
          "        _describe -t verbs verb verbs\n"
          "        return\n"
          "    fi\n"
          "    shift words\n"
          "    ((CURRENT--))\n"
          "    case $words[1] in\n",
          out);
    for (size_t i = 0; i < count; i++)
        zsh_verb(&verbs[i], out);
    fputs("        help)\n            _describe -t verbs verb verbs\n            ;;\n"
          "    esac\n}\n\n"
          "if [[ $zsh_eval_context[-1] == loadautofunc ]]; then\n"
          "    _wyvern \"$@\"\n"
          "else\n"
          "    compdef _wyvern wyvern\n"
          "fi\n",
          out);
}
