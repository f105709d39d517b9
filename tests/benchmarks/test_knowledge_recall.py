"""The benchmark of recall asks every base about the documents that it has."""

from benchmarks.knowledge_recall import measure


def test_in_a_small_task_every_way_finds_nearly_all(tmp_path):
    recalls = measure(tmp_path, num_facts=40, num_questions=10)
    assert len(recalls) == 5
    assert all(len(of_way) == 3 and min(of_way.values()) >= 0.9 for of_way in recalls.values())
