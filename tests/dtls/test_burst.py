from qosctl.dtls.burst import SPARSE_S, Burst


def test_a_lone_packet_is_not_asked_for_a_second_one() -> None:
    burst = Burst(64)
    for second in range(10):
        assert burst.limit == 1
        burst.came(1, float(second))


def test_all_are_asked_for_while_they_come_thick_and_fast() -> None:
    burst = Burst(64)
    for packet in range(10):
        burst.came(1, packet * SPARSE_S / 2)
    assert burst.limit == 64
    burst.came(64, 1.0)  # a long way to go for so many
    assert burst.limit == 1


def test_nothing_there_ends_it() -> None:
    burst = Burst(64)
    burst.came(1, 0.0)
    burst.came(1, SPARSE_S / 2)
    burst.came(0, SPARSE_S)
    assert burst.limit == 1
