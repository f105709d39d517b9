"""StepGRPO's rewards of completions in bytes, on the device; `rewards.reference` is the definition.

Every completion is read on its own: the functions of this package take one row and are mapped over blocks of rows.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, UInt8

from r1vl_jax.arrays import Array, bundle
from r1vl_jax.rewards.bundles import Answers, KeySteps, StepReward
from r1vl_jax.rewards.kernels import answers as final_answers
from r1vl_jax.rewards.kernels import bits, headings, searchable
from r1vl_jax.rewards.kernels.answers import Line
from r1vl_jax.rewards.kernels.matching import Matches, find_key_steps
from r1vl_jax.rewards.kernels.row import Row, make_row

_ROWS_AT_ONCE = 16  # few enough to stay in a processor's cache, enough for its vectors


@bundle
class ParsedCompletion:
    """What the rewards need to know of a completion.

    Attributes:
        section_end_J: where each section that earns credit ends; -1 where there is none.
        matches: the key steps found.
        line: the final answer.
        can_earn: whether there is one, as far as the semantics asks for it.
        is_complete, is_ordered: the two halves of validity.
        is_within_bounds: False if the completion is longer than its row or has too many headings.
    """

    section_end_J: Int[Array, " J"]
    matches: Matches
    line: Line
    can_earn: Bool[Array, ""]
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
    """Rewards completions against the questions of their rows.

    Rows are taken in blocks, so memory does not grow with B; where rows are sharded, call it under `jax.shard_map`.

    Args:
        byte_BU: UTF-8 of the completions, from the left.
        length_B: bytes of each; a row that is longer than U is undecided.
        key_steps, answers: what `rewards.pack` makes of the records, with the same semantics.
        semantics: "paper" or "released".
        alpha: worth of all key steps together, the correct answer being 1.
    """
    spare = -(byte_BU.shape[1] + 1) % bits.WORD + 1
    padded_BU = jnp.pad(byte_BU, ((0, 0), (0, spare)))
    read = partial(_parse_completion, semantics=semantics, max_bytes=byte_BU.shape[1])
    readings = jax.lax.map(read, (padded_BU, length_B, key_steps), batch_size=_ROWS_AT_ONCE)
    return jax.vmap(partial(_reward, semantics=semantics, alpha=alpha))(readings, key_steps.num_groups_B, answers)


def _parse_completion(completion: tuple[Array, Array, KeySteps], *, semantics: str, max_bytes: int) -> ParsedCompletion:
    byte_U, length, key_steps = completion
    row = make_row(byte_U, jnp.minimum(length, max_bytes))
    found = headings.find_headings(row)
    if semantics == "paper":
        text = searchable.normalised_path(row, headings.answer_start(row, found))
        line, can_earn = _paper_line(row, found)
        is_complete, is_ordered = headings.paper_validity(row, found)
        is_complete &= can_earn  # where there are several answers, it is the first that must not be empty
    else:
        text = searchable.step_bodies(row, found)
        line, can_earn = _released_line(row, found), jnp.array(True)
        is_complete, is_ordered = headings.released_validity(found)
    return ParsedCompletion(
        section_end_J=headings.section_ends(row, found),
        matches=find_key_steps(text, key_steps.byte_BRAL, key_steps.length_BRA),
        line=line,
        can_earn=can_earn,
        is_complete=is_complete,
        is_ordered=is_ordered,
        is_within_bounds=found.is_all & (length <= max_bytes),
    )


def _paper_line(row: Row, found: headings.Headings) -> tuple[Line, Bool[Array, ""]]:
    """The first line of the first answer section; and whether there is one."""
    is_answer_J = found.is_section_J(headings.ANSWER)
    first = jnp.argmax(is_answer_J)
    has_body = jnp.any(is_answer_J) & headings.has_body_J(row, found)[first]
    return final_answers.first_line(row, found.end_J[first]), has_body


def _released_line(row: Row, found: headings.Headings) -> Line:
    """The first line behind the first answer heading, wherever that stands; without one, all of the text."""
    is_answer_J = found.kind_J == headings.ANSWER
    line = final_answers.first_line(row, found.end_J[jnp.argmax(is_answer_J)])
    return jax.tree.map(partial(jnp.where, jnp.any(is_answer_J)), line, final_answers.whole_text(row))


def _reward(
    reading: ParsedCompletion,
    num_groups: Int[Array, ""],
    gold: Answers,
    *,
    semantics: str,
    alpha: float | Float[Array, ""],
) -> StepReward:
    is_equal, is_decided = final_answers.compare(gold, reading.line)
    if semantics == "paper":
        is_correct, is_decided = is_equal & reading.can_earn, is_decided | ~reading.can_earn
    else:
        is_correct, is_decided = is_equal, is_equal  # what is not this line may stand elsewhere in the completion
    is_certain = is_decided & reading.is_within_bounds & reading.matches.is_exact

    correct = jnp.where(is_correct & is_certain, 1.0, 0.0)
    pay_R = jnp.where(reading.matches.is_matched_R & reading.can_earn, alpha / jnp.maximum(num_groups, 1), 0.0)
    match = jnp.sum(reading.matches.is_matched_R) / jnp.maximum(num_groups, 1)
    accuracy = jnp.where(reading.can_earn, correct + alpha * match, 0.0)
    validity = jnp.where(reading.is_complete & reading.is_ordered, 1.0, 0.0)
    return StepReward(
        total=accuracy + validity,
        step_accuracy=accuracy,
        step_validity=validity,
        answer_correct=is_correct & is_certain,
        key_step_match=match,
        complete=reading.is_complete,
        ordered=reading.is_ordered,
        undecided=~is_certain,
        section_end_BJ=reading.section_end_J,
        section_reward_BJ=_assign_to_sections(reading.section_end_J, reading.matches.end_R, pay_R, correct + validity),
    )


def _assign_to_sections(
    section_end_J: Int[Array, " J"],
    match_end_R: Int[Array, " R"],
    pay_R: Float[Array, " R"],
    paid_at_end: Float[Array, ""],
) -> Float[Array, " J"]:
    """Puts what was earned where it was earned: key steps in their sections, the rest in the last."""
    is_section_J = section_end_J >= 0
    section_R = jnp.sum(is_section_J[None] & (section_end_J[None] < match_end_R[:, None]), axis=1)
    earned_J = jnp.zeros(section_end_J.shape).at[section_R].add(pay_R)
    return earned_J.at[jnp.sum(is_section_J) - 1].add(paid_at_end)
