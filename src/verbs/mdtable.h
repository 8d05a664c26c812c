/*
 * mdtable.h - a Markdown table on the terminal: columns under each other, long cells broken within
 * theirs, and as "name: value" lines where the terminal is too narrow for columns.  One thread.
 */
#ifndef WYVERN_VERBS_MDTABLE_H
#define WYVERN_VERBS_MDTABLE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "verbs/flow.h"

#define TABLE_COLUMNS_MAX 32
#define TABLE_BYTES_MAX   ((size_t)64 << 10)

/* Is this line, without its newline, the |---|---| under a header? */
bool table_is_rule(const char *line, size_t len);
/* rows: lines that end with '\n', the second one a rule.  False: no table can be made of it. */
bool table_draw(struct flow *flow, const struct buf *rows, const char *lead, bool utf8);

#endif
