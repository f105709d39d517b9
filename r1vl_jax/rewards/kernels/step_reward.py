"""StepGRPO's rewards of completions in bytes, on the device; `rewards.strings` is the definition.

Completions are independent: the functions of this package take one row, and are vectorised over blocks of rows.
"""

import functools
import operator
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, UInt8

from r1vl_jax.arrays import Array, bundle
from r1vl_jax.rewards.bundles import Answers, KeySteps, StepReward
from r1vl_jax.rewards.kernels import answers as final_answers
from r1vl_jax.rewards.kernels import bits, headings, search_text
from r1vl_jax.rewards.kernels.answers import AnswerLine
from r1vl_jax.rewards.kernels.matching import Matches, find_key_steps
from r1vl_jax.rewards.kernels.row import Row, make_row

_BLOCK_ROWS = 16  # few enough for the cache of a CPU, enough for its vector units


@bundle
class ParsedCompletion:
    """What the rewards are computed from.

    Attributes:
        section_end_J: where each section of step-level credit ends; -1 in padding.
        matches: the matched key steps.
        line: the final answer.
        is_eligible: whether StepRAR may be more than 0: "paper" asks for a non-empty answer, "released" does not.
        is_complete, is_ordered: the two conditions of StepRVR.
        is_within_bounds: False if the completion is longer than its row, has too many headings, or has its answer
            where the kernels do not look: in an `<answer>` element, or ("released") in a box.
    """

    section_end_J: Int[Array, " J"]
    matches: Matches
    line: AnswerLine
    is_eligible: Bool[Array, ""]
    is_complete: Bool[Array, ""]
    is_ordered: Bool[Array, ""]
    is_within_bounds: Bool[Array, ""]


def step_reward(
    byte_BU: UInt8[Array, "B U"],
    length_B: Int[Array, " B"],
    key_steps: KeySteps,
    answers: Answers,
    *,
    semantics: str,
    alpha: float | Float[Array, ""],
) -> StepReward:
    """Rewards completions against the key steps and gold answers of their rows.

    Rows are processed in blocks, so memory does not grow with B; if rows are sharded, call it under `jax.shard_map`.

    Args:
        byte_BU: UTF-8 of the completions, from the left.
        length_B: bytes of each completion; one that is longer than U is undecided.
        key_steps, answers: from `rewards.pack`, with the same semantics.
        semantics: "paper" or "released".
        alpha: weight of the matched fraction of key steps in StepRAR; a correct answer counts 1.
    """
    padding = -(byte_BU.shape[1] + 1) % bits.WORD + 1
    padded_BU = jnp.pad(byte_BU, ((0, 0), (0, padding)))
    parse = partial(_parse_completion, semantics=semantics, max_bytes=byte_BU.shape[1])
    parsed = jax.lax.map(parse, (padded_BU, length_B, key_steps), batch_size=_BLOCK_ROWS)
    return jax.vmap(partial(_reward, semantics=semantics, alpha=alpha))(parsed, key_steps.num_groups_B, answers)


def _parse_completion(completion: tuple[Array, Array, KeySteps], *, semantics: str, max_bytes: int) -> ParsedCompletion:
    byte_U, length, key_steps = completion
    row = make_row(byte_U, jnp.minimum(length, max_bytes))
    found = headings.find_headings(row)
    if semantics == "paper":
        text = search_text.normalised_text(row, headings.answer_start(row, found))
        line, can_earn = _paper_line(row, found)
        is_complete, is_ordered = headings.paper_validity(row, found)
        is_complete &= can_earn  # of several answer sections the first must not be empty
    else:
        text = search_text.step_bodies(row, found)
        line, can_earn = _released_line(row, found), jnp.array(True)
        is_complete, is_ordered = headings.released_validity(found)
    return ParsedCompletion(
        section_end_J=headings.section_ends(row, found),
        matches=find_key_steps(text, key_steps.byte_BRAL, key_steps.length_BRA),
        line=line,
        is_eligible=can_earn,
        is_complete=is_complete,
        is_ordered=is_ordered,
        is_within_bounds=found.fits & (length <= max_bytes) & ~_has_answer_elsewhere(row, found, semantics),
    )


def _has_answer_elsewhere(row: Row, found: headings.Headings, semantics: str) -> Bool[Array, ""]:
    """Whether a text without an answer heading has an `<answer>` element or, for "released", LaTeX."""
    marks = (b"<answer>",) if semantics == "paper" else (b"<answer>", b"\\")
    starts = [jnp.any(bits.literal_starts(row.byte_U, mark) != 0) for mark in marks]
    return functools.reduce(operator.or_, starts) & ~jnp.any(found.kind_J == headings.ANSWER)


def _paper_line(row: Row, found: headings.Headings) -> tuple[AnswerLine, Bool[Array, ""]]:
    """The first line of the first answer section; and whether it is not empty."""
    is_answer_J = found.is_section_J(headings.ANSWER)
    first = jnp.argmax(is_answer_J)
    has_body = jnp.any(is_answer_J) & headings.has_body_J(row, found)[first]
    return final_answers.first_line(row, found.end_J[first]), has_body


def _released_line(row: Row, found: headings.Headings) -> AnswerLine:
    """The first line after the first answer heading, at any position of a line; without one, the whole text."""
    is_answer_J = found.kind_J == headings.ANSWER
    line = final_answers.first_line(row, found.end_J[jnp.argmax(is_answer_J)])
    return jax.tree.map(partial(jnp.where, jnp.any(is_answer_J)), line, final_answers.whole_text(row))


def _reward(
    parsed: ParsedCompletion,
    num_groups: Int[Array, ""],
    gold: Answers,
    *,
    semantics: str,
    alpha: float | Float[Array, ""],
) -> StepReward:
    is_equal, is_decided = final_answers.compare(gold, parsed.line)
    if semantics == "paper":
        is_correct, is_decided = is_equal & parsed.is_eligible, is_decided | ~parsed.is_eligible
    else:
        is_correct = is_equal
    is_decided = is_decided & parsed.is_within_bounds & parsed.matches.is_verified

    correct = jnp.where(is_correct & is_decided, 1.0, 0.0)
    reward_R = jnp.where(parsed.matches.is_matched_R & parsed.is_eligible, alpha / jnp.maximum(num_groups, 1), 0.0)
    match = jnp.sum(parsed.matches.is_matched_R) / jnp.maximum(num_groups, 1)
    accuracy = jnp.where(parsed.is_eligible, correct + alpha * match, 0.0)
    validity = jnp.where(parsed.is_complete & parsed.is_ordered, 1.0, 0.0)
    return StepReward(
        total=accuracy + validity,
        step_accuracy=accuracy,
        step_validity=validity,
        answer_correct=is_correct & is_decided,
        key_step_match=match,
        complete=parsed.is_complete,
        ordered=parsed.is_ordered,
        undecided=~is_decided,
        section_end_BJ=parsed.section_end_J,
        section_reward_BJ=_assign_to_sections(parsed.section_end_J, parsed.matches.end_R, reward_R, correct + validity),
    )


def _assign_to_sections(
    section_end_J: Int[Array, " J"],
    match_end_R: Int[Array, " R"],
    reward_R: Float[Array, " R"],
    last_section_reward: Float[Array, ""],
) -> Float[Array, " J"]:
    """Adds each key-step match to the section of the match, and all other reward to the last section."""
    is_section_J = section_end_J >= 0
    section_R = jnp.sum(is_section_J[None] & (section_end_J[None] < match_end_R[:, None]), axis=1)
    reward_J = jnp.zeros(section_end_J.shape).at[section_R].add(reward_R)
    return reward_J.at[jnp.sum(is_section_J) - 1].add(last_section_reward)
