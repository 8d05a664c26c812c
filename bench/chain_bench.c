/*
 * chain_bench.c - the broker's own hops of a reply: the messages of docs/PROTOCOL.md from the
 * prompt to the record, in their order and of the same lengths, with nothing behind them.
 *
 *   chain_bench SERVICE_INI USERS WARM_SECONDS SECONDS TOKENS DELAY_MS PROMPT CLAIM PIECE ENDING
 *
 * One process plays gateway, worker and response worker, each on a connection of its own, in
 * streams made for it (bench/gateway.py): settings as the service's, names with a "b" before them.
 * Each of USERS has one prompt on its way, and begins the next when its record is heard:
 *
 *   gateway    puts the prompt (synced)
 *   worker     gets it by a pull; claims; appends TOKENS pieces, DELAY_MS apart, and "done", each
 *              once the one before is acknowledged; hands the ending over; acknowledges the prompt
 *   responder  gets the ending by a pull; creates the record (synced); answers; purges the pieces
 *   gateway    hears pieces and record republished; puts the record again, erased (synced)
 *
 * Prints one JSON line: milliseconds from putting the prompt until the record is heard, and until
 * the first piece is heard, less TOKENS and one times DELAY_MS.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/id.h"
#include "plain_nats.h"

#define USERS_MAX   256
#define SAMPLES_MAX 200000
#define LENGTH_MAX  65536
#define LINGER_NS   (NS_PER_S / 2)
#define GATEWAY     "0123456789abcdef"
#define NONE_YET    "Nats-Expected-Last-Subject-Sequence: 0\r\n"

enum { SID_ANSWER = 1, SID_PULLED, SID_LIVE };

struct user {
    char id[ID_SIZE];   /* of its prompt: begins with the user's number */
    char ack[256];      /* where the worker acknowledges the prompt */
    char last_ack[256]; /* and the prompt before, which may not be acknowledged yet */
    int64_t put_ns, start_ns, first_ns;
    uint64_t fence; /* sequence of the claim; 0: not acknowledged */
    int appended;   /* pieces whose append was acknowledged */
    bool busy;      /* an append is on its way */
    bool running, done;
};

struct chain {
    struct plain_nats gateway, worker, responder;
    struct user users[USERS_MAX];
    int user_count, tokens;
    double delay_ms;
    size_t prompt_len, claim_len, piece_len, ending_len;
    char filler[LENGTH_MAX];
    int64_t from_ns, until_ns;
    int open; /* prompts on their way */
    float first_ms[SAMPLES_MAX], whole_ms[SAMPLES_MAX];
    size_t samples;
};

static int user_of(const char *id)
{
    char digits[5] = "";
    memcpy(digits, id, 4);
    return (int)strtol(digits, NULL, 16);
}

/* The token after the first `dots` dots. */
static const char *token(const char *subject, int dots)
{
    for (; dots > 0 && subject != NULL; dots--) {
        subject = strchr(subject, '.');
        subject = subject != NULL ? subject + 1 : NULL;
    }
    return subject != NULL ? subject : "0000";
}

/* ---- gateway ---- */

static void put_prompt(struct chain *chain, int number)
{
    struct user *user = &chain->users[number];
    char subject[128], reply[64], id[ID_SIZE];
    id_random(id, ID_LEN);
    struct user next = {.put_ns = clock_mono_ns()};
    memcpy(next.last_ack, user->ack, sizeof next.last_ack);
    *user = next;
    snprintf(user->id, sizeof user->id, "%04x%s", (unsigned)number, id + 4);
    snprintf(subject, sizeof subject, "bprompt.m.main.%s", user->id);
    snprintf(reply, sizeof reply, "_INBOX_bg.%s", user->id);
    plain_nats_publish(&chain->gateway, subject, reply, NONE_YET, chain->filler, chain->prompt_len);
    chain->open++;
}

static void erase(struct chain *chain, const struct plain_message *message)
{
    char headers[128];
    const char *sequence = strstr(message->headers, "Nats-Sequence: ");
    snprintf(headers, sizeof headers, "Nats-Expected-Last-Subject-Sequence: %llu\r\n",
             sequence != NULL ? strtoull(sequence + 15, NULL, 10) : 0);
    char subject[128];
    snprintf(subject, sizeof subject, "breply.%s", token(message->subject, 1));
    plain_nats_publish(&chain->gateway, subject, "_INBOX_bg.erased", headers, chain->filler,
                       chain->ending_len);
}

static void on_record(struct chain *chain, struct user *user)
{
    int64_t now_ns = clock_mono_ns();
    if (user->put_ns >= chain->from_ns && user->put_ns < chain->until_ns &&
        chain->samples < SAMPLES_MAX) {
        chain->first_ms[chain->samples] =
            (float)((double)(user->first_ns - user->put_ns) / 1e6 - chain->delay_ms);
        chain->whole_ms[chain->samples++] =
            (float)((double)(now_ns - user->put_ns) / 1e6 - chain->tokens * chain->delay_ms);
    }
    user->done = true;
    chain->open--;
    if (now_ns < chain->until_ns)
        put_prompt(chain, (int)(user - chain->users));
}

static void on_gateway(void *arg, const struct plain_message *message)
{
    struct chain *chain = arg;
    const char *id = token(message->subject, 2);
    struct user *user = &chain->users[user_of(id)];
    if (message->sid != SID_LIVE || strncmp(user->id, id, ID_LEN) != 0)
        return;
    size_t len = strlen(message->subject);
    bool piece = len > 2 && strcmp(message->subject + len - 2, ".p") == 0;
    bool claim = len > 2 && strcmp(message->subject + len - 2, ".c") == 0;
    if (piece && user->first_ns == 0)
        user->first_ns = clock_mono_ns();
    else if (!piece && !claim && !user->done) {
        erase(chain, message);
        on_record(chain, user);
    }
}

/* ---- worker ---- */

static void pull(struct plain_nats *nats, const char *consumer, const char *inbox, int count)
{
    char subject[128], ask[64];
    snprintf(subject, sizeof subject, "$JS.API.CONSUMER.MSG.NEXT.%s", consumer);
    int len = snprintf(ask, sizeof ask, "{\"batch\":%d,\"expires\":300000000000}", count);
    plain_nats_publish(nats, subject, inbox, NULL, ask, (size_t)len);
}

static void begin(struct chain *chain, const struct plain_message *message)
{
    const char *id = token(message->subject, 3);
    struct user *user = &chain->users[user_of(id)];
    char subject[128], reply[64];
    if (strncmp(user->id, id, ID_LEN) != 0) { /* an earlier run's, left unacknowledged */
        plain_nats_publish(&chain->worker, message->reply, NULL, NULL, "+ACK", 4);
        pull(&chain->worker, "BENCH_PROMPTS.m-main", "_INBOX_bwp.p", 1);
        return;
    }
    user->start_ns = clock_mono_ns();
    user->running = true;
    snprintf(user->ack, sizeof user->ack, "%s", message->reply);
    snprintf(subject, sizeof subject, "btok." GATEWAY ".%s.c", user->id);
    snprintf(reply, sizeof reply, "_INBOX_bw.c.%s", user->id);
    plain_nats_publish(&chain->worker, subject, reply, NONE_YET, chain->filler, chain->claim_len);
}

static void append(struct chain *chain, struct user *user)
{
    char subject[128], reply[64], headers[256];
    snprintf(subject, sizeof subject, "btok." GATEWAY ".%s.p", user->id);
    snprintf(reply, sizeof reply, "_INBOX_bw.p.%s", user->id);
    snprintf(headers, sizeof headers,
             "Nats-Expected-Last-Subject-Sequence: %" PRIu64
             "\r\nNats-Expected-Last-Subject-Sequence-Subject: btok." GATEWAY ".%s.c\r\n",
             user->fence, user->id);
    plain_nats_publish(&chain->worker, subject, reply, headers, chain->filler, chain->piece_len);
    user->busy = true;
}

/* When the user's next message is due; INT64_MAX: it waits for something else. */
static int64_t due_ns(const struct chain *chain, const struct user *user)
{
    if (!user->running || user->busy || user->fence == 0)
        return INT64_MAX;
    if (user->appended >= chain->tokens)
        return 0; /* "done" follows at once */
    return user->start_ns + (int64_t)((user->appended + 1) * chain->delay_ms * 1e6);
}

static void hand_over(struct chain *chain, struct user *user)
{
    char subject[64];
    user->running = false;
    snprintf(subject, sizeof subject, "bresponse.%s", user->id);
    plain_nats_publish(&chain->worker, subject, NULL, NULL, chain->filler, chain->ending_len);
    pull(&chain->worker, "BENCH_PROMPTS.m-main", "_INBOX_bwp.p", 1);
}

static void on_worker(void *arg, const struct plain_message *message)
{
    struct chain *chain = arg;
    if (message->sid == SID_PULLED && strncmp(message->subject, "bprompt.", 8) == 0) {
        begin(chain, message);
        return;
    }
    if (message->sid != SID_ANSWER)
        return;
    const char *kind = token(message->subject, 1);
    const char *id = token(message->subject, 2);
    struct user *user = &chain->users[user_of(id)];
    if (*kind == 'd') /* the record exists; the user may be with its next prompt already */
        plain_nats_publish(&chain->worker, token(message->subject, 3), "_INBOX_bw.a.0000", NULL,
                           "+ACK", 4);
    if (strncmp(user->id, id, ID_LEN) != 0)
        return;
    char text[256];
    snprintf(text, sizeof text, "%.*s", (int)message->len, message->data);
    const char *seq = strstr(text, "\"seq\":");
    if (*kind == 'c' && seq != NULL) {
        user->fence = strtoull(seq + 6, NULL, 10);
    } else if (*kind == 'p') {
        user->busy = false;
        if (user->appended++ >= chain->tokens)
            hand_over(chain, user);
    }
}

/* ---- response worker ---- */

static void on_responder(void *arg, const struct plain_message *message)
{
    struct chain *chain = arg;
    char subject[512], reply[512], ask[128];
    if (message->sid == SID_PULLED && strncmp(message->subject, "bresponse.", 10) == 0) {
        const char *id = token(message->subject, 1);
        snprintf(subject, sizeof subject, "breply." GATEWAY ".%s", id);
        snprintf(reply, sizeof reply, "_INBOX_br.%s.%s", id, message->reply);
        plain_nats_publish(&chain->responder, subject, reply, NONE_YET, chain->filler,
                           chain->ending_len);
        pull(&chain->responder, "BENCH_RESPONSES.respond", "_INBOX_brp.p", 1);
    } else if (message->sid == SID_ANSWER &&
               strncmp(message->subject, "_INBOX_br.purged", 16) != 0) {
        char id[ID_SIZE];
        snprintf(id, sizeof id, "%s", token(message->subject, 1));
        const struct user *user = &chain->users[user_of(id)];
        bool present = strncmp(user->id, id, ID_LEN) == 0;
        snprintf(subject, sizeof subject, "_INBOX_bw.d.%s.%s", id,
                 present ? user->ack : user->last_ack);
        plain_nats_publish(&chain->responder, subject, NULL, NULL, "+", 1);
        plain_nats_publish(&chain->responder, token(message->subject, 2), NULL, NULL, "+ACK", 4);
        int len = snprintf(ask, sizeof ask, "{\"filter\":\"btok." GATEWAY ".%s.p\"}", id);
        plain_nats_publish(&chain->responder, "$JS.API.STREAM.PURGE.BENCH_TOKENS",
                           "_INBOX_br.purged", NULL, ask, (size_t)len);
    }
}

/* ---- all of it ---- */

static void open_all(struct chain *chain, const struct join *join)
{
    plain_nats_open(&chain->gateway, join);
    plain_nats_subscribe(&chain->gateway, "_INBOX_bg.>", SID_ANSWER);
    plain_nats_subscribe(&chain->gateway, "blive." GATEWAY ".>", SID_LIVE);
    plain_nats_open(&chain->worker, join);
    plain_nats_subscribe(&chain->worker, "_INBOX_bw.>", SID_ANSWER);
    plain_nats_subscribe(&chain->worker, "_INBOX_bwp.>", SID_PULLED);
    plain_nats_subscribe(&chain->worker, "blive.*.*.c", SID_LIVE);
    pull(&chain->worker, "BENCH_PROMPTS.m-main", "_INBOX_bwp.p", chain->user_count);
    plain_nats_open(&chain->responder, join);
    plain_nats_subscribe(&chain->responder, "_INBOX_br.>", SID_ANSWER);
    plain_nats_subscribe(&chain->responder, "_INBOX_brp.>", SID_PULLED);
    pull(&chain->responder, "BENCH_RESPONSES.respond", "_INBOX_brp.p", chain->user_count);
}

/* Sends what is due; returns when the next is. */
static int64_t send_due(struct chain *chain)
{
    int64_t now_ns = clock_mono_ns(), next_ns = now_ns + LINGER_NS;
    for (int i = 0; i < chain->user_count; i++) {
        int64_t due = due_ns(chain, &chain->users[i]);
        if (due <= now_ns)
            append(chain, &chain->users[i]);
        else if (due < next_ns)
            next_ns = due;
    }
    return next_ns;
}

static void turn(struct chain *chain, int64_t next_ns)
{
    struct plain_nats *all[] = {&chain->gateway, &chain->worker, &chain->responder};
    plain_message_fn *fns[] = {on_gateway, on_worker, on_responder};
    struct pollfd fds[3];
    for (int i = 0; i < 3; i++) {
        plain_nats_flush(all[i]);
        fds[i] = (struct pollfd){.fd = all[i]->fd, .events = POLLIN};
    }
    int64_t wait_ns = next_ns - clock_mono_ns();
    wait_ns = wait_ns > 0 ? wait_ns : 0;
    const struct timespec wait = {.tv_sec = wait_ns / NS_PER_S, .tv_nsec = wait_ns % NS_PER_S};
    if (ppoll(fds, 3, &wait, NULL) < 0 && errno != EINTR)
        exit(EXIT_FAILURE);
    for (int i = 0; i < 3; i++) {
        if (fds[i].revents != 0)
            plain_nats_read(all[i], fns[i], chain);
    }
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a;
    float y = *(const float *)b;
    return (x > y) - (x < y);
}

static double part_of(float *values, size_t count, double p)
{
    qsort(values, count, sizeof *values, by_value);
    return (double)values[(size_t)(p * (double)(count - 1))];
}

int main(int argc, char **argv)
{
    static struct chain chain;
    struct join join = {0};
    if (argc != 11) {
        fputs("usage: chain_bench SERVICE_INI USERS WARM_SECONDS SECONDS TOKENS DELAY_MS PROMPT "
              "CLAIM PIECE ENDING\n",
              stderr);
        return EX_USAGE;
    }
    size_t *lengths[] = {&chain.prompt_len, &chain.claim_len, &chain.piece_len, &chain.ending_len};
    for (int i = 0; i < 4; i++) {
        *lengths[i] = strtoul(argv[7 + i], NULL, 10);
        if (*lengths[i] > LENGTH_MAX)
            return EX_USAGE;
    }
    chain.user_count = atoi(argv[2]);
    chain.tokens = atoi(argv[5]);
    chain.delay_ms = atof(argv[6]);
    memset(chain.filler, 'x', sizeof chain.filler);
    if (chain.user_count < 1 || chain.user_count > USERS_MAX || chain.tokens < 1)
        return EX_USAGE;
    if (join_read(&join, argv[1], "setup") != ERR_OK) {
        fprintf(stderr, "chain_bench: %s\n", err_text());
        return EXIT_FAILURE;
    }
    open_all(&chain, &join);
    int64_t begin_ns = clock_mono_ns();
    chain.from_ns = begin_ns + (int64_t)(atof(argv[3]) * 1e9);
    chain.until_ns = chain.from_ns + (int64_t)(atof(argv[4]) * 1e9);
    /* Users come one after the other, spread over one reply's time. */
    int64_t apart_ns = (int64_t)(chain.tokens * chain.delay_ms * 1e6) / chain.user_count;
    int64_t last_ns = chain.until_ns + LINGER_NS; /* acknowledgements are heard out too */
    int begun = 0;
    while (begun < chain.user_count || chain.open > 0 || clock_mono_ns() < last_ns) {
        int64_t next_ns = send_due(&chain), come_ns = begin_ns + begun * apart_ns;
        if (begun < chain.user_count && come_ns <= clock_mono_ns())
            put_prompt(&chain, begun++);
        else if (begun < chain.user_count && come_ns < next_ns)
            next_ns = come_ns;
        turn(&chain, next_ns);
    }
    if (chain.samples == 0)
        return EXIT_FAILURE;
    printf("{\"samples\":%zu,\"whole_p50_ms\":%.3f,\"whole_p99_ms\":%.3f,\"first_p50_ms\":%.3f,"
           "\"first_p99_ms\":%.3f}\n",
           chain.samples, part_of(chain.whole_ms, chain.samples, 0.5),
           part_of(chain.whole_ms, chain.samples, 0.99),
           part_of(chain.first_ms, chain.samples, 0.5),
           part_of(chain.first_ms, chain.samples, 0.99));
    plain_nats_close(&chain.gateway);
    plain_nats_close(&chain.worker);
    plain_nats_close(&chain.responder);
    join_done(&join);
    return EXIT_SUCCESS;
}
