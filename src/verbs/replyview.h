/*
 * replyview.h - a reply on standard output as it comes: Markdown drawn on a colour terminal, the
 * text itself elsewhere; and on a terminal a short word when nothing comes for some seconds.
 */
#ifndef WYVERN_VERBS_REPLYVIEW_H
#define WYVERN_VERBS_REPLYVIEW_H

#include <stdbool.h>

#include "verbs/apiclient.h"

struct reply_view;

/* quiet: no word about waiting. */
MUST_USE enum err reply_view_new(struct reply_view **out, bool quiet);
void reply_view_free(struct reply_view *view);
/* Fits api_text_fn. */
bool reply_view_text(void *arg, const char *text, size_t len);
/* Fits api_reply.on_wait. */
void reply_view_wait(void *arg, const struct api_reply *reply);
/* Ends what is open, styles and the line. */
void reply_view_end(struct reply_view *view);

#endif
