"""The engine's Prometheus metrics, in the default registry; a chute's `/metrics` shows them."""

from prometheus_client import Counter, Gauge

images = Counter("imagegen_images", "Finished pictures.", ["task"])
steps = Counter("imagegen_steps", "Finished denoising steps.")
cancelled = Counter("imagegen_cancelled", "Requests that were cancelled before their picture was finished.")
out_of_memory = Counter("imagegen_out_of_memory", "Attempts that ran out of GPU memory.")
errors = Counter("imagegen_errors", "Pictures that failed for any other reason.")
busy_seconds = Counter("imagegen_busy_seconds", "Seconds that the engine spent generating pictures.")
busy = Gauge("imagegen_busy", "1 while the engine generates a picture, else 0.")
queue = Gauge("imagegen_queue", "Requests in the engine's queue.")
threads = Gauge("imagegen_threads", "Engine threads; never more than one.")
