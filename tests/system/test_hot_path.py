"""What a log call does not do (R29): no system call while the writer is awake, nothing that grows."""

import platform
import sys

import pytest

from tests.pipeline import PipelineHome, until

# A seccomp filter: from then on the kernel kills a thread that asks it for anything but these (x86-64 and arm64 numbers).
# clock_gettime is among them for machines whose clock cannot be read without the kernel.
ALLOWED = {"x86_64": {"write": 1, "clock_gettime": 228, "exit_group": 231}}.get(platform.machine()) or {
    "write": 64, "clock_gettime": 113, "exit_group": 94,
}  # fmt: skip
FORBID = f"""
    import ctypes, struct
    def forbid_system_calls():
        allowed = {list(ALLOWED.values())}
        rule = lambda code, yes, no, value: struct.pack("=HBBI", code, yes, no, value)
        rules = [rule(0x20, 0, 0, 0)]  # load the number of the call
        rules += [rule(0x15, len(allowed) - place, 0, number) for place, number in enumerate(allowed)]
        rules += [rule(0x06, 0, 0, 0x80000000), rule(0x06, 0, 0, 0x7FFF0000)]  # kill the process; allow
        program = ctypes.create_string_buffer(b"".join(rules))
        header = struct.pack("@HP", len(rules), ctypes.addressof(program))
        libc = ctypes.PyDLL(None)  # does not let go of the interpreter's lock
        assert not libc.prctl(38, 1, 0, 0, 0) and not libc.prctl(22, 2, header, 0, 0)
    """

START = """
    import os
    from seclea import SecleaAI
    run = SecleaAI("Claims").start_training_run()
    """


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs seccomp")
def test_a_log_call_makes_no_system_call_while_the_writer_is_awake(home: PipelineHome) -> None:
    script = home.script(
        START,
        FORBID,
        """
        names = {f"name {number}": number / 7 for number in range(100)}
        def log(step):
            run.log({"loss": 0.5}, step=step)
            run.log({"loss": 0.5, "epoch": step})
            run.log(names, step=step)
        for step in range(3):
            log(step)
        assert run._pipeline.flush(20)  # the writer is there, and awake for a second and a half
        forbid_system_calls()
        for step in range(3, 1000):
            log(step)
        os.write(1, b"no system call\\n")
        os._exit(0)
        """,
    )
    assert script.hear() == "no system call"
    script.end()
    until(lambda: len(home.points()) == 1000 * 103, "all of it in the ledger")


def test_the_filter_does_kill_a_process_that_asks_the_kernel(home: PipelineHome) -> None:
    home.script("import os", FORBID, "forbid_system_calls()\nos.getppid()").end(-31)  # SIGSYS


def test_a_log_call_leaves_no_object_behind(home: PipelineHome) -> None:
    home.run(
        START,
        """
        import gc, sys
        def log(count):
            for step in range(count):
                run.log({"loss": 0.5}, step=step)
        log(2000)
        gc.collect()
        gc.disable()
        before, blocks = len(gc.get_objects()), sys.getallocatedblocks()
        log(20_000)
        more = sys.getallocatedblocks() - blocks
        assert len(gc.get_objects()) - before <= 1, "the list that was just made"
        assert more < 50, more
        run.finish()
        """,
    )
