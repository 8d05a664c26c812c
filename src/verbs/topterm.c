#include "verbs/topterm.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#define FRAME_MAX ((size_t)4 << 20)

/* Other screen, no cursor, no wrapping; and all of it back. */
static const char enter_text[] = "\033[?1049h\033[?25l\033[?7l\033[2J";
static const char leave_text[] = "\033[0m\033[?7h\033[?25h\033[?1049l";

static struct termios before;
static volatile sig_atomic_t entered, has_before;

static bool all_write(const char *data, size_t len)
{
    while (len > 0) {
        ssize_t wrote = write(STDOUT_FILENO, data, len);
        if (wrote < 0 && errno == EAGAIN) {
            struct pollfd room = {.fd = STDOUT_FILENO, .events = POLLOUT};
            (void)poll(&room, 1, 1000);
            continue;
        }
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0)
            return false;
        data += wrote;
        len -= (size_t)wrote;
    }
    return true;
}

/* Only what a signal handler may call. */
void top_term_leave(void)
{
    if (!entered)
        return;
    entered = 0;
    (void)all_write(leave_text, sizeof leave_text - 1);
    if (has_before)
        (void)tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
}

static void on_crash(int signum)
{
    top_term_leave();
    (void)raise(signum); /* SA_RESETHAND: now it is the default */
}

enum err top_term_enter(void)
{
    static bool prepared;
    if (!prepared) {
        static const int crashes[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};
        struct sigaction action = {.sa_handler = on_crash, .sa_flags = (int)SA_RESETHAND};
        for (size_t i = 0; i < sizeof crashes / sizeof crashes[0]; i++)
            sigaction(crashes[i], &action, NULL);
        (void)atexit(top_term_leave);
        prepared = true;
    }
    if (isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &before) == 0) {
        struct termios raw = before;
        raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        raw.c_cc[VMIN] = 0;
        raw.c_cc[VTIME] = 0;
        has_before = 1;
        if (tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) != 0)
            return err_set(ERR_OS, "can't set up the terminal: %s", strerror(errno));
    }
    entered = 1;
    return all_write(enter_text, sizeof enter_text - 1)
               ? ERR_OK
               : err_set(ERR_IO, "can't write to the terminal: %s", strerror(errno));
}

void top_term_size(int *width, int *height)
{
    struct winsize size;
    *width = 80;
    *height = 24;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0) {
        *width = size.ws_col;
        *height = size.ws_row;
    }
}

/* ---- keys ---- */

enum top_key top_key_read(const char *bytes, size_t len, size_t *used)
{
    static const struct {
        const char *bytes;
        enum top_key key;
    } keys[] = {
        {"q", TOP_KEY_LEAVE},
        {"Q", TOP_KEY_LEAVE},
        {"\003", TOP_KEY_LEAVE},
        {"\014", TOP_KEY_DRAW},
        {"k", TOP_KEY_UP},
        {"j", TOP_KEY_DOWN},
        {"b", TOP_KEY_PAGE_UP},
        {" ", TOP_KEY_PAGE_DOWN},
        {"g", TOP_KEY_HOME},
        {"G", TOP_KEY_END},
        {"\033[A", TOP_KEY_UP},
        {"\033OA", TOP_KEY_UP},
        {"\033[B", TOP_KEY_DOWN},
        {"\033OB", TOP_KEY_DOWN},
        {"\033[5~", TOP_KEY_PAGE_UP},
        {"\033[6~", TOP_KEY_PAGE_DOWN},
        {"\033[H", TOP_KEY_HOME},
        {"\033OH", TOP_KEY_HOME},
        {"\033[1~", TOP_KEY_HOME},
        {"\033[F", TOP_KEY_END},
        {"\033OF", TOP_KEY_END},
        {"\033[4~", TOP_KEY_END},
    };
    *used = 0;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        size_t size = strlen(keys[i].bytes);
        if (len >= size && memcmp(bytes, keys[i].bytes, size) == 0) {
            *used = size;
            return keys[i].key;
        }
        if (len > 0 && len < size && memcmp(bytes, keys[i].bytes, len) == 0)
            return TOP_KEY_NONE; /* it has only begun */
    }
    if (len == 0)
        return TOP_KEY_NONE;
    *used = 1;
    if (bytes[0] != '\033' || len < 2 || (bytes[1] != '[' && bytes[1] != 'O'))
        return TOP_KEY_NONE;
    /* Another key's sequence: up to its final byte. */
    for (*used = 2; *used < len && (bytes[*used] < 0x40 || bytes[*used] > 0x7e);)
        ++*used;
    *used += *used < len;
    return TOP_KEY_NONE;
}

enum top_key top_term_key(unsigned timeout_ms)
{
    static char pending[64];
    static size_t len;
    size_t used = 0;
    enum top_key key = top_key_read(pending, len, &used);
    if (used == 0) {
        struct pollfd input = {.fd = has_before ? STDIN_FILENO : -1, .events = POLLIN};
        if (poll(&input, 1, (int)timeout_ms) <= 0 || input.revents == 0) {
            if (len == 1)
                len = 0; /* Escape alone means nothing */
            return TOP_KEY_NONE;
        }
        ssize_t got = read(STDIN_FILENO, pending + len, sizeof pending - len);
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            return TOP_KEY_NONE;
        if (got <= 0)
            return TOP_KEY_LEAVE;
        len += (size_t)got;
        key = top_key_read(pending, len, &used);
        if (used == 0 && len == sizeof pending)
            used = len;
    }
    len -= used;
    memmove(pending, pending + used, len);
    return key;
}

/* ---- frames ---- */

enum err top_term_show(const struct buf *frame)
{
    struct buf out;
    buf_init(&out, FRAME_MAX);
    enum err err = buf_append_text(&out, "\033[H\033[J");
    const char *end = buf_text(frame) + frame->len;
    for (const char *at = buf_text(frame); err == ERR_OK && at < end;) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t size = newline != NULL ? (size_t)(newline - at) : (size_t)(end - at);
        /* Before the text: in the last column the cursor would stand on its last character. */
        err = buf_append_text(&out, "\033[K");
        if (err == ERR_OK)
            err = buf_append(&out, at, size);
        at += size + (newline != NULL);
        /* A newline after the last line would move everything up. */
        if (err == ERR_OK && at < end)
            err = buf_append_text(&out, "\r\n");
    }
    if (err == ERR_OK && !all_write(buf_text(&out), out.len))
        err = err_set(ERR_IO, "can't write to the terminal: %s", strerror(errno));
    buf_done(&out);
    return err;
}
