/*
 * tree.h - a folder of small files that a test makes, as /proc and /sys have them.
 */
#ifndef WYVERN_TESTS_TREE_H
#define WYVERN_TESTS_TREE_H

#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char tree_root[64];

static int tree_make(void **state)
{
    snprintf(tree_root, sizeof tree_root, "tree-XXXXXX");
    return mkdtemp(tree_root) == NULL;
}

static int tree_unlink(const char *path, const struct stat *info, int kind, struct FTW *walk)
{
    return remove(path);
}

static int tree_remove(void **state)
{
    return nftw(tree_root, tree_unlink, 8, FTW_DEPTH | FTW_PHYS);
}

/* root/name, with the folders above it. */
static const char *tree_path(const char *name)
{
    static char path[PATH_MAX];

    snprintf(path, sizeof path, "%s/%s", tree_root, name);
    for (char *slash = strchr(path, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0755);
        *slash = '/';
    }
    return path;
}

static void tree_put(const char *name, const char *content)
{
    FILE *file = fopen(tree_path(name), "w");

    assert_non_null(file);
    fputs(content, file);
    fclose(file);
}

#endif
