"""Knowledge bases: texts, captioned pictures and rows of tables on disk, searched by words, by vectors or by both.

    build(documents, "bases/wiki", name="wiki", kind="text")
    base = KnowledgeBase.open("bases/wiki")
    for hit in base.search(["Who drew the first comic?"], k=5)[0]:
        print(hit.score, base.document(hit.number).text)

`python -m r1vl_jax.router.build_index` makes one from files.
"""

from r1vl_jax.router.knowledge.base import KnowledgeBase
from r1vl_jax.router.knowledge.building import build
from r1vl_jax.router.knowledge.document import Document, Hit

__all__ = ["Document", "Hit", "KnowledgeBase", "build"]
