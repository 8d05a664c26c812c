/*
 * convert.c - a GGUF with another weight type.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"
#include "verbs/term.h"
#include "verbs/verbs.h"

static void show_progress(void *arg, double done)
{
    int *shown = arg;
    int percent = (int)(done * 100);
    if (percent == *shown)
        return;
    *shown = percent;
    fprintf(stderr, "\rconverting: %3d%%", percent);
}

int verb_convert(const struct settings *settings, int argc, char **argv)
{
    engine_log_init();
    if (argc != 2)
        return term_fail(err_set(ERR_USAGE, "wyvern convert IN.gguf OUT.gguf --type q8_0"));
    const char *type = settings->type != NULL ? settings->type : "q8_0";
    int shown = -1;
    bool terminal = isatty(STDERR_FILENO) && !settings->quiet;
    enum err err = engine_quantize(argv[0], argv[1], type,
                                   settings->threads > 0 ? (unsigned)settings->threads : 0,
                                   terminal ? show_progress : NULL, &shown);
    if (shown >= 0)
        fputs("\r                \r", stderr);
    if (err != ERR_OK)
        return term_fail(err);
    if (!settings->quiet)
        fprintf(stderr, "%s: weights as %s\n", argv[1], type);
    return term_finish(0);
}
