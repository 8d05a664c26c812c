/*
 * write.h - the parts that replies of several endpoints share.  Private to src/api/.
 */
#ifndef WYVERN_API_WRITE_H
#define WYVERN_API_WRITE_H

#include "api/render.h"
#include "wire/json.h"

#define RENDER_BYTES_MAX ((size_t)64 << 20) /* of one event or body: a reply with logprobs */
#define FINGERPRINT      "wyvern-" WYVERN_VERSION
#define OWNED_BY         "wyvern"

int64_t write_seconds(double seconds);
/* "wyvern":{…}: who asked, who answered, when.  Of several records the first, and all ids. */
void write_wyvern(struct json_out *out, const struct reply *const *records, size_t count,
                  const char *public_id);
/* "timings":{…} as llama-server has them, of all records together. */
void write_timings(struct json_out *out, const struct reply *const *records, size_t count);
/* "usage":{…} of chat and completions; of each n records the prompt counts once. */
void write_usage(struct json_out *out, const struct reply *const *records, size_t count,
                 unsigned n);
uint64_t reply_tokens_all(const struct reply *reply); /* of all its texts */
/* "logprobs":…: entries (NULL: null) as OpenAI's choices[].logprobs.content has them. */
void write_logprobs(struct json_out *out, struct render *render, const json_t *entries);
/* NULL for "" and NULL. */
const char *text_given(const char *text);

/* The kinds' own; what render.h says of render_… */
MUST_USE enum err choice_piece(struct render *render, const struct piece *piece,
                               render_event_fn *fn, void *arg);
MUST_USE enum err choice_close(struct render *render, const struct reply *record,
                               render_event_fn *fn, void *arg);
MUST_USE enum err choice_whole(const struct render *render, const struct reply *const *records,
                               size_t count, unsigned n, struct buf *out);
MUST_USE enum err result_whole(const struct render *render, const struct reply *record,
                               const struct api_request *request, struct buf *out);
MUST_USE enum err response_open(struct render *render, render_event_fn *fn, void *arg);
MUST_USE enum err response_piece(struct render *render, uint64_t number, const struct piece *piece,
                                 render_event_fn *fn, void *arg);
MUST_USE enum err response_close(struct render *render, const struct reply *record,
                                 render_event_fn *fn, void *arg);
MUST_USE enum err response_fail(struct render *render, const struct api_error *error,
                                const struct reply *record, uint64_t pieces, render_event_fn *fn,
                                void *arg);

#endif
