"""The headings of a response, as data: what a reasoning path is made of, and in which order.

A path is a sequence of sections, each opened by a heading line at the start of a line:

    ### Image Description:      what the picture shows
    ### Rationales:             what the question needs
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
    """A complete, well-ordered reasoning path with the given bodies."""
    numbered = [(step_heading(number), body) for number, body in enumerate(steps, start=1)]
    parts = [(DESCRIPTION, description), (RATIONALE, rationale), (THINK, ""), *numbered, (ANSWER, answer)]
    return "\n\n".join(f"{heading}\n{body}" if body else heading for heading, body in parts)
