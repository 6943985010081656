"""A login while nothing runs: what an earlier job left waiting for it goes out with the next one."""

from tests.contract.portal_server import PortalServer
from tests.pipeline import PipelineHome, until
from tests.system.test_login import client, server

__all__ = ["server"]


def test_what_waited_for_a_login_goes_out_after_one_that_found_nothing_running(
    home: PipelineHome, server: PortalServer
) -> None:
    there = {"SECLEA_PLATFORM_URL": server.url, "SECLEA_ORGANIZATION": "Acme"}
    home.run(
        """
        from seclea import SecleaAI
        seclea = SecleaAI("Claims without a login")
        seclea.start_training_run().log({"loss": 1.0})
        print(seclea.flush(20).done)
        """,
        **there,
    )
    until(lambda: home.rows("SELECT 1 FROM destinations WHERE hold IS NOT NULL"), "the destination on hold")
    assert home.command("stop", **there).returncode == 0
    seclea = client(server)
    seclea.start_training_run().log({"loss": 2.0})
    result = seclea.complete(timeout=30)
    assert result.done, result.reasons
