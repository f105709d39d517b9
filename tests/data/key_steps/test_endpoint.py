"""An endpoint of a language model that is slow, cuts connections, is busy, and replies with nonsense."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from urllib3 import HTTPResponse

from r1vl_jax.data.key_steps.endpoint import API_KEY, Endpoint, EndpointError
from r1vl_jax.data.key_steps.replies import Reply

SECRET = "sk-very-secret"


class Handler(BaseHTTPRequestHandler):
    """Does with each prompt what the prompt says; `server.seen` has bodies and headers."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):  # noqa: N802
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        self.server.seen.append((self.path, prompt, self.headers["Authorization"], body["model"]))
        num_tries = sum(seen[1] == prompt for seen in self.server.seen)
        if prompt.startswith("cut") and num_tries < 3:
            self.connection.close()
        elif prompt.startswith("busy") and num_tries < 3:
            self.reply(429, b"{}")
        elif prompt.startswith("slow"):
            time.sleep(0.6)
            self.reply(200, b"{}")
        elif prompt.startswith("status"):
            self.reply(int(prompt.split()[1]), b"{}", reason=f"you sent {self.headers['Authorization']}")
        elif prompt.startswith("secret"):
            self.reply(200, f"bad key {self.headers['Authorization']}".encode())
        elif prompt.startswith("elsewhere"):
            self.send_response(307)
            self.send_header("Location", "http://127.0.0.1:9/v1/chat/completions")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif prompt.startswith("drip"):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            for _ in range(1000):
                self.wfile.write(b" ")
                time.sleep(0.1)
        elif prompt.startswith("nonsense"):
            self.reply(200, prompt.partition(" ")[2].encode())
        elif prompt.startswith("endless"):
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b" " * 100_000)
        else:
            self.reply(200, json.dumps({"choices": [{"message": {"content": f"re: {prompt}"}}]}).encode())

    def reply(self, status: int, body: bytes, reason: str | None = None) -> None:
        self.send_response(status, reason)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[ThreadingHTTPServer]:
    monkeypatch.setenv(API_KEY, SECRET)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None
    server.seen = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def endpoint(server) -> Iterator[Endpoint]:
    url = f"http://127.0.0.1:{server.server_port}/v1/"
    with Endpoint(url, "a-model", timeout_s=0.4, num_parallel=4, backoff_s=0.01) as endpoint:
        yield endpoint


def test_each_prompt_has_its_reply(endpoint, server):
    prompts = [f"prompt {number}" for number in range(9)]
    assert dict(endpoint.ask(prompts)) == {prompt: Reply(f"re: {prompt}") for prompt in prompts}
    assert {seen[:1] + seen[2:] for seen in server.seen} == {("/v1/chat/completions", f"Bearer {SECRET}", "a-model")}
    assert list(endpoint.ask([])) == []


def test_a_reply_does_not_wait_for_a_slow_one_before_it(endpoint):
    assert next(iter(endpoint.ask(["slow", "hello"]))) == ("hello", Reply("re: hello"))


def test_connections_that_are_cut_and_a_busy_server_are_tried_again(endpoint, server):
    assert dict(endpoint.ask(["cut", "busy"])) == {"cut": Reply("re: cut"), "busy": Reply("re: busy")}
    assert len(server.seen) == 6


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        ("nonsense <html>busy</html>", "expected a chat completion, got b'<html>busy</html>'"),
        ('nonsense {"choices": []}', "expected a chat completion"),
        ("nonsense [1]", "expected a chat completion"),
        ('nonsense {"choices": [{"message": {"content": null}}]}', "a chat completion without a text"),
        ("status 400", "status 400, Bad Request"),
        ("status 500", "status 500, Internal Server Error"),
        ("slow", "no reply"),
        ("endless", "no reply"),
        ("drip", "no reply"),
    ],
)
def test_what_cannot_be_read_fails_that_prompt_alone(endpoint, prompt, error):
    replies = dict(endpoint.ask([prompt, "hello"]))
    assert (reply := replies[prompt]).error.startswith(error)
    assert replies["hello"] == Reply("re: hello")
    assert SECRET not in reply.error


@pytest.mark.parametrize("status", [401, 403, 404])
def test_an_endpoint_that_refuses_all_ends_the_program_and_no_key_is_told(endpoint, status):
    with pytest.raises(EndpointError, match=f"status {status}, .*{API_KEY} in the environment right") as raised:
        list(endpoint.ask([f"status {status}", "hello"]))
    assert SECRET not in str(raised.value)


def test_the_key_is_told_to_nobody(endpoint):
    assert dict(endpoint.ask(["secret"]))["secret"].error == "expected a chat completion, got b'bad key Bearer ***'"


def test_redirects_are_not_followed(endpoint):
    with pytest.raises(EndpointError, match="status 307, Temporary Redirect"):
        list(endpoint.ask(["elsewhere"]))


def test_a_slow_reply_alone_does_not_end_the_program(endpoint):
    assert dict(endpoint.ask(["slow"]))["slow"].error.startswith("no reply")


@pytest.mark.parametrize("url", ["http://me:secret@host/v1", "http://host/v1?key=secret", "ftp://host"])
def test_urls_with_secrets_are_refused_and_not_repeated(url):
    with pytest.raises(EndpointError, match="expected a URL such as") as raised:
        Endpoint(url, "m")
    assert "secret" not in str(raised.value)


def test_a_key_with_a_line_break_is_refused(monkeypatch):
    monkeypatch.setenv(API_KEY, "sk-x\n")
    with pytest.raises(EndpointError, match="OPENAI_API_KEY: expected printable ASCII characters alone"):
        Endpoint("http://host/v1", "m")


def test_an_endpoint_that_is_not_there_ends_the_program():
    message = r"http://127.0.0.1:9/v1/chat/completions: no connection"
    with (
        Endpoint("http://127.0.0.1:9/v1", "m", backoff_s=0.001) as endpoint,
        pytest.raises(EndpointError, match=message),
    ):
        list(endpoint.ask(["hello"]))


def test_a_url_is_expected():
    with pytest.raises(EndpointError, match="expected a URL such as http://localhost:8000/v1"):
        Endpoint("localhost", "m")


def test_no_pause_lasts_for_hours(endpoint):
    retries = endpoint._session.get_adapter("http://").max_retries
    assert retries.get_retry_after(HTTPResponse(headers={"Retry-After": "3600"})) == 30.0
    assert retries.new().get_retry_after(HTTPResponse(headers={"Retry-After": "2"})) == 2.0
    assert retries.get_retry_after(HTTPResponse()) is None
