"""Whether a portal answers is found out in a fraction of a second, and never at the cost of a job's start."""

import socket
import threading
import time

import pytest

from seclea.client.reach import REACH_SECONDS, answers, require_answer
from seclea.errors import PortalUnavailable


def test_a_port_that_listens_answers_and_one_that_refuses_does_not() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/portal"
        assert not answers(url, 5.0, {})
        with pytest.raises(PortalUnavailable, match=f"{url} does not answer"):
            require_answer(url)
        listener.listen(1)
        assert answers(url, 5.0, {})


def test_a_resolver_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go, done = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        let_go.wait(30)
        done.set()
        raise OSError("no such name")

    monkeypatch.setattr("socket.create_connection", hang)
    began = time.monotonic()
    assert not answers("https://portal.example.com", environ={})
    assert time.monotonic() - began < 0.3 + REACH_SECONDS, "init promises 0.3 s, of which this is the most"
    let_go.set()
    assert done.wait(30)


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "https://[::1"])
def test_an_address_that_is_none_is_left_to_whoever_asks_it(url: str) -> None:
    assert answers(url, environ={})


def test_behind_a_proxy_nobody_knows_before_it_was_asked() -> None:
    assert answers("http://127.0.0.1:1", environ={"HTTPS_PROXY": "http://proxy:3128"})
    assert not answers("http://127.0.0.1:1", environ={"HTTPS_PROXY": ""})
