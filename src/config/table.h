/*
 * table.h - a row of the option table, and what parsing and help both need of it.  Private to
 * config/.
 */
#ifndef WYVERN_CONFIG_TABLE_H
#define WYVERN_CONFIG_TABLE_H

#include <stdbool.h>
#include <stddef.h>

#include "config/options.h"

enum option_kind {
    OPTION_FLAG,   /* bool */
    OPTION_INT,    /* int, within least … most; not given: -1 */
    OPTION_INT64,  /* int64_t, likewise */
    OPTION_REAL,   /* double, within least … most; not given: NAN */
    OPTION_TEXT,   /* const char *, not empty; not given: NULL */
    OPTION_CHOICE, /* OPTION_TEXT, one of `argument`, which reads a|b|c */
    OPTION_LEVEL,  /* enum log_level, one of `argument` */
};

struct option_row {
    const char *name; /* without "--" */
    enum option_kind kind;
    size_t offset;        /* in struct settings */
    const char *verbs;    /* names, a space between them; "*": all */
    const char *argument; /* what stands for the value in help; NULL for flags */
    const char *fallback; /* default, as a person would write it; NULL: not given */
    double least, most;
    const char *help;
};

struct option_letter {
    char letter; /* -o */
    const char *name;
};

extern const struct option_letter option_letters[];
extern const size_t option_letter_count;
extern const struct option_row option_rows[];
extern const size_t option_row_count;

#define OPTION_ENV_SIZE 48
/* "WYVERN_MAX_QUEUE" of "max-queue". */
void option_env_name(char out[OPTION_ENV_SIZE], const char *name);
bool option_taken_by(const struct option_row *row, const char *verb);

#endif
