/*
 * trace.h - W3C Trace Context (https://www.w3.org/TR/trace-context/): whose request this is, in the
 * client's own words, so that its traces and our logs can be put together.
 *
 * The gateway takes it from the client or makes a new one; it goes with the prompt and its ending,
 * and each process logs its id.  Pure; any thread.
 */
#ifndef WYVERN_WIRE_TRACE_H
#define WYVERN_WIRE_TRACE_H

#include <stdbool.h>

#include "base/id.h"

#define TRACE_PARENT_SIZE 56  /* "00-" trace id "-" span id "-" flags, and a NUL */
#define TRACE_STATE_MAX   512 /* bytes of a tracestate; a longer one is dropped, as is allowed */

struct trace {
    char id[ID_SIZE];
    char span[TAG_SIZE]; /* the gateway's own, once it goes on */
    bool sampled;
    char state[TRACE_STATE_MAX + 1]; /* of other vendors, handed on as it is; "": none */
};

/* Reads a traceparent.  False, and *out as it was: malformed.  A later version is read as far as it
 * is like this one. */
bool trace_parse(struct trace *out, const char *traceparent);

/* Goes on from the client's traceparent with a span of our own; NULL or malformed: a new trace. */
void trace_begin(struct trace *out, const char *traceparent);
/* One tracestate header more, to be called while the traceparent was good.  A malformed one, or
 * more than TRACE_STATE_MAX of all: false, and there is none. */
bool trace_add_state(struct trace *trace, const char *tracestate);

void trace_write(char out[TRACE_PARENT_SIZE], const struct trace *trace);
/* The trace's id out of a traceparent; "" when that is NULL or malformed. */
void trace_id_of(char out[ID_SIZE], const char *traceparent);

#endif
