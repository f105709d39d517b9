"""Rollouts with tools: the policy writes a call, its result follows, and so on until it answers.

    train.rollout_func="r1vl_jax.tools.loop:ToolLoop"
    train.rollout_args='{"tools": ["my_tools:search"], "max_turns": 4}'

Calls and results are written as Qwen's chat templates write them, so that models know them:

    <tool_call>
    {"name": "crop", "arguments": {"left": 0, "top": 0, "right": 0.5, "bottom": 1}}
    </tool_call>

    <tool_response>
    (text or picture)
    </tool_response>
"""

import dataclasses
import inspect
import json
import math
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from absl import logging
from PIL import Image
from transformers.utils import get_json_schema

from r1vl_jax.data.records import Record
from r1vl_jax.data.turns import Conversation, extend
from r1vl_jax.rewards.user_code import describe, import_by_name
from r1vl_jax.tools.processes import Call, Result, ToolProcesses
from r1vl_jax.training.multi_turn import Episode, Policy, Turn

ANSWERED, LIMIT, TOO_LONG = "answered", "limit", "prompt"  # why an episode ended
_MOST_CALLS = 8  # of a turn; further ones are not made
_IMAGES = "images"  # a parameter of this name gets the pictures so far
_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_INTRODUCTION = """Before you answer, you may call functions. Each is described here in JSON:
<tools>
{schemas}
</tools>
To call one, write its name and arguments as JSON, and stop; what it returns comes next:
<tool_call>
{{"name": NAME, "arguments": {{...}}}}
</tool_call>"""


@dataclass(frozen=True)
class Tool:
    """A function that the policy may call.

    Attributes:
        name: in calls.
        path: "module:function".
        schema: for the system prompt.
        parameters: that the policy may set.
        wants_images: whether it gets the pictures so far.
    """

    name: str
    path: str
    schema: dict[str, Any]
    parameters: frozenset[str]
    wants_images: bool


class ToolLoop:
    """The rollout function: up to `max_turns` turns, of which each but the last calls tools.

    A call that fails, hangs, or returns what is neither text nor picture gets the reason as its result. The rewards of
    the configuration look at the last turn.
    """

    def __init__(
        self,
        tools: Sequence[str],
        max_turns: int = 4,
        timeout_s: float = 10.0,
        num_processes: int = 4,
        failure_reward: float = 0.0,
    ):
        """Imports the tools and starts a process of them; the others start with the first call.

        Args:
            tools: functions with annotations and a docstring of Google's style, each "module:function". One with a
                parameter `images` gets the pictures of the conversation so far in it.
            max_turns: of an episode; a call in the last one is not made.
            timeout_s: seconds that a call may take.
            num_processes: calls that run at a time.
            failure_reward: of a turn with a call that failed, in reward units.

        Raises:
            ValueError: a tool cannot be imported or described, or a number is out of range.
            RuntimeError: a process does not start.
        """
        if isinstance(tools, str) or not tools:
            raise ValueError(f'tools: expected a list, as ["my_tools:price"], got {tools!r}')
        numbers = {"max_turns": max_turns, "num_processes": num_processes}
        if wrong := {name: value for name, value in numbers.items() if type(value) is not int or value < 1}:
            raise ValueError(f"expected whole numbers of at least 1, got {wrong}")
        if not 0 < timeout_s <= threading.TIMEOUT_MAX or not math.isfinite(failure_reward):
            raise ValueError(
                f"expected timeout_s above 0 and a finite failure_reward, got {timeout_s}, {failure_reward}"
            )
        described = [describe_tool(path) for path in tools]
        self._tools = {tool.name: tool for tool in described}
        if len(self._tools) < len(tools):
            raise ValueError(f"tools: expected functions with names of their own, got {list(tools)}")
        self._max_turns, self._failure_reward = max_turns, failure_reward
        self._processes = ToolProcesses(tools, num_processes=num_processes, timeout_s=timeout_s)
        self._processes.start()
        schemas = "\n".join(json.dumps(tool.schema, ensure_ascii=False) for tool in described)
        self._introduction = _INTRODUCTION.format(schemas=schemas)

    def __call__(self, records: Sequence[Record], policy: Policy) -> list[Episode]:
        """An episode for each of `policy.num_generations` samples of each record."""
        dialogues = [
            _Dialogue(self._introduce(policy.conversation(record)))
            for record in records
            for _ in range(policy.num_generations)
        ]
        while active := [each for each in dialogues if not each.ended]:
            self._take_turn(active, policy)
        return [each.episode() for each in dialogues]

    def _introduce(self, conversation: Conversation) -> Conversation:
        """The conversation behind a system turn about the tools, in front of one that it may have."""
        first, *others = conversation.turns
        before, others = ("", conversation.turns) if first["role"] != "system" else (f"{first['content']}\n\n", others)
        (system,) = extend(Conversation([]), "system", before + self._introduction).turns
        return dataclasses.replace(conversation, turns=[system, *others])

    def _take_turn(self, active: Sequence["_Dialogue"], policy: Policy) -> None:
        prompts = [(each, prompt) for each in active if (prompt := each.encode(policy.encode)) is not None]
        turns = policy.sample([prompt for _, prompt in prompts])
        asked = [(each, calls) for (each, _), turn in zip(prompts, turns, strict=True) if (calls := each.write(turn))]
        for each, _ in asked:
            if len(each.turns) == self._max_turns:
                each.ended = LIMIT
        read = [
            (each, [self._read(text, each.conversation.images) for text in calls])
            for each, calls in asked
            if not each.ended
        ]
        made = iter(self._processes.call([call for _, calls in read for call in calls if isinstance(call, Call)]))
        for each, calls in read:
            results = [next(made) if isinstance(call, Call) else Result(failure=call) for call in calls]
            each.append_results(results, self._failure_reward)

    def _read(self, text: str, images: Sequence[Image.Image]) -> Call | str:
        """A call that the policy wrote; or why it is none."""
        try:
            call = json.loads(text)
        except (ValueError, RecursionError) as error:
            return f"expected JSON in <tool_call>, got {text.strip()!r:.100} ({error})"
        if not isinstance(call, dict) or (tool := self._tools.get(str(call.get("name")))) is None:
            return f'expected {{"name": NAME, "arguments": {{...}}}} with a name of {", ".join(self._tools)}'
        arguments = call.get("arguments", {})
        if not isinstance(arguments, dict) or not arguments.keys() <= tool.parameters:
            return f"{tool.name}: expected arguments {', '.join(sorted(tool.parameters))}, got {arguments!r:.100}"
        return Call(tool.path, arguments | ({_IMAGES: list(images)} if tool.wants_images else {}))


@dataclass
class _Dialogue:
    """A conversation that grows by turns of the policy and results of tools."""

    conversation: Conversation
    turns: list[Turn] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    ended: str = ""
    num_calls: int = 0
    num_failures: int = 0

    def encode(self, encode: Callable[[Conversation], Any]) -> Any:
        """The prompt of the next turn; None, and the episode has ended, if it is too long or cannot be written."""
        try:
            return encode(self.conversation)
        except ValueError as error:
            logging.warning("a dialogue ends, since its prompt cannot be written: %s", error)
            self.ended = TOO_LONG
            return None

    def write(self, turn: Turn) -> list[str]:
        """Appends what the policy wrote; returns the texts of its calls. Without one the episode has ended."""
        self.turns.append(turn)
        self.rewards.append(0.0)
        self.conversation = extend(self.conversation, "assistant", turn.text)
        calls = _CALL.findall(turn.text)[:_MOST_CALLS]
        if not calls:
            self.ended = ANSWERED
        return calls

    def append_results(self, results: Sequence[Result], failure_reward: float) -> None:
        """Appends what the calls of the last turn gave."""
        num_failures = sum(bool(result.failure) for result in results)
        self.num_calls += len(results)
        self.num_failures += num_failures
        self.rewards[-1] += failure_reward * (num_failures > 0)
        self.conversation = extend(self.conversation, "user", *(part for each in results for part in _response(each)))

    def episode(self) -> Episode:
        metrics = {"tool_calls": float(self.num_calls), "tool_failures": float(self.num_failures)}
        return Episode(tuple(self.turns), tuple(self.rewards), self.ended, metrics)


def describe_tool(path: str) -> Tool:
    """Reads name, parameters and docstring of a function.

    Raises:
        ValueError: it cannot be imported, or lacks annotations or descriptions.
    """
    try:
        function = import_by_name(path)
        schema = get_json_schema(function)["function"]
        names = frozenset(inspect.signature(function).parameters)
    except (Exception, SystemExit) as error:
        raise ValueError(f"tool {path!r}: {describe(error)}") from error
    parameters = schema["parameters"]
    parameters["properties"].pop(_IMAGES, None)
    parameters["required"] = [name for name in parameters.get("required", []) if name != _IMAGES]
    schema.pop("return", None)
    return Tool(schema["name"], path, schema, names - {_IMAGES}, _IMAGES in names)


def _response(result: Result) -> Iterator[str | Image.Image]:
    yield "<tool_response>\n"
    yield from [f"error: {result.failure}"] if result.failure else result.parts
    yield "\n</tool_response>\n"
