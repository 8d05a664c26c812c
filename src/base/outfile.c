#include "base/outfile.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/id.h"

#define TRIES 8 /* for a name that nobody has */

static enum err cannot_write(const struct outfile *out)
{
    return err_set(errno == ENOENT || errno == ENOTDIR ? ERR_NOT_FOUND : ERR_IO,
                   "can't write %s: %s", out->target, strerror(errno));
}

/* Without a name; −1: not here. */
static int open_unnamed(struct outfile *out)
{
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s", out->target);
    int fd = open(dirname(folder), O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
    if (fd < 0)
        return -1;
    snprintf(out->path, sizeof out->path, "/proc/self/fd/%d", fd);
    if (access(out->path, W_OK) == 0)
        return fd;
    close(fd);
    return -1;
}

static int open_named(struct outfile *out)
{
    mode_t mask = umask(0);
    umask(mask);
    int fd = mkstemp(out->named);
    if (fd < 0)
        return -1;
    fchmod(fd, 0666 & ~mask);
    memcpy(out->path, out->named, sizeof out->path);
    return fd;
}

enum err outfile_open(struct outfile *out, const char *target)
{
    struct outfile made = {.fd = -1};
    if (snprintf(made.target, sizeof made.target, "%s", target) >= PATH_MAX ||
        snprintf(made.named, sizeof made.named, "%s.XXXXXX", target) >= PATH_MAX)
        return err_set(ERR_LIMIT, "the path %.100s… is too long", target);
    made.fd = open_unnamed(&made);
    if (made.fd >= 0)
        made.named[0] = '\0';
    else
        made.fd = open_named(&made);
    if (made.fd < 0)
        return cannot_write(&made);
    *out = made;
    return ERR_OK;
}

/* Names what has none: as the target where that is free, else beside it. */
static enum err give_name(struct outfile *out)
{
    if (linkat(AT_FDCWD, out->path, AT_FDCWD, out->target, AT_SYMLINK_FOLLOW) == 0)
        return ERR_OK;
    for (int i = 0; errno == EEXIST && i < TRIES; i++) {
        char tag[TAG_SIZE];
        id_random(tag, 6);
        if (snprintf(out->named, sizeof out->named, "%s.%.6s", out->target, tag) >= PATH_MAX)
            break;
        if (linkat(AT_FDCWD, out->path, AT_FDCWD, out->named, AT_SYMLINK_FOLLOW) == 0)
            return ERR_OK;
    }
    out->named[0] = '\0';
    return cannot_write(out);
}

enum err outfile_publish(struct outfile *out)
{
    enum err err = fsync(out->fd) == 0 ? ERR_OK : cannot_write(out);
    if (err == ERR_OK && out->named[0] == '\0')
        err = give_name(out);
    if (err == ERR_OK && out->named[0] != '\0') {
        if (rename(out->named, out->target) == 0)
            out->named[0] = '\0';
        else
            err = cannot_write(out);
    }
    outfile_discard(out);
    return err;
}

void outfile_discard(struct outfile *out)
{
    if (out->named[0] != '\0')
        unlink(out->named);
    out->named[0] = '\0';
    if (out->fd >= 0)
        close(out->fd);
    out->fd = -1;
}
