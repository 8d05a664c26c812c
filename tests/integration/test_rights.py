"""Least rights: what a role's broker user must not touch is refused, by the broker itself."""

import itertools

import pytest

from broker import Broker, BrokerError

# What each role may do is in docs/PROTOCOL.md; this is what it must not.
FORBIDDEN = {
    "gateway": {
        "pub": ["tok.g.x.p", "state.infer.n.w", "$JS.API.STREAM.DELETE.PROMPTS",
                "$JS.API.STREAM.PURGE.REPLIES", "$JS.API.STREAM.CREATE.OTHER",
                "$JS.API.CONSUMER.MSG.NEXT.PROMPTS.any", "$JS.ACK.PROMPTS.a.1.1.1.1.0",
                "_INBOX_respond.x", "$SYS.REQ.SERVER.PING", "$JS.API.STREAM.PURGE.TOKENS",
                "$JS.API.STREAM.DELETE.OBJECTS", "$JS.API.STREAM.UPDATE.OBJECTS",
                "$JS.API.STREAM.MSG.DELETE.OBJECTS", "$JS.API.STREAM.MSG.GET.OBJECTS",
                "$JS.API.DIRECT.GET.RESPONSES", "$JS.API.DIRECT.GET.DEAD"],
        "sub": [">", "prompt.>", "response.>", "_INBOX_infer.>", "_INBOX_setup.>", "$SYS.>",
                "$JS.API.>"],
    },
    "infer": {
        "pub": ["prompt.m.main.x", "reply.g.x", "state.gateway.n.w", "state.respond.n.w",
                "$JS.API.STREAM.DELETE.PROMPTS", "$JS.API.STREAM.DELETE.TOKENS",
                "$JS.API.CONSUMER.MSG.NEXT.RESPONSES.any", "$JS.ACK.RESPONSES.a.1.1.1.1.0",
                "_INBOX_gateway.x", "obj.file.x.meta", "$JS.API.DIRECT.GET.OBJECTS",
                "$JS.API.STREAM.PURGE.OBJECTS", "$JS.API.DIRECT.GET.PROMPTS"],
        "sub": [">", "prompt.>", "reply.>", "response.>", "live.>", "_INBOX_gateway.>", "$SYS.>"],
    },
    "respond": {
        "pub": ["prompt.m.main.x", "tok.g.x.p", "state.infer.n.w", "state.gateway.n.w",
                "$JS.API.STREAM.DELETE.REPLIES", "$JS.API.CONSUMER.MSG.NEXT.PROMPTS.any",
                "$JS.ACK.PROMPTS.a.1.1.1.1.0", "obj.file.x.meta", "$JS.API.DIRECT.GET.OBJECTS",
                "$JS.API.STREAM.PURGE.OBJECTS"],
        "sub": [">", "prompt.>", "response.>", "_INBOX_infer.>", "_INBOX_gateway.>", "$SYS.>"],
    },
    "node": {
        "pub": ["prompt.m.main.x", "tok.g.x.p", "tok.g.x.c", "reply.g.x", "response.x",
                "state.gateway.n.w", "$JS.API.STREAM.DELETE.PROMPTS",
                "$JS.API.CONSUMER.MSG.NEXT.PROMPTS.any", "$JS.ACK.RESPONSES.a.1.1.1.1.0",
                "obj.file.x.meta", "$JS.API.DIRECT.GET.OBJECTS"],
        "sub": [">", "prompt.>", "live.>", "reply.>", "response.>", "_INBOX_infer.>", "$SYS.>"],
    },
    "telemetry": {
        "pub": ["prompt.m.main.x", "tok.g.x.p", "tok.g.x.c", "reply.g.x", "response.x",
                "state.gateway.n.w", "$JS.API.STREAM.PURGE.PROMPTS",
                "$JS.API.CONSUMER.MSG.NEXT.PROMPTS.any", "$JS.ACK.PROMPTS.a.1.1.1.1.0",
                "obj.file.x.meta", "$JS.API.DIRECT.GET.OBJECTS"],
        "sub": [">", "prompt.>", "live.>", "reply.>", "response.>", "_INBOX_gateway.>", "$SYS.>"],
    },
}
CASES = [(role, verb, subject) for role, verbs in FORBIDDEN.items()
         for verb, subjects in verbs.items() for subject in subjects]


@pytest.fixture(scope="module")
def connections(fake):
    connections = {role: fake.broker(role) for role in FORBIDDEN}
    yield connections
    for connection in connections.values():
        connection.close()


@pytest.mark.parametrize("role,verb,subject", CASES, ids=[" ".join(c) for c in CASES])
def test_refused(connections, role, verb, subject):
    assert connections[role].refuses(verb, subject)


def test_allowed_things_are_allowed(connections):
    """The check above can fail."""
    assert not connections["gateway"].refuses("sub", "state.>")
    for subject in ["obj.file.x.meta", "$JS.API.DIRECT.GET.OBJECTS", "$JS.API.DIRECT.GET.PROMPTS",
                    "$JS.API.STREAM.PURGE.OBJECTS"]:
        assert not connections["gateway"].refuses("pub", subject)
    assert not connections["respond"].refuses("sub", "state.gateway.>")


@pytest.mark.parametrize("user,password", [(None, None), ("gateway", "wrong"), ("infer", "")])
def test_strangers_stay_outside(fake, user, password):
    with pytest.raises((BrokerError, ConnectionError)):
        Broker(fake.service_ini()["broker"]["url"], user, password)


def test_one_password_a_role(fake):
    ini = fake.service_ini()
    for one, two in itertools.combinations([*FORBIDDEN, "setup"], 2):
        assert ini[one]["password"] != ini[two]["password"]
