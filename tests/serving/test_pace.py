"""How long a refused client is asked to wait."""

from hyperloader.serving.pace import Pace


def test_the_time_to_wait_goes_by_what_was_answered_of_late():
    now = [0.0]
    pace = Pace(lambda: now[0])
    assert pace.seconds(5, most=30) == 30  # nobody knows
    pace.note(0)
    now[0] = 1000
    pace.note(100)
    now[0] = 1002
    pace.note(80, answered=20)
    assert pace.seconds(80, most=60) == 8
    pace.note(0)  # what was not answered
    now[0] = 5000
    pace.note(40)
    assert pace.seconds(40, most=60) == 4
    now[0] = 5020
    pace.note(40)
    assert pace.seconds(40, most=60) == 44
    now[0] = 5100
    assert pace.seconds(40, most=60) == 60
