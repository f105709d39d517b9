"""The arrays that rewards take and return."""

from jaxtyping import Bool, Float, Int, UInt8

from r1vl_jax.arrays import Array, bundle


@bundle
class StepReward:
    """Every part of StepGRPO's reward of B completions.

    A completion has up to J sections: all text before the first step, each step, and the final answer; without
    structure it is one section. A matched key-step group is rewarded in the section of its first match, all else in the
    last section.

    Attributes:
        total: step_accuracy + step_validity, in [0, 2 + alpha].
        step_accuracy: StepRAR, in [0, 1 + alpha]: 1 for a correct answer, plus alpha * key_step_match.
        step_validity: StepRVR, 0 or 1: complete and ordered.
        answer_correct: False while undecided.
        key_step_match: fraction of the key-step groups that are matched; 0 where there are none.
        complete: whether all parts are present.
        ordered: whether the parts are in logical order.
        undecided: only math-verify can decide whether the answer is correct, and no judge was given; from the kernels
            also a row beyond their bounds, where no field is valid.
        section_end_BJ: byte offset in the completion where each section ends; -1 in padding.
        section_reward_BJ: reward of each section; a row sums to its total.
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
    """The key steps of each row's question, normalised for the search.

    Attributes:
        byte_BRAL: the spellings, padded with 0.
        length_BRA: bytes of a spelling; -1 in padding, and for a spelling that never matches.
        num_groups_B: number of groups of the question, including those without a spelling.
    """

    byte_BRAL: UInt8[Array, "B R A L"]
    length_BRA: Int[Array, "B R A"]
    num_groups_B: Int[Array, " B"]


@bundle
class Answers:
    """The gold answer of each row's question, in every form that the kernels compare answers in.

    Attributes:
        form_BW: the answer in normal form, padded with 0.
        form_length_B: bytes of the normal form.
        form_decides_B: whether any prediction of the same normal form is right.
        is_number_B: whether it is a number without unit whose exact value fits; numerator and denominator are 0 if not.
        is_negative_B: the sign of the value.
        numerator_BN, denominator_BN: of the value, in base 10,000, least significant digit first; see
            `kernels.numbers`.
        is_word_B: whether it is one word of letters A-Z.
        option_B: 1 for option A, 2 for B, ...; 0 if it is not an option.
        option_has_text_B: whether the option has a text behind its letter.
        has_others_B: whether there are further answers that are right; what is not this one is undecided then.
    """

    form_BW: UInt8[Array, "B W"]
    form_length_B: Int[Array, " B"]
    form_decides_B: Bool[Array, " B"]
    is_number_B: Bool[Array, " B"]
    is_negative_B: Bool[Array, " B"]
    numerator_BN: Int[Array, "B N"]
    denominator_BN: Int[Array, "B N"]
    is_word_B: Bool[Array, " B"]
    option_B: Int[Array, " B"]
    option_has_text_B: Bool[Array, " B"]
    has_others_B: Bool[Array, " B"]
