/*
 * engine_run.h - opens a GGUF as an engine and lets it say a few tokens, so that lies about sizes
 * show.
 */
#ifndef WYVERN_TESTS_FUZZ_ENGINE_RUN_H
#define WYVERN_TESTS_FUZZ_ENGINE_RUN_H

#include "base/err.h"

/* What engine_open said; a model that opened has answered two prompts. */
enum err engine_run(const char *path);

#endif
