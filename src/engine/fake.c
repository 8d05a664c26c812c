/*
 * fake.c - an engine that plays a script: pieces, delays, errors and deaths, for tests and
 * simulation.
 *
 * Model text: fake:tokens=N,delay_ms=D,load_ms=L,fail_load=1,logprobs=0 (each may be left out;
 * logprobs=0: an engine that does not tell them, though asked).  A sequence
 * answers N pieces, piece i (from 0) is "TAG.i ", due (i + 1) * D ms after its start, so that
 * sequences do not slow each other.  Words of the last user message override or add:
 *   tokens=N delay_ms=D   for this sequence
 *   error_at=K            the sequence fails when piece K is due
 *   crash_at=K            the process kills itself (SIGKILL) when piece K is due
 *   hang_at=K             the step that should make piece K never returns
 * TAG is the message's first word without '=' in it, "w" if there is none.
 *
 * Penalties, biases and grammars change nothing.  Other tasks than replies: fake_task.h; embeddings
 * take D ms.
 */
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/emit.h"
#include "engine/fake_task.h"
#include "engine/ops.h"

#define MAX_TOKENS   10000000
#define MAX_DELAY_MS 3600000
#define TAG_MAX      64 /* bytes */
#define NEVER        INT64_MAX
#define SPACE        " \t\r\n\v\f"

struct script {
    int64_t tokens, delay_ms, error_at, crash_at, hang_at;
};

struct fake_seq {
    bool active;
    void *user;
    struct script script;
    char tag[TAG_MAX + 1];
    int64_t start_ns;
    int64_t first; /* number of the first piece made here */
    int64_t next;  /* number of the next piece */
    int64_t end;   /* one past the last piece */
    bool cut;      /* max_tokens ends it before the script does */
    bool ending;   /* nothing left to make but the last event */
    int64_t first_ns;
    unsigned prompt_tokens;
    char error_text[64];
    struct emit emit;
    int logprobs; /* alternatives told; -1: nothing is */
    bool is_task;
    struct task_result task;
};

struct fake {
    struct engine base;
    struct script script;
    bool tells_logprobs;
    struct fake_seq *seqs;
    unsigned active;
};

/* "tokens=12" with a name from the list → its value.  A word that is none is not an error: it is
 * part of the prompt. */
static bool read_setting(const char *word, size_t len, const char *name, int64_t max, int64_t *out)
{
    size_t name_len = strlen(name);
    if (len < name_len + 2 || len > name_len + 12 || strncmp(word, name, name_len) != 0 ||
        word[name_len] != '=')
        return false;
    int64_t value = 0;
    for (size_t i = name_len + 1; i < len; i++) {
        if (word[i] < '0' || word[i] > '9')
            return false;
        value = value * 10 + (word[i] - '0');
    }
    if (value > max)
        return false;
    *out = value;
    return true;
}

static bool read_word(const char *word, size_t len, struct script *script)
{
    return read_setting(word, len, "tokens", MAX_TOKENS, &script->tokens) ||
           read_setting(word, len, "delay_ms", MAX_DELAY_MS, &script->delay_ms) ||
           read_setting(word, len, "error_at", MAX_TOKENS, &script->error_at) ||
           read_setting(word, len, "crash_at", MAX_TOKENS, &script->crash_at) ||
           read_setting(word, len, "hang_at", MAX_TOKENS, &script->hang_at);
}

static void sleep_ms(int64_t ms)
{
    struct timespec left = {.tv_sec = (time_t)(ms / MS_PER_S),
                            .tv_nsec = (long)(ms % MS_PER_S * NS_PER_MS)};
    while (nanosleep(&left, &left) != 0)
        continue;
}

static enum err read_model(const char *text, struct script *script, int64_t *load_ms,
                           int64_t *logprobs)
{
    int64_t fail = 0;
    *script = (struct script){.tokens = 16, .delay_ms = 10, NEVER, NEVER, NEVER};
    *load_ms = 0;
    *logprobs = 1;
    while (*text != '\0') {
        size_t len = strcspn(text, ",");
        if (!read_word(text, len, script) &&
            !read_setting(text, len, "load_ms", MAX_DELAY_MS, load_ms) &&
            !read_setting(text, len, "logprobs", 1, logprobs) &&
            !read_setting(text, len, "fail_load", 1, &fail))
            return err_set(ERR_USAGE,
                           "the fake model does not understand \"%.*s\": use "
                           "fake:tokens=N,delay_ms=D,load_ms=L",
                           (int)(len < 100 ? len : 100), text);
        text += len + (text[len] == ',');
    }
    if (fail != 0) {
        sleep_ms(*load_ms);
        return err_set(ERR_INVALID, "the fake model was asked to fail while loading");
    }
    return ERR_OK;
}

static void fake_close(struct engine *engine)
{
    struct fake *fake = (struct fake *)engine;
    for (unsigned i = 0; fake->seqs != NULL && i < engine->info.slots; i++) {
        emit_done(&fake->seqs[i].emit);
        task_result_done(&fake->seqs[i].task);
    }
    free(fake->seqs);
    free(fake);
}

static enum err fake_open(struct engine **out, const struct engine_config *config)
{
    struct script script;
    int64_t load_ms, logprobs;
    enum err err = read_model(config->model + strlen(FAKE_PREFIX), &script, &load_ms, &logprobs);
    if (err != ERR_OK)
        return err;
    struct fake *fake = calloc(1, sizeof *fake);
    if (fake == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    fake->base.ops = &fake_ops;
    fake->script = script;
    fake->tells_logprobs = logprobs != 0;
    struct engine_info *info = &fake->base.info;
    snprintf(info->name, sizeof info->name, "%s", config->model);
    snprintf(info->arch, sizeof info->arch, "fake");
    info->slots = config->slots;
    info->context = config->context > 0 ? config->context : ENGINE_AUTO_CTX;
    fake->base.kv_positions = (size_t)info->context * info->slots;
    fake->seqs = calloc(config->slots, sizeof *fake->seqs);
    if (fake->seqs == NULL) {
        fake_close(&fake->base);
        return err_set(ERR_NOMEM, "out of memory");
    }
    sleep_ms(load_ms);
    *out = &fake->base;
    return ERR_OK;
}

static unsigned count_words(const char *text)
{
    unsigned count = 0;
    for (text += strspn(text, SPACE); *text != '\0'; text += strspn(text, SPACE)) {
        count++;
        text += strcspn(text, SPACE);
    }
    return count;
}

static unsigned prompt_words(const struct engine_request *request)
{
    if (request->messages == NULL)
        return count_words(request->raw_prompt);
    unsigned count = 0;
    for (size_t i = 0; i < request->message_count; i++)
        count += count_words(request->messages[i].content);
    return count;
}

static const char *last_user_text(const struct engine_request *request)
{
    if (request->messages == NULL)
        return request->raw_prompt;
    for (size_t i = request->message_count; i > 0; i--) {
        if (strcmp(request->messages[i - 1].role, "user") == 0)
            return request->messages[i - 1].content;
    }
    return "";
}

/* The tag and the settings in the words of the prompt. */
static void read_prompt(struct fake_seq *seq, const char *text)
{
    snprintf(seq->tag, sizeof seq->tag, "w");
    bool tagged = false;
    for (text += strspn(text, SPACE); *text != '\0'; text += strspn(text, SPACE)) {
        size_t len = strcspn(text, SPACE);
        bool setting = memchr(text, '=', len) != NULL;
        if (setting) {
            read_word(text, len, &seq->script);
        } else if (!tagged) {
            size_t cut = len < TAG_MAX ? len : TAG_MAX;
            while (cut < len && ((unsigned char)text[cut] & 0xC0) == 0x80)
                cut--; /* not within a character */
            snprintf(seq->tag, sizeof seq->tag, "%.*s", (int)cut, text);
            tagged = true;
        }
        text += len;
    }
}

static int piece_text(char *out, size_t cap, const struct fake_seq *seq, int64_t number)
{
    return snprintf(out, cap, "%s.%lld ", seq->tag, (long long)number);
}

/* Puts in what another worker said already. */
static enum err resume(struct fake_seq *seq, const struct engine_request *request)
{
    int64_t said = (int64_t)(request->resume_token_count > 0 ? request->resume_token_count
                                                             : request->resume_pieces);
    if (said > MAX_TOKENS)
        return err_set(ERR_INVALID, "too many pieces to go on from");
    enum err err = ERR_OK;
    char text[TAG_MAX + 32];
    for (int64_t i = 0; err == ERR_OK && request->resume_text != NULL && i < said; i++) {
        int len = piece_text(text, sizeof text, seq, i);
        err = emit_token(&seq->emit, (int32_t)i, text, (size_t)len);
    }
    if (err == ERR_OK && request->resume_text != NULL)
        err = emit_resume(&seq->emit, request->resume_text);
    seq->first = seq->next = said;
    return err;
}

/* The script of a reply, and how far it goes. */
static enum err start_reply(struct fake_seq *seq, const struct engine_request *request)
{
    const struct engine_params *params = &request->params;
    read_prompt(seq, last_user_text(request));
    seq->end = seq->script.tokens;
    if (seq->end < params->min_tokens)
        seq->end = params->min_tokens;
    if (params->max_tokens > 0 && seq->end > params->max_tokens) {
        seq->end = params->max_tokens;
        seq->cut = true;
    }
    enum err err = emit_init(&seq->emit, params->stop, params->stop_count);
    if (err == ERR_OK)
        err = resume(seq, request);
    seq->ending = seq->next >= seq->end || seq->emit.stopped;
    return err;
}

static enum err start_task(struct fake_seq *seq, const struct engine_request *request)
{
    seq->is_task = true;
    task_result_init(&seq->task);
    seq->ending = request->task != ENGINE_EMBED;
    return fake_task_run(request, &seq->task);
}

static enum err fake_start(struct engine *engine, const struct engine_request *request)
{
    struct fake *fake = (struct fake *)engine;
    bool is_task = request->task != ENGINE_GENERATE;
    unsigned words = is_task ? 0 : prompt_words(request);
    if (words >= engine->info.context)
        return err_set(ERR_LIMIT, "the prompt has %u tokens and the model takes at most %u", words,
                       engine->info.context - 1);
    struct fake_seq *seq = fake->seqs;
    while (seq < fake->seqs + engine->info.slots && seq->active)
        seq++;
    if (seq == fake->seqs + engine->info.slots)
        return err_set(ERR_FULL, "no free slot");

    emit_done(&seq->emit);
    task_result_done(&seq->task);
    *seq = (struct fake_seq){.user = request->user,
                             .script = fake->script,
                             .start_ns = clock_mono_ns(),
                             .logprobs = fake->tells_logprobs ? request->params.logprobs : -1,
                             .prompt_tokens = words};
    enum err err = is_task ? start_task(seq, request) : start_reply(seq, request);
    if (err != ERR_OK) {
        emit_done(&seq->emit);
        task_result_done(&seq->task);
        return err;
    }
    seq->active = true;
    fake->active++;
    return ERR_OK;
}

static void fake_cancel(struct engine *engine, const void *user)
{
    struct fake *fake = (struct fake *)engine;
    for (unsigned i = 0; i < engine->info.slots; i++) {
        if (fake->seqs[i].active && fake->seqs[i].user == user) {
            fake->seqs[i].active = false;
            fake->active--;
        }
    }
}

static unsigned fake_active(const struct engine *engine)
{
    return ((const struct fake *)engine)->active;
}

static size_t fake_kv_held(const struct engine *engine)
{
    const struct fake *fake = (const struct fake *)engine;
    size_t held = 0;
    for (unsigned i = 0; i < engine->info.slots; i++) {
        const struct fake_seq *seq = &fake->seqs[i];
        held += seq->active ? seq->prompt_tokens + (size_t)seq->next : 0;
    }
    return held < engine->kv_positions ? held : engine->kv_positions;
}

static int64_t seq_due_ns(const struct fake_seq *seq)
{
    if (seq->ending)
        return 0;
    return seq->start_ns + (seq->next - seq->first + 1) * seq->script.delay_ms * NS_PER_MS;
}

static int64_t fake_due_ns(const struct engine *engine)
{
    const struct fake *fake = (const struct fake *)engine;
    int64_t due = INT64_MAX;
    for (unsigned i = 0; i < engine->info.slots; i++) {
        const struct fake_seq *seq = &fake->seqs[i];
        if (seq->active && seq_due_ns(seq) < due)
            due = seq_due_ns(seq);
    }
    return due;
}

/* Makes the piece that is due: into seq->emit. */
static enum err make_piece(struct fake_seq *seq)
{
    if (seq->next == seq->script.crash_at)
        raise(SIGKILL);
    while (seq->next == seq->script.hang_at)
        pause();
    if (seq->next == seq->script.error_at)
        return err_set(ERR_INTERNAL, "the fake model was asked to fail at piece %lld",
                       (long long)seq->next);
    char text[TAG_MAX + 32];
    int len = piece_text(text, sizeof text, seq, seq->next);
    enum err err = ERR_OK;
    if (seq->logprobs >= 0)
        err = fake_tell_logprobs(&seq->emit, seq->next, text, (size_t)len, seq->logprobs);
    if (err == ERR_OK)
        err = emit_token(&seq->emit, (int32_t)seq->next, text, (size_t)len);
    if (err == ERR_OK) {
        seq->next++;
        seq->ending = seq->next >= seq->end || seq->emit.stopped;
    }
    return err;
}

static void fill_last(struct fake_seq *seq, struct engine_event *event, int64_t now_ns)
{
    event->last = true;
    event->prompt_tokens = seq->prompt_tokens;
    event->reply_tokens = (unsigned)seq->next;
    event->finish = seq->cut && !seq->emit.stopped ? ENGINE_FINISH_LENGTH : ENGINE_FINISH_STOP;
    if (seq->first_ns == 0)
        seq->first_ns = now_ns;
    event->timings.prompt_ms = (double)(seq->first_ns - seq->start_ns) / (double)NS_PER_MS;
    event->timings.decode_ms = (double)(now_ns - seq->first_ns) / (double)NS_PER_MS;
}

static void fail(struct fake_seq *seq, enum err err, struct engine_event *event)
{
    event->error = err;
    event->finish = ENGINE_FINISH_NONE;
    snprintf(seq->error_text, sizeof seq->error_text, "%s", err_text());
    event->error_text = seq->error_text;
    event->last = true;
}

static void step_task(struct fake *fake, struct fake_seq *seq, struct engine_event *event)
{
    *event = (struct engine_event){.user = seq->user};
    enum err err = task_fill_event(&seq->task, event);
    if (err != ERR_OK)
        fail(seq, err, event);
    seq->active = false;
    fake->active--;
}

/* One sequence's part of a step; whether there is an event. */
static bool step_seq(struct fake *fake, struct fake_seq *seq, int64_t now_ns,
                     struct engine_event *event)
{
    if (seq->is_task) {
        step_task(fake, seq, event);
        return true;
    }
    *event = (struct engine_event){.user = seq->user};
    enum err err = seq->ending ? ERR_OK : make_piece(seq);
    bool first = seq->first_ns == 0; /* it computes nothing: its waits stand for that */
    engine_spent(&fake->base, seq->script.delay_ms * NS_PER_MS, first, !first);
    if (first)
        seq->first_ns = now_ns;
    bool any = false;
    if (err == ERR_OK)
        err = emit_take(&seq->emit, seq->ending, &any);
    if (err != ERR_OK) {
        fill_last(seq, event, now_ns);
        fail(seq, err, event);
    } else {
        event->text = seq->emit.piece.len > 0 ? seq->emit.piece.data : NULL;
        event->text_len = seq->emit.piece.len;
        event->tokens = (const int32_t *)(const void *)seq->emit.tokens.data;
        event->token_count = seq->emit.tokens.len / sizeof(int32_t);
        event->logprobs = seq->emit.notes.len > 0 ? seq->emit.notes.data : NULL;
        event->logprobs_len = seq->emit.notes.len;
        if (seq->ending)
            fill_last(seq, event, now_ns);
    }
    if (event->last) {
        seq->active = false;
        fake->active--;
    }
    return any || event->last;
}

static enum err fake_step(struct engine *engine, struct engine_event *events, size_t *count)
{
    struct fake *fake = (struct fake *)engine;
    int64_t now_ns = clock_mono_ns();
    size_t made = 0;
    for (unsigned i = 0; i < engine->info.slots; i++) {
        struct fake_seq *seq = &fake->seqs[i];
        if (seq->active && seq_due_ns(seq) <= now_ns && step_seq(fake, seq, now_ns, &events[made]))
            made++;
    }
    *count = made;
    return ERR_OK;
}

static enum err fake_tokenize(struct engine *engine, const struct engine_request *request,
                              int32_t **ids, size_t *count)
{
    (void)engine;
    unsigned words = prompt_words(request);
    int32_t *list = malloc((words + 1) * sizeof *list);
    if (list == NULL)
        return err_set(ERR_NOMEM, "out of memory");
    for (unsigned i = 0; i < words; i++)
        list[i] = (int32_t)i;
    *ids = list;
    *count = words;
    return ERR_OK;
}

const struct engine_ops fake_ops = {
    .open = fake_open,
    .close = fake_close,
    .start = fake_start,
    .cancel = fake_cancel,
    .active = fake_active,
    .kv_held = fake_kv_held,
    .due_ns = fake_due_ns,
    .step = fake_step,
    .tokenize = fake_tokenize,
};
