"""The arrays that rewards take and give."""

from jaxtyping import Bool, Float, Int, UInt8

from r1vl_jax.arrays import Array, bundle


@bundle
class StepReward:
    """What B completions earned, part by part.

    A path is cut into sections, J at most: all before the first step, each step, the final answer; without structure it
    is one. A matched group of key steps pays in the section that first holds it, all else in the last.

    Attributes:
        total: step_accuracy + step_validity, in [0, 2 + alpha].
        step_accuracy: StepRAR, in [0, 1 + alpha]: 1 for a correct answer, alpha * key_step_match on top.
        step_validity: StepRVR, 0 or 1: complete and ordered.
        answer_correct: False while undecided.
        key_step_match: fraction of the groups of key steps that were matched; 0 where there are none.
        complete: whether all parts are there.
        ordered: whether they are in logical order.
        undecided: only math-verify could tell whether the answer is right, and no judge was given; from the kernels,
            also a row beyond their bounds, where no field counts.
        section_end_BJ: byte offset in the completion where each section ends; -1 where there is none.
        section_reward_BJ: what each section earned; a row sums to its total.
    """

    total: Float[Array, " B"]
    step_accuracy: Float[Array, " B"]
    step_validity: Float[Array, " B"]
    answer_correct: Bool[Array, " B"]
    key_step_match: Float[Array, " B"]
    complete: Bool[Array, " B"]
    ordered: Bool[Array, " B"]
    undecided: Bool[Array, " B"]
    section_end_BJ: Int[Array, "B J"]
    section_reward_BJ: Float[Array, "B J"]


@bundle
class KeySteps:
    """The key steps of each row's question, in the spelling in which they are looked for.

    Attributes:
        byte_BRAL: the spellings; 0 behind the end of each.
        length_BRA: bytes of a spelling; -1 where there is none, or one that never matches.
        num_groups_B: groups of the question, those without any spelling included.
    """

    byte_BRAL: UInt8[Array, "B R A L"]
    length_BRA: Int[Array, "B R A"]
    num_groups_B: Int[Array, " B"]


@bundle
class Answers:
    """The reference answer of each row's question, read as all that it may be.

    Attributes:
        form_BW: the answer in normal form; 0 behind its end.
        form_length_B: bytes of it.
        is_number_B: whether it has an exact value (top / bottom, negated or not) that fits; else both are 0.
        is_negative_B: the sign of the value.
        top_BN, bottom_BN: digits to the base 10,000, the lowest first; see `kernels.numbers`.
        is_letters_B: whether the normal form is letters only.
        option_B: 1 for option A, 2 for B ...; 0 if it is no option letter.
    """

    form_BW: UInt8[Array, "B W"]
    form_length_B: Int[Array, " B"]
    is_number_B: Bool[Array, " B"]
    is_negative_B: Bool[Array, " B"]
    top_BN: Int[Array, "B N"]
    bottom_BN: Int[Array, "B N"]
    is_letters_B: Bool[Array, " B"]
    option_B: Int[Array, " B"]
