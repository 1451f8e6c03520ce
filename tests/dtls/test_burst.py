from qosctl.dtls.burst import DENSE_S, Burst


def test_a_lone_packet_is_not_asked_for_a_second_one() -> None:
    burst = Burst(64)
    for second in range(10):
        assert burst.limit == 1
        burst.came(1, float(second))


def test_it_grows_to_the_most_while_packets_come_thick_and_fast() -> None:
    burst, now, limits = Burst(64), 0.0, []
    for _ in range(8):
        limits.append(burst.limit)
        burst.came(burst.limit, now)
        now += burst.limit * DENSE_S / 10
    assert limits == [1, 1, 2, 4, 8, 16, 32, 64]
    burst.came(64, now)
    assert burst.limit == 64


def test_it_follows_when_less_comes() -> None:
    burst = Burst(64)
    for step in range(10):
        burst.came(burst.limit, step * DENSE_S / 10)
    burst.came(5, 1.0)
    assert burst.limit == 5
    burst.came(0, 1.1)
    assert burst.limit == 1
