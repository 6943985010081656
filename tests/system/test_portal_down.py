"""The portal is down when a job starts and when it ends: nothing waits for it, and one line says so."""

from tests.pipeline import PipelineHome

JOB = """
    import time
    import seclea

    began = time.process_time()
    run = seclea.init("Claims")
    print(time.process_time() - began)
    for step in range(100):
        run.log({"loss": 1.0}, step=step)
    """


def test_init_says_one_line_and_the_exit_waits_for_nothing(home: PipelineHome) -> None:
    home.log_in(home.closed_url)
    script = home.script(JOB)
    # Of the 0.3 s that are promised: what it costs. What it waits, REACH_SECONDS at most, has a test of its own. (The clock
    # on the wall says here how busy the machine is.)
    assert float(script.end()) < 0.3
    assert script.errors == f"seclea: {home.closed_url} does not answer. What is logged is kept and sent later.\n"
    assert home.command("flush").returncode == 0
    assert home.steps() == list(range(100))


def test_the_start_loads_nothing_of_the_network_when_nobody_answers(home: PipelineHome) -> None:
    home.log_in(home.closed_url)
    printed = home.run(JOB, "import sys", "print('requests' in sys.modules, 'urllib3' in sys.modules)")
    assert printed.splitlines()[1] == "False False"
