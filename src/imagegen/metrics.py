"""What the engine counts, in prometheus_client's default registry; the server shows it at `/metrics`."""

from prometheus_client import Counter, Gauge

images = Counter("imagegen_images", "Pictures finished.", ["task"])
steps = Counter("imagegen_steps", "Denoising steps done.")
cancelled = Counter("imagegen_cancelled", "Requests that left before their picture was finished.")
out_of_memory = Counter("imagegen_out_of_memory", "Pictures for which the GPU's memory ran out.")
errors = Counter("imagegen_errors", "Pictures that failed for any other reason.")
busy_seconds = Counter("imagegen_busy_seconds", "Seconds that the engine spent drawing.")
busy = Gauge("imagegen_busy", "1 while a picture is being drawn.")
queue = Gauge("imagegen_queue", "Pictures that wait for the engine.")
threads = Gauge("imagegen_threads", "Engine threads; never more than one.")
