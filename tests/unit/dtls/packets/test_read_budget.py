from qosctl.dtls.packets.read_budget import SPARSE_S, ReadBudget


def test_a_lone_packet_is_not_asked_for_a_second_one() -> None:
    burst = ReadBudget(64)
    for second in range(10):
        assert burst.limit == 1
        burst.came(1, float(second), 1)


def test_all_are_asked_for_while_they_come_thick_and_fast() -> None:
    burst = ReadBudget(64)
    for packet in range(10):
        burst.came(1, packet * SPARSE_S / 2, 1)
    assert burst.limit == 64
    burst.came(64, 1.0, 1)  # a long way to go for so many
    assert burst.limit == 1


def test_nothing_there_ends_it() -> None:
    burst = ReadBudget(64)
    burst.came(1, 0.0, 1)
    burst.came(1, SPARSE_S / 2, 1)
    burst.came(0, SPARSE_S, 1)
    assert burst.limit == 1


def test_who_waits_for_the_other_direction_is_not_sparse() -> None:
    burst = ReadBudget(64)
    queue = 0
    for turn in range(100):  # the other direction takes four times SPARSE_S each time, and eight packets come meanwhile
        queue += 8
        taken = min(queue, burst.limit)
        queue -= taken
        burst.came(taken, turn * 4 * SPARSE_S, 2)
    assert queue == 0
