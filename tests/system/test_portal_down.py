"""The portal is down when a job starts and when it ends: nothing waits for it, and one line says so."""

from tests.pipeline import PipelineHome

JOB = """
    import time
    import seclea

    began = time.perf_counter()
    run = seclea.init("Claims")
    print(time.perf_counter() - began)
    for step in range(100):
        run.log({"loss": 1.0}, step=step)
    """


def test_init_returns_at_once_says_one_line_and_the_exit_waits_for_nothing(home: PipelineHome) -> None:
    home.log_in(home.closed_url)
    seconds = []
    for _ in range(3):  # the promise is one of a machine that has a processor to spare
        script = home.script(JOB)
        seconds.append(float(script.end(seconds=20)))
        assert script.errors == f"seclea: {home.closed_url} does not answer. What is logged is kept and sent later.\n"
        if min(seconds) < 0.3:
            break
    assert min(seconds) < 0.3, seconds
    assert home.command("flush").returncode == 0
    assert len(home.steps()) == 100 * len(seconds)


def test_the_start_loads_nothing_of_the_network_when_nobody_answers(home: PipelineHome) -> None:
    home.log_in(home.closed_url)
    printed = home.run(JOB, "import sys", "print('requests' in sys.modules, 'urllib3' in sys.modules)")
    assert printed.splitlines()[1] == "False False"
