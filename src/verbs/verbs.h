/*
 * verbs.h - what a person runs and waits for, as main starts it.
 *
 * Each prints its data on standard output, progress and errors on standard error, and returns a
 * sysexits status.  argc and argv are the positional arguments.
 */
#ifndef WYVERN_VERBS_VERBS_H
#define WYVERN_VERBS_VERBS_H

#include "config/options.h"

int verb_ask(const struct settings *settings, int argc, char **argv);
int verb_chat(const struct settings *settings, int argc, char **argv);
int verb_load(const struct settings *settings, int argc, char **argv);
int verb_batch(const struct settings *settings, int argc, char **argv);
int verb_top(const struct settings *settings, int argc, char **argv);
int verb_status(const struct settings *settings, int argc, char **argv);
int verb_generate(const struct settings *settings, int argc, char **argv);
int verb_convert(const struct settings *settings, int argc, char **argv);
int verb_key(const struct settings *settings, int argc, char **argv);
int verb_doctor(const struct settings *settings, int argc, char **argv);

#endif
