#include "convert/pickle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum opcode {
    OP_MARK = '(',
    OP_STOP = '.',
    OP_POP = '0',
    OP_BINFLOAT = 'G',
    OP_BININT = 'J',
    OP_BININT1 = 'K',
    OP_BININT2 = 'M',
    OP_NONE = 'N',
    OP_BINPERSID = 'Q',
    OP_REDUCE = 'R',
    OP_BINSTRING = 'T',
    OP_SHORT_BINSTRING = 'U',
    OP_BINUNICODE = 'X',
    OP_EMPTY_LIST = ']',
    OP_APPEND = 'a',
    OP_BUILD = 'b',
    OP_GLOBAL = 'c',
    OP_APPENDS = 'e',
    OP_BINGET = 'h',
    OP_LONG_BINGET = 'j',
    OP_BINPUT = 'q',
    OP_LONG_BINPUT = 'r',
    OP_SETITEM = 's',
    OP_TUPLE = 't',
    OP_SETITEMS = 'u',
    OP_EMPTY_DICT = '}',
    OP_EMPTY_TUPLE = ')',
    OP_PROTO = 0x80,
    OP_TUPLE1 = 0x85,
    OP_TUPLE2 = 0x86,
    OP_TUPLE3 = 0x87,
    OP_NEWTRUE = 0x88,
    OP_NEWFALSE = 0x89,
    OP_LONG1 = 0x8a,
    OP_SHORT_BINUNICODE = 0x8c,
    OP_STACK_GLOBAL = 0x93,
    OP_MEMOIZE = 0x94,
    OP_FRAME = 0x95,
};

#define MARK UINT32_MAX /* stands on the stack; never a value's number */

struct numbers { /* a growing array */
    uint32_t *items;
    uint32_t count, cap;
};

struct machine {
    struct pickle *pickle;
    const char *data;
    size_t len, at;
    struct numbers stack, memo;
    const char *label;
};

static enum err bad(const struct machine *m, const char *what)
{
    return err_set(ERR_INVALID, "%s: byte %zu of its pickle: %s", m->label, m->at, what);
}

static enum err push_number(struct numbers *list, uint32_t number)
{
    if (list->count == list->cap) {
        uint32_t cap = list->cap > 0 ? list->cap * 2 : 64;
        uint32_t *items = realloc(list->items, cap * sizeof *items);
        if (items == NULL)
            return err_set(ERR_NOMEM, "out of memory");
        list->items = items;
        list->cap = cap;
    }
    list->items[list->count++] = number;
    return ERR_OK;
}

static enum err push(struct machine *m, struct pickle_value value)
{
    struct pickle *pickle = m->pickle;

    if (pickle->count == PICKLE_MAX_VALUES)
        return err_set(ERR_LIMIT, "%s: more than %u values in its pickle", m->label,
                       PICKLE_MAX_VALUES);
    if (pickle->count == pickle->cap) {
        uint32_t cap = pickle->cap > 0 ? pickle->cap * 2 : 64;
        struct pickle_value *values = realloc(pickle->values, cap * sizeof *values);
        if (values == NULL)
            return err_set(ERR_NOMEM, "out of memory");
        pickle->values = values;
        pickle->cap = cap;
    }
    enum err err = push_number(&m->stack, pickle->count);
    if (err == ERR_OK)
        pickle->values[pickle->count++] = value;
    return err;
}

static enum err push_int(struct machine *m, enum pickle_kind kind, int64_t number)
{
    return push(m, (struct pickle_value){.kind = kind, .as.number = number});
}

/* A value of its own for the items; pushed. */
static enum err push_items(struct machine *m, enum pickle_kind kind, const uint32_t *items,
                           uint32_t count)
{
    struct pickle_value value = {.kind = kind, .count = count, .cap = count};
    if (count > 0) {
        value.as.items = malloc(count * sizeof *items);
        if (value.as.items == NULL)
            return err_set(ERR_NOMEM, "out of memory");
        memcpy(value.as.items, items, count * sizeof *items);
    }
    enum err err = push(m, value);
    if (err != ERR_OK)
        free(value.as.items);
    return err;
}

/* The value on top of the stack, `below` of them left out; NULL: there is none, or a mark. */
static struct pickle_value *top(const struct machine *m, uint32_t below)
{
    if (m->stack.count <= below)
        return NULL;
    uint32_t number = m->stack.items[m->stack.count - 1 - below];
    return number == MARK ? NULL : &m->pickle->values[number];
}

static bool take(struct machine *m, size_t len, const char **out)
{
    if (m->len - m->at < len)
        return false;
    *out = m->data + m->at;
    m->at += len;
    return true;
}

/* A little-endian number of up to 8 bytes. */
static bool take_number(struct machine *m, size_t bytes, uint64_t *out)
{
    const char *from;
    uint64_t number = 0;

    if (!take(m, bytes, &from))
        return false;
    for (size_t i = bytes; i-- > 0;)
        number = number << 8 | (unsigned char)from[i];
    *out = number;
    return true;
}

static enum err push_text(struct machine *m, size_t length_bytes)
{
    uint64_t len;
    const char *text;

    if (!take_number(m, length_bytes, &len) || len > m->len - m->at || !take(m, len, &text))
        return bad(m, "a text is cut short");
    return push(
        m, (struct pickle_value){.kind = PICKLE_TEXT, .count = (uint32_t)len, .as.text = text});
}

static enum err push_long(struct machine *m)
{
    uint64_t bytes, number = 0;

    if (!take_number(m, 1, &bytes) || bytes > 8 || !take_number(m, bytes, &number))
        return bad(m, "a number is too long");
    if (bytes > 0 && bytes < 8 && (number >> (8 * bytes - 1)) != 0)
        number |= UINT64_MAX << (8 * bytes);
    return push_int(m, PICKLE_INT, (int64_t)number);
}

/* ---- globals ---- */

static bool same(const char *text, size_t len, const char *name)
{
    return strlen(name) == len && memcmp(text, name, len) == 0;
}

static enum err push_global(struct machine *m, const char *module, size_t module_len,
                            const char *name, size_t len)
{
    static const char suffix[] = "Storage";
    size_t suffix_len = sizeof suffix - 1;
    struct pickle_value value = {.kind = PICKLE_GLOBAL, .count = (uint32_t)len, .as.text = name};

    if (same(module, module_len, "collections") && same(name, len, "OrderedDict"))
        value.global = PICKLE_ORDERED_DICT;
    else if (same(module, module_len, "torch._utils") && same(name, len, "_rebuild_tensor_v2"))
        value.global = PICKLE_REBUILD_TENSOR;
    else if (same(module, module_len, "torch") && len > suffix_len && len < 24 &&
             same(name + len - suffix_len, suffix_len, suffix))
        value.global = PICKLE_STORAGE_TYPE;
    else
        return err_set(ERR_UNSUPPORTED,
                       "%s wants Python's %.*s.%.*s: only tensors are read from it, nothing is run",
                       m->label, (int)(module_len < 80 ? module_len : 80), module,
                       (int)(len < 80 ? len : 80), name);
    return push(m, value);
}

static enum err op_global(struct machine *m)
{
    const char *module = m->data + m->at;
    const char *end = memchr(module, '\n', m->len - m->at);
    const char *name = end != NULL ? end + 1 : NULL;
    const char *name_end =
        name != NULL ? memchr(name, '\n', m->len - (size_t)(name - m->data)) : NULL;

    if (name_end == NULL)
        return bad(m, "a global is cut short");
    m->at = (size_t)(name_end + 1 - m->data);
    return push_global(m, module, (size_t)(end - module), name, (size_t)(name_end - name));
}

static enum err op_stack_global(struct machine *m)
{
    const struct pickle_value *name = top(m, 0), *module = top(m, 1);

    if (name == NULL || module == NULL || name->kind != PICKLE_TEXT || module->kind != PICKLE_TEXT)
        return bad(m, "a global without a name");
    m->stack.count -= 2;
    return push_global(m, module->as.text, module->count, name->as.text, name->count);
}

/* ---- what a state dict is made of ---- */

static bool is_kind(const struct machine *m, const struct pickle_value *container, uint32_t i,
                    enum pickle_kind kind)
{
    return pickle_item(m->pickle, container, i)->kind == kind;
}

/* ("storage", type, key, location, numel[, None]) */
static enum err op_persistent_id(struct machine *m)
{
    const struct pickle_value *id = top(m, 0);
    uint32_t items[3];

    if (id == NULL || id->kind != PICKLE_TUPLE || id->count < 5 || id->count > 6 ||
        !pickle_is_text(pickle_item(m->pickle, id, 0), "storage") ||
        !is_kind(m, id, 1, PICKLE_GLOBAL) ||
        pickle_item(m->pickle, id, 1)->global != PICKLE_STORAGE_TYPE ||
        !is_kind(m, id, 2, PICKLE_TEXT) || !is_kind(m, id, 4, PICKLE_INT))
        return bad(m, "a persistent id that is no storage");
    if (id->count == 6 && !is_kind(m, id, 5, PICKLE_NONE))
        return bad(m, "a storage that is a view of another: too old a format");
    items[0] = id->as.items[1];
    items[1] = id->as.items[2];
    items[2] = id->as.items[4];
    m->stack.count--;
    return push_items(m, PICKLE_STORAGE, items, 3);
}

static enum err rebuild_tensor(struct machine *m, const struct pickle_value *args)
{
    uint32_t items[4];

    if (args->count < 6 || args->count > 7 || !is_kind(m, args, 0, PICKLE_STORAGE) ||
        !is_kind(m, args, 1, PICKLE_INT) || !is_kind(m, args, 2, PICKLE_TUPLE) ||
        !is_kind(m, args, 3, PICKLE_TUPLE))
        return bad(m, "_rebuild_tensor_v2 with other arguments than a tensor's");
    memcpy(items, args->as.items, sizeof items);
    m->stack.count -= 2;
    return push_items(m, PICKLE_TENSOR, items, 4);
}

static enum err op_reduce(struct machine *m)
{
    const struct pickle_value *args = top(m, 0), *callee = top(m, 1);

    if (args == NULL || callee == NULL || args->kind != PICKLE_TUPLE ||
        callee->kind != PICKLE_GLOBAL || callee->global == PICKLE_STORAGE_TYPE)
        return bad(m, "a call of something that can't be called");
    if (callee->global == PICKLE_REBUILD_TENSOR)
        return rebuild_tensor(m, args);
    if (args->count != 0)
        return bad(m, "OrderedDict with arguments");
    m->stack.count -= 2;
    return push_items(m, PICKLE_DICT, NULL, 0);
}

/* OrderedDict's own attributes (_metadata): not needed. */
static enum err op_build(struct machine *m)
{
    const struct pickle_value *state = top(m, 0), *object = top(m, 1);

    if (state == NULL || object == NULL || state->kind != PICKLE_DICT ||
        object->kind != PICKLE_DICT)
        return bad(m, "a state for something that has none");
    m->stack.count--;
    return ERR_OK;
}

/* ---- containers ---- */

/* Position on the stack just above the last mark; the mark goes with what stands on it. */
static bool find_mark(const struct machine *m, uint32_t *first)
{
    for (uint32_t i = m->stack.count; i-- > 0;) {
        if (m->stack.items[i] == MARK) {
            *first = i + 1;
            return true;
        }
    }
    return false;
}

/* Moves the stack's values from `first` on into the container that stands below `drop`. */
static enum err extend(struct machine *m, enum pickle_kind kind, uint32_t first, uint32_t drop)
{
    uint32_t count = m->stack.count - first;

    if (drop == 0 || m->stack.items[drop - 1] == MARK)
        return bad(m, "items without a container");
    struct pickle_value *to = &m->pickle->values[m->stack.items[drop - 1]];
    if (to->kind != kind || (kind == PICKLE_DICT && count % 2 != 0))
        return bad(m, "items for something that holds none");
    if (count > to->cap - to->count) {
        uint32_t cap = to->count + count > to->cap * 2 ? to->count + count : to->cap * 2;
        uint32_t *items = realloc(to->cap > 0 ? to->as.items : NULL, cap * sizeof *items);
        if (items == NULL)
            return err_set(ERR_NOMEM, "out of memory");
        to->as.items = items;
        to->cap = cap;
    }
    if (count > 0)
        memcpy(to->as.items + to->count, m->stack.items + first, count * sizeof(uint32_t));
    to->count += count;
    m->stack.count = drop;
    return ERR_OK;
}

static enum err extend_marked(struct machine *m, enum pickle_kind kind)
{
    uint32_t first;
    if (!find_mark(m, &first))
        return bad(m, "no mark");
    return extend(m, kind, first, first - 1);
}

static enum err extend_by(struct machine *m, enum pickle_kind kind, uint32_t count)
{
    if (m->stack.count < count || top(m, 0) == NULL || top(m, count - 1) == NULL)
        return bad(m, "too few values on the stack");
    return extend(m, kind, m->stack.count - count, m->stack.count - count);
}

static enum err make_tuple(struct machine *m, uint32_t first, uint32_t drop)
{
    uint32_t count = m->stack.count - first;

    for (uint32_t i = first; i < m->stack.count; i++) {
        if (m->stack.items[i] == MARK)
            return bad(m, "a mark within a tuple");
    }
    /* the items stay readable above the new height until the push, which copies them first */
    uint32_t number = m->pickle->count;
    enum err err = push_items(m, PICKLE_TUPLE, m->stack.items + first, count);
    if (err != ERR_OK)
        return err;
    m->stack.count = drop;
    return push_number(&m->stack, number);
}

static enum err op_tuple(struct machine *m)
{
    uint32_t first;
    if (!find_mark(m, &first))
        return bad(m, "no mark");
    return make_tuple(m, first, first - 1);
}

static enum err op_small_tuple(struct machine *m, uint32_t count)
{
    if (m->stack.count < count)
        return bad(m, "too few values on the stack");
    return make_tuple(m, m->stack.count - count, m->stack.count - count);
}

/* ---- memory ---- */

/* Python numbers its memo without gaps, so a number out of line is a fault, not a reason to
 * allocate. */
static enum err op_put(struct machine *m, uint64_t slot)
{
    if (top(m, 0) == NULL || slot > m->memo.count)
        return bad(m, "a memo out of line");
    uint32_t number = m->stack.items[m->stack.count - 1];
    if (slot == m->memo.count)
        return push_number(&m->memo, number);
    m->memo.items[slot] = number;
    return ERR_OK;
}

static enum err op_get(struct machine *m, uint64_t slot)
{
    if (slot >= m->memo.count)
        return bad(m, "a memo that was never set");
    return push_number(&m->stack, m->memo.items[slot]);
}

static enum err step_scalar(struct machine *m, unsigned op)
{
    uint64_t number;
    const char *bytes;

    switch (op) {
    case OP_BININT:
        return take_number(m, 4, &number) ? push_int(m, PICKLE_INT, (int32_t)(uint32_t)number)
                                          : bad(m, "cut short");
    case OP_BININT1:
    case OP_BININT2:
        return take_number(m, op == OP_BININT1 ? 1 : 2, &number)
                   ? push_int(m, PICKLE_INT, (int64_t)number)
                   : bad(m, "cut short");
    case OP_LONG1:
        return push_long(m);
    case OP_BINFLOAT:
        return take(m, 8, &bytes) ? push_int(m, PICKLE_FLOAT, 0) : bad(m, "cut short");
    case OP_NONE:
        return push_int(m, PICKLE_NONE, 0);
    case OP_NEWTRUE:
    case OP_NEWFALSE:
        return push_int(m, PICKLE_BOOL, op == OP_NEWTRUE);
    case OP_BINSTRING:
    case OP_BINUNICODE:
        return push_text(m, 4);
    case OP_SHORT_BINSTRING:
    case OP_SHORT_BINUNICODE:
        return push_text(m, 1);
    default:
        return err_set(ERR_UNSUPPORTED, "%s: byte %zu of its pickle: unknown operation 0x%02x",
                       m->label, m->at - 1, op);
    }
}

static enum err step(struct machine *m, unsigned op)
{
    uint64_t number = 0;

    switch (op) {
    case OP_PROTO:
        return take_number(m, 1, &number) && number >= 2 && number <= 5
                   ? ERR_OK
                   : bad(m, "a protocol other than 2 to 5");
    case OP_FRAME:
        return take_number(m, 8, &number) ? ERR_OK : bad(m, "cut short");
    case OP_MARK:
        return push_number(&m->stack, MARK);
    case OP_POP:
        if (m->stack.count == 0)
            return bad(m, "too few values on the stack");
        m->stack.count--;
        return ERR_OK;
    case OP_EMPTY_DICT:
        return push_items(m, PICKLE_DICT, NULL, 0);
    case OP_EMPTY_LIST:
        return push_items(m, PICKLE_LIST, NULL, 0);
    case OP_EMPTY_TUPLE:
        return push_items(m, PICKLE_TUPLE, NULL, 0);
    case OP_TUPLE:
        return op_tuple(m);
    case OP_TUPLE1:
    case OP_TUPLE2:
    case OP_TUPLE3:
        return op_small_tuple(m, op - OP_TUPLE1 + 1);
    case OP_SETITEM:
        return extend_by(m, PICKLE_DICT, 2);
    case OP_SETITEMS:
        return extend_marked(m, PICKLE_DICT);
    case OP_APPEND:
        return extend_by(m, PICKLE_LIST, 1);
    case OP_APPENDS:
        return extend_marked(m, PICKLE_LIST);
    case OP_GLOBAL:
        return op_global(m);
    case OP_STACK_GLOBAL:
        return op_stack_global(m);
    case OP_BINPERSID:
        return op_persistent_id(m);
    case OP_REDUCE:
        return op_reduce(m);
    case OP_BUILD:
        return op_build(m);
    case OP_MEMOIZE:
        return op_put(m, m->memo.count);
    case OP_BINPUT:
    case OP_LONG_BINPUT:
        return take_number(m, op == OP_BINPUT ? 1 : 4, &number) ? op_put(m, number)
                                                                : bad(m, "cut short");
    case OP_BINGET:
    case OP_LONG_BINGET:
        return take_number(m, op == OP_BINGET ? 1 : 4, &number) ? op_get(m, number)
                                                                : bad(m, "cut short");
    default:
        return step_scalar(m, op);
    }
}

enum err pickle_read(struct pickle *out, const char *data, size_t len, size_t *used,
                     const char *label)
{
    struct pickle pickle = {0};
    struct machine m = {.pickle = &pickle, .data = data, .len = len, .label = label};
    enum err err = ERR_OK;

    if (len > PICKLE_MAX_BYTES)
        m.len = PICKLE_MAX_BYTES;
    if (m.len < 2 || (unsigned char)data[0] != OP_PROTO)
        err = err_set(ERR_INVALID, "%s holds no pickle where one should start", label);
    while (err == ERR_OK) {
        if (m.at == m.len) {
            err = bad(&m, "it is cut short");
            break;
        }
        unsigned op = (unsigned char)data[m.at++];
        if (op == OP_STOP) {
            if (m.stack.count != 1 || m.stack.items[0] == MARK)
                err = bad(&m, "it ends with other than one value");
            else
                pickle.root = m.stack.items[0];
            break;
        }
        err = step(&m, op);
    }
    free(m.stack.items);
    free(m.memo.items);
    if (err != ERR_OK) {
        pickle_done(&pickle);
        return err;
    }
    *out = pickle;
    *used = m.at;
    return ERR_OK;
}

static bool has_items(const struct pickle_value *value)
{
    switch (value->kind) {
    case PICKLE_TUPLE:
    case PICKLE_LIST:
    case PICKLE_DICT:
    case PICKLE_STORAGE:
    case PICKLE_TENSOR:
        return value->cap > 0;
    default:
        return false;
    }
}

void pickle_done(struct pickle *pickle)
{
    for (uint32_t i = 0; i < pickle->count; i++) {
        if (has_items(&pickle->values[i]))
            free(pickle->values[i].as.items);
    }
    free(pickle->values);
    *pickle = (struct pickle){0};
}

const struct pickle_value *pickle_at(const struct pickle *pickle, uint32_t number)
{
    return &pickle->values[number];
}

const struct pickle_value *pickle_item(const struct pickle *pickle,
                                       const struct pickle_value *container, uint32_t i)
{
    return &pickle->values[container->as.items[i]];
}

bool pickle_is_text(const struct pickle_value *value, const char *text)
{
    return value->kind == PICKLE_TEXT && same(value->as.text, value->count, text);
}
