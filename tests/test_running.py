from jaxinterp import running
from jaxinterp.config import Processes


def code_of(command):
    return running.run(command, lambda: (None, Processes()))


def refuse(config, must_stop):
    raise ValueError("the file says\n \x1b[2J\x07 café: give another")


def test_bad_input_is_one_line_that_no_terminal_obeys(capsys):
    assert code_of(refuse) == 2
    assert capsys.readouterr().err == "error: the file says ?[2J? café: give another\n"


def test_a_command_that_ends_well_gives_0():
    seen = []
    assert code_of(lambda config, must_stop: seen.append(must_stop())) == 0
    assert seen == [False]
