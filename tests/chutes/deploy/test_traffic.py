import json

from chutes.deploy.traffic import FinishedRequest, summary


def test_the_summary_of_a_minute() -> None:
    recent = [FinishedRequest(0.0, 0.1 * number, 200) for number in range(1, 11)]
    recent += [FinishedRequest(0.0, 9.0, 500), FinishedRequest(0.0, 0.0, 429), FinishedRequest(0.0, 1.0, 499)]
    result = summary(recent, 60)
    counts = [result[name] for name in ("requests", "per_minute", "errors", "rejected", "disconnected")]
    assert counts == [13, 13, 1, 1, 1]
    assert result["latency_seconds"] == {"p50": 0.55, "p95": 0.955, "p99": 0.991}
    assert summary([], 60)["latency_seconds"] == {}
    json.dumps(result)
