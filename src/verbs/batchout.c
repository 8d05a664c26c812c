#include "verbs/batchout.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/id.h"
#include "verbs/batchin.h"
#include "wire/json.h"

#define ANSWER_MAX ((size_t)256 << 20)

static enum err cannot(const struct batch_out *out, const char *what)
{
    if (errno == ENOSPC || errno == EDQUOT)
        return err_set(
            ERR_IO,
            "can't %s %s: the disk is full.  Make room and run the same command again: it "
            "goes on where it stopped",
            what, out->name);
    return err_set(errno == EACCES ? ERR_DENIED : ERR_IO, "can't %s %s: %s", what, out->name,
                   strerror(errno));
}

/* ---- what is there ---- */

static enum err check_set(struct batch_out *out, uint64_t number, uint64_t check)
{
    if (number >= out->room) {
        size_t room = out->room == 0 ? 1024 : out->room;
        while (room <= number)
            room *= 2;
        uint64_t *more = realloc(out->checks, room * sizeof *more);
        if (more == NULL)
            return err_set(ERR_NOMEM, "out of memory");
        memset(more + out->room, 0, (room - out->room) * sizeof *more);
        out->checks = more;
        out->room = room;
    }
    out->done += out->checks[number] == 0;
    out->checks[number] = check;
    if (number > out->highest)
        out->highest = number;
    return ERR_OK;
}

/* One whole line of an earlier run. */
static enum err answer_note(struct batch_out *out, const char *line, size_t len, uint64_t at)
{
    json_t *root = NULL;
    enum err err = json_parse(&root, line, len);
    int64_t number = err == ERR_OK ? json_int(root, "line", 0) : 0;
    const char *text = err == ERR_OK ? json_text(root, "check", "") : "";
    char *end = NULL;
    uint64_t check = strtoull(text, &end, 16);
    if (number < 1 || number > (int64_t)BATCH_LINES_MAX || *text == '\0' || *end != '\0' ||
        check == 0) {
        err = err_set(ERR_INVALID,
                      "line %" PRIu64 " of %s is no answer that wyvern batch wrote: name another "
                      "file, or remove that one",
                      at, out->name);
    } else {
        uint64_t before = out->done;
        err = check_set(out, (uint64_t)number, check);
        out->failed += out->done > before && json_is_object(json_object_get(root, "error"));
    }
    json_decref(root);
    return err;
}

static enum err answers_read(struct batch_out *out)
{
    char *line = NULL;
    size_t room = 0;
    int fd = dup(out->fd);
    FILE *file = fd >= 0 ? fdopen(fd, "r") : NULL;
    enum err err = file != NULL ? ERR_OK : cannot(out, "read");
    if (file == NULL && fd >= 0)
        close(fd);
    uint64_t number = 0;
    for (ssize_t len; err == ERR_OK && (len = getline(&line, &room, file)) > 0;) {
        if (line[len - 1] != '\n')
            break; /* torn */
        if ((size_t)len > ANSWER_MAX) {
            err = err_set(ERR_LIMIT, "%s holds a line that is too long", out->name);
            break;
        }
        out->end += len;
        number++;
        if (strspn(line, " \t\r\n") < (size_t)len)
            err = answer_note(out, line, (size_t)len - 1, number);
    }
    if (err == ERR_OK && ferror(file))
        err = cannot(out, "read");
    free(line);
    if (file != NULL)
        fclose(file);
    return err;
}

static void salt_make(struct batch_out *out)
{
    struct statx about;
    if (out->plain && statx(out->fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &about) == 0) {
        snprintf(out->salt, sizeof out->salt, "%" PRIx64 ".%" PRIx64 ".%" PRIx32 ".%x.%x",
                 (uint64_t)about.stx_ino, (uint64_t)about.stx_btime.tv_sec, about.stx_btime.tv_nsec,
                 about.stx_dev_major, about.stx_dev_minor);
        return;
    }
    char tag[TAG_SIZE];
    id_random(tag, TAG_LEN);
    snprintf(out->salt, sizeof out->salt, "%s", tag);
}

/* Ours alone, what is answered, nothing torn. */
static enum err plain_prepare(struct batch_out *out)
{
    if (flock(out->fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        return err_set(ERR_EXISTS, "another wyvern batch writes %s", out->name);
    enum err err = answers_read(out);
    if (err == ERR_OK &&
        (ftruncate(out->fd, out->end) != 0 || lseek(out->fd, out->end, SEEK_SET) != out->end))
        err = cannot(out, "write");
    return err;
}

enum err batch_out_open(struct batch_out *out, const char *path)
{
    struct stat about;
    struct batch_out made = {.fd = STDOUT_FILENO, .name = "standard output"};
    if (path != NULL) {
        made.name = path;
        made.owned = true;
        made.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (made.fd < 0 && (errno == EINVAL || errno == EACCES || errno == ENXIO))
            made.fd = open(path, O_WRONLY | O_CLOEXEC); /* a pipe, a device */
        if (made.fd < 0)
            return cannot(&made, "open");
        made.plain = fstat(made.fd, &about) == 0 && S_ISREG(about.st_mode);
    }
    enum err err = made.plain ? plain_prepare(&made) : ERR_OK;
    if (err != ERR_OK) {
        free(made.checks);
        close(made.fd);
        return err;
    }
    salt_make(&made);
    *out = made;
    return ERR_OK;
}

enum err batch_out_close(struct batch_out *out)
{
    enum err err = ERR_OK;
    if (out->owned) {
        if (out->plain && fsync(out->fd) != 0)
            err = cannot(out, "write");
        if (close(out->fd) != 0 && err == ERR_OK)
            err = cannot(out, "write");
    }
    free(out->checks);
    out->checks = NULL;
    return err;
}

enum err batch_out_has(const struct batch_out *out, uint64_t number, uint64_t check, bool *has)
{
    *has = number < out->room && out->checks[number] != 0;
    if (*has && out->checks[number] != check)
        return err_set(ERR_INVALID,
                       "%s holds the answer to another text for line %" PRIu64 ": it belongs to "
                       "another batch.  Name another file with -o, or remove that one",
                       out->name, number);
    return ERR_OK;
}

enum err batch_out_write(struct batch_out *out, const char *line, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t wrote = write(out->fd, line + at, len - at);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0) {
            out->reader_left = wrote < 0 && errno == EPIPE;
            enum err err = cannot(out, "write");
            if (out->plain && ftruncate(out->fd, out->end) == 0)
                (void)lseek(out->fd, out->end, SEEK_SET);
            return err;
        }
        at += (size_t)wrote;
    }
    out->end += (off_t)len;
    return ERR_OK;
}
