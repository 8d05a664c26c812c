/*
 * about.h - what a verb does, in sentences, and commands to try: for its help, its man page and
 * docs/CLI.md.  Private to config/.
 */
#ifndef WYVERN_CONFIG_ABOUT_H
#define WYVERN_CONFIG_ABOUT_H

struct about {
    const char *verb;
    const char *text;     /* paragraphs, a newline between them */
    const char *examples; /* lines "COMMAND\tWHAT IT DOES\n"; NULL: none */
};

/* NULL: nothing more is to be said than its summary. */
const struct about *about_find(const char *verb);

#endif
