/*
 * log.h - one line per event on stderr, in logfmt: ts level role event key=value...
 *
 * Log once, in the role that knows what the event means, with the request id.  Any thread may log;
 * a line is one write(2), so lines of several processes in one file do not mix.
 */
#ifndef WYVERN_BASE_LOG_H
#define WYVERN_BASE_LOG_H

#include "base/err.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Name shown in each line ("gateway.0"), copied; call once before threads start. */
void log_init(const char *role, enum log_level level);

/* "error", "warn", "info", "debug" → level. */
MUST_USE enum err log_level_parse(const char *text, enum log_level *level);

/* format holds `event key=value ...`.  A value from outside must be passed through %s inside
 * quotes: control characters of the finished line are replaced by '?'. */
void log_at(enum log_level level, const char *format, ...) PRINTF_LIKE(2, 3);

#define log_error(...) log_at(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_at(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_at(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_at(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
