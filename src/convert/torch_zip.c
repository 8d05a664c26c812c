/*
 * torch_zip.c - pytorch_model.bin as torch ≥ 1.6 writes it: a zip archive of one folder with
 * data.pkl and data/KEY, one uncompressed entry a storage.
 *
 * Only uncompressed entries are read, so nothing can be larger than the file: no bombs.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert/checkpoint.h"
#include "convert/files.h"
#include "convert/torch_state.h"

#define MAX_ENTRIES 200000
#define MAX_FOLDER  512
#define ENTRY_BYTES 46 /* least of an entry in the list at the archive's end */
#define END_BYTES   22 /* of the end itself, which a comment may follow */
#define LINK_BYTES  20 /* before it: points to its long form */
#define END64_BYTES 56
#define TAIL_MAX    (LINK_BYTES + END_BYTES + 65535)
#define COUNT_AT    10 /* in the end: how many files */
#define COUNT64_AT  32
#define LINK_TO_AT  8

struct archive {
    struct part *part;
    char folder[MAX_FOLDER]; /* with its slash */
};

static enum err bad_zip(const struct part *part, const char *entry, const char *what)
{
    return err_set(ERR_INVALID, "%s: %s: %s", part->path, entry, what);
}

static enum err find_entry(const struct part *part, const char *name, uint64_t *index,
                           uint64_t *size)
{
    zip_stat_t info;
    zip_int64_t found = zip_name_locate(part->zip, name, ZIP_FL_ENC_RAW);

    zip_stat_init(&info);
    if (found < 0 || zip_stat_index(part->zip, (zip_uint64_t)found, 0, &info) != 0)
        return bad_zip(part, name, "is not in the archive");
    zip_uint64_t need =
        ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD | ZIP_STAT_ENCRYPTION_METHOD;
    if ((info.valid & need) != need || info.comp_method != ZIP_CM_STORE ||
        info.encryption_method != ZIP_EM_NONE)
        return bad_zip(part, name, "is compressed or encrypted, which torch never writes");
    if (info.size != info.comp_size || info.size > part->size)
        return bad_zip(part, name, "its size is larger than the file");
    *index = (uint64_t)found;
    *size = info.size;
    return ERR_OK;
}

/* Entries that share bytes would let a small file hold more than its size. */
static enum err check_sizes(const struct part *part)
{
    zip_int64_t count = zip_get_num_entries(part->zip, 0);
    uint64_t sum = 0;

    if (count < 0 || count > MAX_ENTRIES)
        return err_set(ERR_LIMIT, "%s: more than %d files in it", part->path, MAX_ENTRIES);
    for (zip_int64_t i = 0; i < count; i++) {
        zip_stat_t info;
        zip_stat_init(&info);
        if (zip_stat_index(part->zip, (zip_uint64_t)i, 0, &info) != 0 ||
            (info.valid & ZIP_STAT_COMP_SIZE) == 0 ||
            __builtin_add_overflow(sum, info.comp_size, &sum) || sum > part->size)
            return err_set(ERR_INVALID, "%s: its files overlap or are larger than it", part->path);
    }
    return ERR_OK;
}

/* "NAME/" of NAME/data.pkl */
static enum err find_folder(const struct part *part, char folder[MAX_FOLDER])
{
    static const char wanted[] = "/data.pkl";
    zip_int64_t count = zip_get_num_entries(part->zip, 0);

    for (zip_int64_t i = 0; i < count; i++) {
        const char *name = zip_get_name(part->zip, (zip_uint64_t)i, ZIP_FL_ENC_RAW);
        const char *slash = name != NULL ? strchr(name, '/') : NULL;
        if (slash == NULL || strcmp(slash, wanted) != 0)
            continue;
        size_t len = (size_t)(slash - name) + 1;
        if (len >= MAX_FOLDER / 2)
            break;
        memcpy(folder, name, len);
        folder[len] = '\0';
        return ERR_OK;
    }
    return err_set(ERR_INVALID, "%s is a zip archive without data.pkl: no PyTorch checkpoint",
                   part->path);
}

static enum err check_byteorder(struct archive *archive)
{
    char name[MAX_FOLDER + 16], order[8] = {0};
    uint64_t index, size;

    snprintf(name, sizeof name, "%sbyteorder", archive->folder);
    if (zip_name_locate(archive->part->zip, name, ZIP_FL_ENC_RAW) < 0)
        return ERR_OK; /* older: always little */
    enum err err = find_entry(archive->part, name, &index, &size);
    if (err != ERR_OK)
        return err;
    if (size < sizeof order)
        err = torch_zip_read(archive->part, index, 0, order, size);
    if (err == ERR_OK && strcmp(order, "little") != 0)
        err =
            err_set(ERR_UNSUPPORTED, "%s was written with big-endian numbers", archive->part->path);
    return err;
}

static enum err find_storage(void *arg, const char *key, uint64_t bytes, struct storage_place *out)
{
    const struct archive *archive = arg;
    char name[MAX_FOLDER + STORAGE_MAX_KEY + 8];
    uint64_t index, size;

    snprintf(name, sizeof name, "%sdata/%s", archive->folder, key);
    enum err err = find_entry(archive->part, name, &index, &size);
    if (err != ERR_OK)
        return err;
    if (size != bytes)
        return bad_zip(archive->part, name, "has another size than its tensors say");
    *out = (struct storage_place){.entry = index, .size = size};
    return ERR_OK;
}

static enum err read_state(struct archive *archive, unsigned number, struct tensor_list *out)
{
    struct part *part = archive->part;
    char name[MAX_FOLDER + 16];
    struct pickle pickle = {0};
    uint64_t index, size;
    size_t used;

    snprintf(name, sizeof name, "%sdata.pkl", archive->folder);
    enum err err = find_entry(part, name, &index, &size);
    if (err != ERR_OK)
        return err;
    if (size > PICKLE_MAX_BYTES)
        return err_set(ERR_LIMIT, "%s: %s is larger than %u MiB", part->path, name,
                       PICKLE_MAX_BYTES >> 20);
    char *data = malloc(size + 1);
    if (data == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    err = torch_zip_read(part, index, 0, data, size);
    if (err == ERR_OK)
        err = pickle_read(&pickle, data, size, &used, part->path);
    if (err == ERR_OK && used != size)
        err = bad_zip(part, name, "goes on behind its end");
    if (err == ERR_OK)
        err = torch_state_list(&pickle, part, number, find_storage, archive, out);
    pickle_done(&pickle);
    free(data);
    return err;
}

/* ---- the archive's end ---- */

static uint64_t little(const unsigned char *from, size_t bytes)
{
    uint64_t number = 0;
    for (size_t i = bytes; i-- > 0;)
        number = number << 8 | from[i];
    return number;
}

static enum err check_count(const struct part *part, uint64_t count)
{
    if (count <= part->size / ENTRY_BYTES)
        return ERR_OK;
    return err_set(ERR_INVALID, "%s: it claims %llu files, more than it has room for", part->path,
                   (unsigned long long)count);
}

static enum err check_long_end(const struct part *part, const unsigned char *link)
{
    unsigned char end[END64_BYTES];
    uint64_t at = little(link + LINK_TO_AT, 8);
    if (part->size < sizeof end || at > part->size - sizeof end)
        return ERR_OK; /* the library won't read it either */
    enum err err = files_read_at(part->fd, at, end, sizeof end, part->path);
    return err == ERR_OK ? check_count(part, little(end + COUNT64_AT, 8)) : err;
}

/* The library takes memory for as many files as the archive's end claims: look at every end that
 * it could choose. */
static enum err check_claims(const struct part *part)
{
    size_t len = part->size < TAIL_MAX ? (size_t)part->size : TAIL_MAX;
    unsigned char *tail = malloc(len + 1);
    if (tail == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    enum err err = files_read_at(part->fd, part->size - len, tail, len, part->path);
    for (size_t i = 0; err == ERR_OK && i + END_BYTES <= len; i++) {
        if (memcmp(tail + i, "PK\5\6", 4) != 0)
            continue;
        if (i >= LINK_BYTES && memcmp(tail + i - LINK_BYTES, "PK\6\7", 4) == 0)
            err = check_long_end(part, tail + i - LINK_BYTES); /* which counts, then */
        else
            err = check_count(part, little(tail + i + COUNT_AT, 2));
    }
    free(tail);
    return err;
}

enum err torch_zip_list(struct part *part, unsigned number, struct tensor_list *out)
{
    struct archive archive = {.part = part};
    int code = 0;
    enum err err = check_claims(part);

    if (err != ERR_OK)
        return err;
    int fd = fcntl(part->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return err_set(ERR_OS, "no more files can be opened");
    part->kind = PART_ZIP;
    part->zip = zip_fdopen(fd, 0, &code);
    if (part->zip == NULL) {
        close(fd);
        return err_set(ERR_INVALID, "%s is no whole zip archive: cut short?", part->path);
    }
    err = check_sizes(part);
    if (err == ERR_OK)
        err = find_folder(part, archive.folder);
    if (err == ERR_OK)
        err = check_byteorder(&archive);
    if (err == ERR_OK)
        err = read_state(&archive, number, out);
    return err;
}

static void close_entry(struct part *part)
{
    if (part->open != NULL)
        zip_fclose(part->open);
    part->open = NULL;
}

/* Opens an entry, or moves within it. */
static enum err seek_entry(struct part *part, uint64_t entry, uint64_t offset)
{
    if (part->open != NULL && part->open_entry == entry && part->open_at == offset)
        return ERR_OK;
    close_entry(part);
    zip_stat_t info;
    zip_stat_init(&info);
    part->open = zip_fopen_index(part->zip, entry, 0);
    if (part->open == NULL || zip_stat_index(part->zip, entry, 0, &info) != 0)
        return err_set(ERR_INVALID, "%s: file %llu in it can't be read: %s", part->path,
                       (unsigned long long)entry, zip_strerror(part->zip));
    part->open_entry = entry;
    part->open_size = info.size;
    part->open_at = offset;
    if (offset > 0 && zip_fseek(part->open, (zip_int64_t)offset, SEEK_SET) != 0)
        return err_set(ERR_INVALID, "%s: %s can't be read from its middle", part->path, info.name);
    return ERR_OK;
}

enum err torch_zip_read(struct part *part, uint64_t entry, uint64_t offset, void *out, size_t len)
{
    enum err err = seek_entry(part, entry, offset);
    char *to = out;
    char behind;

    while (err == ERR_OK && len > 0) {
        zip_int64_t got = zip_fread(part->open, to, len);
        if (got <= 0)
            err = err_set(ERR_INVALID, "%s is cut short or damaged: %s", part->path,
                          got < 0 ? zip_file_strerror(part->open) : "fewer bytes than it says");
        else {
            to += got;
            len -= (size_t)got;
            part->open_at += (uint64_t)got;
        }
    }
    /* the checksum of an entry that was read from its start is compared at its end */
    if (err == ERR_OK && part->open_at == part->open_size && zip_fread(part->open, &behind, 1) < 0)
        err = err_set(ERR_INVALID, "%s is damaged: %s", part->path, zip_file_strerror(part->open));
    if (err != ERR_OK)
        close_entry(part);
    return err;
}

void torch_zip_close(struct part *part)
{
    close_entry(part);
    if (part->zip != NULL)
        zip_discard(part->zip);
    part->zip = NULL;
}
