"""The engine's Prometheus metrics, in the default registry; a chute serves them at `/metrics`."""

from prometheus_client import Counter, Gauge

images = Counter("imagegen_images", "Finished images.", ["task"])
steps = Counter("imagegen_steps", "Finished denoising steps.")
cancelled = Counter("imagegen_cancelled", "Requests that were cancelled before their image was finished.")
out_of_memory = Counter("imagegen_out_of_memory", "Attempts that ran out of GPU memory.")
errors = Counter("imagegen_errors", "Requests that failed for any other reason.")
busy_seconds = Counter("imagegen_busy_seconds", "Seconds that the engine spent generating images.")
busy = Gauge("imagegen_busy", "1 while the engine generates an image, else 0.")
queue = Gauge("imagegen_queue", "Requests in the engine's queue.")
threads = Gauge("imagegen_threads", "Engine threads; never more than one.")
