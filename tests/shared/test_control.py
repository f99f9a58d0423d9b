"""Control messages and their channel."""

import os
import socket
from collections.abc import Iterator

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvpmu.shared.control import (
    Bye,
    Channel,
    Hello,
    Message,
    Refuse,
    Stats,
    StatsRequest,
    VcpuStats,
    Welcome,
    connect,
    decode,
    encode,
    listen,
)
from pvpmu.shared.errors import PeerError, RefusedError

HELLO = Hello(version=1, pid=42, vcpus=2, memory="pvpmu.x.guest", memory_bytes=8192)
MESSAGES: list[Message] = [
    HELLO,
    Welcome(
        version=1,
        pid=7,
        design="page",
        segment="pvpmu.x.host",
        segment_bytes=2048,
        slot_bytes=1024,
        semaphores=[("/pvpmu.x.0.exit", "/pvpmu.x.0.entry")],
        cpus=[0, -1],
    ),
    Refuse(2, "too many"),
    StatsRequest(3),
    Stats(
        VcpuStats(
            exits={0: 3, 32: 9},
            accesses=[(32, 0x38F, 4), (15, 1 << 30, 1)],
            tallies=[[1, 2], [3, 4]],
            exits_by=[5, 6, 7],
            pmi={"raised": 1},
            undelivered=1,
        )
    ),
    Stats(VcpuStats.empty()),
    Bye(),
]


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channels = Channel(near), Channel(far)
    yield channels
    for channel in channels:
        channel.close()


def packed(**body: object) -> bytes:
    result: bytes = msgpack.packb(body)
    return result


def hello(**changes: object) -> bytes:
    body = {name: getattr(HELLO, name) for name in ("version", "pid", "vcpus", "memory")}
    return packed(**{"type": "Hello", **body, "memory_bytes": 1, **changes})


@pytest.mark.rule("BND-7")
@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_survives_the_round_trip(message: Message) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_cut_short_is_refused(message: Message) -> None:
    packet = encode(message)
    for length in range(len(packet)):
        with pytest.raises(PeerError):
            decode(packet[:length])


@pytest.mark.rule("BND-7")
@pytest.mark.parametrize(
    ("packet", "words"),
    [
        (b"", "0 bytes is no msgpack"),
        (b"\xc1", "1 bytes is no msgpack"),
        (b"\x81\x90\x01", "3 bytes is no msgpack"),
        (b"\x81\x80\x01", "3 bytes is no msgpack"),
        (b"\x91" * 3000, "3000 bytes is no msgpack"),
        (b"\x81\xa1\xff\x01", "4 bytes is no msgpack"),
        (encode(Bye()) + b"\x00", "is no msgpack"),
        (b"\x93\x01\x02\x03", "unknown control message None"),
        (packed(), "unknown control message None; known: Hello, Welcome, "),
        (packed(type=3), "unknown control message 3"),
        (packed(type=["Hello"]), "unknown control message ['Hello']"),
        (packed(type="Reboot"), "unknown control message 'Reboot'"),
        (packed(type="VcpuStats"), "unknown control message 'VcpuStats'"),
        (packed(type="Bye", why="x"), "control message Bye: unknown field 'why'"),
        (msgpack.packb({"type": "Bye", 5: 6}), "control message Bye: unknown field '5'"),
        (packed(type="Hello"), "control message Hello: Object missing required field"),
        (hello(pid="x"), "control message Hello: Expected `int`, got `str` - at `$.pid`"),
        (hello(memory=b"x"), "control message Hello: Expected `str`"),
        (hello(vcpus=1.5), "control message Hello: Expected `int`, got `float`"),
        (hello(vcpus=None), "control message Hello: Expected `int`, got `null`"),
    ],
)
def test_a_malformed_packet_is_a_peer_error_of_one_line(packet: bytes, words: str) -> None:
    with pytest.raises(PeerError) as caught:
        decode(packet)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=40))
@settings(max_examples=300)
def test_random_bytes_are_refused_and_nothing_else_is_raised(packet: bytes) -> None:
    with pytest.raises(PeerError):
        decode(packet)


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(["Hello", "Welcome", "Refuse", "Stats"]), st.data())
@settings(max_examples=40)
def test_random_field_values_are_a_message_or_a_peer_error(kind: str, data: st.DataObject) -> None:
    names = {
        "Hello": list(Hello.__dataclass_fields__),
        "Welcome": list(Welcome.__dataclass_fields__),
        "Refuse": ["code", "reason"],
        "Stats": ["vcpus"],
    }[kind]
    body = {name: data.draw(JSON_LIKE) for name in names}
    try:
        message = decode(packed(type=kind, **body))
    except PeerError as error:
        outcome = str(error)
    else:
        outcome = type(message).__name__
    assert outcome == kind or outcome.startswith(f"control message {kind}: ")
    assert "\n" not in outcome


def test_a_channel_carries_messages_both_ways(pair: tuple[Channel, Channel]) -> None:
    near, far = pair
    near.send(HELLO)
    assert far.expect(Hello) == HELLO
    far.send(Bye())
    assert near.receive() == Bye()


def test_a_refusal_is_a_refused_error_with_code_and_reason(pair: tuple[Channel, Channel]) -> None:
    near, far = pair
    far.send(Refuse(4, "one guest at a time"))
    with pytest.raises(RefusedError, match=r"code 4\): one guest at a time"):
        near.expect(Welcome)


def test_a_refusal_that_was_asked_for_is_a_message(pair: tuple[Channel, Channel]) -> None:
    near, far = pair
    far.send(Refuse(4, "x"))
    assert near.expect(Refuse) == Refuse(4, "x")


def test_another_message_than_expected_is_a_peer_error(pair: tuple[Channel, Channel]) -> None:
    near, far = pair
    far.send(Bye())
    with pytest.raises(PeerError, match="expected Welcome, got Bye"):
        near.expect(Welcome)


def test_a_peer_that_closed_is_none_or_a_peer_error(pair: tuple[Channel, Channel]) -> None:
    near, far = pair
    far.close()
    assert near.receive() is None
    with pytest.raises(PeerError, match="expected Bye, got end of connection"):
        near.expect(Bye)
    with pytest.raises(PeerError, match="the other side has gone"):
        near.send(Bye())


class SlowSocket:
    """A socket whose every operation times out."""

    def send(self, _packet: bytes) -> int:
        raise TimeoutError("timed out")

    def recv(self, _size: int) -> bytes:
        raise TimeoutError("timed out")

    def gettimeout(self) -> float:
        return 1.5


def test_a_peer_that_does_not_answer_is_a_peer_error_with_the_bound() -> None:
    channel = Channel(SlowSocket())  # type: ignore[arg-type]
    with pytest.raises(PeerError, match=r"no answer within 1\.5 s"):
        channel.receive()
    with pytest.raises(PeerError, match=r"not taken within 1\.5 s"):
        channel.send(Bye())


def test_the_peer_is_known_by_its_user(pair: tuple[Channel, Channel]) -> None:
    assert pair[0].same_user()


def test_a_vm_name_has_one_listener_and_disappears_with_it() -> None:
    vm = f"test-control-{os.getpid()}"
    assert connect(vm) is None
    with listen(vm) as server:
        with pytest.raises(OSError, match="in use"):
            listen(vm)
        channel = connect(vm)
        assert channel is not None
        accepted = Channel(server.accept()[0])
        channel.send(HELLO)
        assert accepted.expect(Hello) == HELLO
        channel.close()
        accepted.close()
    assert connect(vm) is None
