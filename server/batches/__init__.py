"""OpenAI's Batch API: files of requests, generated in the background from a durable queue."""
