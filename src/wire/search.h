/*
 * search.h - parameters of Hugging Face's generate beyond OpenAI's, for models that search
 * (blenderbot).  One table declares them: for the API, the wire and the worker.
 */
#ifndef WYVERN_WIRE_SEARCH_H
#define WYVERN_WIRE_SEARCH_H

#include <stdbool.h>
#include <stddef.h>

#define PROMPT_NO_TOKEN (-2) /* a forced token: none, whatever the checkpoint says */

struct prompt_search { /* as engine_search: -1, NAN: not given; all zero: nothing is */
    bool given;
    int num_beams, num_return_sequences;
    int max_length, min_length;
    int no_repeat_ngram_size, encoder_no_repeat_ngram_size;
    int forced_bos_token_id, forced_eos_token_id;
    int early_stopping; /* 0 false, 1 true, 2 "never" */
    int do_sample;      /* 0, 1 */
    double repetition_penalty, length_penalty;
};
struct prompt_search prompt_search_default(void); /* given, with nothing in it */

enum search_kind { SEARCH_INT, SEARCH_REAL, SEARCH_FLAG, SEARCH_EARLY, SEARCH_TOKEN };
struct search_row {
    const char *name;
    enum search_kind kind;
    size_t offset; /* in struct prompt_search: an int, or a double for SEARCH_REAL */
    double min, max;
};
extern const struct search_row search_rows[];
extern const size_t search_row_count;

#define SEARCH_INT_AT(search, row)  ((int *)(void *)((char *)(search) + (row)->offset))
#define SEARCH_REAL_AT(search, row) ((double *)(void *)((char *)(search) + (row)->offset))

#endif
