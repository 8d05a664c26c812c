/*
 * engine.h - what runs a model: the one interface behind which llama, blenderbot and fake stand.
 *
 * An engine holds one model and a number of slots.  A sequence is one reply being generated; it
 * occupies a slot from engine_start() until its last event.  The owner calls engine_step() in a
 * loop; each call advances every active sequence by at most one decode step and hands out what
 * came of it.  All calls on one engine come from one thread.
 *
 * Text: the pieces of a sequence, joined, are the reply.  A piece is never empty, never splits a
 * UTF-8 character, never holds any part of a stop string.  A piece carries the ids of all tokens
 * taken since the piece before it (some of their text may still be held back), so that
 * prompt + the tokens of all pieces is where a successor goes on: see struct engine_request.resume.
 */
#ifndef WYVERN_ENGINE_ENGINE_H
#define WYVERN_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct engine;

struct engine_config {
    const char *model;  /* a GGUF file, or fake:… */
    const char *device; /* "cpu:0", "gpu:UUID"; what the node's device list gave; NULL: cpu */
    const char *chat_template; /* a name that the model runtime knows, or NULL: the model's own */
    unsigned slots;            /* sequences at once, 1 … ENGINE_MAX_SLOTS */
    unsigned context;          /* positions per slot; 0: the model's own, at most ENGINE_AUTO_CTX */
    unsigned threads;          /* CPU threads; 0: one per allowed CPU.  Engines that share CPUs must
                                  share them out: more threads than CPUs is a hundred times slower */
};

#define ENGINE_MAX_SLOTS  256
#define ENGINE_AUTO_CTX   4096    /* positions a slot gets when the model could take more */
#define ENGINE_MAX_INPUTS 256     /* texts of one ENGINE_EMBED */
#define ENGINE_MAX_TOKENS 1000000 /* of one ENGINE_DETOKENIZE */

struct engine_info {
    char name[128]; /* the model's own name, for people */
    char arch[32];  /* "llama", "blenderbot", "fake" … */
    unsigned slots;
    unsigned context;       /* positions per slot: prompt + reply */
    uint64_t model_bytes;   /* weights */
    uint64_t kv_bytes;      /* cache, all slots */
    uint64_t compute_bytes; /* scratch of the runtime */
};

/* Loads the model.  ERR_NOT_FOUND, ERR_INVALID (broken file), ERR_UNSUPPORTED (architecture, chat
 * template or device), ERR_USAGE (a number out of range), ERR_NOMEM; err_text() says which and the
 * mend. */
MUST_USE enum err engine_open(struct engine **out, const struct engine_config *config);
void engine_close(struct engine *engine);
const struct engine_info *engine_info(const struct engine *engine);

/* What a person may ask of one reply.  -1 / NAN mean: not given, the model's default: what its file
 * says under general.sampling.*, else temperature 0.8, top_p 0.95, top_k 40.  Applied in the order
 * temperature, top-k, top-p.  The draw depends on the seed and the position in the reply alone, so
 * that a successor given the same seed draws what the first would have drawn. */
struct engine_params {
    int min_tokens;          /* new tokens before the end is allowed; ≥ 0 */
    int max_tokens;          /* new tokens; -1: as many as the context holds */
    float temperature;       /* 0: greedy */
    float top_p;             /* 1: off */
    int top_k;               /* 0: off */
    int64_t seed;            /* -1: random */
    const char *const *stop; /* stop strings, not empty, borrowed until engine_start returns */
    size_t stop_count;
    float frequency_penalty, presence_penalty; /* subtracted from a token's score: times how often
                                                  the reply has it, once if it has it */
    float repeat_penalty; /* 1: off.  Divides scores above 0 of what the last 64 tokens have, and
                             multiplies those below */
    int logprobs;         /* alternatives told beside each token's own; -1: nothing is told */
    const struct engine_bias *bias; /* added to scores; borrowed until engine_start returns */
    size_t bias_count;
    const char *grammar; /* GBNF with the rule "root" (engine/grammar.h); NULL: none; borrowed
                            likewise.  Counted in a successor's resume, too: the reply as a whole
                            obeys it.  The reply ends where nothing may follow, whatever min_tokens
                            says, and may end where the grammar is whole */
    const struct engine_search
        *search; /* NULL: nothing given; borrowed until engine_start returns */
};

struct engine_bias {
    int32_t token; /* outside of the vocabulary: ERR_INVALID */
    float bias;
};

/* What else may be asked of a model that searches (blenderbot; others refuse it): the parameters of
 * Hugging Face's generate, by its names.  -1 / NAN: not given, the checkpoint's default. max_tokens
 * and min_tokens above are max_new_tokens and min_new_tokens, and go before the lengths here. */
enum engine_early_stopping { ENGINE_EARLY_FALSE, ENGINE_EARLY_TRUE, ENGINE_EARLY_NEVER };
#define ENGINE_NO_TOKEN (-2) /* for a forced token: none, whatever the checkpoint says */
struct engine_search {
    int num_beams;
    int num_return_sequences;   /* at most num_beams; the first is the reply, see engine_event */
    int max_length, min_length; /* of the reply with its start and end token */
    int no_repeat_ngram_size, encoder_no_repeat_ngram_size;
    float repetition_penalty, length_penalty;
    int early_stopping; /* enum engine_early_stopping */
    int forced_bos_token_id, forced_eos_token_id;
    int do_sample; /* 0, 1; not given: 1 when a temperature above 0 is given, with one beam */
};
struct engine_search engine_search_default(void);
/* Nothing given: every field says "the model's default". */
struct engine_params engine_params_default(void);

struct engine_message {
    const char *role;    /* "system", "user", "assistant" */
    const char *content; /* UTF-8, without NUL; special-token text in it is ordinary text */
};

/* What a request wants.  All take a slot and end with one last event; only the first has pieces.
 * An embedding's input that is too long fails with ERR_LIMIT in its event; of the other tasks
 * engine_start() says what is wrong. */
enum engine_task {
    ENGINE_GENERATE,
    ENGINE_EMBED,    /* inputs → event.vectors */
    ENGINE_TOKENIZE, /* raw_prompt → event.tokens (special-token text in it is ordinary text) and
                        event.token_texts */
    ENGINE_DETOKENIZE, /* resume_tokens → event.text */
    ENGINE_TEMPLATE,   /* messages → event.text: the prompt that they become */
};

struct engine_request {
    enum engine_task task;
    const struct engine_message *messages; /* the chat template is applied; or */
    size_t message_count;
    const char *raw_prompt;    /* given as it is when messages is NULL */
    const char *const *inputs; /* of ENGINE_EMBED */
    size_t input_count;
    struct engine_params params;
    /* A reply that another worker began: its stored tokens and the text already delivered.  The
     * text of the tokens begins with resume_text; what is beyond it was held back and is
     * delivered now (or held back again).  The fake engine counts by resume_pieces. */
    const int32_t *resume_tokens;
    size_t resume_token_count;
    const char *resume_text;
    size_t resume_pieces;
    void *user;         /* comes back in each event */
    bool truncate_left; /* cut a prompt that is too long (blenderbot), instead of refusing it */
    bool trace;         /* the last event has one (blenderbot) */
};

/* For comparing with the reference: what the encoder made of the prompt, and the best scores of the
 * first token. */
#define ENGINE_TRACE_TOP 8
struct engine_trace {
    double encoder_mean;
    float encoder_first[ENGINE_TRACE_TOP];
    int32_t top_ids[ENGINE_TRACE_TOP];
    float top_scores[ENGINE_TRACE_TOP];
};

enum engine_finish { ENGINE_FINISH_NONE, ENGINE_FINISH_STOP, ENGINE_FINISH_LENGTH };
const char *engine_finish_name(enum engine_finish finish); /* "stop", "length", NULL for none */

/* A whole result with the start and end tokens that the pieces leave out.  Of several each has its
 * text as well; that of the first is what its pieces said. */
struct engine_sequence {
    const int32_t *ids;
    size_t count;
    float score;
    const char *text; /* NULL when there is but one */
    size_t text_len;
    unsigned reply_tokens;
    enum engine_finish finish;
};

struct engine_timings { /* of one sequence, milliseconds */
    double prompt_ms;   /* prefill */
    double decode_ms;   /* from the first token to the last */
};

/* What one step brought for one sequence.  Pointers are valid until the next engine call. */
struct engine_event {
    void *user;
    const char *text; /* NULL: no piece in this event */
    size_t text_len;
    const int32_t *tokens; /* see the top comment */
    size_t token_count;
    const char *logprobs; /* of these tokens, when asked for: JSON array of {"token","logprob",
                             "bytes","top_logprobs":[{"token","logprob","bytes"}…]}, natural
                             logarithms of the model's own probabilities (before bias, penalties,
                             temperature; what OpenAI and vLLM tell); else NULL */
    size_t logprobs_len;
    const float *vectors; /* ENGINE_EMBED: input_count × vector_size numbers, each vector of
                             Euclidean length 1 */
    size_t vector_count, vector_size;
    const char *const *token_texts; /* ENGINE_TOKENIZE: one for each of tokens: its bytes, which
                                       need be no UTF-8 by themselves; U+FFFD for NUL */
    bool last;                      /* the slot is free; the fields below count */
    enum err error;                 /* ERR_OK, or the reply failed: error_text says why */
    const char *error_text;
    enum engine_finish finish;
    unsigned prompt_tokens;
    unsigned reply_tokens;  /* resumed ones included */
    unsigned cached_tokens; /* of the prompt, taken from another sequence's prefix */
    struct engine_timings timings;
    unsigned truncated_tokens;               /* of the prompt, left out because it was too long */
    const struct engine_sequence *sequences; /* blenderbot: best first; else NULL */
    size_t sequence_count;
    const struct engine_trace *trace; /* NULL: not asked for */
};

/* Takes a slot.  Everything in request but user is copied.  ERR_FULL: no free slot.
 * ERR_LIMIT: the prompt does not fit the context ("context_length_exceeded" to a person).
 * ERR_INVALID: invalid UTF-8, a role other than system, user, assistant, no messages, a parameter
 * out of range, tokens to resume that do not make up resume_text.  ERR_UNSUPPORTED: what a model of
 * this kind can't do.  A sentence about a parameter begins with its name ("input[2] is empty",
 * "grammar line 3: …").  A reply resumed at its end (all max_tokens are there) takes its slot and
 * ends in the next step. */
MUST_USE enum err engine_start(struct engine *engine, const struct engine_request *request);

/* Frees the slot of the sequence with this user pointer at once; no event follows.  Unknown: no-op.
 */
void engine_cancel(struct engine *engine, const void *user);

unsigned engine_active(const struct engine *engine);

/* What the engine has been doing since it was opened. */
struct engine_figures {
    double kv_used;   /* share of the cache's positions that active sequences hold, 0 … 1 */
    double prefill_s; /* spent computing prompts; a mixed step counts by its tokens */
    double decode_s;  /* spent computing further tokens */
};
struct engine_figures engine_figures(const struct engine *engine);

/* When engine_step() will have work: INT64_MAX with no active sequence, 0 for at once, else a
 * clock_mono_ns() time (the fake engine waits for its delays this way). */
int64_t engine_due_ns(const struct engine *engine);

/* One step.  Writes at most `slots` events, returns how many in *count.  An error is of the engine
 * as a whole: the worker must end. */
MUST_USE enum err engine_step(struct engine *engine, struct engine_event *events, size_t *count);

/* The ids a request's prompt becomes, for `generate --json` (free(*ids)). */
MUST_USE enum err engine_tokenize(struct engine *engine, const struct engine_request *request,
                                  int32_t **ids, size_t *count);

/* Sends the model runtime's own messages to our log (errors and warnings only); once a process. */
void engine_log_init(void);

/* Rewrites a GGUF with another weight type ("q8_0", "q4_0", "f16", …); progress in 0…1, may be
 * NULL; threads 0: one per CPU.  out_path appears whole or not at all.  ERR_USAGE (type),
 * ERR_NOT_FOUND, ERR_INVALID, ERR_IO (also a full disk). */
typedef void engine_progress_fn(void *arg, double done);
MUST_USE enum err engine_quantize(const char *in_path, const char *out_path, const char *type,
                                  unsigned threads, engine_progress_fn *progress, void *arg);

/* The operations of one kind of engine: private to src/engine/. */
struct engine_ops;

#endif
