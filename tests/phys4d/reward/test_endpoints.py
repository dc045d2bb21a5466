"""Circuits open after failures in a row, and let one probe through at a time."""

import pytest

from phys4d.reward.endpoints import FAILURES_TO_OPEN, FIRST_PAUSE_S, LONGEST_PAUSE_S, Circuit, Endpoints


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def fail(circuit: Circuit, times: int = 1) -> None:
    for _ in range(times):
        circuit.begin()
        circuit.end(True)


def test_a_circuit_opens_after_three_failures_in_a_row_and_not_before() -> None:
    circuit = Circuit(Clock())
    for _ in range(5):
        fail(circuit, FAILURES_TO_OPEN - 1)
        circuit.end(False)
    assert circuit.wait_s() == 0
    fail(circuit, FAILURES_TO_OPEN)
    assert 0.5 * FIRST_PAUSE_S <= circuit.wait_s() <= 1.5 * FIRST_PAUSE_S


def test_one_probe_goes_after_the_pause_and_its_success_closes_the_circuit() -> None:
    clock = Clock()
    circuit = Circuit(clock)
    fail(circuit, FAILURES_TO_OPEN)
    clock.now += circuit.wait_s()
    assert circuit.wait_s() == 0
    circuit.begin()
    assert circuit.wait_s() == float("inf")
    circuit.end(False)
    assert circuit.wait_s() == 0


def test_pauses_double_up_to_a_bound_and_are_never_the_same() -> None:
    clock, pauses = Clock(), []
    circuit = Circuit(clock)
    fail(circuit, FAILURES_TO_OPEN)
    for _ in range(12):
        pauses.append(circuit.wait_s())
        clock.now += circuit.wait_s()
        fail(circuit)
    assert max(pauses) <= 1.5 * LONGEST_PAUSE_S and min(pauses[-3:]) >= 0.5 * LONGEST_PAUSE_S
    assert len(set(pauses)) == len(pauses)


def test_a_cancelled_call_says_nothing_of_the_server() -> None:
    circuit = Circuit(Clock())
    for _ in range(2 * FAILURES_TO_OPEN):
        circuit.begin()
        circuit.end(None)
    assert circuit.wait_s() == 0


def test_calls_go_to_the_least_busy_server_whose_circuit_is_closed() -> None:
    endpoints = Endpoints(["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"], None)
    broken = endpoints.all[1]
    fail(broken.circuit, FAILURES_TO_OPEN)
    taken = [endpoints.take()[0] for _ in range(4)]
    assert broken not in taken and all(taken.count(e) == 2 for e in endpoints.all if e is not broken)
    for endpoint in taken:
        assert endpoint is not None
        endpoints.give_back(endpoint, False)
    assert [endpoint.num_calls for endpoint in endpoints.all] == [0, 0, 0]
    endpoints.close()


def test_an_endpoint_without_a_port_is_refused() -> None:
    with pytest.raises(ValueError, match="host:port, got 'here'"):
        Endpoints(["127.0.0.1:1", "here"], None)
    with pytest.raises(ValueError, match="needs an endpoint"):
        Endpoints([], None)
