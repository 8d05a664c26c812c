/*
 * manual.h - what a table of metric rows says to people: docs/METRICS.md.
 */
#ifndef WYVERN_METRICS_MANUAL_H
#define WYVERN_METRICS_MANUAL_H

#include <stdio.h>

#include "metrics/family.h"

/* The page's beginning, before the tables. */
void metrics_manual_begin(FILE *out);
/* One section: what the rows of a program are. */
void metrics_manual_section(const char *title, const char *where, const struct metric *rows,
                            size_t count, FILE *out);

#endif
