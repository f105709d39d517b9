"""A language model behind an OpenAI-compatible endpoint, as vLLM, SGLang, llama.cpp and hosted ones have it."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from http.client import responses
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.util import Retry

from r1vl_jax.data.key_steps.replies import Reply

API_KEY = "OPENAI_API_KEY"  # of the environment
_NUM_RETRIES = 5
_NUM_RETRIES_WITHOUT_A_WORD = 2  # each may take the whole time of a reply
_BUSY = (408, 409, 425, 429, 500, 502, 503, 504)  # statuses that may pass
_HOPELESS = (401, 403, 404, 405)  # statuses that every further call would get
_MAX_REPLY = 1 << 20  # bytes
_CHUNK = 1 << 16
_MAX_PAUSE_S = 30.0
_NOT_THERE = "no connection"
_NO_REPLY = "no reply: the connection was cut, or the time was over"
_HINT = f"are the URL up to /v1, the model's name, and {API_KEY} in the environment right?"


class EndpointError(ValueError):
    """An endpoint that gives no reply to any call."""


class _Retry(Retry):
    """Waits as long as the endpoint says, but not for hours."""

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        pause = super().get_retry_after(response)
        return None if pause is None else min(pause, _MAX_PAUSE_S)


class Endpoint:
    """Asks a model in chat form, several prompts at a time; a context manager.

    The key is that of the environment variable OPENAI_API_KEY, if it is set, and no other; it gets into no message and
    no file. Redirects are not followed. Statuses that may pass, and connections that are cut, are tried again.

    Args:
        url: up to the version and with it, as "http://localhost:8000/v1".
        model: as the endpoint names it.
        timeout_s: of a reply.
        num_parallel: calls at one time.
        backoff_s: before the second retry; twice as long before each further one, or as long as the endpoint says.

    Raises:
        EndpointError: the URL is none, or has more than a host and a path; or the key is none.
    """

    def __init__(
        self, url: str, model: str, *, timeout_s: float = 120.0, num_parallel: int = 8, backoff_s: float = 1.0
    ):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.username or parts.query or parts.fragment:
            raise EndpointError("--endpoint: expected a URL such as http://localhost:8000/v1, without user and query")
        self._key = os.environ.get(API_KEY, "")
        if not (self._key.isascii() and self._key.isprintable()):
            raise EndpointError(f"{API_KEY}: expected printable ASCII characters alone; is there a line break in it?")
        self._url, self._model, self._timeout_s = f"{url.rstrip('/')}/chat/completions", model, timeout_s
        retries = _Retry(
            _NUM_RETRIES,
            read=_NUM_RETRIES_WITHOUT_A_WORD,
            backoff_factor=backoff_s,
            status_forcelist=_BUSY,
            allowed_methods=None,  # POST, too
            raise_on_status=False,
        )
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retries, pool_maxsize=num_parallel))
        self._session.auth = self._authorize  # so that no .netrc counts
        self._pool = ThreadPoolExecutor(num_parallel)

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._session.close()

    def ask(self, prompts: Sequence[str]) -> Iterator[tuple[str, Reply]]:
        """Each prompt with its reply, or why there is none, as they come.

        Raises:
            EndpointError: the endpoint refuses whatever it is asked, or is not there.
        """
        asked = {self._pool.submit(self._ask, prompt): prompt for prompt in prompts}
        is_there = not asked
        for future in as_completed(asked):
            reply = future.result()
            is_there = is_there or reply.error != _NOT_THERE
            yield asked[future], Reply(reply.text, self._hide_key(reply.error))
        if not is_there:
            raise EndpointError(f"{self._url}: {_NOT_THERE}")

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _hide_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _ask(self, prompt: str) -> Reply:
        body = {"model": self._model, "messages": [{"role": "user", "content": prompt}], "temperature": 0}
        try:
            with self._session.post(
                self._url, json=body, timeout=self._timeout_s, stream=True, allow_redirects=False
            ) as response:
                status = f"status {response.status_code}, {responses.get(response.status_code, 'unknown')}"
                if response.status_code in _HOPELESS or response.is_redirect:
                    raise EndpointError(f"{self._url}: {status}; {_HINT}")
                return _read_reply(self._read(response)) if response.ok else Reply(error=status)
        except requests.ConnectionError as error:
            reason = getattr(error.args[0] if error.args else None, "reason", None)
            return Reply(error=_NOT_THERE if isinstance(reason, NewConnectionError) else _NO_REPLY)
        except (requests.RequestException, HTTPError):
            return Reply(error=_NO_REPLY)

    def _read(self, response: requests.Response) -> bytes:
        """The body, as far as it is neither too long nor too late."""
        end = time.monotonic() + self._timeout_s
        body = b""
        while chunk := response.raw.read1(_CHUNK, decode_content=True):  # as it comes
            body += chunk
            if len(body) > _MAX_REPLY or time.monotonic() > end:
                raise requests.Timeout
        return body


def _read_reply(body: bytes) -> Reply:
    """The text of the first choice of a chat completion."""
    try:
        text = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return Reply(error=f"expected a chat completion, got {body[:60]!r}")
    if not isinstance(text, str):
        return Reply(error="a chat completion without a text")
    return Reply(text.encode("utf-8", "replace").decode())  # without halves of surrogate pairs
