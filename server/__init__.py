"""HTTP and the command line: speaks OpenAI's images API and knows no tensors."""
