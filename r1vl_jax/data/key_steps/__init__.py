"""Key steps for records that come without any: by rule, or by a language model, kept in a file that can be edited.

python -m r1vl_jax.data.key_steps --data=mulberry_sft.json --out=key_steps.jsonl --page=key_steps.html

from r1vl_jax.data.key_steps import key_steps_by_rule
"""

from r1vl_jax.data.key_steps.rule import key_steps_by_rule as key_steps_by_rule
