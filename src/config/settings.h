/*
 * settings.h - where things lie: directories by the XDG rules, models by name, join files.
 */
#ifndef WYVERN_CONFIG_SETTINGS_H
#define WYVERN_CONFIG_SETTINGS_H

#include <limits.h>

#include "base/err.h"

/* One broker user: what a role needs to connect.  Texts are owned; free with join_done. */
struct join {
    char *url;             /* nats://host:port */
    char *user, *password; /* of the role asked for */
    char *model;           /* name of the model that the service serves, as in subjects */
    char *model_file;      /* base name of its file, or the whole fake:… text */
    char *model_sha256;    /* hex, "" for fake models */
};

/* Reads a join file (INI: [broker] url; [model] name, file, sha256; [ROLE] user, password) for one
 * role ("gateway", "infer", …).  ERR_CONFIG names what is missing. */
MUST_USE enum err join_read(struct join *out, const char *path, const char *role);
void join_done(struct join *join);

/* Directory for state: settings.state_dir, or by the XDG rules when that is NULL; nothing is made.
 */
MUST_USE enum err state_dir_name(char out[PATH_MAX], const char *state_dir);
/* The same, made absolute and created (0700).  ERR_DENIED when it can't be written. */
MUST_USE enum err state_dir_prepare(char out[PATH_MAX], const char *state_dir);

/* Finds a model file: `model` as a path if there is one; else by name in $WYVERN_MODELS, the models
 * folder beside the program, and the cache directory.  NULL model: the default one.  With sha256
 * (hex; NULL or "": any) the file found must match it (a mismatch is ERR_INVALID and names both).
 * A "fake:…" model is no file: it is its own answer. */
MUST_USE enum err model_find(char out[PATH_MAX], const char *model, const char *sha256);
#define MODEL_DEFAULT_FILE "SmolLM2-135M-Instruct-Q8_0.gguf"

/* SHA-256 of a file as 64 hex digits.  Computed each time. */
MUST_USE enum err file_sha256(char out[65], const char *path);

/* The program's own file, for starting further roles. */
MUST_USE enum err program_path(char out[PATH_MAX]);

#endif
