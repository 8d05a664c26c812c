/*
 * session_own.h - what the session's two files share; nothing else includes it.
 *
 *   session.c        life, pieces, record, cancelling
 *   session_offer.c  how one begins: its prompt offered to the queue, or met there
 */
#ifndef WYVERN_ROLES_GATEWAY_SESSION_OWN_H
#define WYVERN_ROLES_GATEWAY_SESSION_OWN_H

#include "bus/tokens.h"
#include "roles/gateway/gateway.h"
#include "roles/gateway/session.h"

enum session_state {
    SESSION_OFFERED,
    SESSION_SEARCHED,
    SESSION_OPEN,
    SESSION_LEAVING,
    SESSION_GONE
};

struct session {
    struct gateway *gateway;
    struct delivery out;
    struct asked *asked; /* until it is accepted; NULL for who came back */
    struct prompt prompt;
    json_t *inputs; /* owned: of the prompt */
    char id[ID_SIZE], owner_gateway[TAG_SIZE];
    char prompter[PROMPT_MAX_PROMPTER + 1], owner[OWNER_LEN + 1];
    char trace_id[ID_SIZE];
    double created;
    bool detached;
    bool background; /* its reader hears only that it was accepted */
    bool again;      /* its prompt may be in the queue already, put by another */
    bool own;        /* its prompt was put by us: counted in our figures */
    enum session_state state;
    unsigned pending; /* bus operations that name this session */
    unsigned offers;
    bool offer_lost;  /* an offer may have arrived unheard */
    bool heard_early; /* a worker was faster than the broker's acknowledgement */
    bool filling;     /* a read of the stream is under way */
    bool asking;      /* a read of the record is under way */
    bool cancelling;
    bool told;     /* while it left: its record was heard, and what it says taken away */
    bool unproven; /* a successor went on from before what was delivered: is it saying the same? */
    struct piece_reader reader;
    bool slow; /* its reader took less than came, and what is missing is read from the stream */
    struct {   /* about the read of the stream that is under way, or was last */
        struct tokens_place place; /* where the next begins */
        bool anew;                 /* it begins at the beginning instead */
        uint64_t sum;         /* over the text up to there, as far as it was delivered already */
        char nonce[TAG_SIZE]; /* of the last piece it brought */
        bool claim_heard;     /* a claim was heard meanwhile, perhaps later than what it finds */
    } fill;
    unsigned attempt; /* of the worker that has it, as far as was heard */
    int64_t came_ns, heard_ns;
    int64_t piece_ns;                    /* when the last piece was handed on; 0: none was */
    struct bus_subscription *live[2];    /* of another gateway's reply */
    struct session *same;                /* the next one that follows this reply of ours */
    bool listed;                         /* reachable through sessions_by_id */
    UT_hash_handle hh;                   /* by id: the first of those */
    struct session *prev_all, *next_all; /* all sessions */
};

/* session.c */
/* From now on what happens to the reply is heard. */
MUST_USE enum err session_listen(struct session *session);
void session_deafen(struct session *session);
void session_end(struct session *session);
/* A bus operation's callback begins with this: false when the session only waited to be freed. */
bool session_back(struct session *session);
/* Ends it with an error instead of a reply; why: a figure's label. */
void session_refuse(struct session *session, int status, const char *code, const char *why,
                    const char *text);
/* Reads stream and record: something may have passed unheard. */
void session_look(struct session *session);
void session_record(struct session *session, const struct reply *record, uint64_t sequence);
void session_cancel(struct session *session);
bool session_is_streamed(const struct session *session);
void session_on_closed(struct delivery *delivery, bool complete);
void session_on_drained(struct delivery *delivery);

/* session_offer.c */
void session_offer(struct session *session);

#endif
