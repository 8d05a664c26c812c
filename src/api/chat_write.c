/*
 * chat_write.c - what gateway code before render.h calls; goes with it.
 */
#include <stdio.h>

#include "api/chat.h"
#include "api/render.h"

enum err chat_request_parse(struct chat_request *out, const char *body, size_t len,
                            struct api_error *error)
{
    struct api_request request;
    enum err err = chat_parse(&request, body, len, 0, error);

    if (err != ERR_OK)
        return err;
    if (request.n > 1) {
        struct prompt_search *search = &request.prompt.params.search;
        if (!search->given)
            *search = prompt_search_default();
        if (search->num_return_sequences < 0)
            search->num_return_sequences = (int)request.n;
    }
    *out = (struct chat_request){.prompt = request.prompt,
                                 .stream = request.stream,
                                 .include_usage = request.include_usage,
                                 .root = request.root};
    out->prompt.request = NULL;
    json_decref(request.kept);
    return ERR_OK;
}

void chat_request_done(struct chat_request *request)
{
    struct api_request whole = {.root = NULL};
    if (request == NULL)
        return;
    whole.prompt.messages = request->prompt.messages;
    whole.root = request->root;
    api_request_done(&whole);
    *request = (struct chat_request){.root = NULL};
}

void chat_response_id(char out[48], const char *prompt_id)
{
    snprintf(out, 48, "chatcmpl-%.32s", prompt_id);
}

static struct render render_of(const char *model, double created)
{
    return (struct render){.kind = API_CHAT, .model = model, .created = created};
}

struct copy {
    struct buf *out;
    enum err err;
};

static void on_event(void *arg, const char *event, int64_t sequence, const struct buf *json)
{
    struct copy *copy = arg;
    (void)event, (void)sequence;
    copy->err = buf_append(copy->out, json->data, json->len);
}

enum err chat_reply_write(const struct reply *reply, struct buf *out)
{
    struct render render = render_of(reply->model, reply->accepted_at);
    render_id(render.id, API_CHAT, reply->id);
    return render_whole(&render, &reply, 1, NULL, out);
}

enum err chat_chunk_write(const char *response_id, const char *model, double created, bool first,
                          const char *text, size_t len, struct buf *out)
{
    struct render render = render_of(model, created);
    struct piece piece = {.text = text, .text_len = len};
    struct copy copy = {.out = out};
    snprintf(render.id, sizeof render.id, "%s", response_id);
    render.opened = !first;
    enum err err = render_piece(&render, 0, &piece, on_event, &copy);
    return err != ERR_OK ? err : copy.err;
}

enum err chat_last_chunk_write(const struct reply *reply, double created, struct buf *out)
{
    struct render render = render_of(reply->model, created);
    struct copy copy = {.out = out};
    render_id(render.id, API_CHAT, reply->id);
    render.opened = true;
    enum err err = render_close(&render, reply, on_event, &copy);
    return err != ERR_OK ? err : copy.err;
}

enum err chat_usage_chunk_write(const struct reply *reply, double created, struct buf *out)
{
    struct render render = render_of(reply->model, created);
    struct copy copy = {.out = out};
    render_id(render.id, API_CHAT, reply->id);
    enum err err = render_usage(&render, &reply, 1, on_event, &copy);
    return err != ERR_OK ? err : copy.err;
}

void chat_error_of_reply(const struct reply *reply, struct api_error *error)
{
    api_error_of_reply(reply, error);
}
