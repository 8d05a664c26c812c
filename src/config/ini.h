/*
 * ini.h - reading an INI file whole, with its bounds checked.  Private to config/.
 */
#ifndef WYVERN_CONFIG_INI_H
#define WYVERN_CONFIG_INI_H

#include "base/err.h"

#define INI_FILE_MAX ((size_t)256 * 1024)
#define INI_LINE_MAX 198 /* bytes: what libinih reads as one line */

/* Called per `name = value`; section "" before the first.  Anything but ERR_OK ends the reading. */
typedef enum err ini_value_fn(void *arg, const char *section, const char *name, const char *value);

/* ERR_NOT_FOUND, ERR_DENIED, ERR_IO; ERR_CONFIG names file and line; what fn answered otherwise. */
MUST_USE enum err ini_read(const char *path, ini_value_fn *fn, void *arg);

#endif
