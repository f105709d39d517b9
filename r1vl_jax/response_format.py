"""The format of a response: its headings, in order.

A response is a sequence of sections, each opened by a heading at the start of a line:

    ### Image Description:      what the image shows
    ### Rationales:             what the question asks for
    ### Let's think step by step.
    ### Step 1:   ### Step 2:   ...
    ### The final answer is:
"""

DESCRIPTION = "### Image Description:"
RATIONALE = "### Rationales:"
THINK = "### Let's think step by step."
STEP = "### Step "  # a number and a colon follow
ANSWER = "### The final answer is:"

HEADINGS = (DESCRIPTION, RATIONALE, THINK, STEP, ANSWER)


def step_heading(number: int) -> str:
    """The heading of one numbered step, counted from 1."""
    return f"{STEP}{number}:"


def compose(description: str, rationale: str, steps: list[str], answer: str) -> str:
    """A complete response in logical order, with the given bodies."""
    numbered = [(step_heading(number), body) for number, body in enumerate(steps, start=1)]
    parts = [(DESCRIPTION, description), (RATIONALE, rationale), (THINK, ""), *numbered, (ANSWER, answer)]
    return "\n\n".join(f"{heading}\n{body}" if body else heading for heading, body in parts)
