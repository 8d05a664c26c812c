#include "config/keys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/outfile.h"

#define LINE_MAX_BYTES 256
#define FILE_BYTES_MAX ((size_t)1 << 20)
#define RANDOM_BYTES   32
#define LOCK_TRIES     1000 /* each lost to a writer that was faster */

bool key_name_is_valid(const char *name)
{
    size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
    return len > 0 && len <= KEY_NAME_MAX && name[len] == '\0';
}

/* ---- reading ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool hash_read(struct key *key, const char *text)
{
    if (strlen(text) != 2 * KEY_HASH_LEN)
        return false;
    for (size_t i = 0; i < KEY_HASH_LEN; i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        key->hash[i] = (unsigned char)(high * 16 + low);
    }
    memcpy(key->id, text, KEY_ID_LEN);
    return true;
}

/* 2026-11-28T13:00:00Z */
static bool created_read(struct key *key, const char *text)
{
    static const char form[] = "0000-00-00T00:00:00Z";
    if (strlen(text) != sizeof form - 1)
        return false;
    for (size_t i = 0; i < sizeof form - 1; i++) {
        bool digit = text[i] >= '0' && text[i] <= '9';
        if (form[i] == '0' ? !digit : text[i] != form[i])
            return false;
    }
    memcpy(key->created, text, sizeof form);
    return true;
}

/* NULL, or what is wrong.  line is cut up. */
static const char *line_read(struct key *key, char *line)
{
    char *rest = NULL;
    const char *name = strtok_r(line, " \t", &rest);
    const char *hash = strtok_r(NULL, " \t", &rest);
    const char *created = strtok_r(NULL, " \t", &rest);
    if (name == NULL || hash == NULL || created == NULL || strtok_r(NULL, " \t", &rest) != NULL)
        return "is not `name sha256 created`";
    if (!key_name_is_valid(name))
        return "begins with what is no name";
    snprintf(key->name, sizeof key->name, "%s", name);
    if (!hash_read(key, hash))
        return "holds no SHA-256 in lower-case hex";
    return created_read(key, created) ? NULL : "ends with what is no time";
}

static const struct key *by_name(const struct key_ring *ring, const char *name)
{
    for (size_t i = 0; i < ring->count; i++) {
        if (strcmp(ring->keys[i].name, name) == 0)
            return &ring->keys[i];
    }
    return NULL;
}

/* Ids must differ too: they say to whom a reply belongs. */
static const char *ring_take(struct key_ring *ring, const struct key *key)
{
    if (by_name(ring, key->name) != NULL)
        return "repeats a name";
    for (size_t i = 0; i < ring->count; i++) {
        if (strcmp(ring->keys[i].id, key->id) == 0)
            return "repeats a key";
    }
    ring->keys[ring->count++] = *key;
    return NULL;
}

/* One line without its end: empty, a comment, or a key. */
static const char *line_take(struct key_ring *ring, const char *at, size_t len)
{
    char line[LINE_MAX_BYTES + 1];
    struct key key = {.name = ""};
    if (memchr(at, '\0', len) != NULL)
        return "holds a NUL";
    if (len == 0 || at[0] == '#')
        return NULL;
    if (len > LINE_MAX_BYTES)
        return "is too long";
    if (ring->count == KEYS_MAX)
        return "is one key too many";
    memcpy(line, at, len);
    line[len] = '\0';
    if (line[strspn(line, " \t")] == '\0')
        return NULL;
    const char *wrong = line_read(&key, line);
    return wrong != NULL ? wrong : ring_take(ring, &key);
}

static size_t lines_count(const char *text, size_t len)
{
    size_t lines = 1;
    for (size_t i = 0; i < len; i++)
        lines += text[i] == '\n';
    return lines;
}

enum err key_ring_parse(struct key_ring *out, const char *text, size_t len, const char *source)
{
    struct key_ring ring = {0};
    size_t lines = lines_count(text, len);
    ring.keys = calloc(lines < KEYS_MAX ? lines : KEYS_MAX, sizeof *ring.keys);
    if (ring.keys == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    size_t number = 1;
    for (size_t at = 0; at < len; number++) {
        const char *end = memchr(text + at, '\n', len - at);
        size_t line_len = end != NULL ? (size_t)(end - text) - at : len - at;
        const char *wrong = line_take(&ring, text + at, line_len);
        if (wrong != NULL) {
            key_ring_done(&ring);
            return err_set(ERR_CONFIG, "line %zu of %s %s", number, source, wrong);
        }
        at += line_len + 1;
    }
    *out = ring;
    return ERR_OK;
}

void key_ring_done(struct key_ring *ring)
{
    if (ring == NULL)
        return;
    free(ring->keys);
    *ring = (struct key_ring){0};
}

/* The whole file behind fd. */
static enum err text_read(struct buf *out, int fd, const char *path)
{
    char part[8192];
    struct stat info;
    if (fstat(fd, &info) != 0)
        return err_set(ERR_IO, "can't read %s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return err_set(ERR_CONFIG, "%s is no file of keys", path);
    if (info.st_mode & S_IWOTH)
        return err_set(ERR_CONFIG, "anybody may write %s: chmod o-w it", path);
    for (;;) {
        ssize_t got = read(fd, part, sizeof part);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_set(ERR_IO, "can't read %s: %s", path, strerror(errno));
        if (got == 0)
            return ERR_OK;
        if (buf_append(out, part, (size_t)got) != ERR_OK)
            return err_set(ERR_CONFIG, "%s is too large for a file of keys", path);
    }
}

static enum err cannot_open(const char *path)
{
    if (errno == ENOENT)
        return err_set(ERR_NOT_FOUND,
                       "there is no file of keys %s: wyvern key add NAME --keys FILE makes one",
                       path);
    return err_set(errno == EACCES ? ERR_DENIED : ERR_IO, "can't open %s: %s", path,
                   strerror(errno));
}

enum err key_ring_load(struct key_ring *out, const char *path)
{
    struct buf text;
    /* Not waiting for who would write to a pipe of that name. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return cannot_open(path);
    buf_init(&text, FILE_BYTES_MAX);
    enum err err = text_read(&text, fd, path);
    close(fd);
    if (err == ERR_OK)
        err = key_ring_parse(out, buf_text(&text), text.len, path);
    buf_done(&text);
    return err;
}

/* ---- finding ---- */

static bool hash_of(unsigned char out[KEY_HASH_LEN], const char *text, size_t len)
{
    unsigned made = 0;
    return EVP_Digest(text, len, out, &made, EVP_sha256(), NULL) == 1 && made == KEY_HASH_LEN;
}

const struct key *key_ring_find(const struct key_ring *ring, const char *text)
{
    unsigned char hash[KEY_HASH_LEN];
    const struct key *found = NULL;
    if (!hash_of(hash, text, strlen(text)))
        return NULL;
    for (size_t i = 0; i < ring->count; i++) { /* all, wherever it stands */
        if (CRYPTO_memcmp(hash, ring->keys[i].hash, sizeof hash) == 0)
            found = &ring->keys[i];
    }
    return found;
}

/* ---- writing ---- */

/* Opens and locks what has the name now: a writer that was faster has put another file there. */
static enum err lock_file(int *out, const char *path, bool make)
{
    for (int i = 0; i < LOCK_TRIES; i++) {
        struct stat ours, there;
        int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | (make ? O_CREAT : 0), 0600);
        if (fd < 0)
            return cannot_open(path);
        if (flock(fd, LOCK_EX) != 0) {
            enum err err = err_set(ERR_IO, "can't lock %s: %s", path, strerror(errno));
            close(fd);
            return err;
        }
        if (fstat(fd, &ours) == 0 && stat(path, &there) == 0 && ours.st_ino == there.st_ino &&
            ours.st_dev == there.st_dev) {
            *out = fd;
            return ERR_OK;
        }
        close(fd);
    }
    return err_set(ERR_FULL, "others keep on writing %s; try again", path);
}

static enum err write_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t put = write(fd, data, len);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return err_set(ERR_IO, "can't write the keys: %s", strerror(errno));
        data += put;
        len -= (size_t)put;
    }
    return ERR_OK;
}

/* In the place of the file behind fd, whose owner and mode it takes over: a service may run as
 * another user than who adds keys. */
static enum err replace(const char *path, int fd, const struct buf *text)
{
    char target[PATH_MAX];
    struct outfile file;
    struct stat before;
    if (realpath(path, target) == NULL || fstat(fd, &before) != 0)
        return err_set(ERR_IO, "can't find %s: %s", path, strerror(errno));
    enum err err = outfile_open(&file, target);
    if (err != ERR_OK)
        return err;
    err = write_all(file.fd, buf_text(text), text->len);
    if (err == ERR_OK && fchmod(file.fd, before.st_mode & 0777) != 0)
        err = err_set(ERR_IO, "can't set the mode of %s: %s", path, strerror(errno));
    if (err == ERR_OK && before.st_uid != geteuid() &&
        fchown(file.fd, before.st_uid, before.st_gid) != 0)
        err = err_set(ERR_DENIED, "can't give %s back to its owner: %s", path, strerror(errno));
    if (err == ERR_OK)
        return outfile_publish(&file);
    outfile_discard(&file);
    return err;
}

/* The locked file's text and what it says. */
static enum err begin_change(const char *path, bool make, int *fd, struct buf *text,
                             struct key_ring *ring)
{
    buf_init(text, FILE_BYTES_MAX);
    enum err err = lock_file(fd, path, make);
    if (err == ERR_OK)
        err = text_read(text, *fd, path);
    return err == ERR_OK ? key_ring_parse(ring, buf_text(text), text->len, path) : err;
}

static void end_change(int fd, struct buf *text, struct key_ring *ring)
{
    if (fd >= 0)
        close(fd);
    buf_done(text);
    key_ring_done(ring);
}

/* "wv-" and base64url without padding. */
static enum err key_make(char text[KEY_TEXT_SIZE])
{
    unsigned char random[RANDOM_BYTES], coded[4 * ((RANDOM_BYTES + 2) / 3) + 1];
    if (RAND_bytes(random, sizeof random) != 1)
        return err_set(ERR_OS, "there is no randomness to make a key of");
    EVP_EncodeBlock(coded, random, sizeof random);
    memcpy(text, "wv-", 3);
    for (size_t i = 3; i < KEY_TEXT_LEN; i++) {
        char c = (char)coded[i - 3];
        text[i] = c == '+' ? '-' : c == '/' ? '_' : c;
    }
    text[KEY_TEXT_LEN] = '\0';
    OPENSSL_cleanse(random, sizeof random);
    OPENSSL_cleanse(coded, sizeof coded);
    return ERR_OK;
}

static enum err line_write(struct buf *out, const char *name, const char *text)
{
    unsigned char hash[KEY_HASH_LEN];
    char hex[2 * KEY_HASH_LEN + 1], created[KEY_CREATED_SIZE];
    struct tm parts;
    time_t now = time(NULL);
    if (!hash_of(hash, text, strlen(text)))
        return err_set(ERR_INTERNAL, "SHA-256 failed");
    for (size_t i = 0; i < KEY_HASH_LEN; i++)
        snprintf(hex + 2 * i, 3, "%02x", hash[i]);
    gmtime_r(&now, &parts);
    strftime(created, sizeof created, "%Y-%m-%dT%H:%M:%SZ", &parts);
    bool open_line = out->len > 0 && out->data[out->len - 1] != '\n';
    return buf_printf(out, "%s%s %s %s\n", open_line ? "\n" : "", name, hex, created);
}

enum err key_file_add(const char *path, const char *name, char text[KEY_TEXT_SIZE])
{
    int fd = -1;
    struct buf all;
    struct key_ring ring = {0};
    char made[KEY_TEXT_SIZE];
    if (!key_name_is_valid(name))
        return err_set(ERR_USAGE,
                       "'%.40s' is no name for a key: take letters, digits and . _ -, at most %d",
                       name, KEY_NAME_MAX);
    enum err err = begin_change(path, true, &fd, &all, &ring);
    if (err == ERR_OK && by_name(&ring, name) != NULL)
        err = err_set(ERR_EXISTS, "there is a key %s in %s already: revoke it first", name, path);
    if (err == ERR_OK && ring.count == KEYS_MAX)
        err = err_set(ERR_FULL, "%s holds %d keys, which is all it can", path, KEYS_MAX);
    if (err == ERR_OK)
        err = key_make(made);
    if (err == ERR_OK)
        err = line_write(&all, name, made);
    if (err == ERR_OK)
        err = replace(path, fd, &all);
    if (err == ERR_OK)
        memcpy(text, made, sizeof made);
    OPENSSL_cleanse(made, sizeof made);
    end_change(fd, &all, &ring);
    return err;
}

/* Is this line, which is no comment, about the name? */
static bool line_is_of(const char *line, size_t len, const char *name)
{
    size_t name_len = strlen(name), at = 0;
    while (at < len && (line[at] == ' ' || line[at] == '\t'))
        at++;
    return len - at > name_len && memcmp(line + at, name, name_len) == 0 &&
           (line[at + name_len] == ' ' || line[at + name_len] == '\t');
}

enum err key_file_revoke(const char *path, const char *name)
{
    int fd = -1;
    struct buf all, kept;
    struct key_ring ring = {0};
    buf_init(&kept, FILE_BYTES_MAX);
    enum err err = begin_change(path, false, &fd, &all, &ring);
    if (err == ERR_OK && by_name(&ring, name) == NULL)
        err = err_set(ERR_NOT_FOUND, "there is no key '%.40s' in %s", name, path);
    for (size_t at = 0; err == ERR_OK && at < all.len;) {
        const char *line = all.data + at, *end = memchr(line, '\n', all.len - at);
        size_t len = end != NULL ? (size_t)(end - line) + 1 : all.len - at;
        if (!line_is_of(line, len, name))
            err = buf_append(&kept, line, len);
        at += len;
    }
    if (err == ERR_OK)
        err = replace(path, fd, &kept);
    buf_done(&kept);
    end_change(fd, &all, &ring);
    return err;
}
