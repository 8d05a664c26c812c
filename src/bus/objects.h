/*
 * objects.h - what gateways keep besides replies: files, batches, idempotency keys.
 *
 * Stream OBJECTS, on disk and synced, one message a name; age --keep-files.  A name is a subject
 * below "obj.": "file.<id>.meta", "file.<id>.<n>", "batch.<id>", "idem.<hash>": letters, digits,
 * '-', '_', '=' and '.' alone; '*' and '>' where wildcards may stand.  Anything else is
 * ERR_INVALID, but whoever puts a client's text into a name checks it first: a '*' in it would mean
 * others', too. All calls and callbacks on the loop's thread.
 */
#ifndef WYVERN_BUS_OBJECTS_H
#define WYVERN_BUS_OBJECTS_H

#include "bus/js.h"

#define OBJECT_BYTES_MAX ((size_t)512 << 10) /* of one; larger things are cut up */
#define OBJECT_NAME_MAX  192                 /* bytes of a name */

/* Stores under a name.  expect: sequence of what stands there now, 0 for nothing yet (ERR_EXISTS
 * otherwise); NULL: whatever stands there.  keep_s: seconds after which it goes by itself, 0: the
 * stream's age.  ERR_FULL: no room; ERR_LIMIT: too large. */
MUST_USE enum err objects_put(struct bus *bus, const char *name, const uint64_t *expect,
                              unsigned keep_s, const void *data, size_t len, bus_done_fn *fn,
                              void *arg);

/* The same, only while the object `under` stands at this sequence (ERR_EXISTS otherwise): who holds
 * that one holds these. */
MUST_USE enum err objects_put_under(struct bus *bus, const char *name, const char *under,
                                    uint64_t sequence, const void *data, size_t len,
                                    bus_done_fn *fn, void *arg);

/* What stands under a name; of all that match a name with wildcards, the latest.  ERR_NOT_FOUND.
 * data is NUL-terminated and borrowed. */
typedef void object_fn(void *arg, enum err err, const char *name, uint64_t sequence,
                       const char *data, size_t len);
MUST_USE enum err objects_get(struct bus *bus, const char *name, object_fn *fn, void *arg);

/* Everything under a name with wildcards, oldest first: fn for each with ERR_OK, and once more
 * with name NULL at the end (ERR_OK, or why it ended early).  most: no more than so many (1 …
 * 1000); from: sequence to begin at (0: the first).  fn may call for the next ones from the last
 * call: its sequence is where to go on, 0 if nothing was left.  What is put again moves to the end,
 * so that it may come twice in a list of several parts. */
MUST_USE enum err objects_list(struct bus *bus, const char *name, uint64_t from, unsigned most,
                               object_fn *fn, void *arg);

/* Drops all under a name, which may hold wildcards.  A broker that is killed can bring back what
 * was purged (nats-server pull requests 7384 and 7387): what must never be seen again is written
 * over first, and what stands there then is left. */
MUST_USE enum err objects_purge(struct bus *bus, const char *name, bus_done_fn *fn, void *arg);
/* The same, but for what was put last. */
MUST_USE enum err objects_purge_but_last(struct bus *bus, const char *name, bus_done_fn *fn,
                                         void *arg);

#endif
