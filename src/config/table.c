/*
 * table.c - every option of every verb.  The same rows make parsing, help and docs/CLI.md.
 */
#include "config/table.h"

#include <ctype.h>
#include <string.h>

#define ROLES "gateway infer respond telemetry"
#define ASKS  "ask chat load batch"
#define RUNS  "infer generate"

#define AT(member)  offsetof(struct settings, member)
#define NO_RANGE    0, 0
#define PORT_MAX    65535
#define TOKENS_MAX  1000000
#define SECONDS_MAX (30 * 24 * 3600)
#define SLOTS_MAX   256 /* ENGINE_MAX_SLOTS */
#define CONTEXT_MAX 1048576

const struct option_row option_rows[] = {
    /* every verb */
    {"json", OPTION_FLAG, AT(json), "ask load batch top status doctor generate key", NULL, NULL,
     NO_RANGE, "print JSON for programs"},
    {"quiet", OPTION_FLAG, AT(quiet), "*", NULL, NULL, NO_RANGE, "show no progress and no notes"},
    {"log-level", OPTION_LEVEL, AT(log_level), "*", "error|warn|info|debug", "info", NO_RANGE,
     "what goes to the log on standard error"},
    {"config", OPTION_TEXT, AT(config), "*", "FILE", NULL, NO_RANGE,
     "read options from FILE: name = value lines, named as here; [verb] sections for one verb"},
    {"state-dir", OPTION_TEXT, AT(state_dir), "up node doctor key chat " ROLES, "DIR", NULL,
     NO_RANGE,
     "where queues, logs, credentials and the history of chat lie (else $XDG_STATE_HOME/wyvern or "
     "~/.local/state/wyvern)"},

    /* what people and clients talk to */
    {"url", OPTION_TEXT, AT(url), ASKS " top status", "URL", "http://127.0.0.1:8080", NO_RANGE,
     "the service to talk to"},
    {"host", OPTION_TEXT, AT(host), "up gateway doctor", "ADDRESS", "127.0.0.1", NO_RANGE,
     "address that the gateway listens on; any but loopback lets other machines in"},
    {"port", OPTION_INT, AT(port), "up gateway doctor", "P", "8080", 0, PORT_MAX,
     "the gateway's port; of several, gateway i listens on P + i"},

    {"keys", OPTION_TEXT, AT(keys), "up gateway key", "FILE", NULL, NO_RANGE,
     "API keys (their hashes): with it every request needs one (key: else the file keys in the "
     "state directory)"},
    {"cors", OPTION_TEXT, AT(cors), "up gateway", "ORIGIN,…", NULL, NO_RANGE,
     "web pages that may read replies, as https://host[:port]; * for all (else none)"},
    {"key-file", OPTION_TEXT, AT(key_file), ASKS " top status", "FILE", NULL, NO_RANGE,
     "file that holds the API key to ask with (else the environment's WYVERN_KEY)"},

    /* shape of the service */
    {"nodes", OPTION_INT, AT(nodes), "up", "N", "1", 1, 64,
     "split this machine into N nodes, to try what several machines do"},
    {"workers", OPTION_INT, AT(workers), "up node", "N", "0", 0, 256,
     "inference workers in all, spread over the nodes; 0: one per GPU, else by cores"},
    {"slots", OPTION_INT, AT(slots), "up node " RUNS, "N", "4", 1, SLOTS_MAX,
     "replies that one worker makes at once"},
    {"gateways", OPTION_INT, AT(gateways), "up", "N", "1", 1, 16,
     "gateways to start; each takes any request"},
    {"responders", OPTION_INT, AT(responders), "up", "N", "2", 1, 16,
     "response workers to start: they deliver what the inference workers make"},
    {"model", OPTION_TEXT, AT(model), "up node doctor " RUNS, "FILE", NULL, NO_RANGE,
     "a GGUF file or the name of one in the models folders, or fake:tokens=N,delay_ms=D (else the "
     "default model)"},
    {"chat-template", OPTION_TEXT, AT(chat_template), "up node " RUNS, "NAME", NULL, NO_RANGE,
     "chat template by name, for a model whose own is not known"},
    {"device", OPTION_TEXT, AT(device), "up node " RUNS, "DEVICE", NULL, NO_RANGE,
     "cpu:N or gpu:UUID; several with commas for up and node"},
    {"context", OPTION_INT, AT(context), "up node " RUNS, "N", "0", 0, CONTEXT_MAX,
     "positions (prompt + reply) that one slot holds; 0: what the model takes, at most 4096"},
    {"threads", OPTION_INT, AT(threads), "up node convert " RUNS, "N", "0", 0, 1024,
     "CPU threads of one worker; 0: by cores"},
    {"node-net", OPTION_CHOICE, AT(node_net), "up", "auto|namespaces|ports", "auto", NO_RANGE,
     "how several nodes are kept apart on one machine: network namespaces (as root), or ports"},
    {"listen", OPTION_TEXT, AT(listen), "up", "ADDRESS", NULL, NO_RANGE,
     "address at which nodes elsewhere reach the broker; writes a join file for them"},
    {"metrics-port", OPTION_INT, AT(metrics_port), "up node telemetry", "P", "8000", 0, PORT_MAX,
     "port of a node's metrics; nodes that share an address take P + i"},
    {"metrics-host", OPTION_TEXT, AT(metrics_host), "up node telemetry", "ADDRESS", NULL, NO_RANGE,
     "address that metrics are served on (else loopback, or the node's own address)"},

    /* what watches the service */
    {"prometheus", OPTION_FLAG, AT(prometheus), "up", NULL, NULL, NO_RANGE,
     "start the installed Prometheus beside the service, with our rules and alerts"},
    {"prometheus-port", OPTION_INT, AT(prometheus_port), "up", "P", "9090", 0, PORT_MAX,
     "Prometheus' port; 0: any that is free"},
    {"prometheus-program", OPTION_TEXT, AT(prometheus_program), "up", "FILE", NULL, NO_RANGE,
     "the Prometheus to start (else the one on PATH, or of make deps)"},
    {"grafana", OPTION_FLAG, AT(grafana), "up", NULL, NULL, NO_RANGE,
     "start the installed Grafana with our dashboards, and Prometheus for it"},
    {"grafana-port", OPTION_INT, AT(grafana_port), "up", "P", "3000", 0, PORT_MAX,
     "Grafana's port; 0: any that is free"},
    {"grafana-program", OPTION_TEXT, AT(grafana_program), "up", "FILE", NULL, NO_RANGE,
     "the grafana-server to start (else the one on PATH)"},
    {"watch-host", OPTION_TEXT, AT(watch_host), "up", "ADDRESS", "127.0.0.1", NO_RANGE,
     "address that Prometheus and Grafana listen on; they ask nobody for a password"},
    {"scrape-interval", OPTION_INT, AT(scrape_interval_s), "up", "SECONDS", "5", 1, 3600,
     "how often Prometheus asks each node"},

    /* bounds */
    {"max-queue", OPTION_INT, AT(max_queue), "up gateway", "N", "1024", 1, 1000000,
     "prompts waiting and in flight; more are refused with 429"},
    {"max-wait", OPTION_INT, AT(max_wait_s), "up " ROLES, "SECONDS", "3600", 1, SECONDS_MAX,
     "a prompt that no worker took for so long expires"},
    {"max-reply", OPTION_INT, AT(max_reply_s), "up node " ROLES, "SECONDS", "3600", 1, SECONDS_MAX,
     "longest time that one reply may take"},
    {"keep", OPTION_INT, AT(keep_hours), "up " ROLES, "HOURS", "24", 1, 8760,
     "how long the records of replies are kept"},
    {"keep-files", OPTION_INT, AT(keep_files_hours), "up", "HOURS", "720", 1, 8760,
     "how long files and batches are kept"},
    {"drain-timeout", OPTION_INT, AT(drain_timeout_s), "up node " ROLES, "SECONDS", "600", 0,
     SECONDS_MAX, "on leaving, wait so long for accepted prompts"},
    {"body-limit", OPTION_INT, AT(body_limit_kib), "up gateway", "KIB", "1024", 1, 65536,
     "largest request body"},
    {"file-limit", OPTION_INT, AT(file_limit_mib), "up gateway", "MIB", "64", 1, 200,
     "largest file that may be sent to /v1/files"},
    {"max-connections", OPTION_INT, AT(max_connections), "up gateway", "N", "4096", 1, 100000,
     "connections that a gateway holds at once"},

    /* roles */
    {"join", OPTION_TEXT, AT(join), "node " ROLES, "FILE", NULL, NO_RANGE,
     "the broker's address and credentials and the model's name, as wyvern up --listen wrote them"},
    {"name", OPTION_TEXT, AT(name), "node " ROLES, "NAME", NULL, NO_RANGE,
     "this process's own name in status and metrics"},
    {"node", OPTION_TEXT, AT(node), "node " ROLES, "NAME", NULL, NO_RANGE,
     "name of the node it belongs to (else the host's name)"},
    {"address", OPTION_TEXT, AT(address), "node telemetry", "ADDRESS", NULL, NO_RANGE,
     "address at which others see this node"},
    {"expect-workers", OPTION_INT, AT(expect_workers), "gateway", "N", "1", 0, 100000,
     "/ready answers 503 until so many workers have been ready"},
    {"job-mapping", OPTION_TEXT, AT(job_mapping), "up node telemetry", "DIR", NULL, NO_RANGE,
     "where the cluster's scheduler says what runs on which GPU: files named by GPU index, one job "
     "id a line, as dcgm-exporter reads them"},
    {"procfs", OPTION_TEXT, AT(procfs), "telemetry", "DIR", "/proc", NO_RANGE,
     "where the node's own figures are read"},
    {"sysfs", OPTION_TEXT, AT(sysfs), "telemetry", "DIR", "/sys", NO_RANGE,
     "where AMD GPUs are looked for"},
    {"broker-pid-file", OPTION_TEXT, AT(broker_pid_file), "gateway", "FILE", NULL, NO_RANGE,
     "holds the process id of a private broker, for /wyvern/status"},

    /* asking */
    {"min-tokens", OPTION_INT, AT(min_tokens), ASKS " generate", "N", NULL, 0, TOKENS_MAX,
     "new tokens that a reply has at least (load: 100)"},
    {"max-tokens", OPTION_INT, AT(max_tokens), ASKS " generate", "N", NULL, 1, TOKENS_MAX,
     "new tokens that a reply has at most (load: 300)"},
    {"temperature", OPTION_REAL, AT(temperature), ASKS " generate", "X", NULL, 0, 2,
     "how freely a token is drawn; 0: always the likeliest"},
    {"top-p", OPTION_REAL, AT(top_p), ASKS " generate", "X", NULL, 0, 1,
     "draw from the likeliest tokens that make up this probability; 1: off"},
    {"top-k", OPTION_INT, AT(top_k), ASKS " generate", "N", NULL, 0, TOKENS_MAX,
     "draw from the N likeliest tokens; 0: off"},
    {"seed", OPTION_INT64, AT(seed), ASKS " generate", "N", NULL, 0, 9007199254740991.0,
     "begins the draws: the same seed draws the same tokens"},
    {"params", OPTION_TEXT, AT(params), "up gateway " ASKS " generate", "JSON", NULL, NO_RANGE,
     "parameters as a JSON object (up and gateway: of every reply, where a request does not say): "
     "max_tokens, temperature, stop … and for blenderbot Hugging Face's: num_beams, length_penalty "
     "…; docs/API.md lists all"},
    {"truncate", OPTION_CHOICE, AT(truncate), "up gateway " ASKS " generate", "none|left", NULL,
     NO_RANGE,
     "left: cut a prompt that is too long from the left instead of refusing it (blenderbot)"},
    {"system", OPTION_TEXT, AT(system), ASKS " generate", "TEXT", NULL, NO_RANGE,
     "system message before the prompt"},
    {"user", OPTION_TEXT, AT(user), ASKS, "NAME", NULL, NO_RANGE,
     "who asks: the prompter's name, as others see it in status and logs"},
    {"details", OPTION_FLAG, AT(details), "ask", NULL, NULL, NO_RANGE,
     "show the ids and the workers with the reply"},
    {"repeat", OPTION_INT, AT(repeat), "load", "N", "7", 1, 100000, "ask each prompt N times"},
    {"prompts", OPTION_TEXT, AT(prompts), "load", "FILE", NULL, NO_RANGE,
     "prompts of your own, one a line; - for standard input (else fifteen built-in ones)"},
    {"output", OPTION_TEXT, AT(output), "batch", "FILE", NULL, NO_RANGE,
     "also -o: the answers, one a line; an earlier run's are kept and not asked for again (else "
     "standard output)"},
    {"parallel", OPTION_INT, AT(parallel), "batch", "N", "0", 0, 1024,
     "lines asked at once; 0: as many as the service has slots"},
    {"ordered", OPTION_FLAG, AT(ordered), "batch", NULL, NULL, NO_RANGE,
     "answers in the order of the lines, not as they come"},
    {"once", OPTION_FLAG, AT(once), "top", NULL, NULL, NO_RANGE,
     "look for three seconds, print what there is, and end; so without a terminal"},
    {"concurrency", OPTION_INT, AT(concurrency), "load", "N", "0", 0, 100000,
     "prompts open at once; 0: all"},

    /* generate, convert */
    {"trace", OPTION_FLAG, AT(trace), "generate", NULL, NULL, NO_RANGE,
     "with --json: what the encoder made of the prompt and the first token's best scores"},
    {"type", OPTION_TEXT, AT(type), "convert", "TYPE", NULL, NO_RANGE,
     "weight type of the file written: f32, f16, q8_0, q4_0 … (a checkpoint: its own, f16 or f32; "
     "a GGUF: q8_0)"},
};
const struct option_letter option_letters[] = {{'q', "quiet"}, {'o', "output"}};
const size_t option_letter_count = sizeof option_letters / sizeof option_letters[0];

const size_t option_row_count = sizeof option_rows / sizeof option_rows[0];

void option_env_name(char out[OPTION_ENV_SIZE], const char *name)
{
    static const char prefix[] = "WYVERN_";
    size_t at = sizeof prefix - 1;
    memcpy(out, prefix, at);
    for (; *name != '\0' && at < OPTION_ENV_SIZE - 1; name++)
        out[at++] = *name == '-' ? '_' : (char)toupper((unsigned char)*name);
    out[at] = '\0';
}

bool option_taken_by(const struct option_row *row, const char *verb)
{
    if (strcmp(row->verbs, "*") == 0)
        return true;
    size_t len = strlen(verb);
    for (const char *at = row->verbs; at != NULL; at = strchr(at, ' ')) {
        at += strspn(at, " ");
        if (strncmp(at, verb, len) == 0 && (at[len] == ' ' || at[len] == '\0'))
            return true;
    }
    return false;
}
