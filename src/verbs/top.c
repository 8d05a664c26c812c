/*
 * top.c - watches a service: one thread that asks, draws and reads keys in turn.
 */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "verbs/topdraw.h"
#include "verbs/toppoll.h"
#include "verbs/topterm.h"
#include "verbs/verbs.h"

#define STEP_MS     40
#define ONCE_S      3.2 /* a rate needs two changes, and processes tell once a second */
#define ONCE_EACH_S 0.2 /* fine enough to see when they did */
#define TEXT_MAX    ((size_t)16 << 20)
#define WIDTH_LEAST 20
#define WIDTH_MOST  1000

static volatile sig_atomic_t stop_asked, resized, suspend_asked;

static void on_stop(int signum)
{
    (void)signum;
    stop_asked = 1;
}

static void on_resize(int signum)
{
    (void)signum;
    resized = 1;
}

static void on_suspend(int signum)
{
    (void)signum;
    suspend_asked = 1;
}

static void signals_take(bool screen)
{
    static const int stops[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
    struct sigaction action = {.sa_handler = on_stop};
    for (size_t i = 0; i < sizeof stops / sizeof stops[0]; i++)
        sigaction(stops[i], &action, NULL);
    if (!screen)
        return;
    action.sa_handler = on_resize;
    sigaction(SIGWINCH, &action, NULL);
    action.sa_handler = on_suspend;
    sigaction(SIGTSTP, &action, NULL);
}

static double seconds_now(void)
{
    return (double)clock_mono_ns() / (double)NS_PER_S;
}

/* ---- text and JSON ---- */

/* Lets calls go on until `due`.  False: stop. */
static bool answers_wait(struct top_poller *poller, double due)
{
    while (!stop_asked && seconds_now() < due) {
        if (top_poller_run(poller, STEP_MS)) {
            const struct timespec pause = {.tv_nsec = STEP_MS * NS_PER_MS};
            nanosleep(&pause, NULL);
        }
    }
    return !stop_asked;
}

static enum err top_print(const struct top *top, bool json)
{
    struct buf text;
    struct term_style style = term_style_of(stdout);
    double now = seconds_now();
    buf_init(&text, TEXT_MAX);
    enum err err = json ? top_write_json(top, now, clock_wall(), &text)
                        : top_draw_text(top, &style, now, &text);
    if (err == ERR_OK) {
        /* What fails shows in ferror(), and is told by term_finish(). */
        if (json)
            (void)(term_text(stdout, buf_text(&text), text.len) && term_drawn("\n", 1));
        else
            (void)term_drawn(buf_text(&text), text.len); /* with escapes of ours */
        (void)term_drawn("", 0);
    }
    buf_done(&text);
    return err;
}

static enum err once_run(struct top *top, struct top_poller *poller, bool json)
{
    double begin = seconds_now();
    while (seconds_now() - begin < ONCE_S) {
        top_poller_ask(poller);
        if (!answers_wait(poller, seconds_now() + ONCE_EACH_S))
            return err_set(ERR_CANCELLED, "stopped");
        if (top_poller_status(poller) != ERR_OK)
            return err_set(top_poller_status(poller), "%s", top->why);
        top_tick(top, seconds_now());
    }
    while (!stop_asked && !top_poller_run(poller, STEP_MS))
        ; /* each call has its deadline */
    if (top_poller_status(poller) != ERR_OK)
        return err_set(top_poller_status(poller), "%s", top->why);
    return top_print(top, json);
}

/* --json without --once: an object a second, also when nobody answers. */
static enum err stream_run(struct top *top, struct top_poller *poller)
{
    enum err err = ERR_OK;
    while (err == ERR_OK && !ferror(stdout)) {
        double due = seconds_now() + TOP_EACH_MS / 1000.0;
        top_poller_ask(poller);
        if (!answers_wait(poller, due))
            break;
        top_tick(top, seconds_now());
        err = top_print(top, true);
    }
    return err;
}

/* ---- the screen ---- */

static enum err frame_show(const struct top *top, struct top_screen *screen)
{
    struct buf frame;
    char clock[16];
    time_t wall = time(NULL);
    struct tm local;
    localtime_r(&wall, &local);
    strftime(clock, sizeof clock, "%H:%M:%S", &local);
    top_term_size(&screen->style.width, &screen->height);
    if (screen->style.width < WIDTH_LEAST)
        screen->style.width = WIDTH_LEAST;
    if (screen->style.width > WIDTH_MOST)
        screen->style.width = WIDTH_MOST;
    buf_init(&frame, TEXT_MAX);
    enum err err = top_draw_screen(top, screen, seconds_now(), clock, &frame);
    if (err == ERR_OK)
        err = top_term_show(&frame);
    buf_done(&frame);
    return err;
}

/* False: leave. */
static bool key_obey(enum top_key key, struct top_screen *screen)
{
    size_t page = screen->page > 1 ? screen->page - 1 : 1;
    switch (key) {
    case TOP_KEY_LEAVE:
        return false;
    case TOP_KEY_UP:
        screen->scroll -= screen->scroll > 0;
        break;
    case TOP_KEY_DOWN:
        screen->scroll++; /* drawing sets it right */
        break;
    case TOP_KEY_PAGE_UP:
        screen->scroll -= screen->scroll > page ? page : screen->scroll;
        break;
    case TOP_KEY_PAGE_DOWN:
        screen->scroll += page;
        break;
    case TOP_KEY_HOME:
        screen->scroll = 0;
        break;
    case TOP_KEY_END:
        screen->scroll = SIZE_MAX / 2;
        break;
    case TOP_KEY_NONE:
    case TOP_KEY_DRAW:
        break;
    }
    return true;
}

/* Ctrl-Z: the shell gets its terminal as it was; we go on when it lets us. */
static enum err suspend(void)
{
    suspend_asked = 0;
    top_term_leave();
    (void)raise(SIGSTOP);
    return top_term_enter();
}

static enum err screen_run(struct top *top, struct top_poller *poller)
{
    struct top_screen screen = {.style = term_style_of(stdout)};
    double due = seconds_now();
    enum err err = top_term_enter();
    bool draw = true, asked = false, answered = false;
    while (err == ERR_OK && !stop_asked) {
        if (suspend_asked) {
            err = suspend();
            draw = true;
            continue;
        }
        if (seconds_now() >= due) {
            top_tick(top, seconds_now());
            top_poller_ask(poller);
            due = seconds_now() + TOP_EACH_MS / 1000.0;
            draw = asked = true;
        }
        bool idle = top_poller_run(poller, 0);
        if (asked && !answered &&
            idle) { /* the first status shows at once, and says who has more */
            top_poller_ask(poller);
            draw = answered = true;
            if (top_poller_status(poller) == ERR_USAGE) /* no waiting makes that address right */
                err = err_set(ERR_USAGE, "%s", top->why);
        }
        enum top_key key = top_term_key(idle ? STEP_MS * 2 : STEP_MS);
        if (!key_obey(key, &screen))
            break;
        if (key != TOP_KEY_NONE || resized)
            draw = true;
        resized = 0;
        if (draw && err == ERR_OK)
            err = frame_show(top, &screen);
        draw = false;
    }
    top_term_leave();
    return err;
}

int verb_top(const struct settings *settings, int argc, char **argv)
{
    (void)argc;
    (void)argv;
    struct top *top = NULL;
    struct top_poller *poller = NULL;
    struct term_style style = term_style_of(stdout);
    bool screen = style.redraw && !settings->once && !settings->json;
    signals_take(screen);
    enum err err = top_new(&top, settings->url);
    if (err == ERR_OK)
        err = top_poller_new(&poller, top, settings, TOP_POLL_ALL);
    if (err == ERR_OK && screen)
        err = screen_run(top, poller);
    else if (err == ERR_OK && settings->json && !settings->once)
        err = stream_run(top, poller);
    else if (err == ERR_OK)
        err = once_run(top, poller, settings->json);
    top_poller_free(poller);
    top_free(top);
    return err == ERR_OK ? EX_OK : term_fail(err);
}
