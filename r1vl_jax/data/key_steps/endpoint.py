"""A language model behind an OpenAI-compatible endpoint, as vLLM, SGLang, llama.cpp and hosted ones have it."""

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from r1vl_jax.data.key_steps.replies import Reply

API_KEY = "OPENAI_API_KEY"  # of the environment
_NUM_RETRIES = 5
_NUM_RETRIES_WITHOUT_A_WORD = 2  # each may take the whole time of a reply
_BUSY = (408, 409, 425, 429, 500, 502, 503, 504)  # statuses that may pass
_HOPELESS = (401, 403, 404, 405)  # statuses that every further call would get
_MAX_REPLY = 1 << 20  # bytes
_CHUNK = 1 << 14
_NO_CONNECTION = "no reply"
_HINT = f"are the URL up to /v1, the model's name, and {API_KEY} in the environment right?"


class EndpointError(ValueError):
    """An endpoint that gives no reply to any call."""


class Endpoint:
    """Asks a model in chat form, several prompts at a time; a context manager.

    The key is that of the environment variable OPENAI_API_KEY, if it is set; it gets into no message and no file.
    Statuses that may pass, and connections that are cut, are tried again.

    Args:
        url: up to the version and with it, as "http://localhost:8000/v1".
        model: as the endpoint names it.
        timeout_s: of a reply.
        num_parallel: calls at one time.
        backoff_s: before the second retry; twice as long before each further one, or as long as the endpoint says.

    Raises:
        EndpointError: the URL is none.
    """

    def __init__(
        self, url: str, model: str, *, timeout_s: float = 120.0, num_parallel: int = 8, backoff_s: float = 1.0
    ):
        if not url.startswith(("http://", "https://")):
            raise EndpointError(f"--endpoint: expected a URL such as http://localhost:8000/v1, got {url!r}")
        self._url, self._model, self._timeout_s = f"{url.rstrip('/')}/chat/completions", model, timeout_s
        retries = Retry(
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
        if key := os.environ.get(API_KEY):
            self._session.headers["Authorization"] = f"Bearer {key}"
        self._pool = ThreadPoolExecutor(num_parallel)

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._session.close()

    def ask(self, prompts: Sequence[str]) -> list[Reply]:
        """A reply to each prompt, or why there is none.

        Raises:
            EndpointError: the endpoint refuses whatever it is asked, or is not there.
        """
        replies = list(self._pool.map(self._ask, prompts))
        if replies and all(reply.error.startswith(_NO_CONNECTION) for reply in replies):
            raise EndpointError(f"{self._url}: {replies[0].error}")
        return replies

    def _ask(self, prompt: str) -> Reply:
        body = {"model": self._model, "messages": [{"role": "user", "content": prompt}], "temperature": 0}
        try:
            with self._session.post(self._url, json=body, timeout=self._timeout_s, stream=True) as response:
                if response.status_code in _HOPELESS:
                    raise EndpointError(f"{self._url}: status {response.status_code}, {response.reason}; {_HINT}")
                if not response.ok:
                    return Reply(error=f"status {response.status_code}, {response.reason}")
                return _read_reply(self._read(response))
        except requests.RequestException as error:
            return Reply(error=f"{_NO_CONNECTION} ({type(error).__name__})")

    def _read(self, response: requests.Response) -> bytes:
        """The body, as far as it is neither too long nor too late."""
        end = time.monotonic() + self._timeout_s
        body = b""
        for chunk in response.iter_content(_CHUNK):
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
    return Reply(text) if isinstance(text, str) else Reply(error="a chat completion without a text")
