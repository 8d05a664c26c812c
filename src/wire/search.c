#include "wire/search.h"

#include <math.h>

#define LENGTH_MAX 1000000
#define TOKEN_MAX  100000000

#define ROW(field, kind, min, max)                                                                 \
    {                                                                                              \
#field, kind, offsetof(struct prompt_search, field), min, max                              \
    }
const struct search_row search_rows[] = {
    ROW(num_beams, SEARCH_INT, 1, 64),
    ROW(num_return_sequences, SEARCH_INT, 1, 64),
    ROW(max_length, SEARCH_INT, 2, LENGTH_MAX),
    ROW(min_length, SEARCH_INT, 0, LENGTH_MAX),
    ROW(no_repeat_ngram_size, SEARCH_INT, 0, LENGTH_MAX),
    ROW(encoder_no_repeat_ngram_size, SEARCH_INT, 0, LENGTH_MAX),
    ROW(forced_bos_token_id, SEARCH_TOKEN, 0, TOKEN_MAX),
    ROW(forced_eos_token_id, SEARCH_TOKEN, 0, TOKEN_MAX),
    ROW(early_stopping, SEARCH_EARLY, 0, 2),
    ROW(do_sample, SEARCH_FLAG, 0, 1),
    ROW(repetition_penalty, SEARCH_REAL, 1e-30, 1e30),
    ROW(length_penalty, SEARCH_REAL, -100, 100),
};
const size_t search_row_count = sizeof search_rows / sizeof *search_rows;

struct prompt_search prompt_search_default(void)
{
    struct prompt_search search = {.given = true};
    for (size_t i = 0; i < search_row_count; i++) {
        const struct search_row *row = &search_rows[i];
        if (row->kind == SEARCH_REAL)
            *SEARCH_REAL_AT(&search, row) = NAN;
        else
            *SEARCH_INT_AT(&search, row) = -1;
    }
    return search;
}
