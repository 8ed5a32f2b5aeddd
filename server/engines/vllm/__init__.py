"""The model that vLLM runs in this process."""
