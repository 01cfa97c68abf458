"""When a client is killed during an image, the engine stops within one step and generates the next image."""

import json
import random
import socket
import struct
import time

from benchmarks.harness.server import Server, wait_for

REQUEST = {"prompt": "a cat", "width": 512, "height": 512, "num_inference_steps": 30, "seed": 1}


def connect(service: Server, request: dict[str, object]) -> socket.socket:
    """A client that has sent its request and waits."""
    body = json.dumps(request).encode()
    client = service.connect()
    head = "POST /generate HTTP/1.1\r\nHost: localhost\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)
    return client


def kill(client: socket.socket) -> None:
    """Reset the connection, as the kernel does when the process is killed."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def steps(service: Server) -> float:
    return service.metric("imagegen_steps_total")


def idle(service: Server) -> bool:
    names = ("imagegen_busy", "imagegen_queue", "chutes_in_flight", "chutes_queue_depth")
    return all(service.metric(name) == 0 for name in names)


def test_the_engine_stops_within_a_step(service: Server) -> None:
    before, cancelled = steps(service), service.metric("imagegen_cancelled_total")
    client = connect(service, REQUEST)
    wait_for(lambda: steps(service) >= before + 2)
    kill(client)
    killed, at = steps(service), time.perf_counter()
    wait_for(lambda: service.metric("imagegen_cancelled_total") == cancelled + 1)
    noticed = steps(service)
    wait_for(lambda: idle(service))
    freed = time.perf_counter() - at
    print(
        f"killed after step {killed - before:.0f} of 30; the server knew by step {noticed - before:.0f}; "
        f"the engine stopped at step {steps(service) - before:.0f}, free after {freed * 1000:.0f} ms"
    )
    assert steps(service) - noticed <= 1
    assert steps(service) - before < 30
    assert service.post("/generate", json=REQUEST).status_code == 200
    assert service.metric("imagegen_threads") == 1


def test_two_hundred_clients_disconnect_at_random_moments(service: Server) -> None:
    request = {**REQUEST, "num_inference_steps": 8}
    expected = service.post("/generate", json=request).content
    chance = random.Random(0)
    started_at, cancelled = time.perf_counter(), service.metric("imagegen_cancelled_total")
    for _ in range(50):
        clients = [connect(service, request) for _ in range(4)]
        for client in clients:
            time.sleep(chance.random() * 0.06)
            kill(client)
    wait_for(lambda: idle(service))
    print(
        f"200 clients disconnected in {time.perf_counter() - started_at:.1f} s, "
        f"{service.metric('imagegen_cancelled_total') - cancelled:.0f} of them while the engine was theirs"
    )
    assert service.metric("imagegen_threads") == 1
    assert service.post("/generate", json=request).content == expected
