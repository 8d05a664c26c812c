"""`wyvern chat` and `wyvern ask` as a person meets them: a pseudo-terminal, keys at any moment,
replies that are hostile, a service that comes and goes."""

import contextlib
import http.server
import json
import os
import re
import signal
import socket
import stat
import subprocess
import termios
import threading

import pytest

from harness import WYVERN, fake_text, free_ports, run, wait_for
from ptys import READY, Chat, Pty

HOSTILE = ("before \x1b[2J\x1b]0;title\x07\x9b31m\x7f\b\b\u202e\n# \x1b[31mhead\n```\x1bc\n"
           "\x1b[6n\n```\n| a\x1b[1m |\n|-|\n| \x1bP |\n**\x1b[5mbold**\nafter")
# Sequences that wyvern itself may write: styles, and what libedit needs.
OURS = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?2004[hl]|\x1b\[[0-9]*[A-DKJCPG@]|\x1b\[K")


class StandIn(http.server.ThreadingHTTPServer):
    """Answers chat with a text of the test's, in small parts; told to, it stalls behind some."""
    daemon_threads = True

    def __init__(self):
        server = self
        self.text, self.part, self.stall_at, self.asked = "", 5, None, []
        self.go_on = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                self.reply(json.dumps({"data": [{"id": "m-one"}, {"id": "m-\x1b[2J"}]}).encode())

            def reply(self, body):
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self):
                server.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                with contextlib.suppress(OSError):
                    for at in range(0, len(server.text), server.part):
                        if server.stall_at is not None and at >= server.stall_at:
                            server.go_on.wait(60)
                        self.event({"content": server.text[at:at + server.part]}, None)
                    self.event({}, "stop")
                    self.wfile.write(b"data: [DONE]\n\n")

            def event(self, delta, finish):
                chunk = {"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
                self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                self.wfile.flush()

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


@pytest.fixture
def stand_in():
    server = StandIn()
    yield server
    server.go_on.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def chat(tmp_path):
    opened = []

    def launch(url, *options, **kinds):
        opened.append(Chat(url, kinds.pop("folder", tmp_path), *options, **kinds))
        return opened[-1]

    yield launch
    for each in opened:
        each.close()


@pytest.fixture
def terminal():
    opened = []

    def launch(*command, **kinds):
        opened.append(Pty(WYVERN, *command, **kinds))
        return opened[-1]

    yield launch
    for each in opened:
        each.close()


def leave(seen):
    seen.keys("\x04")
    assert seen.ended() == 0


def idle(service):
    wait_for(lambda: all(w["active"] == 0 for w in service.workers()), "free slots")


# ---- what is drawn ----

MARKDOWN = "# Head\n\nSome **bold** and `code`.\n\n- an item\n\n| a | b |\n|---|--:|\n| x | 10 |\n"


def test_markdown_in_colour(stand_in, chat):
    stand_in.text = MARKDOWN
    seen = chat(stand_in.url)
    shown = seen.answer("hello")
    assert "Head\n\nSome bold and code.\n\n• an item\n\na │  b\n──┼───\nx │ 10\n" in shown
    assert "\x1b[0;1mbold\x1b[0m" in seen.read()
    leave(seen)


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_markdown_as_it_is_without_colour(stand_in, chat, env):
    stand_in.text = MARKDOWN
    seen = chat(stand_in.url, env=env)
    assert MARKDOWN in seen.answer("hello")
    assert not re.search(r"\x1b\[[0-9;]*m", seen.read())
    leave(seen)


@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}])
@pytest.mark.parametrize("verb", ["chat", "ask", "ask --details", "ask --json"])
def test_no_control_of_the_model_reaches_the_terminal(stand_in, terminal, tmp_path, verb, env):
    stand_in.text = HOSTILE
    options = ["--state-dir", tmp_path] if verb == "chat" else ["hello"]
    seen = terminal(*verb.split(), "--url", stand_in.url, *options, env=env)
    if verb == "chat":
        seen.wait("> ")
        seen.line("hello")
        seen.wait(READY, after=seen.wait("after"))
        seen.line("/model")
        seen.wait(READY, after=seen.wait("m-?[2J"))
        seen.keys("\x04")
    assert seen.ended() == 0
    left = OURS.sub("", seen.read())
    assert not re.search(r"[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", left), ascii(left)
    assert "before" in left and "after" in left


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_lines_fit_the_terminal(stand_in, chat, columns):
    stand_in.text = "- " + "some words of a list that is long " * 9 + "\n\n> " + "quoted " * 40 + "\n"
    seen = chat(stand_in.url, columns=columns)
    shown = seen.answer("x").split("x\n", 1)[1]
    lines = shown.split("\n")
    assert max(map(len, lines)) <= columns
    assert max(map(len, lines)) > columns - 12  # the width is used
    leave(seen)


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_what_is_told_fits_the_terminal(fake, chat, terminal, columns):
    """No word is cut by the terminal's edge: not in a list of commands, not in a status."""
    seen = chat(fake.url, columns=columns)
    shown = " ".join(seen.answer("/help").split())
    assert "as temperature=0.2; reset: none" in shown and "clears the line. Tab completes" in shown
    leave(seen)
    status = terminal("status", "--url", fake.url, columns=columns)
    assert status.ended() == 0
    told = " ".join(status.text().split())
    for worker in fake.workers():
        assert re.search(rf"{worker['id']} ready (\S+ )?0 of 4 {worker['device']} fake pid {worker['pid']}\b", told)
    assert "queue: 0 waiting, 0 in flight, at most 1024" in told
    for text in (seen.text(), status.text()):
        assert max(map(len, text.split("\n"))) <= columns
    if columns > 80:
        assert len(status.text().strip().split("\n")) == 8  # a line for each


def test_resizing_in_mid_reply(stand_in, chat):
    stand_in.text, stand_in.stall_at = "word " * 100, 200
    seen = chat(stand_in.url, columns=80)
    seen.line("x")
    seen.wait(re.compile(r"(word ?\n? ?){38}"))
    seen.size(40, 40)
    seen.process.send_signal(signal.SIGWINCH)
    stand_in.go_on.set()
    seen.wait(re.compile(r"\n> $"))
    lines = [line for line in seen.text().split("\n") if line.startswith("word")]
    assert len(lines[0]) > 70 and max(map(len, lines[4:])) <= 40
    leave(seen)


# ---- keys ----

def test_ctrl_c_at_every_moment(fake, chat):
    seen = chat(fake.url)
    for _ in range(2):
        at = len(seen.text())
        seen.keys("half a line\x03\x03")  # at the prompt
        seen.line("/stats")
        seen.wait(re.compile(r"this talk.*\n> $"), after=at)
        assert fake_text("uno", 2).strip() in seen.answer("uno tokens=2")
        seen.line("late tokens=5 delay_ms=60000")  # before the first word
        wait_for(lambda: any(w["active"] for w in fake.workers()), "a busy slot")
        seen.keys("\x03")
        seen.wait("stopped before the first word", after=seen.at)
        idle(fake)
        seen.at = seen.wait(re.compile(r"\n> $"), after=seen.at)
        seen.line("long tokens=9000 delay_ms=20")  # in mid-stream, and again
        seen.wait("long.3", after=seen.at)
        seen.keys("\x03\x03")
        seen.at = seen.wait("what came stays in the talk", after=seen.at)
        idle(fake)
        seen.at = seen.wait("> ", after=seen.at)
    assert fake_text("due", 3).strip() in seen.answer("due tokens=3")
    leave(seen)


def test_a_stopped_reply_stays_in_the_talk(fake, chat, tmp_path):
    seen = chat(fake.url)
    seen.line("part tokens=9000 delay_ms=20")
    seen.wait("part.3")
    seen.keys("\x03")
    seen.wait(READY, after=seen.wait("what came stays"))
    seen.answer(f"/save {tmp_path}/talk.json")
    question, reply = json.loads((tmp_path / "talk.json").read_text())["messages"]
    assert question == {"role": "user", "content": "part tokens=9000 delay_ms=20"}
    assert reply["content"].startswith("part.0 part.1") and "part.8999" not in reply["content"]
    leave(seen)


def messages(seen, path):
    seen.answer(f"/save! {path}")
    return json.loads(path.read_text())["messages"]


def test_several_lines(fake, chat, tmp_path):
    path = tmp_path / "talk.json"
    seen = chat(fake.url)
    seen.line("one tokens=1 \\")
    seen.wait("… ")
    seen.answer("two")
    seen.line('"""')
    seen.line("tre tokens=1")
    seen.line("  quattro")
    seen.answer('"""')
    seen.line("gone \\")
    seen.wait(re.compile("(?s)… .*… .*… .*… .*… "))
    seen.keys("\x03")
    seen.wait(re.compile(r"\n> $"))
    asked = [m["content"] for m in messages(seen, path) if m["role"] == "user"]
    assert asked == ["one tokens=1 \ntwo", "tre tokens=1\n  quattro"]
    leave(seen)


def test_pasted_text_is_one_question(fake, chat, tmp_path):
    seen = chat(fake.url)
    assert "\x1b[?2004h" in seen.read()
    pasted = "paste tokens=2\r\n\tif x:\r\n\x03\x1b[2J\x04 é日本\r\n\r\n"
    seen.keys(f"\x1b[200~{pasted}\x1b[201~")
    seen.wait("日本")
    seen.keys(" end")
    seen.enter("paste.1")
    assert seen.read().rstrip().count("\x1b[?2004l") == seen.read().count("\x1b[?2004h") - 1
    first = messages(seen, tmp_path / "talk.json")[0]["content"]
    assert first == "paste tokens=2\n    if x:\n[2J é日本 end"
    big = "big tokens=1 " + "0123456789\r" * 3000
    seen.keys("\x1b[200~")
    for at in range(0, len(big), 4000):
        seen.keys(big[at:at + 4000])
        seen.read()
    seen.keys("\x1b[201~")
    seen.enter("big.0", 60)
    assert len(messages(seen, tmp_path / "talk.json")[2]["content"]) == len(big) - 1
    leave(seen)


def test_history_lasts(fake, chat, tmp_path):
    seen = chat(fake.url)
    seen.answer("first tokens=1")
    seen.answer(" secret tokens=1")
    seen.line("many tokens=1 \\")
    seen.answer("lines")
    leave(seen)
    path = tmp_path / "chat_history"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == "first tokens=1\nmany tokens=1 \\nlines\n"
    again = chat(fake.url)
    again.keys("\x1b[A\x1b[A")
    again.wait("first tokens=1")
    again.enter("first.0")
    at = len(again.text())
    again.keys("\x1b[A\x1b[A")  # now the last but one
    again.wait("lines", after=at)
    again.enter("many.0")
    leave(again)


def test_history_that_can_not_be_kept(fake, chat, tmp_path):
    (tmp_path / "chat_history").mkdir()
    seen = chat(fake.url)
    assert "is no plain file" in seen.text()
    assert "a.0" in seen.answer("a tokens=1")
    leave(seen)


def test_tab(fake, chat, tmp_path):
    (tmp_path / "talk-file.json").write_text('{"messages": []}')
    seen = chat(fake.url)
    seen.keys("/he\t\r")
    seen.wait(READY, after=seen.wait("Ctrl-C stops a reply"))
    seen.keys(f"/load {tmp_path}/tal\t\r")
    seen.wait(READY, after=seen.wait("0 messages loaded"))
    seen.keys("/s\t")
    seen.wait(re.compile("/system +/save +/stats"))
    seen.keys("\x03")
    leave(seen)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_ended_from_outside(fake, chat, how):
    seen = chat(fake.url)
    seen.keys("half")
    seen.wait("half")
    seen.process.send_signal(how)
    assert seen.ended() == -how
    assert seen.read().rstrip().endswith("\x1b[?2004l")


def test_suspending_at_the_prompt(fake, chat):
    seen = chat(fake.url)
    seen.keys("half")
    seen.wait("half")
    seen.keys("\x1a")
    stat_file = f"/proc/{seen.process.pid}/stat"
    wait_for(lambda: open(stat_file).read().rpartition(")")[2].split()[0] == "T", "chat to stop")
    assert termios.tcgetattr(seen.slave) == seen.before
    at = len(seen.text())
    seen.process.send_signal(signal.SIGCONT)
    seen.wait("half", after=at)
    assert "half.0" in seen.answer(" tokens=1")
    leave(seen)


# ---- commands ----

def test_commands(stand_in, chat, tmp_path):
    stand_in.text = "reply"
    seen = chat(stand_in.url)
    assert "m-one" in seen.answer("/model")
    assert "there is no" not in seen.answer("/model m-one")
    assert "no model other" in seen.answer("/model other")
    assert '"temperature":0.25' in seen.answer("/params temperature=0.25 stop=END")
    assert "above its maximum" in seen.answer("/params temperature=7")
    seen.answer("/system be brief")
    seen.answer("question one")
    seen.answer("/regenerate")
    last = stand_in.asked[-1]
    assert last["messages"] == [{"role": "system", "content": "be brief"},
                                {"role": "user", "content": "question one"}]
    assert (last["model"], last["temperature"], last["stop"]) == ("m-one", 0.25, "END")
    assert "2 messages saved" in seen.answer(f"/save {tmp_path}/t")
    assert "2 messages saved" in seen.answer("/save")  # its own file again
    (tmp_path / "other").write_text("x")
    assert "there already" in seen.answer(f"/save {tmp_path}/other")
    seen.answer("/clear")
    assert "2 messages loaded" in seen.answer(f"/load {tmp_path}/t")
    seen.answer("question two")
    assert [m["content"] for m in stand_in.asked[-1]["messages"]] == [
        "be brief", "question one", "reply", "question two"]
    assert "no conversation" in seen.answer(f"/load {tmp_path}/other")
    assert "can't open" in seen.answer("/load /no/such/file")
    assert "did you mean /stats" in seen.answer("/stast")
    assert "3 replies" in seen.answer("/stats")
    seen.line("/quit")
    assert seen.ended() == 0


# ---- a service that comes and goes ----

def test_service_goes_and_comes_back(start, chat):
    service = start(workers=1)
    seen = chat(service.url)
    assert "one.0" in seen.answer("one tokens=1")
    seen.line("two tokens=90000 delay_ms=10")
    seen.wait("two.3")
    service.process.send_signal(signal.SIGSTOP)  # it starts none of them again
    for pid in service.family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    service.process.kill()
    service.process.wait()
    seen.wait(re.compile(r"the\s+talk\s+is\s+kept,\s+/regenerate\s+asks\s+again\n> $"))
    shown = " ".join(seen.answer("three tokens=1").split())
    assert "can't connect to" in shown and "wyvern up" in shown and shown.count("wyvern:") == 1
    start(port=service.port, workers=1)
    assert "three.0" in seen.answer("/regenerate")
    assert "4 messages in this talk" in seen.answer("/stats")
    leave(seen)


@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}])
def test_a_stalled_reply_says_so(stand_in, chat, env):
    stand_in.text, stand_in.stall_at = "some words that come and then no more of them", 20
    seen = chat(stand_in.url, env=env)
    seen.line("x")
    at = seen.wait(re.compile(r"no more words for ([3-9]|\d\d) s"))
    told = re.search(r"no more words for (\d+) s$", seen.text()[:at])[1]
    seen.wait(re.compile(rf"no more words for (?!{told} )\d+ s"), after=at)
    stand_in.go_on.set()
    seen.wait(re.compile(r"\n> $"))
    # The notice is gone again: taken back with as many steps as it had columns.
    screen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.read())
    while "\b \b" in screen:
        screen = re.sub(r"[^\b]\x08 \x08", "", screen, count=1)
    assert "some words that come and then no more of them" in screen
    assert "words for" not in screen
    leave(seen)


# ---- ask ----

def ask(service, *arguments, stdin=None, **kinds):
    return subprocess.run([WYVERN, "ask", "--url", service.url, *arguments], input=stdin, text=True,
                          capture_output=True, timeout=60, **kinds)


def test_ask_joins_arguments_and_standard_input(stand_in):
    stand_in.text = "yes"

    def asked(*arguments, stdin):
        assert ask(stand_in, *arguments, stdin=stdin).returncode == 0
        return stand_in.asked[-1]["messages"][-1]["content"]

    assert asked("Summarise", "this:", stdin="a\nb\n") == "Summarise this:\n\na\nb"
    assert asked("Before", "-", "after", stdin="mid\n") == "Before\n\nmid\n\nafter"
    assert asked("-", stdin="all\n\n") == "all"
    assert asked(stdin="all of it") == "all of it"
    assert asked("alone", stdin="") == "alone"
    with open(os.devnull, encoding="utf-8") as nothing:
        done = subprocess.run([WYVERN, "ask", "--url", stand_in.url, "quiet"], stdin=nothing,
                              timeout=60, check=False, capture_output=True)
    assert done.returncode == 0
    assert stand_in.asked[-1]["messages"][-1]["content"] == "quiet"


def test_ask_status(stand_in, fake, tmp_path):
    stand_in.text = "yes"
    assert ask(stand_in, stdin="").returncode == 64
    assert ask(stand_in, "-", "-", stdin="x").returncode == 64
    assert ask(stand_in, stdin="a\0b").returncode == 65
    assert ask(fake, "x", "--params", '{"temperature": 9}', stdin="").returncode == 64
    nobody = run("ask", "x", "--url", f"http://127.0.0.1:{free_ports(1)}")
    assert nobody.returncode == 69 and "wyvern up" in nobody.stderr
    assert run("ask", "x", "--url", "ftp://x").returncode == 64
    assert ask(stand_in, "x", "--key-file", str(tmp_path / "none"), stdin="").returncode == 66


def test_a_gateway_that_hangs_up_or_is_gone():
    """It says what to do; and a machine that is gone for good is noticed: the connection is probed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        command = [WYVERN, "ask", "--url", f"http://127.0.0.1:{port}", "x"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as process:
            near, _ = server.accept()
            near.recv(65536)

            def probed():  # /proc/net/tcp: the peer's port, and timer 2 is that of keepalive
                rows = [row.split() for row in open("/proc/net/tcp", encoding="ascii").readlines()[1:]]
                return any(row[2].endswith(f":{port:04X}") and row[5].startswith("02") for row in rows)

            wait_for(probed, "a probe to be due")
            near.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
            near.close()
            _, errors = process.communicate(timeout=60)
        assert process.returncode == 74
        assert "broke before the reply was whole: try again" in errors


def test_ask_to_a_pipe(stand_in):
    stand_in.text, stand_in.stall_at = HOSTILE + "stays", 60
    with subprocess.Popen([WYVERN, "ask", "--url", stand_in.url, "x"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.read1(4096)  # before the reply is whole
        stand_in.go_on.set()
        rest, errors = process.communicate(timeout=60)
        assert process.returncode == 0 and errors == b""
        assert rest.endswith(b"stays\n")  # the text itself: no colour, nothing drawn


def test_ask_into_a_pipe_that_closes(fake):
    with subprocess.Popen([WYVERN, "ask", "--url", fake.url, "x tokens=90000 delay_ms=5"],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        assert process.stdout.read1(10)
        process.stdout.close()
        assert process.wait(30) == 0  # not after the whole reply, which takes 450 s
        assert process.stderr.read() == b""
    idle(fake)


def test_ask_and_ctrl_c(fake, terminal):
    for question, first in (("slow tokens=5 delay_ms=60000", None), ("go tokens=9000 delay_ms=20", "go.2")):
        seen = terminal("ask", "--url", fake.url, question)
        if first:
            seen.wait(first)
        else:
            wait_for(lambda: any(w["active"] for w in fake.workers()), "a busy slot")
        seen.keys("\x03")
        assert seen.ended() == -signal.SIGINT
        idle(fake)


def test_chat_through_pipes(fake, tmp_path):
    """No terminal: lines in, text out; blocks, commands and errors as there."""
    stdin = f'uno tokens=2\n"""\ndue tokens=1\nx\n"""\ntre tokens=1 \\\ny\n/save {tmp_path}/t\n/no\n'
    done = run("chat", "--url", fake.url, stdin=stdin)
    assert done.returncode == 64 and "there is no /no" in done.stderr
    assert done.stdout == "uno.0 uno.1 \ndue.0 \ntre.0 \n"
    asked = [m["content"] for m in json.loads((tmp_path / "t").read_text())["messages"][::2]]
    assert asked == ["uno tokens=2", "due tokens=1\nx", "tre tokens=1 \ny"]
    open_block = run("chat", "--url", fake.url, stdin='"""\nuno tokens=1', check=0)
    assert open_block.stdout == "uno.0 \n"


def test_batch_to_a_terminal(start, terminal, tmp_path):
    """Answers that go to a terminal are as harmless there."""
    path = tmp_path / "in"
    service = start()
    path.write_text(json.dumps({"prompt": "tag\x9b31m\u202e tokens=1"}) + "\n")
    seen = terminal("batch", "--url", service.url, path)
    assert seen.ended(60) == 0
    assert "tag?31m?.0" in seen.text()
    assert not re.search(r"[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u202e]", seen.read())
