"""R13: whatever is said to the writer's socket, it lives, stays small, and answers who asks as it should."""

from tests.chaos.hostile_socket import measure


def test_malformed_messages_cost_the_writer_and_its_clients_nothing() -> None:
    found = measure(250, seed=3)
    assert found["honest_failed"] == 0
    assert found["memory_grew_mb"] < 10
