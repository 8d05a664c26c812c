/*
 * text.h - a registry as text for Prometheus: exposition format 0.0.4, or OpenMetrics 1.0.
 */
#ifndef WYVERN_METRICS_TEXT_H
#define WYVERN_METRICS_TEXT_H

#include <stdbool.h>

#include "base/buf.h"
#include "metrics/family.h"

enum metrics_format { METRICS_TEXT_004, METRICS_OPENMETRICS_100 };

/* Picks by an Accept header (RFC 9110, 12.5.1); NULL: text 0.0.4. */
enum metrics_format metrics_format_negotiate(const char *accept);
const char *metrics_content_type(enum metrics_format format);
MUST_USE enum err metrics_write(const struct metrics *metrics, enum metrics_format format,
                                struct buf *out);

#endif
