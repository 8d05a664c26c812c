#include "bus/broker_conf.h"

#include <string.h>

const char *const broker_role_names[BROKER_ROLE_COUNT] = {"setup",   "gateway", "infer",
                                                          "respond", "node",    "telemetry"};

/* Subjects a role may publish to and subscribe to, besides its own inbox.  NULL: anything. */
struct rights {
    const char *const *publish;
    const char *const *subscribe;
};

#define DIRECT_GET(stream) "$JS.API.DIRECT.GET." stream, "$JS.API.DIRECT.GET." stream ".>"
#define FETCH(stream)      "$JS.API.CONSUMER.MSG.NEXT." stream ".*", "$JS.ACK." stream ".>"

/* Accepts prompts, reads replies, cancels; keeps files and batches; asks how full the queues are.
 */
static const char *const gateway_publish[] = {"prompt.>",
                                              "tok.*.*.c",
                                              "response.>",
                                              "reply.>", /* again, without its text */
                                              "state.gateway.>",
                                              "obj.>",
                                              DIRECT_GET("PROMPTS"),
                                              DIRECT_GET("TOKENS"),
                                              DIRECT_GET("REPLIES"),
                                              DIRECT_GET("OBJECTS"),
                                              "$JS.API.STREAM.PURGE.PROMPTS",
                                              "$JS.API.STREAM.PURGE.OBJECTS",
                                              "$JS.API.STREAM.INFO.*",
                                              "$JS.API.CONSUMER.INFO.PROMPTS.*",
                                              NULL};
static const char *const gateway_subscribe[] = {"live.>", "state.>", NULL};

/* Takes prompts, claims, appends pieces, hands endings over; ends what it meets a tombstone on. */
static const char *const infer_publish[] = {"tok.>",
                                            "response.>",
                                            "dead.>",
                                            "state.infer.>",
                                            FETCH("PROMPTS"),
                                            DIRECT_GET("TOKENS"),
                                            DIRECT_GET("REPLIES"),
                                            NULL};
static const char *const infer_subscribe[] = {"live.*.*.c", "state.gateway.>", "state.infer.>",
                                              NULL};

/* Creates records, tells who waits for them, sweeps the prompt queue for what expired. */
static const char *const respond_publish[] = {"reply.>",
                                              "response.>",
                                              "tok.*.*.c",
                                              "_INBOX_infer.>",
                                              "_INBOX_gateway.>",
                                              "_INBOX_respond.>",
                                              "state.respond.>",
                                              FETCH("RESPONSES"),
                                              DIRECT_GET("PROMPTS"),
                                              DIRECT_GET("TOKENS"),
                                              DIRECT_GET("REPLIES"),
                                              "$JS.API.STREAM.PURGE.TOKENS",
                                              "$JS.API.STREAM.PURGE.PROMPTS",
                                              NULL};
static const char *const respond_subscribe[] = {"state.gateway.>", NULL};

/* A node's supervisor: presence, saying goodbye for a dead child, and handing back what it held. */
static const char *const node_publish[] = {"state.node.>", "state.infer.>", "$JS.ACK.PROMPTS.>",
                                           NULL};
static const char *const node_subscribe[] = {"state.gateway.>", NULL};

static const char *const telemetry_publish[] = {"state.telemetry.>", NULL};
static const char *const telemetry_subscribe[] = {"state.infer.>", "state.node.>",
                                                  "state.gateway.>", NULL};

static const struct rights role_rights[BROKER_ROLE_COUNT] = {
    [BROKER_SETUP] = {NULL, NULL},
    [BROKER_GATEWAY] = {gateway_publish, gateway_subscribe},
    [BROKER_INFER] = {infer_publish, infer_subscribe},
    [BROKER_RESPOND] = {respond_publish, respond_subscribe},
    [BROKER_NODE] = {node_publish, node_subscribe},
    [BROKER_TELEMETRY] = {telemetry_publish, telemetry_subscribe},
};

static enum err list_text(struct buf *out, const char *name, const char *first,
                          const char *const *subjects)
{
    enum err err = buf_printf(out, "        %s: { allow: [", name);
    const char *separator = "";
    if (err == ERR_OK && first) {
        err = buf_printf(out, "\"%s.>\"", first);
        separator = ", ";
    }
    for (; *subjects && err == ERR_OK; subjects++) {
        err = buf_printf(out, "%s\"%s\"", separator, *subjects);
        separator = ", ";
    }
    return err == ERR_OK ? buf_append_text(out, "] }\n") : err;
}

static enum err user_text(struct buf *out, int role, const char *password)
{
    const struct rights *rights = &role_rights[role];
    const char *name = broker_role_names[role];
    char inbox[32] = "_INBOX_";
    strncat(inbox, name, sizeof inbox - strlen(inbox) - 1);
    enum err err = buf_printf(out, "      {user: \"%s\", password: \"%s\"", name, password);
    if (err == ERR_OK && !rights->publish)
        return buf_append_text(out, "}\n");
    if (err == ERR_OK)
        err = buf_append_text(out, ", permissions: {\n");
    if (err == ERR_OK)
        err = list_text(out, "publish", NULL, rights->publish);
    if (err == ERR_OK)
        err = list_text(out, "subscribe", inbox, rights->subscribe);
    return err == ERR_OK ? buf_append_text(out, "      } }\n") : err;
}

/* A text of the configuration language: what would end or bend the quotes is escaped. */
static enum err quoted(struct buf *out, const char *name, const char *value)
{
    enum err err = buf_printf(out, "%s: \"", name);
    for (; *value && err == ERR_OK; value++) {
        if (*value == '"' || *value == '\\')
            err = buf_append(out, "\\", 1);
        if (err == ERR_OK)
            err = buf_append(out, value, 1);
    }
    return err == ERR_OK ? buf_append_text(out, "\"\n") : err;
}

enum err broker_conf_text(struct buf *out, const struct broker_conf *conf,
                          const struct broker_users *users)
{
    enum err err = buf_append_text(out, "# Written at each start of wyvern up.\n"
                                        "server_name: \"wyvern\"\n");
    if (err == ERR_OK)
        err = quoted(out, "host", conf->host);
    if (err == ERR_OK)
        err = buf_printf(out, "port: %d\nmax_payload: %d\nmax_connections: 4096\n", conf->port,
                         BROKER_MAX_PAYLOAD);
    if (err == ERR_OK)
        err = quoted(out, "pid_file", conf->pid_file);
    if (err == ERR_OK)
        err = buf_append_text(out, "jetstream {\n");
    if (err == ERR_OK)
        err = quoted(out, "store_dir", conf->store_dir);
    if (err == ERR_OK)
        err = buf_printf(out,
                         "max_file_store: %dGB\nmax_memory_store: 67108864\n"
                         "sync_interval: always\n}\n"
                         "accounts {\n  SYS { }\n  APP { jetstream: enabled\n    users: [\n",
                         BROKER_STORE_MAX_GIB);
    for (int i = 0; i < BROKER_ROLE_COUNT && err == ERR_OK; i++)
        err = user_text(out, i, users->password[i]);
    if (err == ERR_OK)
        err = buf_append_text(out, "    ] }\n}\nsystem_account: SYS\n");
    return err;
}

enum err broker_join_text(struct buf *out, const char *url, const struct join *model,
                          const struct broker_users *users, bool nodes_only)
{
    enum err err = buf_printf(out,
                              "; Written at each start of wyvern up.  Keep it secret.\n"
                              "[broker]\nurl = %s\n\n[model]\nname = %s\nfile = %s\nsha256 = %s\n",
                              url, model->model, model->model_file, model->model_sha256);
    for (int i = 0; i < BROKER_ROLE_COUNT && err == ERR_OK; i++) {
        bool of_a_node = i == BROKER_INFER || i == BROKER_TELEMETRY || i == BROKER_NODE;
        if (!nodes_only || of_a_node)
            err = buf_printf(out, "\n[%s]\nuser = %s\npassword = %s\n", broker_role_names[i],
                             broker_role_names[i], users->password[i]);
    }
    return err;
}
