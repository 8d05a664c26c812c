/*
 * tokens.h - claims and pieces: stream TOKENS, republished on live.>.
 *
 * Nothing is appended but under a claim: each append names the claim's sequence as its fence, so a
 * worker that lost its claim can add nothing (ERR_EXISTS).  All calls on the loop's thread.
 */
#ifndef WYVERN_BUS_TOKENS_H
#define WYVERN_BUS_TOKENS_H

#include "bus/js.h"
#include "wire/claim.h"

/* Claims a prompt.  expected: sequence of the claim before it, 0 for none.  fn's sequence is the
 * fence.  ERR_EXISTS: somebody else claimed, or a tombstone stands there. */
MUST_USE enum err tokens_claim(struct bus *bus, const char *gateway, const char *id,
                               const struct claim *claim, uint64_t expected, bus_done_fn *fn,
                               void *arg);

/* Puts a tombstone: whatever stands there (expect NULL), or only if the latest claim still is the
 * one with this sequence (0: none at all; else ERR_EXISTS). */
MUST_USE enum err tokens_tombstone(struct bus *bus, const char *gateway, const char *id,
                                   const char *reason, const uint64_t *expect, bus_done_fn *fn,
                                   void *arg);

/* The latest claim; ERR_NOT_FOUND when there is none (claim is NULL then). */
typedef void tokens_claim_fn(void *arg, enum err err, uint64_t sequence, const struct claim *claim);
MUST_USE enum err tokens_last_claim(struct bus *bus, const char *gateway, const char *id,
                                    tokens_claim_fn *fn, void *arg);

/* Appends pieces under the fence. */
MUST_USE enum err tokens_append(struct bus *bus, const char *gateway, const char *id,
                                uint64_t fence, const struct pieces *pieces, bus_done_fn *fn,
                                void *arg);

/*
 * The rule by which any reader takes pieces, live or stored: only those that carry the latest
 * claim's nonce, and only the next number.
 */
struct piece_reader {
    char nonce[TAG_SIZE]; /* of the latest claim seen; "" before any */
    bool fresh;           /* no piece of that claim was taken yet */
    bool resent;          /* that claim continues its own worker's earlier one */
    uint64_t next;        /* number of the next piece */
};
void piece_reader_claim(struct piece_reader *reader, const struct claim *claim);

enum piece_verdict {
    PIECE_TAKE,   /* items from *skip on are new; next has moved past them */
    PIECE_IGNORE, /* nothing new in it */
    PIECE_GAP,    /* something before it is missing: read the stream */
    PIECE_SPLICE, /* a successor went on from before what was taken: the reply can't go on */
};
enum piece_verdict piece_reader_take(struct piece_reader *reader, const struct pieces *pieces,
                                     size_t *skip);

/* How far a read has come, for the next one to go on from there; all zero: the beginning.  Good
 * until a claim is heard or the broker was away, since a crash of its can replace what was read. */
struct tokens_place {
    uint64_t sequence;          /* of the last message that was taken whole */
    struct piece_reader reader; /* as it stood behind it */
};

/* Reads what is stored of a reply, in order: claims and pieces, as messages of the stream, of which
 * a piece_reader keeps only what counts.  fn's false ends the read before the pieces that it was
 * given.  Then end, with the latest claim that was read; a tombstone has attempt, worker, node,
 * device and start of the last worker's claim before it, 0 and "" if there was none.  place: where
 * it begins, and kept up to date, until end; NULL: from the beginning. */
typedef bool tokens_read_fn(void *arg, const struct pieces *pieces);
typedef void tokens_end_fn(void *arg, enum err err, const struct claim *latest,
                           uint64_t latest_sequence);
MUST_USE enum err tokens_read(struct bus *bus, const char *gateway, const char *id,
                              struct tokens_place *place, tokens_read_fn *fn, tokens_end_fn *end,
                              void *arg);

/* Whose pieces are stored, message by message from a sequence on (0: the first), at most so many
 * messages: a reply comes once for each.  At last once with gateway and id NULL: ERR_OK or why it
 * ended early, and where to go on (0: nothing is left). */
typedef void tokens_list_fn(void *arg, enum err err, const char *gateway, const char *id,
                            uint64_t next);
MUST_USE enum err tokens_list_pieces(struct bus *bus, uint64_t from, unsigned most,
                                     tokens_list_fn *fn, void *arg);

/* Drops a reply's stored pieces: the record answers for them now. */
MUST_USE enum err tokens_purge_pieces(struct bus *bus, const char *gateway, const char *id,
                                      bus_done_fn *fn, void *arg);

#endif
