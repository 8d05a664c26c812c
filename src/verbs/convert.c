/*
 * convert.c - a checkpoint's folder as a GGUF, or a GGUF with another weight type.
 */
#include "convert/convert.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"
#include "verbs/report.h"
#include "verbs/term.h"
#include "verbs/verbs.h"

#define BAR_COLUMNS 30

struct meter {
    struct term_live live;
    int percent; /* drawn last; −1: nothing yet */
};

/* "converting ▇▇▇▇    120 / 730 MiB", drawn again at each percent. */
static void draw_meter(struct meter *meter, double done, const char *sizes)
{
    struct buf frame;
    int percent = (int)(done * 100);

    if (percent == meter->percent)
        return;
    meter->percent = percent;
    buf_init(&frame, 1024);
    enum err err = buf_append_text(&frame, "converting ");
    if (err == ERR_OK)
        err = draw_bar(&frame, &meter->live.style, done, 0, 1, BAR_COLUMNS);
    if (err == ERR_OK)
        err = buf_printf(&frame, " %3d%%%s\n", percent, sizes);
    if (err == ERR_OK)
        term_live_draw(&meter->live, &frame);
    buf_done(&frame);
}

static void show_share(void *arg, double done)
{
    draw_meter(arg, done, "");
}

static void show_bytes(void *arg, uint64_t done, uint64_t total)
{
    char sizes[64];
    snprintf(sizes, sizeof sizes, "  %.1f / %.1f MiB", (double)done / 1048576,
             (double)total / 1048576);
    draw_meter(arg, total > 0 ? (double)done / (double)total : 1, sizes);
}

static enum err from_folder(const struct settings *settings, char **argv, struct meter *meter,
                            bool drawn)
{
    struct convert_report report;
    enum err err = convert_checkpoint(argv[0], argv[1], settings->type, drawn ? show_bytes : NULL,
                                      meter, &report);
    if (err != ERR_OK)
        return err;
    term_live_clear(&meter->live);
    if (settings->quiet)
        return ERR_OK;
    fprintf(stderr, "%s: %u tensors, weights as %s, %.1f MiB\n", argv[1], report.tensors,
            report.type, (double)report.bytes / 1048576);
    if (report.left_out > 0) {
        fprintf(stderr, "%s: the model has no place for %u tensors (", argv[1], report.left_out);
        term_text(stderr, report.first_left, strlen(report.first_left));
        fputs(" …): left out\n", stderr);
    }
    if (report.ignored[0] != '\0')
        fprintf(stderr, "%s: when tokens are drawn these settings are not followed: %s\n", argv[1],
                report.ignored);
    return ERR_OK;
}

static enum err from_gguf(const struct settings *settings, char **argv, struct meter *meter,
                          bool drawn)
{
    const char *type = settings->type != NULL ? settings->type : "q8_0";
    enum err err = engine_quantize(argv[0], argv[1], type,
                                   settings->threads > 0 ? (unsigned)settings->threads : 0,
                                   drawn ? show_share : NULL, meter);
    if (err != ERR_OK)
        return err;
    term_live_clear(&meter->live);
    if (!settings->quiet)
        fprintf(stderr, "%s: weights as %s\n", argv[1], type);
    return ERR_OK;
}

int verb_convert(const struct settings *settings, int argc, char **argv)
{
    struct meter meter = {.live = {.style = term_style_of(stderr)}, .percent = -1};
    bool drawn = meter.live.style.redraw && !settings->quiet;

    engine_log_init();
    if (argc != 2)
        return term_fail(err_set(ERR_USAGE, "wyvern convert IN OUT.gguf [--type q8_0]"));
    enum err err = convert_is_folder(argv[0]) ? from_folder(settings, argv, &meter, drawn)
                                              : from_gguf(settings, argv, &meter, drawn);
    if (err != ERR_OK) {
        term_live_clear(&meter.live);
        return term_fail(err);
    }
    return term_finish(0);
}
