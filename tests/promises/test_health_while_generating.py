"""`/health` answers while an image is generated."""

import threading

from benchmarks.harness.server import Server


def test_health_answers_while_an_image_is_generated(service: Server) -> None:
    request = {"prompt": "a cat", "width": 512, "height": 512, "num_inference_steps": 30}
    before = service.metric("imagegen_steps_total")
    drawing = threading.Thread(target=lambda: service.post("/generate", json=request))
    drawing.start()
    midway = 0
    while drawing.is_alive():
        done = service.metric("imagegen_steps_total") - before
        assert service.get("/health").status_code == 200
        midway += done > 0 and service.metric("imagegen_steps_total") - before < 30
    print(f"/health was answered {midway} times between the first step and the last")
    assert midway > 5
